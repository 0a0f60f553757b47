"""Su's model and what it speaks of: `model`, `information`, `elasticity`, `separation` (of classes)."""
