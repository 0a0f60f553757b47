"""The LoRA study.

- `tasks`: what a task is; `bit_tasks`: tasks on made-up sentences, an encoder; `adapters`: many LoRA runs at once
- on real text: `text_tasks`: data sets; `encoders`: frozen BERT; `top_layer`: all ranks in its last layer; `text_study`
- `tables`: published and cached tables; `extras`: packages that only real text needs
"""
