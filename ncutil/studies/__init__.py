"""The studies behind the phase diagrams of S, too long for a chapter, which reads their published tables.

`catalogue` lists the studies and reads the tables, `summary` is what they share. Each study is a module of its own:
`distribution` of S, its `course` over training, learning `rate`, amount of `data`, `parity`, and all pairs of `tasks`.
`ncutil sweep NAME` runs one, block by block.
"""
