"""The studies of the phase diagrams: sums, means, false discovery, and the published tables."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from ncpress import sweeps
from ncutil.bell import chsh, ncnet
from ncutil.studies import catalogue, data, distribution, parity, summary, tasks


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_study_reaches_its_sources_and_no_other_study(name):
    """So an edit of another study leaves its blocks, and one of the kernel does not."""
    key = sweeps.code(catalogue.study(name).experiment.__module__)
    rooms = {
        "bell.chsh",
        "bell.ncnet",
        "training.ensembles",
        "training._kernel",
        "training._vectors",
        "studies.summary",
    }
    assert {f"ncutil.{module}" for module in (f"studies.{name}", *rooms)} <= key["modules"].keys()
    # Studies on words share their encoder and their recipe.
    shared = {"words"} if name in ("common_cause", "languages", "bits") else set()
    others = {f"ncutil.studies.{other}" for other in {*catalogue.NAMES, "catalogue"} - {name} - shared}
    assert not others & key["modules"].keys()
    assert key["processor"] == ""


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 5)), max_size=6), min_size=1, max_size=4))
def test_add_is_a_grouped_sum(parts):
    tables = [pd.DataFrame(part, columns=["key", "runs"]) for part in parts]
    total = summary.add(tables, ["key"])
    expected = pd.concat(tables).groupby("key").runs.sum()
    assert dict(zip(total.key, total.runs, strict=True)) == expected.to_dict()


def test_means_equal_those_of_the_runs():
    frame = ncnet.per_run(ncnet.experiment([3], 50, seed=1, steps=300)).assign(width=3)
    frame = frame.assign(restarts=1)
    row = summary.means(summary.sums(frame, ["width", "restarts"])).iloc[0]
    gap = frame.s - frame.s0
    ends = 1.959964 * np.array([-1, 1]) / np.sqrt(50)
    assert row.runs == row.units == 50
    np.testing.assert_allclose(
        [row.s, row.low, row.high, row.s0, row.delta, row.gap_low, row.gap_high],
        [
            *(frame.s.mean(), *(frame.s.mean() + ends * frame.s.std(ddof=1)), frame.s0.mean(), frame.delta.mean()),
            *(gap.mean() + ends * gap.std(ddof=1)),
        ],
        rtol=1e-6,
    )
    assert row.above == (frame.s > 2).mean()
    assert row.contextual == (frame.measure > 0).mean()


def test_runs_of_a_unit_count_once_in_errors():
    rng = np.random.default_rng(0)
    s = np.repeat(rng.normal(size=30), 4) + 0.1 * rng.normal(size=120)
    frame = pd.DataFrame({"run": range(120), "s": s, "s0": 0.0, "delta": 0.0, "measure": 0.0, "key": 1})
    row = summary.means(summary.sums(frame, ["key"], runs_per_unit=4)).iloc[0]
    of_units = s.reshape(30, 4).mean(1)
    assert row.units == pytest.approx(30)
    assert row.s == pytest.approx(s.mean())
    np.testing.assert_allclose(row.high - row.s, 1.959964 * of_units.std(ddof=1) / np.sqrt(30), rtol=1e-6)
    alone = summary.means(summary.sums(frame, ["key"])).iloc[0]
    assert row.high - row.s > 1.8 * (alone.high - alone.s)


def test_data_counts_subsets_as_units():
    table = data.experiment(2, 6, 16, seed=summary.SEED)
    single = table[table.restarts == 1]
    np.testing.assert_allclose(single[["runs", "units"]], [[16, 4]] * 2)
    assert (table[table.restarts == 4][["runs", "units"]] == 4).all(axis=None)


def test_published_sums_keep_the_variance(tmp_path):
    runs = 2000
    s = np.full(runs, 2.0)
    s[0] = 2.125
    frame = pd.DataFrame({"run": range(runs), "s": s, "s0": 2.0, "delta": 0.0, "measure": 0.0, "key": 1})
    (path,) = sweeps.publish({"": summary.sums(frame, ["key"])}, "tiny", tmp_path)
    row = summary.means(pd.read_csv(path)).iloc[0]
    assert row.high - row.s == pytest.approx(1.959964 * s.std(ddof=1) / np.sqrt(runs), rel=1e-3)


def test_blocks_of_distribution_add_up_to_one_ensemble():
    add = distribution.STUDY.add
    parts = [distribution.experiment(3, first, 40, seed=summary.SEED) for first in (0, 40)]
    pd.testing.assert_frame_equal(add(parts), add([distribution.experiment(3, 0, 80, seed=summary.SEED)]))
    table = parts[0][parts[0].restarts == 1]
    runs = ncnet.per_run(ncnet.experiment([3], 40, seed=summary.SEED))
    assert table.runs.sum() == 40
    np.testing.assert_allclose((table.s * table.runs).sum(), runs.s.sum())
    np.testing.assert_allclose(table.s0.sum(), runs.s0.sum())


def test_parity_keeps_each_run():
    blocks = [parity.experiment(2, width, 12, seed=summary.SEED) for width in (2, 3)]
    tables = parity.tables(parity.STUDY.add(blocks))
    sums = tables[""]
    assert sums[["width", "restarts", "runs", "units"]].to_numpy().tolist() == [
        [width, k, 12 // k, 12 // k] for width in (2, 3) for k in (1, 4)
    ]
    each = tables["runs"].set_index(["bits", "width"])
    for width in (2, 3):
        trained = ncnet.train(width, 12, seed=summary.SEED, inputs="shared", steps=3000, rate=0.02)
        s = ncnet.per_run(trained.frame()).s
        np.testing.assert_array_equal(each.loc[(2, width)], s)
        row = sums[(sums.width == width) & (sums.restarts == 1)].iloc[0]
        np.testing.assert_allclose([row.s, row.s_squared], [s.sum(), (s**2).sum()])


def test_quadruples_take_the_moments_of_their_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.choice([-1.0, 1.0], (2, 3, 16, 16, 8))
    moments = (a * b).mean(-1), a.mean(-1), b.mean(-1)
    table = tasks.quadruples(*moments).set_index(["a1", "a2", "b1", "b2", "minus"])
    for a1, a2, b1, b2, minus in ((0, 1, 2, 3, 3), (4, 15, 0, 9, 0), (6, 9, 3, 6, 2)):
        here = np.ix_(range(3), [a1, a2], [b1, b2])
        c, mean_a, mean_b = (moment[here] for moment in moments)
        signs = np.where(np.arange(4).reshape(2, 2) == minus, -1, 1)
        bell = chsh.contextuality(chsh.from_moments(c, mean_a, mean_b))
        row = table.loc[(a1, a2, b1, b2, minus)]
        s = (signs * c).sum((1, 2))
        s0 = (signs * mean_a * mean_b).sum((1, 2))
        expected = [3, 3, s.sum(), (s**2).sum(), s0.sum(), ((s - s0) ** 2).sum(), bell.delta.sum(), (s > 2).sum()]
        names = ["runs", "units", "s", "s_squared", "s0", "gap_squared", "delta", "above"]
        np.testing.assert_allclose(row[names], expected)
        np.testing.assert_allclose(row.contextual, (bell.measure > 0).sum())
        np.testing.assert_allclose(row.measure, bell.measure.clip(min=0).sum())
    assert len(table) == 120 * 120 * 4 + 256


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_both_are_rejected_only_where_each_is(pairs):
    hits = tasks.rejected(*(np.array(pairs).T ** 3))
    assert not (hits["above_apart"] & ~(hits["above"] & hits["apart"])).any()


def test_p_values_without_error_are_0_or_1():
    means = {"s": [4.0, 4.0, 2.0, 1.0], "error": [1.0, 0.0, 0.0, 1.0], "gap": [-0.05, 0.07, -0.07, 0.0]}
    above, apart = tasks.p_values(pd.DataFrame(means).assign(gap_error=0.0))
    np.testing.assert_allclose(above, [norm.sf(2), 0, 1, 1])
    np.testing.assert_array_equal(apart, [1, 0, 0, 1])


def test_false_discoveries_stay_below_the_rate():
    """Also for pairs of hypotheses; where each is rejected alone, the overlap has more false discoveries."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        # A tenth of a thousand has both; of the rest every one has one of the two.
        real = np.zeros((2, 1000), bool)
        real[:, :100], real[0, 100:550], real[1, 550:] = True, True, True
        p, q = norm.sf(rng.normal(size=real.shape) + 4.0 * real)
        hits = tasks.rejected(p, q)
        for hit in (hits["above_apart"], hits["above"] & hits["apart"]):
            shares.append((hit & ~real.all(0)).sum() / hit.sum())
    ours, overlap = np.reshape(shares, (-1, 2)).mean(0)
    assert ours <= 0.05 < overlap


@pytest.mark.parametrize("inputs", ncnet.INPUTS)
def test_quadruple_equals_the_experiment_of_chapter_2(inputs):
    table = tasks.experiment(inputs, 2, 0, runs=4, seed=summary.SEED, restarts=2, piece=2)
    trained = ncnet.train(2, 8, seed=summary.SEED, inputs=inputs)
    first, xor = tasks.NAMES.index("a"), tasks.NAMES.index("xor")
    for restarts, runs in (
        (1, ncnet.per_run(trained.frame()).iloc[::2]),
        (2, ncnet.per_run(trained.best_of(2).frame())),
    ):
        here = table[(table.restarts == restarts) & (table.a1 == first) & (table.a2 == xor)]
        row = here[(here.b1 == first) & (here.b2 == xor) & (here.minus == 3)].iloc[0]
        np.testing.assert_allclose([row.s, row.s0, row.delta], runs[["s", "s0", "delta"]].sum())


def test_functions_have_their_names():
    bits = ncnet.corners(2)
    for name, task in (("xor", "xor"), ("nand", "nand"), ("a", "first"), ("or", "or"), ("nor", "nor")):
        np.testing.assert_array_equal(tasks.FUNCTIONS[tasks.NAMES.index(name)], ncnet.truth_table(task))
    np.testing.assert_array_equal(tasks.FUNCTIONS[tasks.NAMES.index("b or not a")], bits[:, 1] | (1 - bits[:, 0]))
    np.testing.assert_array_equal(tasks.FUNCTIONS[tasks.NAMES.index("a and not b")], bits[:, 0] & (1 - bits[:, 1]))
    assert len(set(map(tuple, tasks.FUNCTIONS))) == len(set(tasks.NAMES)) == 16


def test_tables_of_tasks_count_and_rank():
    """Five quadruples: S and its null on each half, and how often a run has a positive measure."""
    runs = 100
    found = {"sure": (2.5, 2.0, 0), "null too": (2.5, 2.5, 0), "strange": (1.9, 1.9, 30), "none": (1.9, 1.9, 0)}
    found["lucky"] = (2.5, 2.0, 0)
    rows = []
    for half, (place, (name, (s, s0, contextual))) in product((0, 1), enumerate(found.items())):
        if name == "lucky" and half:
            s, s0 = 1.5, 1.9
        sums = {"s": s, "s_squared": s**2 + 0.01, "s0": s0, "gap_squared": (s - s0) ** 2 + 0.01}
        row = {name: runs * value for name, value in sums.items()} | {"above": 0, "delta": 0, "measure": contextual / 2}
        quadruple = {"a1": 0, "a2": 1, "b1": 2, "b2": 3 + place, "minus": 0, "half": half}
        rows.append(quadruple | row | {"contextual": contextual, "runs": runs, "units": runs})
    frame = pd.DataFrame(rows)
    total = pd.concat([frame.assign(inputs="shared"), frame.assign(inputs="separate", contextual=0, measure=0.0)])
    pairs = frame.iloc[:1].assign(minus=-1, inputs="shared")
    tables = tasks.tables(pd.concat([total, pairs]).assign(width=2, restarts=1))
    counts = tables["counts"].set_index("inputs").loc["shared"]
    assert counts[["quadruples", "above", "above_null_too", "above_apart", "apart", "contextual"]].tolist() == [
        *(5, 2, 1, 1, 1, 1)
    ]
    on_one_half = [
        [counts[f"{name}_{what}"] for what in ("first", "fails")] for name in ("above", "apart", "above_apart")
    ]
    assert on_one_half == [[3, 1], [2, 1], [2, 1]]
    assert counts.above_gap_most == pytest.approx(0.5)
    best = tables["best"]
    # Where no run has a positive measure there is nothing to rank by it.
    lists = {("s", "shared"), ("s", "separate"), ("measure", "shared")}
    assert set(zip(best.chosen_by, best.inputs, strict=True)) == lists
    assert best[best.chosen_by == "measure"].b2.iloc[0] == 5
    assert tables["contextual"][["b2", "runs", "contextual"]].to_numpy().tolist() == [[5, 200, 60]]


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_published_record_names_the_blocks_of_the_study(name):
    record = catalogue.record(name)
    assert record["blocks"] == [dict(block) for block in catalogue.study(name).blocks]
    assert record["seed"] == summary.SEED
    assert record["commit"]
    assert not record["modified"]
    assert record["processor_seconds"] > 0
    assert "llvmlite" in record["versions"]
    assert "numba" not in record["versions"]
    table = catalogue.table("tasks-pairs" if name == "tasks" else name)
    assert table.draw.nunique() == 20 if "draw" in table else table.runs.min() >= 1


def test_published_tables_are_small():
    assert max(path.stat().st_size for path in (ROOT / "book" / "studies").iterdir()) < 1e6


def test_published_distribution_has_every_run():
    table = catalogue.table("distribution")
    runs = table.groupby(["width", "restarts"]).runs.sum()
    assert runs[3, 1] == 100_000
    assert runs[3, 4] == 25_000
    assert (runs.xs(1, level="restarts").drop(3) == 10_000).all()


def test_published_runs_of_parity_add_up_to_its_sums():
    each = catalogue.table("parity-runs").set_index(["bits", "width"])
    sums = catalogue.table("parity").query("restarts == 1").set_index(["bits", "width"])
    assert each.shape == (len(sums), sums.runs.iloc[0])
    np.testing.assert_allclose(each.sum(axis=1).loc[sums.index], sums.s, rtol=1e-9)


def test_published_tasks_have_all_quadruples_and_ranks():
    best, counts = catalogue.table("tasks-best"), catalogue.table("tasks-counts")
    assert (counts.quadruples == 120 * 120 * 4).all()
    assert (counts.above_null_too <= counts.above).all()
    assert (counts.above_apart <= np.minimum(counts.above, counts.apart)).all()
    assert (counts.above_apart_fails <= counts.above_apart_first).all()
    setting = ["inputs", "width", "restarts"]
    for (chosen_by, *_), group in best.groupby(["chosen_by", *setting]):
        assert group["rank"].tolist() == list(range(1, 11))
        assert group[chosen_by].is_monotonic_decreasing
        assert group[chosen_by].iloc[0] > 0
    contextual = catalogue.table("tasks-contextual").groupby(setting).size()
    # The measure doesn't ask where the minus sign of S stands.
    expected = counts.set_index(setting).contextual // 4
    pd.testing.assert_series_equal(contextual, expected[expected > 0], check_names=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: catalogue.table("nothing"), "no 'nothing.csv' among the studies; known: .*distribution.csv"),
        (lambda: catalogue.record("nothing"), "no 'nothing.json' among the studies"),
    ],
)
def test_unknown_table_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
