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
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from conftest import cli, clone_environment, git, press

from ncpress import execution as running
from ncpress import pages
from ncpress.__main__ import main
from ncpress.project import (
    PressError,
    Project,
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


def test_skip_ignores_comments_and_docstrings_of_modules(built: Path) -> None:
    path = built / "ncutil" / "bell" / "chsh.py"
    with path.open("a") as file:
        file.write("\n# a comment\n")
    edit(path, "Explained in the chapter on CHSH theory.", "Other words.")
    assert reasons(built) == {"01-alpha": "", "02-beta": ""}


def test_skip_reruns_the_chapters_that_reach_an_edited_module(built: Path) -> None:
    with (built / "ncutil" / "bell" / "chsh.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    assert reasons(built) == {"01-alpha": "ncutil changed", "02-beta": ""}
    done = cli(built, "run")
    assert done.returncode == 0, done.stderr
    assert "02-beta: up to date" in done.stdout
    assert "01-alpha: done" in done.stdout
    assert record(built, "01-alpha")["modified"] is True


def test_code_parameters_pins_and_data_run_again(built: Path) -> None:
    edit(built / "notebooks/01-alpha.md", 'claims.value("bound"', 'claims.value("limit"')
    assert reasons(built) == {"01-alpha": "code cells changed", "02-beta": ""}
    edit(built / "notebooks/02-beta.md", "runs = 40", "runs = 41")
    assert reasons(built)["02-beta"] == "parameters changed"
    with (built / "constraints.txt").open("a") as file:
        file.write("tenacity==9.0.0\n")
    assert all("constraints.txt" in reason for reason in reasons(built).values())


def test_skip_reruns_on_new_numpy(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == "numpy" else installed(name))
    assert set(reasons(built).values()) == {"installed versions changed"}


@pytest.mark.parametrize("name", staleness.ARITHMETIC)
def test_skip_reruns_on_other_arithmetic(built: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "avx2")
    staleness.vectors.cache_clear()
    assert set(reasons(built).values()) == {"processor changed"}
    staleness.vectors.cache_clear()


def test_skip_reruns_records_that_lack_a_part(built: Path) -> None:
    path = built / "_build/runs/book/01-alpha/run.json"
    old = json.loads(path.read_text())
    del old["key"]["versions"], old["key"]["processor"]
    path.write_text(json.dumps(old))
    assert reasons(built) == {"01-alpha": "installed versions, processor changed", "02-beta": ""}


def test_skip_sees_files_of_one_name_and_moved_files(clone: Path) -> None:
    for folder in ("one", "two", "whole/left"):
        (clone / "notebooks" / folder).mkdir(parents=True)
        (clone / "notebooks" / folder / "x.csv").write_text("1\n")
    chapter = clone / "notebooks/02-beta.md"
    edit(chapter, "kernelspec:", "ncutil:\n  data: [one/x.csv, two/x.csv, whole]\nkernelspec:")
    keys = []

    def data_changed() -> bool:
        project = Project(clone)
        keys.append(running.key(project, project.chapters["02-beta"], {}))
        return len(keys) > 1 and staleness.changes(keys[-2], keys[-1]) == "data changed"

    assert not data_changed()
    (clone / "notebooks/one/x.csv").write_text("2\n")
    assert data_changed()
    (clone / "notebooks/two/x.csv").write_text("2\n")
    assert data_changed()
    (clone / "notebooks/whole/left").rename(clone / "notebooks/whole/right")
    assert data_changed()


def test_skip_and_page_agree_on_respelled_parameters(built: Path) -> None:
    chapter = built / "notebooks/02-beta.md"
    edit(chapter, "runs = 40\n", "runs = 4_0  # of the line\n")
    edit(chapter, "import time\n", "import time  # to wait\n")
    assert reasons(built) == {"01-alpha": "", "02-beta": ""}
    project = Project(built)
    plans = running.plan(project, project.select(["2"]), "book", {})
    executed = nbformat.read(plans[0].folder / "02-beta.ipynb", as_version=4)
    merged = pages.merge(plans[0].chapter, executed, plans[0].parameters)
    code = [cell for cell in merged.cells if cell.cell_type == "code"]
    assert "runs = 4_0  # of the line" in code[0].source
    assert "import time  # to wait" in code[1].source
    assert [cell.outputs for cell in code] == [c.outputs for c in executed.cells if c.cell_type == "code"]


@pytest.mark.parametrize(("old", "new"), [("runs = 40", "runs = 41"), ("seed=seed", "seed=1")])
def test_page_refuses_outputs_of_other_code(built: Path, old: str, new: str) -> None:
    edit(built / "notebooks/02-beta.md", old, new)
    project = Project(built)
    chapter = project.chapters["02-beta"]
    executed = nbformat.read(built / "_build/runs/book/02-beta/02-beta.ipynb", as_version=4)
    with pytest.raises(PressError, match="run it again"):
        pages.merge(chapter, executed, chapter.parameters)


def test_kernel_is_the_interpreter_of_the_command(clone: Path, tmp_path: Path) -> None:
    """Whatever kernelspec of the same name is installed."""
    foreign = tmp_path / "kernels" / "python3"
    foreign.mkdir(parents=True)
    argv = [sys.executable, "-c", "raise SystemExit('another program')", "{connection_file}"]
    (foreign / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Other", "language": "python"}))
    edit(clone / "notebooks/01-alpha.md", "from ncutil.bell", "import sys\n\nprint(sys.executable)\nfrom ncutil.bell")
    done = cli(clone, "run", "1", JUPYTER_PATH=str(tmp_path), JUPYTER_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(clone / "_build/runs/book/01-alpha/01-alpha.ipynb", as_version=4)
    printed = [out.text for cell in executed.cells for out in cell.get("outputs", []) if out.output_type == "stream"]
    assert printed == [f"{sys.executable}\n"]


def test_chapters_side_by_side_leave_the_working_folder(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chdir", lambda folder: pytest.fail(f"went to {folder}"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "IPYTHONDIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PYTHONPATH", str(clone))
    edit(clone / "notebooks/01-alpha.md", "from ncutil.bell", "import os\n\nprint(os.getcwd())\nfrom ncutil.bell")
    project = Project(clone)
    assert not running.execute(project, running.plan(project, project.select(["1"]), "book", {}), jobs=1)
    executed = (clone / "_build/runs/book/01-alpha/01-alpha.ipynb").read_text()
    assert str(clone / "notebooks") in executed


def test_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Project, "find", stop)
    assert CliRunner().invoke(main, ["claims"]).exit_code == 130


VERSION = """
import sys
from ncpress.__main__ import main

main(["--version"], standalone_mode=False)
print(*sorted({"papermill", "nbformat", "numpy", "jsonschema"} & sys.modules.keys()))
print(*sorted(name for name in sys.modules if name.startswith("ncutil.studies")))
import nbformat
print("jsonschema" in sys.modules, "lark" in sys.modules)
"""


def test_command_imports_little() -> None:
    """No papermill for the version, no study but for `sweep`; no grammar is compiled for formats of no notebook."""
    done = subprocess.run([sys.executable, "-c", VERSION], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-3:] == ["", "", "True False"]


def test_parameters_cell_takes_only_assignments(clone: Path) -> None:
    """Nothing else in it would count for the skip rule."""
    edit(clone / "notebooks/01-alpha.md", "seed = 0", "seed = 0\nprint(seed)")
    with pytest.raises(PressError, match=r"01-alpha\.md: the parameters cell"):
        reasons(clone)


def test_module_that_is_not_python_gets_one_line(clone: Path) -> None:
    with (clone / "ncutil/bell/chsh.py").open("a") as file:
        file.write("\ndef (\n")
    with pytest.raises(PressError, match="01-alpha imports is not valid Python"):
        reasons(clone)


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

    alpha, beta = reached("01-alpha"), reached("02-beta")
    assert {"ncutil", "ncutil.bell", "ncutil.bell.chsh", "ncutil.evidence.claims", "ncutil.evidence.outputs"} <= alpha
    assert {"ncutil.evidence.figures", "ncutil.evidence.outputs", "ncutil.evidence.stats"} <= beta
    assert "ncutil.evidence.figures" not in alpha
    assert "ncutil.bell.chsh" not in beta


def test_changed_parameters_get_their_own_folder_and_show_in_the_code(built: Path) -> None:
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
        (["run", "1-alpa"], "unknown chapter '1-alpa' (did you mean '01-alpha'?); known: 01-alpha, 02-beta"),
        (["run", "--profile", "smok"], "unknown profile 'smok' (did you mean 'smoke'?); known: book, smoke"),
        (["run", "2", "-p", "rums=3"], "unknown parameter 'rums' (did you mean 'runs'?); the chosen chapters know: "),
        (["build", "-p", "runs=0"], "parameter 'runs' is a whole number from 2 to 1000000, got 0 (02-beta: runs of "),
        (["run", "-p", "runs=many"], "parameter 'runs' is a whole number from 2 to 1000000, got 'many' (02-beta: "),
        (["claims", "--profile", "huge"], "unknown profile 'huge'; known: book, smoke"),
    ],
)
def test_bad_words_get_one_line(clone: Path, words: list[str], message: str) -> None:
    done = press(clone, *words)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {message}")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (clone / "_build" / "runs").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notebooks/profiles.yml", "smoke: {", "profiles.yml, line 1: not valid YAML"),
        ("notebooks/profiles.yml", "smoke: {07-no: {a: 1}}", "profiles.yml, smoke: unknown chapter '07-no'"),
        ("notebooks/profiles.yml", "smoke: {01-alpha: {a: 1}}", "01-alpha: unknown parameter 'a'; known: level, seed"),
        (
            "notebooks/profiles.yml",
            "smoke: {02-beta: {runs: 1}}",
            "smoke: parameter 'runs' is a whole number from 2 to",
        ),
        (
            "notebooks/parameters.yml",
            "01-alpha: {level: 1}",
            "parameters.yml: 01-alpha: no entry for the parameter 'seed'",
        ),
        ("notebooks/01-alpha.md", "# no notebook\n", "01-alpha.md: expected one code cell tagged 'parameters'"),
        ("book/claims.yml", "- {id: x", "claims.yml is not valid YAML"),
        ("book/claims.yml", "- {id: x}", "claims.yml: claim 'x': unknown [], missing ['source', 'place', 'statement']"),
    ],
)
def test_broken_files_get_one_line(clone: Path, name: str, text: str, message: str) -> None:
    (clone / name).write_text(text)
    done = press(clone, "run")
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (clone / "_build" / "runs").exists()


@pytest.mark.parametrize("command", ["run", "build", "claims", "compare", "sweep"])
def test_help_has_an_example_and_the_exit_status(command: str) -> None:
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    assert f"Example: ncutil {command}" in done.output
    assert "Exit status: 0" in done.output


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
    assert re.search(rb"01-alpha: .*\d of 5 cells, 00:\d\d", shown)


def test_paths_are_taken_from_the_folder_of_the_shell(clone: Path, tmp_path: Path) -> None:
    edit(clone / "notebooks/01-alpha.md", "seed = 0", 'data = ""  # a file\nseed = 0')
    entry = "01-alpha:\n  data: {type: path, choices: ['', hub], meaning: a file}"
    edit(clone / "notebooks/parameters.yml", "01-alpha:", entry)
    (tmp_path / "numbers.csv").write_text("1\n")
    project = Project(clone)
    chapters = project.select(["1"])
    given = parse_overrides(project, ["data=numbers.csv"], chapters, tmp_path)
    assert given == {"data": str(tmp_path / "numbers.csv")}
    assert parse_overrides(project, ["data=hub"], chapters, tmp_path) == {"data": "hub"}
    with pytest.raises(PressError, match="a file or folder that exists"):
        parse_overrides(project, ["data=nowhere.csv"], chapters, tmp_path)
    parts = running.key(Project(clone), chapters[0], {**chapters[0].parameters, **given})
    assert parts["data"] == {str(tmp_path / "numbers.csv"): checksum(tmp_path / "numbers.csv")}


def test_rewrite_changes_values_and_keeps_the_rest() -> None:
    source = 'runs = 1_000  # networks\nnames = ("é", "b")  # two\nseed = 0'
    assert (
        rewrite(source, {"runs": 5, "names": ("x",), "seed": 0})
        == "runs = 5  # networks\nnames = ('x',)  # two\nseed = 0"
    )
    assert rewrite(source, {"runs": 1000}) == source
