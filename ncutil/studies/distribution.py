"""The distribution of S: how often each value is met, at 1 to 8 hidden units."""

import pandas as pd

from ncutil.bell import ncnet
from ncutil.studies.summary import Study, grid


def experiment(width: int, first: int, runs: int, *, seed: int) -> pd.DataFrame:
    """How often each value of S is met: `runs`, their sum of `s0`, and how many are `contextual`.

    Keys are `width`, `restarts` (1 or the best of 4), `s` (rounded) and `learned` (C11 = C12 = C21 = 1). `first` is the
    number of the first run.
    """
    trained = ncnet.train(width, runs, seed=seed, first=first)
    frames = []
    for restarts, pool in ((1, trained), (4, trained.best_of(4))):
        frame = pool.frame()
        c = frame.c.to_numpy().reshape(-1, 4)
        frames.append(ncnet.per_run(frame).assign(width=width, restarts=restarts, learned=(c[:, :3] == 1).all(1)))
    each = pd.concat(frames)
    each = each.assign(runs=1, contextual=each.measure > 0, s=each.s.round(6))
    return each.groupby(KEYS, as_index=False)[["runs", "s0", "contextual"]].sum()


KEYS = ["width", "restarts", "s", "learned"]

STUDY = Study(
    experiment,
    [
        *grid(width=[3], first=range(0, 100_000, 4_000), runs=[4_000]),
        *grid(width=[1, 2, 4, 5, 6, 8], first=range(0, 10_000, 5_000), runs=[5_000]),
    ],
    KEYS,
)
