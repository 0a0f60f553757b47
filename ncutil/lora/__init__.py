"""The LoRA study.

- `tasks`: what a task is; `bit_tasks`: tasks on made-up sentences, an encoder; `adapters`: many LoRA runs at once
- on real text: `text_tasks`: data sets; `encoders`: frozen BERT, whole or its last layer; `text_study`: the studies
- `tables`: published and cached tables; `extras`: packages that only real text needs
"""
