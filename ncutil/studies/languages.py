"""All pairs of eight languages: how much two heads that read other languages agree beyond their accuracies.

Heads are trained two by two, a pair of languages each, on the category of the thing that a word names; each is then
asked about the words of every other language. Read in the chapter on the LoRA study.
"""

from itertools import combinations, product

import numpy as np
import pandas as pd

from ncutil.lora import adapters, sentence_encoder, words
from ncutil.lora.tasks import Task
from ncutil.studies.summary import Study, grid
from ncutil.studies.words import DRAWS, RECIPE, encoder

EPOCH = 10
KEYS = ["kind", "a", "b", "outcomes", "draw"]


def experiment(size: int, rank: int, draw: int, *, seed: int) -> pd.DataFrame:
    """One draw: of each pair E[AB] as `c`, the product of the means as `c0`; of each head accuracies as `c`."""
    model, tasks = _tasks(size, draw)
    codes, pairs = list(tasks), list(combinations(range(len(tasks)), 2))
    four = [list(tasks.values())] * 2
    data = {split: adapters.data_of(four, split) for split in ("train", "test")}
    held = data["test"]
    for code, same in zip(codes, held.inputs[0], strict=True):
        data[code] = adapters.Data(([same] * len(codes),) * 2, held.goals)
    classes = [[task.outputs for task in side] for side in four]
    replicas = adapters.Replicas(model, [rank], seed + draw, classes, pairs=pairs, layers=model.layers)
    with adapters.one_thread():
        *_, last = adapters.fit(replicas, data, seed + draw, record=[EPOCH], **RECIPE | {"epochs": EPOCH})
    rows = []
    for k, (i, j) in enumerate(pairs):
        for split in ("train", "test"):
            a, b = last.right[split][k].astype(float)
            c = {"outcomes": split, "c": (a * b).mean(), "c0": a.mean() * b.mean()}
            rows.append({"kind": "pair", "a": codes[i], "b": codes[j], **c})
    for i, tested in product(range(len(codes)), codes):
        each = [last.right[tested][k, pair.index(i)] for k, pair in enumerate(pairs) if i in pair]
        c = {"outcomes": "test", "c": (1 + np.mean(each)) / 2, "c0": 0.0}
        rows.append({"kind": "transfer", "a": codes[i], "b": tested, **c})
    return pd.DataFrame(rows).assign(draw=draw)[[*KEYS, "c", "c0"]]


def _tasks(train: int, draw: int) -> tuple[sentence_encoder.Upper, dict[str, Task]]:
    """The upper maps, and the task of each language."""
    (model, inputs), languages = encoder(), list(words.LANGUAGES)
    labels = [["category"] * len(languages)] * 2
    tasks, _ = words.tasks(inputs, train, draw, alice=languages, bob=languages, labels=labels)
    return model, dict(zip(languages, tasks, strict=True))


def similarity() -> pd.DataFrame:
    """Of each pair of languages: mean cosine of the frozen states of names of one thing, less that of two things."""
    model, vocabulary = sentence_encoder.upper(), words.vocabulary()
    states = {}
    for code in words.LANGUAGES:
        found = sentence_encoder.states(model, list(vocabulary[code]))
        states[code] = found / np.linalg.norm(found, axis=1, keepdims=True)
    rows = []
    for a, b in combinations(states, 2):
        cosines = states[a] @ states[b].T
        same = cosines.trace() / len(cosines)
        other = (cosines.sum() - cosines.trace()) / (cosines.size - len(cosines))
        rows.append({"a": a, "b": b, "similarity": same - other})
    return pd.DataFrame(rows)


STUDY = Study(
    experiment,
    grid(size=[400], rank=[16], draw=DRAWS),
    KEYS,
    lambda total: {"": total, "similarity": similarity()},
)
