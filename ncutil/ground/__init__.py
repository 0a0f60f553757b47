"""What all rooms use: `files`, `checks` of arguments, and what makes a kept result stale (`staleness`)."""
