"""Execute chapters with papermill, a kernel process per chapter, and keep what was finished.

A run is written under a temporary name and renamed when it is whole, so a killed run leaves nothing that could be
taken for a result.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import nbformat
import papermill
from nbformat import NotebookNode
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from ncpress.project import Chapter, PressError, Project, is_parameters
from ncutil.evidence.outputs import CLAIM_MIME, SCALAR_MIME, TABLE_MIME
from ncutil.ground import staleness
from ncutil.ground.files import digest, lock, write_json
from ncutil.ground.staleness import Key, changes

FORMAT = 1
"""Version of the run folder; a folder of another version is stale."""

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Torch and BLAS get one thread a chapter: the number of threads changes the last digits."""

KERNEL = {
    # Imports make objects by the hundred thousand that live to the end; looking through them for garbage as often as
    # Python does by default costs a tenth of a smoke run.
    "extra_arguments": ["--IPKernelApp.exec_lines=import gc; gc.set_threshold(100_000)"],
    # All results are in when the last cell is done; a kernel that tidies up first takes a second or two for it.
    "shutdown_kernel": "immediate",
}


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
    """A chapter that did not finish: which cell, and what it said."""

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
    except FileNotFoundError as error:
        raise PressError(f"declared data is missing: {error} (give a file or folder that exists)") from None


def read_record(folder: Path) -> dict[str, Any] | None:
    """The run record of a finished run of this version; None for anything else."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


@contextmanager
def only_one(project: Project) -> Iterator[None]:
    """Hold the clone's lock while writing to its build folder, and clear what a killed holder left there."""

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
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"), IPYTHONDIR=str(project.build / "ipython"))
    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        futures = [pool.submit(_run, project, item, position) for position, item in enumerate(stale)]
        return [failure for future in futures if (failure := future.result())]
    except KeyboardInterrupt:
        click.echo("\ninterrupted; finished chapters are kept", err=True)
        # The kernels end with this process; waiting for their cells would take as long as the cells.
        os._exit(130)
    finally:
        pool.shutdown(wait=False)


def _recover(project: Project) -> None:
    """Clear what a killed run left; one that was whole but not yet renamed is kept."""
    for leftover in project.runs.glob("*/.new-*"):
        target = leftover.with_name(leftover.name.removeprefix(".new-"))
        if read_record(leftover) and not target.exists():
            leftover.rename(target)
        else:
            shutil.rmtree(leftover)
    for leftover in [*project.runs.glob("*/.old-*"), *project.build.glob("staging-*")]:
        shutil.rmtree(leftover)


def _run(project: Project, item: Plan, position: int) -> Failure | None:
    name, folder = item.chapter.name, item.folder
    scratch = folder.with_name(f".new-{name}")
    scratch.mkdir(parents=True)
    source = scratch / "source.ipynb"
    nbformat.write(item.chapter.with_parameters(item.parameters), source)
    # Without a path papermill does not write the notebook out around every cell, which cost a quarter of a smoke run.
    partly: list[NotebookNode] = []
    started, clock = datetime.now(UTC), time.monotonic()
    with _progress(item, position) as tell:
        try:
            notebook = papermill.execute_notebook(
                source,
                None,
                engine_name=_ENGINE,
                kernel_name="python3",
                cwd=project.notebooks,
                progress_bar=False,
                **KERNEL,
                tell=tell,
                partly=partly,
            )
        except PapermillExecutionError as error:
            failed = project.build / "failed" / f"{name}.ipynb"
            failed.parent.mkdir(exist_ok=True)
            nbformat.write(clean(partly[0]), failed)
            shutil.rmtree(scratch)
            return Failure(
                name, error.cell_index + 1, f"{error.ename}: {error.evalue}", _plain("\n".join(error.traceback))
            )
        except Exception as error:  # a kernel that died, a full disk: the other chapters go on
            shutil.rmtree(scratch, ignore_errors=True)
            return Failure(name, 0, f"{type(error).__name__}: {error}", "")
    source.unlink()
    notebook = clean(notebook)
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
    # run.json last: a folder with it is whole.
    write_json(scratch / "run.json", record)
    if folder.exists():
        folder.rename(folder.with_name(f".old-{name}"))
    scratch.rename(folder)
    shutil.rmtree(folder.with_name(f".old-{name}"), ignore_errors=True)
    click.echo(f"{name}: done in {record['seconds']:.1f} s -> {folder.relative_to(project.root)}")
    return None


class _Engine(NBClientEngine):  # type: ignore[misc]
    """Papermill's own engine, telling which cell it is at and handing out the notebook that it works on."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, tell: Any = None, partly: Any = None, **options: Any
    ) -> Any:
        partly.append(nb_man.nb)
        start, total = nb_man.cell_start, len(nb_man.nb.cells)

        def cell_start(cell: NotebookNode, cell_index: int | None = None, **more: Any) -> None:
            tell((cell_index or 0) + 1, total)
            start(cell, cell_index, **more)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


_ENGINE = "ncutil"
papermill_engines.register(_ENGINE, _Engine)


@contextmanager
def _progress(item: Plan, position: int) -> Iterator[Any]:
    """A callback for (cell, cells): a bar on a terminal, a line every few seconds in a log."""
    name, clock = item.chapter.name, time.monotonic()
    if sys.stderr.isatty():
        form = "{desc}: {bar:30} cell {n_fmt} of {total_fmt}, {elapsed}"
        bar = tqdm(desc=name, total=len(item.chapter.notebook.cells), position=position, bar_format=form)

        def draw(cell: int, cells: int) -> None:
            bar.n = cell
            bar.refresh()

        with bar:
            yield draw
        return

    click.echo(f"{name}: running the {item.profile} profile ({item.reason})", err=True)
    said = clock

    def say(cell: int, cells: int) -> None:
        nonlocal said
        if time.monotonic() - said > 5:
            said = time.monotonic()
            click.echo(f"{name}: cell {cell} of {cells}, {said - clock:.0f} s", err=True)

    yield say


def clean(notebook: NotebookNode) -> NotebookNode:
    """Take out what papermill wrote beside the results: paths, times, empty tags, its place in the source tree."""
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", ["kept"]):
            del cell.metadata["tags"]
    return notebook


def records(notebook: NotebookNode, mime: str) -> list[Any]:
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
