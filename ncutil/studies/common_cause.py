"""What two heads share: each draw of words trained twice, at one rank, with every answer to every word kept.

`tables` takes S apart by what Alice's and Bob's answers are paired over. Read in the chapter on the LoRA study.
"""

from itertools import product

import numpy as np
import pandas as pd

from ncutil.lora import common_cause, words
from ncutil.lora.tasks import SPLITS
from ncutil.studies.summary import Study, grid
from ncutil.studies.words import DRAWS, run

EPOCHS = (5, 10, 20)
KEYS = ["draw", "twin", "epoch", "outcomes", "word"]
ANSWERS = [f"{side}{i}{j}" for side in "ab" for i, j in product("12", "12")]

PAIRINGS = {
    "run": "the same word, one training",
    "twin": "the same word and training words, another training",
    "draw": "the same word, other training words",
    "difficulty": "local model: the word's difficulty in other draws",
    "category": "another word of the same category",
    "any": "independent heads",
}
"""What Alice's answer is paired with Bob's over."""


def experiment(size: int, rank: int, draw: int, *, seed: int) -> pd.DataFrame:
    """Every answer, +1 or -1, of two trainings on one draw of words, one row per training, epoch and word."""
    seeds = [seed + 1000 * twin + draw for twin in (0, 1)]
    trained, frames = run("equal", size, "three", [rank], draw, seeds, EPOCHS), []
    rows = dict(zip(SPLITS, words.split(size, draw), strict=True))
    for (_, own, epoch), found in trained.outcomes.items():
        for outcomes, right in found.items():
            # (2, 2, 2 heads, words) to (words, 8), Alice's four contexts first.
            answers = pd.DataFrame(np.moveaxis(right, 2, 0).reshape(8, -1).T, columns=ANSWERS)
            frame = answers.assign(draw=draw, twin=seeds.index(own), epoch=epoch, outcomes=outcomes)
            frames.append(frame.assign(word=rows[outcomes]))
    return pd.concat(frames)[[*KEYS, *ANSWERS]]


def tables(total: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Correlators of each pairing, by draw, epoch and kind of outcomes; and how often each word is answered right."""
    family = pd.factorize(words.vocabulary()["family"])[0]
    category, rows = words.classes("category"), []
    for (epoch, outcomes), part in total.groupby(["epoch", "outcomes"]):
        draws = sorted(part.draw.unique())
        # (draws, twins, Alice or Bob, 2, 2, words), NaN where a draw has not asked a word.
        answers = np.full((len(draws), 2, 8, len(family)), np.nan)
        for k, twin in product(range(len(draws)), (0, 1)):
            own = part[(part.draw == draws[k]) & (part.twin == twin)]
            answers[k, twin][:, own.word] = own[ANSWERS].to_numpy().T
        answers = answers.reshape(len(draws), 2, 2, 2, 2, -1)
        first = answers[:, 0]
        # Of a head whatever its partner does: (draws, 2 tasks, 1, words) and (draws, 1, 2 tasks, words).
        hers, his = first[:, 0].mean(2, keepdims=True), first[:, 1].mean(1, keepdims=True)
        for k, draw in enumerate(draws):
            asked = np.isfinite(first[k, 0, 0, 0])
            a, b = first[k][..., asked]
            other_a, other_b = answers[k, 1][..., asked]
            rest = np.arange(len(draws)) != k
            elsewhere = first[rest][..., asked]
            seen = np.isfinite(elsewhere[:, 0, 0, 0]).any(0)
            mean_a, mean_b = np.nanmean(elsewhere[..., seen], 0)
            local = np.broadcast_arrays(hers[rest][..., asked], his[rest][..., asked])
            found = {
                "run": common_cause.paired(a, b),
                "twin": (common_cause.paired(a, other_b) + common_cause.paired(other_a, b)) / 2,
                "draw": (common_cause.paired(a[..., seen], mean_b) + common_cause.paired(mean_a, b[..., seen])) / 2,
                "difficulty": common_cause.hidden_difficulty(*local),
                "category": common_cause.across(a, b, category[asked], family[asked]),
                "any": a.mean(-1) * b.mean(-1),
            }
            for pairing, c in found.items():
                of = {"epoch": epoch, "outcomes": outcomes, "draw": draw, "pairing": pairing}
                rows.append(of | {f"c{i + 1}{j + 1}": c[i, j] for i, j in product((0, 1), (0, 1))})
    held = total[(total.outcomes == "test") & (total.epoch == EPOCHS[1])]
    by_word = held.groupby("word")[ANSWERS].mean()
    tasks = {"a1": ["a11", "a12"], "a2": ["a21", "a22"], "b1": ["b11", "b21"], "b2": ["b12", "b22"]}
    shares = {task: (1 + by_word[columns].mean(axis=1)) / 2 for task, columns in tasks.items()}
    return {"": pd.DataFrame(rows), "words": pd.DataFrame(shares).reset_index()}


STUDY = Study(experiment, grid(size=[400], rank=[16], draw=DRAWS), KEYS, tables)
