"""The page of benchmarks says what the benchmark's record says."""

import json
from pathlib import Path

from conftest import PROJECT, ROOT

from ncpress import benchmarks
from ncpress.project import Project

SHAPE = {
    "shape": "Z",
    "optimizer": "sgd",
    "steps": 3000,
    "networks": 4000,
    "width": 5,
    "inputs": [16, 4],
    "heads": 1,
    "networks per second": {"slow peer": 2.0, "ensembles.train": 20214.3},
    "times slower than ensembles.train": {"slow peer": 10107.2, "ensembles.train": 1.0},
    "multiply-adds per second": 3.2e10,
    "peak multiply-adds per second": 1.28e11,
    "share of peak": 0.25,
    "distance of the distributions of losses": {"slow peer": 0.0125, "ensembles.train": 0.0},
}
RECORD = {
    "command": "python bench.py",
    "commit": "0123456789abcdef",
    "modified": True,
    "versions": {"python": "3.11", "llvmlite": "1", "torch": "2", "jax": "3"},
    "processor": "a processor",
    "cores": 2,
    "started": "2026-01-02T03:04:05+00:00",
    "shapes": [SHAPE],
}


def test_every_peer_and_the_run_are_named(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert benchmarks.page(project) == benchmarks.NONE
    project.studies.mkdir(parents=True)
    (project.studies / "benchmarks.json").write_text(json.dumps(RECORD))
    page = benchmarks.page(project).replace("\\", "")
    assert "- **ensembles.train**: the book's kernel" in page
    assert "torch.func" not in page
    assert "not exactly the quotient of two speeds" in page
    assert "differ from the kernel's by at most 0.013" in page
    assert page.index("| ensembles.train | 20,200 |  |") < page.index("| slow peer | 2.00 | 10,100 times |")
    assert "4,000 networks, 16 inputs of 4 bits, 5 hidden units, one head, SGD, 3,000 steps" in page
    assert "32.0 billion multiply-adds a second, 25.0 % of the 128 billion" in page
    assert "at commit `0123456789`, modified, on 2 cores (a processor)" in page


def test_the_speed_of_adapters_comes_from_its_own_record(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.results.mkdir(parents=True)
    run = {"words": 400, "losses apart, at most": 1e-3, "one run": {"1": 4.81, "16": 3.62}}
    top = {"to all layers": 151.2, "to the last layer": 31.4}
    measured = {"words": run, "last layer": top}
    (project.results / "lora-speed.json").write_text(json.dumps({**RECORD, "measured": measured}))
    page = benchmarks.page(project)
    assert page.startswith(benchmarks.NONE)
    for part in (
        "one run on 400 words, rank 1 | the loop | 4.81 |",
        "| 3.62 |",
        "| 151 |",
        "| 31.4 |",
        "on 2 cores (a processor)",
    ):
        assert part in page


def test_the_committed_record_has_all_peers_in_both_shapes() -> None:
    record = json.loads((ROOT / "book" / "studies" / "benchmarks.json").read_text())
    assert [shape["shape"] for shape in record["shapes"]] == ["A", "B"]
    for shape in record["shapes"]:
        named = " ".join(shape["networks per second"])
        assert shape["networks per second"].keys() <= benchmarks.PEERS.keys()
        assert all(peer in named for peer in ("ensembles.train", "JAX", "one batch", "loop of modules"))
    assert record["commit"]
    assert "## Shape A" in benchmarks.page(PROJECT)
