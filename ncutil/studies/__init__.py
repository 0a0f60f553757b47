"""The studies behind the phase diagrams of S, too long for a chapter: it reads their published tables.

`catalogue` lists the studies and reads the tables; each study is a module of its own, and `summary` is what they share.
`ncutil sweep NAME` runs one, block by block.
"""
