"""Running chapters: records, the skip rule, failures, kills, bad input."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import nbformat
import pytest
from conftest import cli, clone_environment, git

from ncpress import execution as running
from ncpress.project import (
    PressError,
    Project,
    fit,
    parse_overrides,
    rewrite,
)
from ncutil.ground import staleness
from ncutil.ground.files import checksum

pytestmark = pytest.mark.xdist_group("run")


def record(clone: Path, chapter: str, folder: str = "book") -> dict:
    return json.loads((clone / "_build" / "runs" / folder / chapter / "run.json").read_text())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def reasons(clone: Path) -> dict[str, str]:
    """Why each chapter of a clone would run now; empty where it is up to date."""
    project = Project(clone)
    return {item.chapter.name: item.reason for item in running.plan(project, project.select([]), "book", {})}


def test_run_keeps_the_whole_record(built: Path) -> None:
    beta = record(built, "02-beta")
    assert beta["parameters"] == {"runs": 40, "pause": 0.0, "seed": 1}
    assert (beta["profile"], beta["seed"], beta["modified"]) == ("book", 1, False)
    assert beta["commit"] == git(built, "rev-parse", "HEAD")
    assert {"python", "numpy", "torch"} <= beta["versions"].keys()
    assert beta["processor"]
    assert beta["seconds"] > 0
    (claim,) = beta["claims"]
    assert claim["id"] == "beta-mean"
    assert claim["interval"][0] < claim["estimate"] < claim["interval"][1]
    data = (built / "_build/runs/book/02-beta/data/wobble.csv").read_text().splitlines()
    assert data[0] == "x"
    assert len(data) == 41
    assert record(built, "01-alpha")["scalars"] == [{"name": "bound", "value": 2.0, "interval": None}]


def test_executed_notebook_carries_no_paths_or_times(built: Path) -> None:
    text = (built / "_build/runs/book/02-beta/02-beta.ipynb").read_text()
    assert "papermill" not in text
    assert str(built) not in text
    assert "start_time" not in text


def test_prose_and_display_tags_run_nothing(built: Path) -> None:
    edit(built / "notebooks/02-beta.md", "quixotic", "changed")
    edit(built / "notebooks/02-beta.md", "A rising line.", "Another caption.")
    edit(
        built / "notebooks/02-beta.md",
        "```{code-cell} ipython3\nimport time",
        "```{code-cell} ipython3\n:tags: [hide-input]\n\nimport time",
    )
    assert reasons(built) == {"01-alpha": "", "02-beta": ""}
    done = cli(built, "run")
    assert done.stdout.count("up to date") == 2


def test_editing_a_module_runs_only_the_chapters_that_reach_it(built: Path) -> None:
    with (built / "ncutil" / "bell" / "chsh.py").open("a") as file:
        file.write("\n# a comment\n")
    assert reasons(built) == {"01-alpha": "ncutil changed", "02-beta": ""}
    done = cli(built, "run")
    assert done.returncode == 0, done.stderr
    assert "02-beta: up to date" in done.stdout
    assert "01-alpha: done" in done.stdout
    assert record(built, "01-alpha")["modified"] is True


def test_code_parameters_pins_and_data_run_again(built: Path) -> None:
    edit(built / "notebooks/01-alpha.md", "claims.value(", "claims.value(  # bound\n    ")
    assert reasons(built) == {"01-alpha": "code cells changed", "02-beta": ""}
    edit(built / "notebooks/02-beta.md", "runs = 40", "runs = 41")
    assert reasons(built)["02-beta"] == "parameters changed"
    with (built / "constraints.txt").open("a") as file:
        file.write("tenacity==9.0.0\n")
    assert all("constraints.txt" in reason for reason in reasons(built).values())


def test_declared_data_counts(clone: Path) -> None:
    chapter = clone / "notebooks/02-beta.md"
    edit(chapter, "kernelspec:", "ncutil:\n  data: [numbers.csv]\nkernelspec:")
    with pytest.raises(PressError, match=r"declared data is missing: .*numbers\.csv"):
        reasons(clone)
    (clone / "notebooks/numbers.csv").write_text("1\n")
    project = Project(clone)
    first = running.key(project, project.chapters["02-beta"], {})
    (clone / "notebooks/numbers.csv").write_text("2\n")
    second = running.key(project, project.chapters["02-beta"], {})
    assert staleness.changes(first, second) == "data changed"


def test_reached_modules_follow_imports(clone: Path) -> None:
    chapters = Project(clone).chapters

    def reached(name: str) -> set[str]:
        cells = chapters[name].code_cells
        return set(staleness.reach(set().union(*(staleness.imported(cell.source) for cell in cells)), root=clone))

    assert reached("01-alpha") == {
        "ncutil",
        "ncutil.bell",
        "ncutil.bell.chsh",
        "ncutil.evidence",
        "ncutil.evidence.claims",
        "ncutil.evidence.outputs",
    }
    assert reached("02-beta") == {
        "ncutil",
        "ncutil.evidence",
        "ncutil.evidence.claims",
        "ncutil.evidence.figures",
        "ncutil.evidence.outputs",
        "ncutil.evidence.stats",
    }


def test_changed_parameters_get_a_folder_of_their_own_and_show_in_the_code(built: Path) -> None:
    before = record(built, "02-beta")
    done = cli(built, "run", "2", "-p", "runs=12")
    assert done.returncode == 0, done.stderr
    (folder,) = (built / "_build/runs").glob("book@*")
    assert record(built, "02-beta", folder.name)["parameters"]["runs"] == 12
    assert record(built, "02-beta") == before
    notebook = nbformat.read(folder / "02-beta" / "02-beta.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert sources[0].splitlines()[0] == "runs = 12"
    assert not any("40" in source for source in sources)


def test_smoke_profile_overrides_the_defaults(built: Path) -> None:
    assert cli(built, "run", "--profile", "smoke").returncode == 0
    smoke = record(built, "02-beta", "smoke")
    assert smoke["parameters"]["runs"] == 10
    assert smoke["defaults"]["runs"] == 40


def test_failing_cell_is_named_and_the_others_finish(clone: Path) -> None:
    edit(clone / "notebooks/01-alpha.md", 'claims.value("bound"', 'raise KeyError("lost")\nclaims.value("bound"')
    done = cli(clone, "run")
    assert done.returncode == 1
    assert "01-alpha failed in cell 4: KeyError: 'lost'" in done.stderr
    assert "Traceback" in done.stderr
    assert "failed: 01-alpha" in done.stderr
    assert record(clone, "02-beta")
    assert not (clone / "_build/runs/book/01-alpha").exists()
    assert not list((clone / "_build/runs").rglob(".new-*"))
    assert (clone / "_build/failed/01-alpha.ipynb").is_file()


def test_killed_run_keeps_what_was_finished_and_nothing_else(clone: Path) -> None:
    chapter = clone / "notebooks/02-beta.md"
    edit(chapter, "pause = 0.0", "pause = 60.0")
    process = subprocess.Popen(
        [sys.executable, "-m", "ncpress", "run", "--jobs", "1"],
        cwd=clone,
        env=clone_environment(clone),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list((clone / "_build/runs/book").glob(".new-02-beta")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = record(clone, "01-alpha")
    assert not (clone / "_build/runs/book/02-beta").exists()
    assert running.read_record(clone / "_build/runs/book/.new-02-beta") is None
    edit(chapter, "pause = 60.0", "pause = 0.0")
    done = cli(clone, "run")
    assert done.returncode == 0, done.stderr
    assert record(clone, "01-alpha") == first
    assert "01-alpha: up to date" in done.stdout
    assert not list((clone / "_build/runs").rglob(".new-*"))


def test_run_killed_between_its_two_renames_is_kept(built: Path) -> None:
    folder = built / "_build/runs/book"
    whole = record(built, "02-beta")
    (folder / "02-beta").rename(folder / ".new-02-beta")
    (folder / ".old-02-beta").mkdir()
    (folder / ".new-01-alpha").mkdir()
    done = cli(built, "run")
    assert done.stdout.count("up to date") == 2, done.stderr
    assert record(built, "02-beta") == whole
    assert sorted(path.name for path in folder.iterdir()) == ["01-alpha", "02-beta"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 0, "key": {}}'])
def test_record_of_another_version_is_stale(built: Path, text: str) -> None:
    (built / "_build/runs/book/01-alpha/run.json").write_text(text)
    assert reasons(built) == {"01-alpha": "no finished run", "02-beta": ""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "9"], "unknown chapter '9'; known: 01-alpha, 02-beta"),
        (["run", "--profile", "huge"], "unknown profile 'huge'; known: book, smoke"),
        (["run", "1", "-p", "runs=3"], "unknown parameter 'runs'; the chosen chapters know: level, seed"),
        (["run", "-p", "runs"], "-p takes key=value, got 'runs'"),
        (["run", "-p", "runs=many"], "parameter 'runs' is an integer (40), got 'many'"),
        (["claims", "--profile", "huge"], "unknown profile 'huge'; known: book, smoke"),
    ],
)
def test_bad_words_get_one_line(clone: Path, words: list[str], message: str) -> None:
    done = cli(clone, *words)
    assert done.returncode != 0
    assert done.stderr.strip() == f"Error: {message}"
    assert not (clone / "_build" / "runs").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notebooks/profiles.yml", "smoke: {", "profiles.yml, line 1: not valid YAML"),
        ("notebooks/profiles.yml", "smoke: {07-no: {a: 1}}", "profiles.yml, smoke: no chapter '07-no'"),
        ("notebooks/profiles.yml", "smoke: {01-alpha: {a: 1}}", "01-alpha has no parameter 'a'; known: level, seed"),
        ("notebooks/01-alpha.md", "# no notebook\n", "01-alpha.md: expected one code cell tagged 'parameters'"),
        ("book/claims.yml", "- {id: x", "claims.yml is not valid YAML"),
        ("book/claims.yml", "- {id: x}", "claims.yml: claim 'x': unknown [], missing ['source', 'place', 'statement']"),
    ],
)
def test_broken_files_get_one_line(clone: Path, name: str, text: str, message: str) -> None:
    (clone / name).write_text(text)
    done = cli(clone, "run")
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (clone / "_build" / "runs").exists()


@pytest.mark.parametrize("command", ["run", "build", "claims", "compare"])
def test_help_has_an_example(clone: Path, command: str) -> None:
    done = cli(clone, command, "--help")
    assert done.returncode == 0
    assert f"Example: ncutil {command}" in done.stdout


def test_outside_a_clone_says_so(tmp_path: Path, clone: Path) -> None:
    done = cli(clone, "run", cwd=tmp_path)
    assert done.returncode == 1
    assert "no clone of the book" in done.stderr


def test_a_foreign_ncutil_is_refused(clone: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "ncpress", "run"]
    # Python puts the working folder first on its path, so start one folder down.
    other = subprocess.run(command, cwd=clone / "notebooks", env=environment, capture_output=True, text=True)
    assert other.returncode == 1
    assert "pip install -e ." in other.stderr


def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_log(clone: Path) -> None:
    log = cli(clone, "run", "1")
    assert "01-alpha: running the book profile (no finished run)" in log.stderr
    assert "\r" not in log.stderr
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "ncpress", "run", "1", "--force"],
        cwd=clone,
        env=clone_environment(clone) | {"TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=writer,
    )
    os.close(writer)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the last writer is
        while part := os.read(reader, 4096):
            shown += part
    assert process.wait() == 0
    assert re.search(rb"01-alpha: .*cell \d+ of 5, 00:0\d", shown)


def test_paths_are_taken_from_the_folder_of_the_shell(clone: Path, tmp_path: Path) -> None:
    edit(clone / "notebooks/01-alpha.md", "seed = 0", 'data = ""  # a file\nseed = 0')
    (tmp_path / "numbers.csv").write_text("1\n")
    chapters = Project(clone).select(["1"])
    given = parse_overrides(["data=numbers.csv"], chapters, tmp_path)
    assert given == {"data": str(tmp_path / "numbers.csv")}
    parts = running.key(Project(clone), chapters[0], {**chapters[0].parameters, **given})
    assert parts["data"] == {str(tmp_path / "numbers.csv"): checksum(tmp_path / "numbers.csv")}


def test_rewrite_changes_values_and_keeps_the_rest() -> None:
    source = 'runs = 1_000  # networks\nnames = ("é", "b")  # two\nseed = 0'
    assert (
        rewrite(source, {"runs": 5, "names": ("x",), "seed": 0})
        == "runs = 5  # networks\nnames = ('x',)  # two\nseed = 0"
    )
    assert rewrite(source, {"runs": 1000}) == source


def test_fit_takes_the_type_of_the_default() -> None:
    assert fit("rate", 1, 0.5) == 1.0
    assert fit("widths", [1, 2], (3,)) == (1, 2)
    for value, default in ((True, 3), ("a", 3), (1.5, 3), (1, "a")):
        with pytest.raises(PressError, match="parameter 'x'"):
            fit("x", value, default)
