"""Intervals: known values, coverage on a known distribution, and what a resample may and may not do."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, qmc

from ncutil.evidence.stats import LEVEL, NoIntervalError, bootstrap, summary, wilson

Z = 1.959963984540054  # the 97.5 % point of the normal distribution


# --- bootstrap -----------------------------------------------------------------------------------------------------


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    """400 skewed samples of 60: a 95 % interval holds the mean in 95 % of them, less a little for the skew."""
    rng = np.random.default_rng(1)
    samples = rng.exponential(size=(400, 60))
    intervals = np.array([bootstrap(sample, seed=number, draws=400) for number, sample in enumerate(samples)])
    covered = ((intervals[:, 0] <= 1) & (intervals[:, 1] >= 1)).mean()
    assert 0.90 <= covered <= 0.97


@pytest.mark.parametrize(("runs", "share"), [(4, 0.875), (6, 0.93), (8, 0.94), (12, 0.95)])
def test_bootstrap_covers_the_mean_of_few_runs(runs: int, share: float) -> None:
    """As often as its docstring says; no interval within the values of four covers more than 1 - 2 / 2^4 of them.

    Of 512 samples that fill the space of samples evenly (Sobol), the share varies less than of 2000 independent ones.
    """
    samples = norm.ppf(qmc.Sobol(runs, seed=7).random(512))
    intervals = np.array([bootstrap(sample, seed=number) for number, sample in enumerate(samples)])
    covered = ((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)).mean()
    assert covered == pytest.approx(share, abs=0.02)


def test_bootstrap_is_as_wide_as_the_normal_interval() -> None:
    sample = np.random.default_rng(2).normal(size=400)
    low, high = bootstrap(sample, seed=0, draws=4000)
    half = Z * sample.std() / np.sqrt(len(sample))
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.1 * half)


@pytest.mark.parametrize("runs", [2, 60, 3000])
def test_bootstrap_of_the_mean_takes_the_same_draws_as_any_statistic(runs: int) -> None:
    sample = np.random.default_rng(6).normal(size=runs)
    assert bootstrap(sample, seed=1) == pytest.approx(bootstrap(sample, lambda rows: rows.mean(), seed=1), rel=1e-12)


def test_bootstrap_repeats_with_its_seed_only() -> None:
    sample = np.random.default_rng(3).normal(size=50)
    assert bootstrap(sample, seed=4) == bootstrap(sample, seed=4)
    assert bootstrap(sample, seed=4) != bootstrap(sample, seed=5)


def test_bootstrap_resamples_rows_whole() -> None:
    """Columns that share a run stay paired: a difference that is 1 in every run is 1 in every resample."""
    first = np.random.default_rng(6).normal(size=30)
    pairs = np.stack([first + 1, first], axis=1)
    low, high = bootstrap(pairs, lambda rows: float((rows[:, 0] - rows[:, 1]).mean()), seed=0)
    assert (low, high) == pytest.approx((1, 1))


def test_bootstrap_leaves_out_resamples_without_the_statistic() -> None:
    def correlation(rows: np.ndarray) -> float:
        spread = rows[:, 0].std() * rows[:, 1].std()
        return float(np.cov(rows.T, ddof=0)[0, 1] / spread) if spread > 0 else float("nan")

    # Of three runs a ninth of the resamples repeat one run, where no correlation exists.
    low, high = bootstrap([[0, 0], [1, 1], [2, 2]], correlation, seed=0)
    assert (low, high) == pytest.approx((1, 1))
    with pytest.raises(ValueError, match="NaN on every resample"):
        bootstrap([[0, 0], [0, 1]], correlation, seed=0)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    st.floats(-1e3, 1e3),
    st.sampled_from([0.5, 2.0, 4.0]),
    st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_bootstrap_of_a_mean(values: Sequence[float], shift: float, scale: float, seed: int) -> None:
    """Within the range of the values, and carried along by shift and scale."""
    low, high = bootstrap(values, seed=seed, draws=60)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = bootstrap(scale * np.asarray(values) + shift, seed=seed, draws=60)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3.0, "at least two runs; got a single number"),
        ([], "at least two runs; got 0"),
        ([1.0], "at least two runs; got 1"),
        ([1.0, float("nan"), float("inf")], "2 of 3 values are not finite"),
    ],
)
def test_bootstrap_refuses(values: object, message: str) -> None:
    with pytest.raises(NoIntervalError, match=message):
        bootstrap(values, seed=0)  # type: ignore[arg-type]


# --- rates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_known_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_closed_form(counts: tuple[int, int]) -> None:
    successes, trials = counts
    rate = successes / trials
    middle = (rate + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = Z / (1 + Z**2 / trials) * np.sqrt(rate * (1 - rate) / trials + Z**2 / (4 * trials**2))
    low, high = wilson(successes, trials)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert 0 <= low <= rate <= high <= 1
    # Successes and failures change places.
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_wilson_takes_counts_of_numpy() -> None:
    hits = np.array([True, False, True])
    assert wilson(hits.sum(), hits.size) == wilson(2, 3)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (0, 0), (0, -1)])
def test_wilson_refuses(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {trials}"):
        wilson(successes, trials)


def test_level() -> None:
    assert LEVEL == 0.95


# --- summary -------------------------------------------------------------------------------------------------------


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({"width": np.repeat([3, 2], 40), "easy": ["and", "or"] * 40, "s": rng.normal(size=80)})
    frame.loc[frame.width == 3, "s"] += 10
    return frame


def test_summary_of_groups(frame: pd.DataFrame) -> None:
    table = summary(frame, "width", "s", seed=0)
    assert list(table.columns) == ["width", "mean", "low", "high", "sd", "runs"]
    assert list(table.width) == [2, 3]
    assert list(table.runs) == [40, 40]
    for row in table.itertuples():
        values = frame.s[frame.width == row.width]
        assert (row.mean, row.sd) == pytest.approx((values.mean(), values.std()))
        assert (row.low, row.high) == bootstrap(values, seed=0)
        assert row.low < row.mean < row.high


def test_summary_by_two_columns(frame: pd.DataFrame) -> None:
    table = summary(frame, ["width", "easy"], "s", seed=0)
    assert [*zip(table.width, table.easy, table.runs, strict=True)] == [
        (2, "and", 20),
        (2, "or", 20),
        (3, "and", 20),
        (3, "or", 20),
    ]


def test_summary_counts_only_runs_that_have_the_value(frame: pd.DataFrame) -> None:
    frame.loc[frame.index[:5], "s"] = np.nan
    table = summary(frame, "width", "s", seed=0)
    assert list(table.runs) == [40, 35]
    assert np.isfinite(table[["mean", "low", "high", "sd"]].to_numpy()).all()


def test_summary_of_a_group_with_one_run_has_a_mean_only(frame: pd.DataFrame) -> None:
    frame.loc[frame.index[:39], "s"] = np.nan
    table = summary(frame, "width", "s", seed=0).set_index("width")
    assert table.runs[3] == 1
    assert table.loc[3, "mean"] == frame.s[39]
    assert table.loc[3, ["low", "high", "sd"]].isna().all()
    assert table.loc[2].notna().all()


def test_summary_names_the_missing_column(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no column depth, S; the frame has width, easy, s"):
        summary(frame, ["width", "depth"], "S", seed=0)
