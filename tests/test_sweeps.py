"""Long studies: what is finished is kept, blocks add up, and the committed tables are those of the studies."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from ncpress.__main__ import main
from ncpress.project import Project
from ncutil.bell import chsh, ncnet
from ncutil.ground.staleness import imported
from ncutil.studies import phase_diagrams
from ncutil.training import _vectors, ensembles

BLOCKS = [{"part": part} for part in range(5)]


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_a_study_that_broke_off_does_only_the_rest(tmp_path, pool):
    done, broken = [], {3}

    def measure(part):
        if part in broken:
            raise RuntimeError("out of power")
        done.append(part)
        return pd.DataFrame({"kind": ["even", "odd"], "runs": [part, 1]})

    study = phase_diagrams.Study(measure, BLOCKS, ["kind"])
    with pytest.raises(RuntimeError, match="out of power"):
        phase_diagrams.run(study, tmp_path, pool)
    assert done[:3] == [0, 1, 2]
    assert all((tmp_path / f"part={k}.csv.gz").exists() for k in done)
    (tmp_path / "part=3.csv.gz.part").write_bytes(b"half a block")
    broken.clear()
    seen = []
    tables, _ = phase_diagrams.run(study, tmp_path, pool, lambda *progress: seen.append(progress))
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert tables[""].to_dict("records") == [{"kind": "even", "runs": 10}, {"kind": "odd", "runs": 5}]
    assert seen[-1] == (5, 5)
    assert seen[0][0] >= 3
    phase_diagrams.run(phase_diagrams.Study(None, BLOCKS, ["kind"]), tmp_path, pool)


STOPPED = """
import os, sys, time
from pathlib import Path
import pandas as pd

here = Path(__file__).parent

def measure(part):
    (here / f"{part}-{os.getpid()}.begun").touch()
    while part > 2 and not (here / "go").exists():
        time.sleep(0.01)
    return pd.DataFrame({"all": [0], "runs": [part]})

if __name__ == "__main__":
    from ncutil.studies import phase_diagrams
    from ncpress.__main__ import main
    from ncpress.project import Project

    project = Project(here)
    project.build.mkdir(exist_ok=True)
    Project.find = lambda: project
    phase_diagrams.STUDIES["tiny"] = phase_diagrams.Study(measure, [{"part": part} for part in range(9)], ["all"])
    main(["sweep", "tiny", "--jobs", "2"])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_a_study_that_is_stopped_ends_at_once_and_keeps_what_is_finished(tmp_path, number):
    """Ctrl-C reaches all processes, what kills the main one alone; no worker outlives it."""
    number = getattr(signal, number)
    (tmp_path / "study.py").write_text(STOPPED)
    command = [sys.executable, str(tmp_path / "study.py")]

    def begun(part):
        return [int(path.stem.partition("-")[2]) for path in tmp_path.glob(f"{part}-*.begun")]

    def finished():
        return {path.name for path in tmp_path.glob("_build/sweeps/*/*.csv.gz")}

    def hear():
        # A job that a shell starts in the background is deaf to Ctrl-C, and so would be all that it starts.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    study = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear,
    )
    try:
        while not (begun(3) and begun(4) and len(finished()) == 3):
            assert study.poll() is None, study.stdout.read()
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(study.pid, number)
        else:
            study.send_signal(number)
        # The blocks under way would go on until the test says "go".
        said, _ = study.communicate(timeout=60)
        assert study.returncode == (130 if number == signal.SIGINT else -number)
        if number == signal.SIGINT:
            lines = [line for line in said.splitlines() if line and "tiny:" not in line]
            assert lines == ["interrupted; finished blocks are kept, and the same command goes on from there"]
        for pid in (*begun(3), *begun(4)):
            with suppress(psutil.NoSuchProcess):
                while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(study.pid, signal.SIGKILL)
        study.wait()
    assert finished() == {f"part={k}.csv.gz" for k in range(3)}
    (tmp_path / "go").touch()
    subprocess.run(command, check=True, capture_output=True)
    assert pd.read_csv(tmp_path / "book" / "studies" / "tiny.csv").runs.tolist() == [sum(range(9))]
    assert [len(begun(part)) for part in range(9)] == [1, 1, 1, 2, 2, *[len(begun(part)) for part in range(5, 9)]]


@pytest.mark.parametrize("damage", [b"", b"hello", -9, "other columns", "no seconds"])
def test_a_damaged_block_is_named_and_done_again(tmp_path, pool, damage):
    done, said = [], []

    def measure(part):
        done.append(part)
        return pd.DataFrame({"all": [0], "runs": [part]})

    study = phase_diagrams.Study(measure, BLOCKS, ["all"])
    whole, _ = phase_diagrams.run(study, tmp_path, pool, say=said.append)
    path = tmp_path / "part=1.csv.gz"
    if isinstance(damage, str):
        text = gzip.decompress(path.read_bytes()).decode()
        text = text.replace("all", "other") if damage == "other columns" else text.partition("\n")[2]
        damage = gzip.compress(text.encode())
    path.write_bytes(path.read_bytes()[:damage] if isinstance(damage, int) else damage)
    again, _ = phase_diagrams.run(study, tmp_path, pool, say=said.append)
    assert said == ["part=1.csv.gz cannot be read and is done again"]
    assert done == [0, 1, 2, 3, 4, 1]
    pd.testing.assert_frame_equal(again[""], whole[""])


def test_a_worker_with_other_code_is_refused(tmp_path, pool, monkeypatch):
    asked = []
    monkeypatch.setattr(phase_diagrams, "_loaded", lambda: asked.append(0) or f"version {len(asked)}")
    with pytest.raises(ValueError, match="a worker has other code or libraries: version"):
        phase_diagrams.run(phase_diagrams.Study(None, BLOCKS, ["all"]), tmp_path, pool)


def test_the_time_of_blocks_done_before_counts(tmp_path, pool, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(phase_diagrams.time, "process_time", lambda: next(clock) ** 2)
    blocks = [{"part": part} for part in range(3)]

    def measure(part):
        return pd.DataFrame({"all": [0], "runs": [part]})

    _, first = phase_diagrams.run(phase_diagrams.Study(measure, blocks[:2], ["all"]), tmp_path, pool)
    assert first == 1 + 5
    tables, both = phase_diagrams.run(phase_diagrams.Study(measure, blocks, ["all"]), tmp_path, pool)
    assert both == 1 + 5 + 9
    assert tables[""].runs.tolist() == [3]


def test_blocks_belong_to_the_code_the_libraries_and_the_seed_that_made_them(monkeypatch, tmp_path):
    now = phase_diagrams.version()
    monkeypatch.setattr(phase_diagrams, "SEED", 1)
    seeded = phase_diagrams.version()
    monkeypatch.undo()
    changed = tmp_path / "lanes.py"
    changed.write_bytes(Path(_vectors.__file__).read_bytes() + b"# another version")
    monkeypatch.setattr(_vectors, "__file__", str(changed))
    changed = phase_diagrams.version()
    monkeypatch.undo()
    monkeypatch.setattr(_vectors.llvmlite, "__version__", "another")
    assert len({now, seeded, changed, phase_diagrams.version()}) == 4


def test_the_version_covers_every_source_that_a_study_reaches(monkeypatch):
    reached, waiting, read = set(), {"ncutil.studies.phase_diagrams"}, set()
    while waiting:
        name = waiting.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        if path.is_file() and name not in reached:
            reached.add(name)
            waiting |= imported(path.read_text())
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.add(f"ncutil.{path.stem}") or b"")
    phase_diagrams.version()
    assert read == reached


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path, pool, monkeypatch):
    monkeypatch.setattr(phase_diagrams, "IN_HAND", 2)
    bits = ncnet.corners(4)

    def measure(first):
        trained = ensembles.train(bits, bits[:, :2], 2, np.full(1024, first), steps=1, rate=0.05)
        right = (trained.outcomes == 1).all((0, 2, 3))
        # The same keys come in every block: all blocks at once would be 3 MB.
        return pd.DataFrame({"key": range(4000), "runs": right.sum()})

    def peak(blocks):
        study = phase_diagrams.Study(measure, [{"first": k} for k in range(blocks)], ["key"])
        tracemalloc.start()
        phase_diagrams.run(study, tmp_path / str(blocks), pool)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(50) < peak(4) + 1e6


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 5)), max_size=6), min_size=1, max_size=4))
def test_adding_up_is_a_grouped_sum(parts):
    tables = [pd.DataFrame(part, columns=["key", "runs"]) for part in parts]
    total = phase_diagrams.add(tables, ["key"])
    expected = pd.concat(tables).groupby("key").runs.sum()
    assert dict(zip(total.key, total.runs, strict=True)) == expected.to_dict()


def test_means_are_those_of_the_runs():
    frame = ncnet.per_run(ncnet.experiment([3], 50, seed=1, steps=300)).assign(width=3)
    frame = frame.assign(restarts=1)
    row = phase_diagrams.means(phase_diagrams.reduced(frame, ["width", "restarts"])).iloc[0]
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


def test_runs_that_have_something_in_common_are_one_unit():
    rng = np.random.default_rng(0)
    s = np.repeat(rng.normal(size=30), 4) + 0.1 * rng.normal(size=120)
    frame = pd.DataFrame({"run": range(120), "s": s, "s0": 0.0, "delta": 0.0, "measure": 0.0, "key": 1})
    row = phase_diagrams.means(phase_diagrams.reduced(frame, ["key"], alike=4)).iloc[0]
    of_units = s.reshape(30, 4).mean(1)
    assert row.units == pytest.approx(30)
    assert row.s == pytest.approx(s.mean())
    np.testing.assert_allclose(row.high - row.s, 1.959964 * of_units.std(ddof=1) / np.sqrt(30), rtol=1e-6)
    alone = phase_diagrams.means(phase_diagrams.reduced(frame, ["key"])).iloc[0]
    assert row.high - row.s > 1.8 * (alone.high - alone.s)


def test_data_counts_subsets_and_not_runs():
    table = phase_diagrams._data(2, 6, 16)
    single = table[table.restarts == 1]
    np.testing.assert_allclose(single[["runs", "units"]], [[16, 4]] * 2)
    assert (table[table.restarts == 4][["runs", "units"]] == 4).all(axis=None)


def test_written_sums_give_back_the_variance(tmp_path):
    runs = 2000
    s = np.full(runs, 2.0)
    s[0] = 2.125
    frame = pd.DataFrame({"run": range(runs), "s": s, "s0": 2.0, "delta": 0.0, "measure": 0.0, "key": 1})
    (path,) = phase_diagrams.write({"": phase_diagrams.reduced(frame, ["key"])}, "tiny", tmp_path)
    row = phase_diagrams.means(pd.read_csv(path)).iloc[0]
    assert row.high - row.s == pytest.approx(1.959964 * s.std(ddof=1) / np.sqrt(runs), rel=1e-3)


def test_blocks_of_runs_are_the_runs_of_one_ensemble():
    keys = phase_diagrams.STUDIES["distribution"].keys
    parts = [phase_diagrams._distribution(3, first, 40) for first in (0, 40)]
    pd.testing.assert_frame_equal(
        phase_diagrams.add(parts, keys), phase_diagrams.add([phase_diagrams._distribution(3, 0, 80)], keys)
    )
    table = parts[0][parts[0].restarts == 1]
    runs = ncnet.per_run(ncnet.experiment([3], 40, seed=phase_diagrams.SEED))
    assert table.runs.sum() == 40
    np.testing.assert_allclose((table.s * table.runs).sum(), runs.s.sum())
    np.testing.assert_allclose(table.s0.sum(), runs.s0.sum())


def test_parity_keeps_each_run():
    blocks = [phase_diagrams._parity(2, width, 12) for width in (2, 3)]
    tables = phase_diagrams._by_run(phase_diagrams.add(blocks, phase_diagrams.STUDIES["parity"].keys))
    sums = tables[""]
    assert sums[["width", "restarts", "runs", "units"]].to_numpy().tolist() == [
        [width, k, 12 // k, 12 // k] for width in (2, 3) for k in (1, 4)
    ]
    each = tables["runs"].set_index(["bits", "width"])
    for width in (2, 3):
        trained = ncnet.train(width, 12, seed=phase_diagrams.SEED, inputs="shared", steps=3000, rate=0.02)
        s = ncnet.per_run(trained.frame()).s
        np.testing.assert_array_equal(each.loc[(2, width)], s)
        row = sums[(sums.width == width) & (sums.restarts == 1)].iloc[0]
        np.testing.assert_allclose([row.s, row.s_squared], [s.sum(), (s**2).sum()])


def test_quadruples_are_composed_of_their_contexts():
    rng = np.random.default_rng(0)
    a, b = rng.choice([-1.0, 1.0], (2, 3, 16, 16, 8))
    moments = (a * b).mean(-1), a.mean(-1), b.mean(-1)
    table = phase_diagrams._quadruples(*moments).set_index(["a1", "a2", "b1", "b2", "minus"])
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
def test_that_both_hold_is_found_only_where_each_is(pairs):
    p, q = np.array(pairs).T ** 3
    both = phase_diagrams.found(np.maximum(p, q))
    assert not (both & ~(phase_diagrams.found(p) & phase_diagrams.found(q))).any()


def test_a_share_of_luck_is_what_was_asked_for():
    """Of a list of two things that hold, each with its luck; where each list is found alone, the overlap has more."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        # A tenth of a thousand has both; of the rest every one has one of the two.
        real = np.zeros((2, 1000), bool)
        real[:, :100], real[0, 100:550], real[1, 550:] = True, True, True
        p, q = phase_diagrams.luck(rng.normal(size=real.shape) + 4.0 * real, np.ones(real.shape))
        for hit in (phase_diagrams.found(np.maximum(p, q)), phase_diagrams.found(p) & phase_diagrams.found(q)):
            shares.append((hit & ~real.all(0)).sum() / hit.sum())
    ours, overlap = np.reshape(shares, (-1, 2)).mean(0)
    assert ours <= 0.05 < overlap


@pytest.mark.parametrize("inputs", ncnet.INPUTS)
def test_a_quadruple_of_the_search_is_the_experiment_of_chapter_2(inputs):
    table = phase_diagrams._tasks(inputs, 2, 0, runs=4, restarts=2, piece=2)
    alike = ncnet.train(2, 8, seed=phase_diagrams.SEED, inputs=inputs)
    first, xor = phase_diagrams.NAMES.index("a"), phase_diagrams.NAMES.index("xor")
    for restarts, runs in ((1, ncnet.per_run(alike.frame()).iloc[::2]), (2, ncnet.per_run(alike.best_of(2).frame()))):
        here = table[(table.restarts == restarts) & (table.a1 == first) & (table.a2 == xor)]
        row = here[(here.b1 == first) & (here.b2 == xor) & (here.minus == 3)].iloc[0]
        np.testing.assert_allclose([row.s, row.s0, row.delta], runs[["s", "s0", "delta"]].sum())


def test_functions_have_their_names():
    bits = ncnet.corners(2)
    for name, task in (("xor", "xor"), ("nand", "nand"), ("a", "first"), ("or", "or"), ("nor", "nor")):
        np.testing.assert_array_equal(
            phase_diagrams.FUNCTIONS[phase_diagrams.NAMES.index(name)], ncnet.truth_table(task)
        )
    np.testing.assert_array_equal(
        phase_diagrams.FUNCTIONS[phase_diagrams.NAMES.index("b or not a")], bits[:, 1] | (1 - bits[:, 0])
    )
    np.testing.assert_array_equal(
        phase_diagrams.FUNCTIONS[phase_diagrams.NAMES.index("a and not b")], bits[:, 0] & (1 - bits[:, 1])
    )
    assert len(set(map(tuple, phase_diagrams.FUNCTIONS))) == len(set(phase_diagrams.NAMES)) == 16


def test_the_search_counts_what_is_sure_and_ranks_what_is_there():
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
    tables = phase_diagrams._search(pd.concat([total, pairs]).assign(width=2, restarts=1))
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


@pytest.mark.parametrize("name", phase_diagrams.STUDIES)
def test_committed_tables_are_those_of_the_study(name):
    record = phase_diagrams.record(name)
    assert record["blocks"] == [dict(block) for block in phase_diagrams.STUDIES[name].blocks]
    assert record["seed"] == phase_diagrams.SEED
    assert record["commit"]
    assert not record["modified"]
    assert record["processor_seconds"] > 0
    assert "llvmlite" in record["versions"]
    assert "numba" not in record["versions"]
    table = phase_diagrams.table("tasks-pairs" if name == "tasks" else name)
    assert table.runs.min() >= 1


def test_committed_tables_are_small():
    assert max(path.stat().st_size for path in (ROOT / "book" / "studies").iterdir()) < 1e6


def test_the_committed_distribution_holds_every_run():
    table = phase_diagrams.table("distribution")
    runs = table.groupby(["width", "restarts"]).runs.sum()
    assert runs[3, 1] == 100_000
    assert runs[3, 4] == 25_000
    assert (runs.xs(1, level="restarts").drop(3) == 10_000).all()


def test_the_committed_runs_of_parity_are_those_of_its_sums():
    each = phase_diagrams.table("parity-runs").set_index(["bits", "width"])
    sums = phase_diagrams.table("parity").query("restarts == 1").set_index(["bits", "width"])
    assert each.shape == (len(sums), sums.runs.iloc[0])
    np.testing.assert_allclose(each.sum(axis=1).loc[sums.index], sums.s, rtol=1e-9)


def test_the_search_is_over_all_quadruples_and_its_winners_are_the_first():
    best, counts = phase_diagrams.table("tasks-best"), phase_diagrams.table("tasks-counts")
    assert (counts.quadruples == 120 * 120 * 4).all()
    assert (counts.above_null_too <= counts.above).all()
    assert (counts.above_apart <= np.minimum(counts.above, counts.apart)).all()
    assert (counts.above_apart_fails <= counts.above_apart_first).all()
    setting = ["inputs", "width", "restarts"]
    for (chosen_by, *_), group in best.groupby(["chosen_by", *setting]):
        assert group["rank"].tolist() == list(range(1, 11))
        assert group[chosen_by].is_monotonic_decreasing
        assert group[chosen_by].iloc[0] > 0
    contextual = phase_diagrams.table("tasks-contextual").groupby(setting).size()
    # The measure doesn't ask where the minus sign of S stands.
    expected = counts.set_index(setting).contextual // 4
    pd.testing.assert_series_equal(contextual, expected[expected > 0], check_names=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: phase_diagrams.table("nothing"), "no 'nothing.csv' among the studies; known: .*distribution.csv"),
        (lambda: phase_diagrams.record("nothing"), "no 'nothing.json' among the studies"),
    ],
)
def test_unknown_tables_get_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _tiny(part):
    ensembles.train(np.eye(2), np.eye(2), 1, [part], steps=1, rate=0.1)
    return pd.DataFrame({"all": [0], "threads": [ensembles.THREADS], "runs": [part]})


def test_the_command_writes_tables_and_their_record(tmp_path, monkeypatch):
    project = Project(tmp_path)
    project.build.mkdir()
    monkeypatch.setattr(Project, "find", lambda: project)
    monkeypatch.setattr(
        phase_diagrams, "STUDIES", {"tiny": phase_diagrams.Study(_tiny, BLOCKS, ["all"], lambda t: {"": t, "more": t})}
    )
    # Blocks of other code are neither added up nor in the way.
    other = project.build / "sweeps" / "tiny-of-other-code" / "part=0.csv.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    done = CliRunner().invoke(main, ["sweep", "tiny", "--jobs", "2"])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(project.studies / "tiny.csv")
    assert table.to_dict("records") == [{"all": 0, "threads": 5, "runs": 10}]
    assert (project.studies / "tiny-more.csv").is_file()
    record = json.loads((project.studies / "tiny.json").read_text())
    assert record["command"] == "ncutil sweep tiny"
    assert record["processor_seconds"] >= 0
    assert [folder.name for folder in (project.build / "sweeps").iterdir()] == ["tiny-of-other-code"]
    wrong = CliRunner().invoke(main, ["sweep", "tinny"])
    assert wrong.exit_code == 1
    assert "unknown study 'tinny'; known: tiny" in wrong.output


def test_a_dask_cluster_does_the_blocks_one_thread_each(tmp_path, monkeypatch):
    monkeypatch.setattr(ensembles, "THREADS", 3)
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as cluster,
        phase_diagrams.workers(1, cluster.scheduler_address) as pool,
    ):
        tables, _ = phase_diagrams.run(phase_diagrams.Study(_tiny, BLOCKS[:2], ["all"]), tmp_path, pool)
    assert tables[""][["threads", "runs"]].to_numpy().tolist() == [[2, 1]]
