"""What a run found: `report` (what chapters call), `stats` (intervals), `claims` (verdicts), `figures`, and `outputs`,
which hands all of it to the press."""
