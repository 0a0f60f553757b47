"""S of adapters on a small encoder of bits, over draws of everything: its pretraining, the tasks, the sentences.

Every draw has an encoder, tasks and first weights of its own. Read in the chapter on the LoRA study.
"""

import pandas as pd

from ncutil.lora import adapters, bit_tasks
from ncutil.lora.tasks import Numbers
from ncutil.studies.summary import Study, grid
from ncutil.studies.words import DRAWS

GROUPS = ("mixed", "hard")
RANKS = [1, 2, 4, 8, 16, 32]
RECORD = (0, 5, 10, 15, 20, 25, 30, 35, 40, 50, 60)
"""Epochs after which outcomes are taken, of 60."""

KEYS = ["group", "rank", "draw", "epoch", "outcomes"]


def encoder(draw: int, steps: int = 600) -> tuple[bit_tasks.Encoder, float]:
    """The encoder of a draw, pretrained on none of its tasks, and how often it is right about its own functions."""
    with adapters.one_thread(), adapters.no_subnormals():
        return bit_tasks.pretrain(draw, steps=steps, avoid=bit_tasks.questions(draw))


def experiment(draw: int, ranks: Numbers, *, seed: int) -> pd.DataFrame:
    """Correlators and accuracies of one draw by group, rank, epoch and kind of outcomes."""
    model, _ = encoder(draw)
    frames = []
    for group in GROUPS:
        tasks = bit_tasks.group(group, draw=draw)
        table = adapters.train(model, tasks, ranks, [seed + draw], epochs=RECORD[-1], record=RECORD).table
        frames.append(table.astype({"diverged": int}).assign(group=group, draw=draw))
    columns = ["diverged", *(f"{x}{k}" for x in ("c", "acc_a", "acc_b") for k in adapters.CONTEXTS)]
    return pd.concat(frames)[[*KEYS, *columns]]


STUDY = Study(experiment, grid(draw=DRAWS, ranks=[RANKS]), KEYS)
