"""What running and building costs, as whole commands on this machine; run with --benchmark-only.

Absolute seconds belong to the machine and its load: every benchmark also stores the ratio to an import of the command
line alone, measured in the same run.
"""

import json
import statistics
import time
from pathlib import Path

import pytest
from conftest import ROOT, cli, copy_project
from pytest_benchmark.fixture import BenchmarkFixture

from ncpress.project import Project

CHAPTERS = sorted(Project(ROOT).chapters)


@pytest.fixture(scope="module")
def start(book: Path) -> float:
    """Median seconds that the command line needs to start and say its version."""
    seconds = []
    for _ in range(3):
        clock = time.perf_counter()
        assert cli(book, "--version").returncode == 0
        seconds.append(time.perf_counter() - clock)
    return statistics.median(seconds)


def build(clone: Path, *words: str) -> str:
    done = cli(clone, "build", "--profile", "smoke", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_build_with_nothing_to_do(benchmark: BenchmarkFixture, book: Path, start: float) -> None:
    said = benchmark.pedantic(build, args=(book,), rounds=3, warmup_rounds=1)
    assert "nothing to do" in said
    benchmark.extra_info["ratio to starting the command line"] = benchmark.stats["median"] / start


def test_build_after_a_prose_edit(benchmark: BenchmarkFixture, book: Path, start: float) -> None:
    def edit() -> tuple[tuple[Path], dict[str, str]]:
        with (book / "notebooks" / f"{CHAPTERS[0]}.md").open("a") as file:
            file.write("\nOne more sentence.\n")
        return (book,), {}

    said = benchmark.pedantic(build, setup=edit, rounds=3)
    assert "built: " in said
    assert said.count("up to date") == len(CHAPTERS)
    benchmark.extra_info["ratio to starting the command line"] = benchmark.stats["median"] / start


@pytest.mark.parametrize("profile", ["smoke", "book"])
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_from_cold(
    benchmark: BenchmarkFixture, tmp_path_factory: pytest.TempPathFactory, chapter: str, profile: str
) -> None:
    """A chapter in a fresh copy: compiled code and cached results are not there yet."""
    clone = copy_project(tmp_path_factory.mktemp("cold") / "clone")

    def run() -> None:
        done = cli(clone, "run", chapter, "--profile", profile)
        assert done.returncode == 0, done.stderr

    benchmark.pedantic(run, rounds=1)
    record = json.loads((clone / "_build" / "runs" / profile / chapter / "run.json").read_text())
    benchmark.extra_info["seconds in the run record"] = record["seconds"]
