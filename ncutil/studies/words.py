"""S of adapters on a multilingual encoder, over draws of everything: rank, epochs, number of words, adapted maps.

A head's task is the category of the thing that a word names, a language a head ("equal"); or Alice and Bob are asked an
easy question in one setting and a hard one in the other ("mixed"). Read in the chapter on the LoRA study.
"""

from functools import cache
from typing import Any

import pandas as pd

from ncutil.lora import adapters, sentence_encoder, words
from ncutil.lora.tasks import Array, Numbers
from ncutil.studies.summary import Study, grid

RECIPE: dict[str, Any] = {"epochs": 40, "rate": 1e-3, "batch": 32}
"""Of every training on words; see `adapters.train`."""

RECORD = (0, 2, 5, 10, 15, 20, 30, 40)
"""Epochs after which outcomes are taken."""

GROUPS: dict[str, dict[str, Any]] = {
    "equal": {},
    "mixed": {
        "alice": ("en", "en"),
        "bob": ("fr", "fr"),
        "labels": (("category", "subcategory"), ("category", "version")),
    },
}
"""Arguments of `words.tasks`."""

MAPS = {"three": sentence_encoder.TOP, "six": sentence_encoder.MAPS}
"""The maps that get adapters."""

KEYS = ["group", "size", "maps", "rank", "draw", "epoch", "outcomes"]


@cache
def encoder(maps: str = "three") -> tuple[sentence_encoder.Upper, dict[str, Array]]:
    """The upper maps, and what they take for every word of the vocabulary, by language."""
    model, vocabulary = sentence_encoder.upper(MAPS[maps]), words.vocabulary()
    return model, {code: model.prepare(sentence_encoder.vectors(list(vocabulary[code]))) for code in words.LANGUAGES}


def run(
    group: str, size: int, maps: str, ranks: Numbers, draw: int, seeds: Numbers, record: Numbers = RECORD
) -> adapters.Trained:
    """Trainings on one draw of `size` words, with several seeds."""
    model, inputs = encoder(maps)
    tasks = words.tasks(inputs, size, draw, **GROUPS[group])
    return adapters.train(model, tasks, ranks, seeds, layers=MAPS[maps], record=record, **RECIPE)


def experiment(group: str, size: int, maps: str, rank: int, draw: int, *, seed: int) -> pd.DataFrame:
    """One draw at one rank: correlators and accuracies by epoch and kind of outcomes."""
    table = run(group, size, maps, [rank], draw, [seed + draw]).table
    columns = ["diverged", *(f"{x}{k}" for x in ("c", "acc_a", "acc_b") for k in adapters.CONTEXTS)]
    table = table.astype({"diverged": int}).assign(group=group, size=size, maps=maps, draw=draw)
    return table[[*KEYS, *columns]]


DRAWS = range(1, 21)
RANKS = [1, 2, 4, 8, 16, 32, 64, 256]

STUDY = Study(
    experiment,
    [
        *grid(group=["equal"], size=[400], maps=["three"], rank=RANKS, draw=DRAWS),
        *grid(group=["mixed"], size=[400], maps=["three"], rank=[1, 4, 16, 64, 256], draw=DRAWS),
        *grid(group=["equal"], size=[100, 200, 800], maps=["three"], rank=[1, 16], draw=DRAWS),
        *grid(group=["equal"], size=[400], maps=["six"], rank=[1, 16], draw=range(1, 11)),
    ],
    KEYS,
)
