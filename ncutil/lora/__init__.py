"""LoRA: `adapters` (many at once), `bit_tasks`, and for real encoders: `text_tasks`, `top_layer`, `text_study`."""
