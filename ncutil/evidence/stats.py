"""95 % intervals of estimates: bootstrap over independent runs, Wilson for rates.

Resampling draws whole runs, because what happens inside a run (contexts, inputs, heads) shares one seed.
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
    """The data cannot give an interval: too few of them, or values that are not finite."""


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def bootstrap(values: ArrayLike, statistic: Statistic = _mean, *, seed: int, draws: int = 2000) -> Interval:
    """Percentile bootstrap interval of a statistic of independent runs (Efron 1979), widened for few runs.

    Rows of `values`, shape (runs, ...), are resampled whole, so that columns that share a run stay paired. `statistic`
    maps such an array to a number. The interval (low, high) has its units; resamples on which it is NaN are left out.
    NoIntervalError for fewer than two runs, values that are not finite, or a statistic that is NaN on every resample.

    Means of resamples of n runs vary less than means of fresh runs, by a factor of sqrt((n - 1) / n). So this function
    takes quantiles further out: those that make the interval of a mean as wide as Student's (Hesterberg 2015, "expanded
    percentile"). The interval of a mean stays within the values. For normal runs it holds the mean in 87 % of cases for
    n = 4, 91 % for 5, 93 % for 6, and 94 to 95 % from 8 on (plain percentiles: 80 % for 4, 90 % for 10).
    """
    rows = np.asarray(values, float)
    if rows.ndim == 0 or len(rows) < 2:
        raise NoIntervalError(
            f"an interval needs at least two runs; got {len(rows) if rows.ndim else 'a single number'}"
        )
    if not np.isfinite(rows).all():
        raise NoIntervalError(f"{int((~np.isfinite(rows)).sum())} of {rows.size} values are not finite")
    rng = np.random.default_rng(seed)
    if statistic is _mean and rows.ndim == 1:
        estimates = _resampled_means(rows, rng, draws)
    else:
        estimates = np.array([statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(draws)])
    if np.isnan(estimates).all():
        raise NoIntervalError("the statistic is NaN on every resample")
    # The share of resamples beyond each end: 0.0001 for 4 runs, 0.0108 for 12, 0.0248 for 1000.
    tail = float(norm.cdf(np.sqrt(len(rows) / (len(rows) - 1)) * t.ppf((1 - LEVEL) / 2, len(rows) - 1)))
    low, high = np.nanquantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_means(rows: NDArray[np.float64], rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Means of resamples, many at a time: the same draws as one by one."""
    chunk = max(1, 2**20 // len(rows))
    parts = [min(chunk, draws - done) for done in range(0, draws, chunk)]
    return np.concatenate([rows[rng.integers(len(rows), size=(part, len(rows)))].mean(axis=1) for part in parts])


def wilson(successes: int, trials: int) -> Interval:
    """Wilson score interval of a rate (Wilson 1927), 95 %.

    Raises NoIntervalError without a trial, ValueError unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials or trials < 1:
        kind = NoIntervalError if successes == trials == 0 else ValueError
        raise kind(f"a rate needs 0 <= successes <= trials and a trial; got {successes} of {trials}")
    interval = binomtest(int(successes), int(trials)).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def summary(frame: pd.DataFrame, by: str | Sequence[str], value: str, *, seed: int) -> pd.DataFrame:
    """Mean of a column per group with its bootstrap interval, from a tidy frame: a row per independent run and group.

    The result has the `by` columns, then `mean`, `low`, `high` and `sd` in the units of `value`, and `runs`, which does
    not count NaN. A group of one run has a mean only; a group without a value has no row.

    >>> frame = pd.DataFrame({"width": [2, 2, 3, 3], "s": [1.0, 1.2, 2.0, 2.0]})
    >>> summary(frame, "width", "s", seed=0)[["width", "mean", "runs"]]
       width  mean  runs
    0      2   1.1     2
    1      3   2.0     2
    """
    keys = [by] if isinstance(by, str) else list(by)
    if missing := [name for name in [*keys, value] if name not in frame]:
        raise ValueError(f"no column {', '.join(missing)}; the frame has {', '.join(map(str, frame.columns))}")
    rows = []
    for group, part in frame.dropna(subset=[value]).groupby(keys, observed=True):
        values = part[value].to_numpy(float)
        spread = (*bootstrap(values, seed=seed), values.std(ddof=1)) if len(values) > 1 else (np.nan,) * 3
        rows.append([*group, values.mean(), *spread, len(values)])
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "sd", "runs"])
