"""S against Adam's learning rate, at 1 to 8 hidden units."""

import pandas as pd

from ncutil.bell import ncnet
from ncutil.studies.summary import Study, grid, single_and_best, sums

KEYS = ["width", "restarts", "rate"]


def experiment(width: int, rate: float, runs: int, *, seed: int) -> pd.DataFrame:
    """Sums after 1,500 steps."""
    trained = ncnet.train(width, runs, seed=seed, rate=rate)
    return sums(single_and_best(trained, width=width, rate=rate), KEYS)


STUDY = Study(
    experiment,
    grid(width=[1, 2, 3, 4, 5, 6, 8], rate=[0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5], runs=[2_000]),
    KEYS,
)
