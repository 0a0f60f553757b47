"""S of the first bit against the parity of more and more bits, at 1 to 24 hidden units."""

import pandas as pd

from ncutil.bell import ncnet
from ncutil.studies.summary import Study, add, grid, single_and_best, sums

KEYS = ["bits", "width", "restarts", "run"]


def experiment(bits: int, width: int, runs: int, *, seed: int) -> pd.DataFrame:
    """Sums by run: first bit against parity, both heads asked about the same bits, after 3,000 steps.

    Each run is a group of its own. Networks of all widths begin from the same draws, so runs of the same number are
    correlated, and errors that concern several widths take S of each run.
    """
    trained = ncnet.train(width, runs, seed=seed, bits=bits, inputs="shared", steps=3000, rate=0.02)
    return sums(single_and_best(trained, width=width, bits=bits), KEYS)


def tables(total: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Sums over all runs; S of single trainings, a row for each bits and width, a column for each run."""
    each = total[total.restarts == 1].pivot(index=KEYS[:2], columns="run", values="s").reset_index()
    return {"": add([total.drop(columns="run")], KEYS[:3]), "runs": each}


STUDY = Study(
    experiment,
    grid(bits=[2, 3, 4, 5, 6], width=[1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24], runs=[1_000]),
    KEYS,
    tables,
)
