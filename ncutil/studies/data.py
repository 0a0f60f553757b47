"""S against the number of inputs trained on, of 16, at 1 to 8 hidden units."""

import pandas as pd

from ncutil.bell import ncnet
from ncutil.studies.summary import Study, grid, single_and_best, sums

KEYS = ["width", "restarts", "size", "inputs"]


def experiment(width: int, seen: int, runs: int, *, seed: int) -> pd.DataFrame:
    """Sums over the inputs trained on and over those held out; `size` is `seen`, the number of the former."""
    trained = ncnet.train(width, runs, seed=seed, seen=seen, runs_per_subset=4)
    each = single_and_best(trained, width=width, size=seen)
    # Four single runs share a subset; the best of them is one run.
    return pd.concat([sums(each[each.restarts == k], KEYS, runs_per_unit=4 // k) for k in (1, 4)])


STUDY = Study(experiment, grid(width=[1, 2, 3, 4, 5, 6, 8], seen=range(2, 17, 2), runs=[2_000]), KEYS)
