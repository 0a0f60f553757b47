"""What grading a large class costs, killed on the way and not; run with --benchmark-only.

Seconds belong to the machine and its load: stored beside them are the ratio to an undisturbed run and the number of
command-line starts that one submission is worth, all measured in the same run.
"""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, cli, clone_environment
from problem_sets import SEED, answers, edited, fill, problem_set, reference
from pytest_benchmark.fixture import BenchmarkFixture
from test_classroom import contents, hand_in

SET = "01-chsh"
STUDENTS = 200
KILLS = 3
JOBS = 2


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class in which everybody has handed in: right, untouched, and wrong in every way that is known."""
    course = tmp_path_factory.mktemp("crowd") / "course"
    course.mkdir()
    (course / "course.yml").write_text(f"seed: {SEED}\n")
    item = problem_set(SET)
    right = reference(item)
    changes = [change for some in answers(SET)["wrong"].values() for change in some]
    for number in range(STUDENTS):
        change = changes[number % len(changes)]
        sources = [right, {}, right | {change["cell"]: edited(item, change)}][number % 3]
        hand_in(course, f"student-{number:03}", fill(item, sources))
    return course


def start(course: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ncpress", "class", "grade", str(course), "--jobs", str(JOBS)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=clone_environment(ROOT), stdout=quiet, stderr=quiet)


def results(course: Path) -> int:
    return len(list(course.glob("results/*/*.json")))


def undisturbed(course: Path) -> float:
    """Seconds of a grading from the start to the end."""
    clock = time.perf_counter()
    assert start(course).wait() == 0
    return time.perf_counter() - clock


def test_a_large_class_killed_three_times_ends_as_if_it_had_not_been(
    benchmark: BenchmarkFixture, crowd: Path, tmp_path: Path
) -> None:
    course = Path(shutil.copytree(crowd, tmp_path / "killed"))

    def grade() -> None:
        for kill in range(1, KILLS + 1):
            process = start(course)
            while process.poll() is None and results(course) < kill * STUDENTS // (KILLS + 1):
                time.sleep(0.1)
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert results(course) < STUDENTS
        assert start(course).wait() == 0

    benchmark.pedantic(grade, rounds=1)
    whole = Path(shutil.copytree(crowd, tmp_path / "whole"))
    seconds = undisturbed(whole)
    clock = time.perf_counter()
    assert cli(ROOT, "--version").returncode == 0
    version = time.perf_counter() - clock
    assert contents(course) == contents(whole)
    assert len(contents(whole)) == STUDENTS
    for name in ("grades.csv", "manual.csv"):
        assert (course / name).read_text() == (whole / name).read_text()
    killed = benchmark.stats["mean"]
    benchmark.extra_info["students"] = STUDENTS
    benchmark.extra_info["ratio to an undisturbed run"] = killed / seconds
    benchmark.extra_info["starts of the command line a submission, undisturbed"] = seconds / STUDENTS / version
