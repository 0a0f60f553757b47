"""95 % intervals of estimates: bootstrap over independent runs, Wilson for rates.

All intervals of the book are made here. Resampling draws whole runs, because what happens inside a run (contexts,
inputs, heads) shares one seed. `ncutil.evidence.report` puts estimate and interval into a chapter.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm, t

LEVEL = 0.95
"""Coverage of every interval in the book."""

Interval = tuple[float, float]
Statistic = Callable[[NDArray[np.float64]], float]


class NoIntervalError(ValueError):
    """The data cannot give an interval: too few of them, or values that are not finite. The message says which."""


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def bootstrap(values: ArrayLike, statistic: Statistic = _mean, *, seed: int, draws: int = 2000) -> Interval:
    """Percentile bootstrap interval of a statistic of independent runs (Efron 1979), widened for few runs.

    Means of resamples of n runs vary less than means of fresh runs, by a factor of sqrt((n - 1) / n), and plain
    percentiles ignore that the variance is estimated. So this function takes quantiles further out: those that make
    the interval of a mean as wide as Student's (Hesterberg 2015, "expanded percentile"). The interval of a mean stays
    within the values. For normal runs it holds the mean in 87 % of cases for n = 4, 91 % for 5, 93 % for 6, and 94 to
    95 % from 8 on (plain percentiles: 80 % for 4, 90 % for 10).

    Parameters
    ----------
    values : array_like, shape (runs, ...)
        One row per independent run; rows are resampled whole, so columns that share a run stay paired.
    statistic : callable
        Maps an array like `values` to a number; the mean of everything by default.
    seed : int
        Seed of the resampling.
    draws : int
        Number of resamples.

    Returns
    -------
    (low, high)
        A 95 % interval, in the units of the statistic; resamples on which it is NaN are left out.

    Raises
    ------
    NoIntervalError
        A ValueError: fewer than two runs, values that are not finite, or a statistic that is NaN on every resample.

    Examples
    --------
    >>> low, high = bootstrap([1.0, 2.0, 3.0, 4.0], seed=0)
    >>> 1.0 <= low < 2.5 < high <= 4.0
    True
    """
    rows = np.asarray(values, float)
    if rows.ndim == 0 or len(rows) < 2:
        got = "a single number" if rows.ndim == 0 else len(rows)
        raise NoIntervalError(f"an interval needs at least two runs; got {got}")
    if not np.isfinite(rows).all():
        raise NoIntervalError(f"{int((~np.isfinite(rows)).sum())} of {rows.size} values are not finite")
    rng = np.random.default_rng(seed)
    if statistic is _mean and rows.ndim == 1:
        estimates = _resampled_means(rows, rng, draws)
    else:
        estimates = np.array([statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(draws)])
    if np.isnan(estimates).all():
        raise NoIntervalError("the statistic is NaN on every resample")
    tail = _tail(len(rows))
    low, high = np.nanquantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


def _tail(runs: int) -> float:
    """Share of resamples beyond each end of an interval from so many runs, from 2 on; see `bootstrap`.

    >>> [round(_tail(runs), 4) for runs in (4, 6, 12, 1000)]
    [0.0001, 0.0024, 0.0108, 0.0248]
    """
    return float(norm.cdf(np.sqrt(runs / (runs - 1)) * t.ppf((1 - LEVEL) / 2, runs - 1)))


def _resampled_means(rows: NDArray[np.float64], rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Means of resamples, many at a time: the same draws as one by one, without a thousand small calls."""
    chunk = max(1, 2**20 // len(rows))
    parts = [min(chunk, draws - done) for done in range(0, draws, chunk)]
    return np.concatenate([rows[rng.integers(len(rows), size=(part, len(rows)))].mean(axis=1) for part in parts])


def wilson(successes: int, trials: int) -> Interval:
    """Wilson score interval of a rate (Wilson 1927), 95 %.

    Raises NoIntervalError without a trial, ValueError unless 0 <= successes <= trials.

    Examples
    --------
    >>> low, high = wilson(0, 50)
    >>> low == 0.0 and 0.05 < high < 0.08
    True
    """
    if not 0 <= successes <= trials or trials < 1:
        kind = NoIntervalError if successes == trials == 0 else ValueError
        raise kind(f"a rate needs 0 <= successes <= trials and a trial; got {successes} of {trials}")
    interval = binomtest(int(successes), int(trials)).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def summary(frame: pd.DataFrame, by: str | Sequence[str], value: str, *, seed: int) -> pd.DataFrame:
    """Mean of a column per group with its bootstrap interval.

    Parameters
    ----------
    frame : DataFrame
        Tidy, one row per independent run and group.
    by : column or columns that make the groups
    value : column to average; NaN rows are left out and show in `runs`

    Returns
    -------
    DataFrame
        The `by` columns, then `mean`, `low`, `high` in the units of `value`, `sd`, and `runs`. A group of one run has
        a mean only; a group without a value has no row.

    Examples
    --------
    >>> frame = pd.DataFrame({"width": [2, 2, 3, 3], "s": [1.0, 1.2, 2.0, 2.0]})
    >>> summary(frame, "width", "s", seed=0)[["width", "mean", "runs"]]
       width  mean  runs
    0      2   1.1     2
    1      3   2.0     2
    """
    keys = [by] if isinstance(by, str) else list(by)
    missing = [name for name in [*keys, value] if name not in frame]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}; the frame has {', '.join(map(str, frame.columns))}")
    rows = []
    for group, part in frame.dropna(subset=[value]).groupby(keys, sort=True, observed=True):
        values = part[value].to_numpy(float)
        low = high = sd = np.nan
        if len(values) > 1:
            low, high = bootstrap(values, seed=seed)
            sd = values.std(ddof=1)
        rows.append([*group, values.mean(), low, high, sd, len(values)])
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "sd", "runs"])
