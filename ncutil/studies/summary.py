"""What the studies share: sums over runs that add up over blocks, and the means made of them.

A block trains its networks and keeps sums by group, not runs, so a study needs the memory of one block.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from ncutil.bell import ncnet

Array = NDArray[Any]
Block = Mapping[str, Any]

SEED = 2026
"""Of every study: other first weights than in the chapters."""

SUMS = ("runs", "units", "s", "s_squared", "s0", "gap_squared", "delta", "above", "contextual", "measure")
"""Columns of sums over a group: number of runs, and of independent units; sums of S and S0; of the squares of S and of
S - S0, each averaged over a unit; of Delta; runs with S > 2 and with a positive measure; sum of positive measures."""

APART = 0.06
"""Distance from which on a mean S and the mean of its null count as apart, as in chapter 2."""


@dataclass(frozen=True)
class Study:
    """What a study computes: `experiment(**block, seed=seed)` gives the table of each block.

    Columns that are no `keys` add up over blocks; `tables` makes of the sum the tables to publish, by the suffix of
    their file names.
    """

    experiment: Callable[..., pd.DataFrame]
    blocks: Sequence[Block]
    keys: Sequence[str]
    tables: Callable[[pd.DataFrame], dict[str, pd.DataFrame]] = lambda total: {"": total}
    seed: int = SEED

    def add(self, tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
        """The sum of tables of blocks."""
        return add(tables, self.keys)


def grid(**values: Iterable[Any]) -> list[Block]:
    """Blocks for all combinations of values: `grid(width=[2, 3], runs=[100])` makes two."""
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def add(tables: Iterable[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """The sum of tables over everything that is no key, in the order of the keys."""
    return pd.concat(tables).groupby(list(keys), as_index=False, sort=True).sum()


def single_and_best(trained: ncnet.Trained, **names: Any) -> pd.DataFrame:
    """Single runs and the best of four at the last record, one a row, with `restarts` 1 or 4 and the given `names`."""
    pools = {1: trained.final, 4: trained.best_of(4).final}
    frames = [ncnet.per_run(pool.frame()).assign(restarts=k, **names) for k, pool in pools.items()]
    return pd.concat(frames, ignore_index=True)


def sums(frame: pd.DataFrame, keys: Sequence[str], runs_per_unit: int = 1) -> pd.DataFrame:
    """`SUMS` by group of runs, one a row as `ncnet.per_run` gives them.

    `runs_per_unit` runs, one after the other, share such things as the patterns that they were trained on, and are one
    unit in the errors of `means`.
    """
    unit = [*keys, frame.run // runs_per_unit]
    each = frame.assign(gap=frame.s - frame.s0)
    of_unit = each.groupby(unit)[["s", "gap"]].transform("mean")
    each = each.assign(
        runs=1,
        units=1 / each.groupby(unit).s.transform("size"),
        s_squared=of_unit.s**2,
        gap_squared=of_unit.gap**2,
        above=frame.s > 2,
        contextual=frame.measure > 0,
        measure=frame.measure.clip(lower=0),
    )
    return each.groupby(list(keys), as_index=False)[list(SUMS)].sum()


def means(sums: pd.DataFrame) -> pd.DataFrame:
    """Means and shares by run of a table of sums.

    The mean S has the 95 % interval `low` to `high` and the standard error `error`; `gap`, the mean of S - S0, has
    `gap_low`, `gap_high` and `gap_error`.

    >>> sums = {"runs": [4], "units": [4], "s": [8.0], "s_squared": [20.0], "s0": [8.0], "gap_squared": [4.0]}
    >>> means(pd.DataFrame(sums))[["s", "low", "high", "gap", "gap_error"]].round(2).to_dict("records")
    [{'s': 2.0, 'low': 0.87, 'high': 3.13, 'gap': 0.0, 'gap_error': 0.58}]
    """
    names = [name for name in SUMS[2:] if name in sums]
    result = sums.assign(**{name: sums[name] / sums.runs for name in names})
    result["gap"] = result.s - result.s0
    others, wide = (result.units - 1).clip(lower=1), norm.ppf(0.975)
    for mean, square, kind in (("s", "s_squared", ""), ("gap", "gap_squared", "gap_")):
        error = np.sqrt((result[square] - result[mean] ** 2).clip(lower=0) / others)
        result[f"{kind}error"] = error
        result[f"{kind}low"], result[f"{kind}high"] = result[mean] - wide * error, result[mean] + wide * error
    return result.drop(columns=["s_squared", "gap_squared"])
