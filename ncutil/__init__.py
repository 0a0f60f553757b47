"""What the chapters and problem sets of *NCnet and neurashed, recomputed* import, in rooms by subject.

| room | subject | used by chapter |
| --- | --- | --- |
| `ncutil.bell` | CHSH correlations, their bounds, contextuality; NCnet as an experiment | 1, 2 |
| `ncutil.training` | thousands of small networks, trained at once | 2 |
| `ncutil.lora` | LoRA: adapters; tasks on words, bits and sentences; encoders | 3 |
| `ncutil.neurashed` | Su's model; information, local elasticity, separation of classes | 4, 5, 6 |
| `ncutil.evidence` | intervals, claims and their verdicts, figures with their data | all |
| `ncutil.studies` | studies longer than a chapter, and their published tables | 2, 3 |
| `ncutil.ground` | files, and the rule for what is stale | none |

The docstring of each room names its modules. Imports go one way: every room may import `ground`; `bell` imports
`training`, `lora` imports `bell`, and `studies` imports `bell`, `training` and `lora`. Importing `ncutil` imports no
room. Only `lora`, `neurashed.elasticity` and `neurashed.separation` import PyTorch at once.
"""

__version__ = "0.2.0"
