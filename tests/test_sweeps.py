"""Long computations in blocks: what is finished is kept, blocks add up, and stale blocks are not used."""

import gzip
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ncpress import pages, rendering, sweeps
from ncpress.__main__ import main
from ncpress.project import Project
from ncutil.bell import ncnet
from ncutil.ground import staleness
from ncutil.studies import catalogue
from ncutil.studies.summary import Study
from ncutil.training import ensembles

BLOCKS = [{"part": part} for part in range(5)]


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def add(tables):
    return pd.concat(tables).groupby("all", as_index=False).sum()


def one_row(part):
    return pd.DataFrame({"all": [0], "runs": [part]})


def test_run_continues_after_an_error(tmp_path, pool):
    done, broken = [], {3}

    def job(part):
        if part in broken:
            raise RuntimeError("out of power")
        done.append(part)
        return pd.DataFrame({"all": ["even", "odd"], "runs": [part, 1]})

    with pytest.raises(RuntimeError, match="out of power"):
        sweeps.run(job, BLOCKS, add, tmp_path, pool)
    assert done[:3] == [0, 1, 2]
    assert all((tmp_path / f"part={k}.csv.gz").exists() for k in done)
    broken.clear()
    seen = []
    outcome = sweeps.run(job, BLOCKS, add, tmp_path, pool, lambda *progress: seen.append(progress))
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert outcome.total.to_dict("records") == [{"all": "even", "runs": 10}, {"all": "odd", "runs": 5}]
    assert seen[-1] == (5, 5)
    assert seen[0][0] >= 3
    sweeps.run(job, BLOCKS, add, tmp_path, pool)
    assert len(done) == 5


STOPPED = """
import os
from pathlib import Path
import pandas as pd

here = Path(__file__).parent

def experiment(part, seed):
    with open(here / "begun", "w") as begun:
        begun.write(f"{part}\\n")
    if part > 2:
        (here / "go").read_text()
    return pd.DataFrame({"all": [0], "runs": [part]})

if __name__ == "__main__":
    from ncutil.studies import catalogue
    from ncutil.studies.summary import Study
    from ncpress.__main__ import main
    from ncpress.project import Project

    project = Project(here)
    project.build.mkdir(exist_ok=True)
    Project.find = lambda: project
    catalogue.study = lambda name: Study(experiment, [{"part": part} for part in range(9)], ["all"])
    main(["sweep", "tiny", "--jobs", "2"])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_sweep_that_is_stopped_ends_and_continues(tmp_path, number):
    """Ctrl-C reaches all processes, what kills the main one alone; no worker outlives it."""
    number = getattr(signal, number)
    (tmp_path / "study.py").write_text(STOPPED)
    command = [sys.executable, str(tmp_path / "study.py")]
    for name in ("begun", "go"):
        os.mkfifo(tmp_path / name)
    pipe = os.open(tmp_path / "begun", os.O_RDWR)
    begun, said = [], b""

    def finished():
        return {path.name for path in tmp_path.glob("_build/sweeps/*/*.csv.gz")}

    def hear():
        # A job that a shell starts in the background ignores Ctrl-C, and so would all that it starts.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    study = subprocess.Popen(command, start_new_session=True, preexec_fn=hear, **output)
    try:
        # The bar counts files; blocks 3 and 4 begin then, and wait for somebody to write to "go".
        while b"3/9" not in said:
            part = os.read(study.stdout.fileno(), 4096)
            assert part, said.decode()
            said += part
        while not {"3", "4"} <= set(begun):
            begun += os.read(pipe, 4096).decode().split()
        if number == signal.SIGINT:
            os.killpg(study.pid, number)
        else:
            study.send_signal(number)
        # Its workers have the same output, which ends when the last of them has ended.
        said, _ = study.communicate(timeout=60)
        assert study.returncode == (130 if number == signal.SIGINT else -number)
        if number == signal.SIGINT:
            lines = [line for line in said.decode().splitlines() if line and "tiny:" not in line]
            assert lines == ["interrupted; finished blocks are kept, and the same command continues from them"]
        assert finished() == {f"part={k}-seed=2026.csv.gz" for k in range(3)}
        (tmp_path / "go").unlink()
        (tmp_path / "go").touch()
        subprocess.run(command, check=True, capture_output=True)
        begun += os.read(pipe, 4096).decode().split()
    finally:
        os.close(pipe)
        with suppress(ProcessLookupError):
            os.killpg(study.pid, signal.SIGKILL)
        study.wait()
    assert pd.read_csv(tmp_path / "book" / "studies" / "tiny.csv").runs.tolist() == [sum(range(9))]
    assert sorted(begun) == sorted([*"012345678", "3", "4"])


@pytest.mark.parametrize("damage", [b"", b"hello", -9, "other columns", "no receipt"])
def test_damaged_block_is_named_and_computed_again(tmp_path, pool, damage):
    done, said = [], []

    def job(part):
        done.append(part)
        return one_row(part)

    whole = sweeps.run(job, BLOCKS, add, tmp_path, pool, say=said.append).total
    path = tmp_path / "part=1.csv.gz"
    if isinstance(damage, str):
        text = gzip.decompress(path.read_bytes()).decode()
        text = text.replace("all", "other") if damage == "other columns" else text.partition("\n")[2]
        damage = gzip.compress(text.encode())
    path.write_bytes(path.read_bytes()[:damage] if isinstance(damage, int) else damage)
    again = sweeps.run(job, BLOCKS, add, tmp_path, pool, say=said.append).total
    assert said == ["part=1.csv.gz cannot be read and is computed again"]
    assert done == [0, 1, 2, 3, 4, 1]
    pd.testing.assert_frame_equal(again, whole)


def test_worker_with_other_code_is_refused(tmp_path, pool, monkeypatch):
    asked = []
    monkeypatch.setattr(sweeps, "code", lambda module: asked.append(module) or {"code": len(asked)})
    with pytest.raises(ValueError, match="a worker has other code or libraries"):
        sweeps.run(one_row, BLOCKS, add, tmp_path, pool)
    assert set(asked) == {one_row.__module__}


def test_seconds_of_kept_blocks_count(tmp_path, pool, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(sweeps.time, "process_time", lambda: next(clock) ** 2)
    assert sweeps.run(one_row, BLOCKS[:2], add, tmp_path, pool).seconds == 1 + 5
    outcome = sweeps.run(one_row, BLOCKS[:3], add, tmp_path, pool)
    assert outcome.seconds == 1 + 5 + 9
    assert outcome.total.runs.tolist() == [3]


def test_blocks_of_another_processor_are_kept_and_named(tmp_path, pool, monkeypatch):
    for name, blocks in (("one", BLOCKS[:2]), ("other", BLOCKS)):
        monkeypatch.setattr(staleness, "processor", lambda name=name: name)
        outcome = sweeps.run(one_row, blocks, add, tmp_path, pool)
    assert outcome.processors == {"one": 2, "other": 3}


def test_stale_names_studies_of_other_code(tmp_path):
    now = sweeps.code("ncutil.studies.rate")
    edited = now | {"modules": now["modules"] | {"ncutil.bell.ncnet": "other"}}
    commit = "0123456789abcdef"
    for name, key in (("same", {"key": now}), ("edited", {"key": edited}), ("unknown", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"study": name, "commit": commit, **key}))
    (line,) = sweeps.stale(tmp_path)
    assert "edited" in line
    assert commit[:10] in line
    assert staleness.PARTS["modules"] in line


def test_stale_finds_a_module_that_is_gone(tmp_path):
    key = sweeps.code("ncutil.studies.rate")
    key = key | {"modules": key["modules"] | {"ncutil.studies.gone": "tree"}}
    (tmp_path / "rate.json").write_text(json.dumps({"study": "rate", "commit": None, "key": key}))
    assert len(sweeps.stale(tmp_path)) == 1


def test_build_warns_of_stale_studies(tmp_path, monkeypatch):
    """In a project without chapters, where nothing is rendered."""
    project = Project(tmp_path)
    project.studies.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "profiles.yml").write_text("smoke: {}\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    key = sweeps.code("ncutil.studies.rate") | {"modules": {"ncutil.bell.ncnet": "other"}}
    record = {"study": "rate", "commit": "0123456789abcdef", "key": key}
    (project.studies / "rate.json").write_text(json.dumps(record))
    monkeypatch.setattr(Project, "find", lambda: project)
    monkeypatch.setattr(pages, "stage", lambda *given: None)
    monkeypatch.setattr(rendering, "render", lambda *given, whole: False)
    done = CliRunner().invoke(main, ["build"])
    assert done.exit_code == 0, done.output
    assert sweeps.stale(project.studies)[0] in done.stderr


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path, pool, monkeypatch):
    monkeypatch.setattr(sweeps, "IN_HAND", 2)
    bits = ncnet.corners(4)

    def job(first):
        trained = ensembles.train(bits, bits[:, :2], 2, np.full(1024, first), steps=1, rate=0.05)
        right = (trained.outcomes == 1).all((0, 2, 3))
        # The same keys come in every block: all blocks at once would be 3 MB.
        return pd.DataFrame({"all": range(4000), "runs": right.sum()})

    def peak(blocks):
        tracemalloc.start()
        sweeps.run(job, [{"first": k} for k in range(blocks)], add, tmp_path / str(blocks), pool)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(50) < peak(4) + 1e6


def _tiny(part, seed):
    ensembles.train(np.eye(2), np.eye(2), 1, [seed + part], steps=1, rate=0.1)
    return pd.DataFrame({"all": [0], "threads": [ensembles.THREADS], "runs": [part]})


def test_sweep_writes_tables_and_their_record(tmp_path, monkeypatch):
    project = Project(tmp_path)
    project.build.mkdir()
    monkeypatch.setattr(Project, "find", lambda: project)
    study = Study(_tiny, BLOCKS, ["all"], lambda total: {"": total, "more": total})
    with monkeypatch.context() as patched:
        patched.setattr(catalogue, "study", lambda name: study)
        # Blocks of other code are neither added up nor deleted.
        other = project.build / "sweeps" / "tiny-of-other-code" / "part=0-seed=2026.csv.gz"
        other.parent.mkdir(parents=True)
        other.write_bytes(b"")
        done = CliRunner().invoke(main, ["sweep", "tiny", "--jobs", "1"])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(project.studies / "tiny.csv")
    assert table.to_dict("records") == [{"all": 0, "threads": 5, "runs": 10}]
    assert (project.studies / "tiny-more.csv").is_file()
    record = json.loads((project.studies / "tiny.json").read_text())
    assert record["command"] == "ncutil sweep tiny"
    assert record["processor_seconds"] >= 0
    assert record["processors"] == {staleness.processor(): 5}
    assert record["key"] == sweeps.code(_tiny.__module__)
    assert sweeps.stale(project.studies) == []
    assert [folder.name for folder in (project.build / "sweeps").iterdir()] == ["tiny-of-other-code"]
    wrong = CliRunner().invoke(main, ["sweep", "tinny"])
    assert wrong.exit_code == 1
    assert "unknown study 'tinny'; known: distribution" in wrong.output


def test_dask_cluster_computes_blocks_in_one_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(ensembles, "THREADS", 3)
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "processes": False, "threads_per_worker": 1, "dashboard_address": None}
    blocks = [{**block, "seed": 1} for block in BLOCKS[:2]]
    with (
        distributed.LocalCluster(**options) as cluster,
        sweeps.workers(1, cluster.scheduler_address, catalogue.use_one_thread) as pool,
    ):
        outcome = sweeps.run(_tiny, blocks, add, tmp_path, pool)
    assert outcome.total[["threads", "runs"]].to_numpy().tolist() == [[2, 1]]
