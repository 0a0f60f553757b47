"""Run a stranger's program: `isolation` starts it, `monitor` watches it, `syscalls` and `archive` guard it."""
