"""Execute chapters with papermill, a kernel process per chapter, and keep what was finished.

A run is written to a temporary folder, which gets its real name when it is complete. A command that is killed leaves
only the temporary folder, and the next command removes it.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ncpress.project import Chapter, PressError, Project, assigned, is_parameters
from ncutil.evidence.outputs import CLAIM_MIME, SCALAR_MIME, TABLE_MIME
from ncutil.ground import staleness
from ncutil.ground.files import digest, lock, write, write_json
from ncutil.ground.staleness import Key, changes

if TYPE_CHECKING:
    from nbformat import NotebookNode

FORMAT = 1
"""Version of the run folder; a folder of another version is stale."""

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Torch and BLAS get one thread a chapter: the number of threads changes the last digits."""

BAR = "{desc}: {bar:30} {n_fmt} of {total_fmt} cells, {elapsed}"
"""The progress bar of a chapter on a terminal."""


@dataclass(frozen=True)
class Plan:
    """One chapter to bring up to date: where its run lives, what it depends on, and why it has to run, if so."""

    chapter: Chapter
    profile: str
    parameters: Mapping[str, Any]
    folder: Path
    key: Key
    reason: str


@dataclass(frozen=True)
class Failure:
    """A chapter that did not finish: the number of its cell (0 for none), the error, and the traceback."""

    chapter: str
    cell: int
    error: str
    traceback: str


def plan(
    project: Project, chapters: list[Chapter], profile: str, overrides: Mapping[str, Any], force: bool = False
) -> list[Plan]:
    """What to do for each chapter; a chapter that knows one of the overrides gets a folder of its own."""
    plans = []
    for chapter in chapters:
        own = {name: value for name, value in overrides.items() if name in chapter.parameters}
        parameters = {**chapter.parameters, **project.profiles[profile].get(chapter.name, {}), **own}
        folder = project.runs / (f"{profile}@{digest(json.dumps(own, sort_keys=True))[:8]}" if own else profile)
        dependencies = key(project, chapter, parameters)
        record = read_record(folder / chapter.name)
        reason = "forced" if force else changes(record and record["key"], dependencies)
        plans.append(Plan(chapter, profile, parameters, folder / chapter.name, dependencies, reason))
    return plans


def key(
    project: Project, chapter: Chapter, parameters: Mapping[str, Any], packages: Iterable[str] = ("ncutil",)
) -> Key:
    """What a chapter's results depend on, part by part, so that a stale run can say which part changed.

    Besides what its front matter declares, a parameter that is the absolute path of something is data.
    """
    for number, cell in enumerate(chapter.code_cells, 1):
        try:
            staleness.tree(cell.source)
        except SyntaxError as error:
            raise PressError(f"{chapter.path.name}, code cell {number}: {error.msg} (line {error.lineno})") from None
    given = [Path(value) for value in parameters.values() if isinstance(value, str)]
    try:
        return staleness.key(
            cells=[cell.source for cell in chapter.code_cells if not is_parameters(cell)],
            parameters=parameters,
            data=[*chapter.declared_data, *(path for path in given if path.is_absolute())],
            pins=project.root / "constraints.txt",
            packages=packages,
            root=project.root,
        )
    except SyntaxError as error:
        where = f"{error.msg} (line {error.lineno}: {(error.text or '').strip()})"
        raise PressError(f"a module that {chapter.name} imports is not valid Python: {where}") from None
    except FileNotFoundError as error:
        raise PressError(f"declared data is missing: {error} (give a file or folder that exists)") from None


def meaning(cell: "NotebookNode") -> Any:
    """What of a code cell counts: the values of a parameters cell, the syntax tree of any other.

    A run fits a page, and needs no repetition, as long as this is the same in every cell.
    """
    return assigned(cell.source) if is_parameters(cell) else staleness.tree(cell.source)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The run record of a finished run of this version; None for anything else."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


@contextmanager
def only_one(project: Project) -> Iterator[None]:
    """Hold the lock of the clone's build folder, after removing what a killed command left there."""

    def busy() -> None:
        click.echo("waiting for another ncutil command in this clone ...", err=True)

    with lock(project.build / ".lock", busy=busy):
        _recover(project)
        yield


def execute(project: Project, plans: list[Plan], jobs: int) -> list[Failure]:
    """Run every stale plan, several chapters at once; the others go on when one fails."""
    stale = [item for item in plans if item.reason]
    for item in plans:
        if not item.reason:
            click.echo(f"{item.chapter.name}: up to date ({item.profile})")
    if not stale:
        return []
    # Papermill and what it brings take seconds to import; where nothing is stale, they are not needed.
    from ncpress.kernels import execute as execute_notebook

    os.environ.update(dict.fromkeys(ONE_THREAD, "1"), IPYTHONDIR=str(project.build / "ipython"))
    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        futures = [pool.submit(_run, execute_notebook, project, item, position) for position, item in enumerate(stale)]
        return [failure for future in futures if (failure := future.result())]
    except KeyboardInterrupt:
        click.echo("\ninterrupted; finished chapters are kept", err=True)
        # The kernels end with this process; waiting for their cells would take as long as the cells.
        os._exit(130)
    finally:
        pool.shutdown(wait=False)


def _recover(project: Project) -> None:
    """Remove what a killed command left; a run that was complete but not yet renamed is kept."""
    for leftover in project.runs.glob("*/.new-*"):
        target = leftover.with_name(leftover.name.removeprefix(".new-"))
        if read_record(leftover) and not target.exists():
            leftover.rename(target)
        else:
            shutil.rmtree(leftover)
    for leftover in [*project.runs.glob("*/.old-*"), *project.build.glob("staging-*")]:
        shutil.rmtree(leftover)


def _run(execute_notebook: Callable[..., Any], project: Project, item: Plan, position: int) -> Failure | None:
    import nbformat

    name, folder = item.chapter.name, item.folder
    scratch = folder.with_name(f".new-{name}")
    scratch.mkdir(parents=True)
    started, clock = datetime.now(UTC), time.monotonic()
    bar = {"desc": name, "position": position, "bar_format": BAR, "disable": not sys.stderr.isatty()}
    try:
        source = item.chapter.with_parameters(item.parameters)
        notebook, error = execute_notebook(source, project.notebooks, bar, _progress(item))
    except Exception as problem:  # a kernel that died, a full disk: the other chapters go on
        shutil.rmtree(scratch, ignore_errors=True)
        return Failure(name, 0, f"{type(problem).__name__}: {problem}", "")
    notebook = clean(notebook)
    if error:
        write(project.build / "failed" / f"{name}.ipynb", nbformat.writes(notebook))
        shutil.rmtree(scratch)
        traceback = _plain("\n".join(error.traceback))
        return Failure(name, error.cell_index + 1, f"{error.ename}: {error.evalue}", traceback)
    nbformat.write(notebook, scratch / f"{name}.ipynb")
    tables = records(notebook, TABLE_MIME)
    (scratch / "data").mkdir()
    for table in tables:
        (scratch / "data" / f"{table['name']}.csv").write_text(table["csv"], encoding="utf-8")
    record = {
        "format": FORMAT,
        "chapter": name,
        "profile": item.profile,
        "parameters": item.key["parameters"],
        "defaults": {n: list(v) if isinstance(v, tuple) else v for n, v in item.chapter.parameters.items()},
        "seed": item.parameters["seed"],
        **commit(project.root),
        "versions": item.key["versions"],
        "processor": staleness.processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 2),
        "claims": records(notebook, CLAIM_MIME),
        "scalars": records(notebook, SCALAR_MIME),
        "tables": [table["name"] for table in tables],
        "key": item.key,
    }
    # run.json last: a folder that has it is complete.
    write_json(scratch / "run.json", record)
    if folder.exists():
        folder.rename(folder.with_name(f".old-{name}"))
    scratch.rename(folder)
    shutil.rmtree(folder.with_name(f".old-{name}"), ignore_errors=True)
    click.echo(f"{name}: done in {record['seconds']:.1f} s -> {folder.relative_to(project.root)}")
    return None


def _progress(item: Plan) -> Callable[[int, int], None]:
    """A callback for (cell, cells) that writes a line every few seconds where there is no terminal for a bar."""
    name, clock = item.chapter.name, time.monotonic()
    if sys.stderr.isatty():
        return lambda cell, cells: None
    click.echo(f"{name}: running the {item.profile} profile ({item.reason})", err=True)
    said = clock

    def say(cell: int, cells: int) -> None:
        nonlocal said
        if time.monotonic() - said > 5:
            said = time.monotonic()
            click.echo(f"{name}: cell {cell} of {cells}, {said - clock:.0f} s", err=True)

    return say


def clean(notebook: "NotebookNode") -> "NotebookNode":
    """Take out what papermill wrote beside the results: paths, times, empty tags, its place in the source tree."""
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", ["kept"]):
            del cell.metadata["tags"]
    return notebook


def records(notebook: "NotebookNode", mime: str) -> list[Any]:
    """Everything that the outputs carry under a mime type, in order."""
    return [
        output.data[mime]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if mime in output.get("data", {})
    ]


def commit(root: Path) -> dict[str, Any]:
    """The commit of a clone and whether its files differ from it; None outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "modified": None}


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def report(failures: list[Failure], project: Project) -> None:
    """Say what failed, with the cell and the traceback."""
    for failure in failures:
        where = f"cell {failure.cell}" if failure.cell else "no cell"
        click.secho(f"\n{failure.chapter} failed in {where}: {failure.error}", fg="red", err=True)
        if failure.traceback:
            click.echo(failure.traceback, err=True)
            click.echo(f"partly run notebook: {project.build / 'failed' / (failure.chapter + '.ipynb')}", err=True)
