"""The LoRA study.

- `tasks`: what a task is; `adapters`: many LoRA runs at once, on any stack of frozen linear maps
- on words: `words`: names of emoji in many languages; `sentence_encoder`: a pretrained multilingual encoder;
  `common_cause`: what two heads share
- on bits: `bit_tasks`: tasks of which everything is known, and a small encoder
- on sentences: `text_tasks`: data sets; `encoders`: frozen BERT; `text_study`: the studies with MiniLM and BERT
- `tables`: published and cached tables; `extras`: packages that only these studies need
"""
