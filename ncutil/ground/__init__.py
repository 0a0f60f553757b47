"""What all rooms stand on: `files`, the rule for what is stale (`staleness`), and `checks` of arguments. No science."""
