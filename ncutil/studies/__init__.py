"""Studies that are too long for a chapter, which reads their published tables.

`catalogue` lists the studies and reads the tables, `summary` is what they share. Each study is a module of its own.
Behind the phase diagrams of S are `distribution` of S, its `course` over training, learning `rate`, amount of `data`,
`parity`, and all pairs of `tasks`; behind the chapter on LoRA `words`, `common_cause`, `languages` and `bits`.
`ncutil sweep NAME` runs one, block by block.
"""
