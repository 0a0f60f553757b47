"""What the chapters and problem sets of *NCnet and neurashed, recomputed* import.

| room | modules | used by chapter |
| --- | --- | --- |
| `ncutil.bell` | `chsh`: correlators, bounds, contextuality; `ncnet`: NCnet as an experiment | 1, 2 |
| `ncutil.training` | `ensembles`: thousands of small networks at once | 2 |
| `ncutil.lora` | `adapters`: LoRA, many at once; `bit_tasks`; `tables`; real text: `text_study` and others | 3 |
| `ncutil.neurashed` | `model`: neurashed; `information`; `elasticity`; `separation` | 4, 5, 6 |
| `ncutil.evidence` | `stats`: intervals; `claims`: verdicts; `figures`; `outputs` | all |
| `ncutil.studies` | `phase_diagrams`: long studies and their published tables | 2 |
| `ncutil.ground` | `files`; `staleness`; `checks` of arguments | 3 |

No room imports one below it in the order ground, evidence, bell and the other science, studies. Importing `ncutil`
imports none of them, and only `lora`, `neurashed.elasticity` and `neurashed.separation` bring PyTorch.
"""

__version__ = "0.2.0"
