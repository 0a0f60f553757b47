"""What a run says: `stats` (intervals), `claims` (verdicts), `figures`, and `outputs`, how they travel."""
