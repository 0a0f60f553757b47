"""Run programs that are not trusted. This room knows no class and imports nothing of ours: it can be used by itself.

- `isolation` is where to start: `run` runs a command on the files of a folder, `find_sandbox` names the tool that
  isolates, `keep_private` refuses where a program could read what it must not.
- `monitor` bounds from outside what the kernel does not bound, and says how the program ended.
- `syscalls` is the filter of system calls.
- `archive` carries the folder in and out.

>>> from ncclass.sandbox.isolation import Limits
>>> Limits(wall=10).memory
2048
"""
