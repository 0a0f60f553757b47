"""The command line: `ncutil run`, `build`, `claims`, `compare`, `sweep`, `class`.

A command imports what only it needs, so that `--version` and `--help` answer at once.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from tqdm import tqdm

from ncpress import execution as running
from ncpress.parameters import unknown
from ncpress.project import BOOK, Chapter, PressError, Project, WordError, parse_overrides
from ncutil.ground import staleness
from ncutil.ground.files import cores, write_json

if TYPE_CHECKING:
    from ncutil.studies.summary import Study

Command = TypeVar("Command", bound=Callable[..., Any])


def _epilog(example: str, failed: str) -> str:
    """The end of a command's help: an example, and what its exit status says."""
    status = f"0 if all is well, 1 if {failed}, 2 for words that ncutil does not know, 130 after Ctrl-C"
    return f"Example: ncutil {example}\n\nExit status: {status}."


def _run_options(command: Command) -> Command:
    """The options that `run` and `build` share: both must mean the same run."""
    options = [
        click.option(
            "--profile", default=BOOK, show_default=True, help="Profile of notebooks/profiles.yml, or 'book'."
        ),
        click.option(
            "-p",
            "pairs",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a parameter; may be repeated. notebooks/parameters.yml lists them with ranges and meanings.",
        ),
        click.option(
            "--jobs", type=click.IntRange(min=1), default=cores, show_default="cores", help="Chapters at once."
        ),
        click.option("--force", is_flag=True, help="Run again also what is up to date."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _plan(
    project: Project, chapters: list[Chapter], profile: str, pairs: tuple[str, ...], force: bool
) -> list[running.Plan]:
    if profile not in project.profiles:
        raise WordError(unknown("profile", profile, project.profiles))
    overrides = parse_overrides(project, pairs, chapters, Path.cwd())
    return running.plan(project, chapters, profile, overrides, force)


def _execute(project: Project, plans: list[running.Plan], jobs: int) -> None:
    failures = running.execute(project, plans, jobs)
    running.report(failures, project)
    if failures:
        raise PressError(f"failed: {', '.join(failure.chapter for failure in failures)}")


class _Commands(click.Group):
    """The commands of this module, and those that other packages add to them.

    An entry point in the group "ncpress.commands" names one; it is imported when it is asked for. Ctrl-C ends every
    command with exit status 130.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *sorted(entry_points(group="ncpress.commands").names)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for point in entry_points(group="ncpress.commands", name=cmd_name):
            command: click.Command = point.load()
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            sys.exit(130)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "NCUTIL"},
    epilog=_epilog("build --profile smoke", "something failed or differs"),
)
@click.version_option(package_name="ncutil")
def main() -> None:
    """Run and build the companion book to NCnet and neurashed."""


@main.command(epilog=_epilog("run 2 --profile smoke -p seed=7", "a chapter failed"))
@click.argument("names", nargs=-1, metavar="[CHAPTER]...")
@_run_options
def run(names: tuple[str, ...], profile: str, pairs: tuple[str, ...], jobs: int, force: bool) -> None:
    """Execute chapters that are not up to date (all of them, or those named)."""
    from ncpress import verdicts

    project = Project.find()
    chapters = project.select(names)
    verdicts.read_claims()
    with running.only_one(project):
        plans = _plan(project, chapters, profile, pairs, force)
        _execute(project, plans, jobs)


@main.command(epilog=_epilog("build --check", "a chapter, a page or a check failed"))
@_run_options
@click.option("--check", is_flag=True, help="Fail where a verdict departs from the published one.")
@click.option("--pdf", is_flag=True, help="Print the book to _build/book.pdf too (needs Chromium).")
def build(profile: str, pairs: tuple[str, ...], jobs: int, force: bool, check: bool, pdf: bool) -> None:
    """Execute what is stale and render the whole book into _build/html."""
    from ncpress import comparison, pages, rendering, sweeps, verdicts

    project = Project.find()
    chapters = [chapter for chapter in project.chapters.values() if f"notebooks/{chapter.name}" in project.pages]
    verdicts.read_claims()
    with running.only_one(project):
        plans = _plan(project, chapters, profile, pairs, force)
        _execute(project, plans, jobs)
        records = {item.chapter.name: record for item in plans if (record := running.read_record(item.folder))}
        drift = comparison.drift(project, records)
        for name, lines in drift.items():
            for line in lines:
                click.secho(f"{name} departs from the published run: {line}", fg="yellow", err=True)
        for line in sweeps.stale(project.studies):
            click.secho(line, fg="yellow", err=True)
        if drift and check:
            raise PressError("verdicts drifted from book/results (see above); 'ncutil compare' shows the numbers")
        with tempfile.TemporaryDirectory(dir=project.build, prefix="staging-") as folder:
            pages.stage(project, plans, Path(folder), drift)
            fresh = rendering.render(project, Path(folder), whole=force or check)
        if pdf:
            click.echo(f"printed: {rendering.print_pdf(project).relative_to(project.root)}")
    front = project.build / "html" / "index.html"
    click.echo(f"{'built' if fresh else 'nothing to do'}: {front.relative_to(project.root)}")


@main.command(epilog=_epilog("claims --profile smoke", "a file is broken"))
@click.option("--profile", default=BOOK, show_default=True, help="Whose runs to judge by.")
def claims(profile: str) -> None:
    """Print every claim of the papers with its verdict."""
    from ncpress import verdicts

    project = Project.find()
    if profile not in project.profiles:
        raise WordError(unknown("profile", profile, project.profiles))
    click.echo(verdicts.terminal(verdicts.entries(project, verdicts.read_records(project, profile))))


@main.command(epilog=_epilog("compare (my book run against the published one)", "a claim or a number differs"))
@click.argument("first", required=False, type=click.Path(path_type=Path), metavar="[A]")
@click.argument("second", required=False, type=click.Path(path_type=Path), metavar="[B]")
@click.option("--accept", is_flag=True, help="Make A the published run (writes book/results).")
def compare(first: Path | None, second: Path | None, accept: bool) -> None:
    """Compare run folder A with B, claim by claim and number by number.

    A defaults to _build/runs/book and B to the published results, book/results. Two values agree if their verdicts
    are the same and their intervals overlap.
    """
    from ncpress import comparison

    project = Project.find()
    mine = first or project.runs / BOOK
    if accept:
        if second is not None:
            raise click.UsageError("--accept takes one folder, the run to publish")
        for name in comparison.accept(project, mine):
            click.echo(f"published {name} -> book/results/{name}.json")
        return
    ours, theirs = comparison.read_results(mine), comparison.read_results(second or project.results)
    apart = 0
    for name in dict.fromkeys([*theirs, *ours]):
        if name not in ours or name not in theirs:
            click.echo(f"\n{name}: only in {'B' if name not in ours else 'A'}")
            continue
        differences = comparison.compare(ours[name], theirs[name])
        apart += sum(not item.agrees for item in differences)
        click.echo(f"\n{name}: {sum(item.agrees for item in differences)} of {len(differences)} agree")
        for item in differences:
            mark = " " if item.agrees else "!"
            click.echo(f"{mark} {item.name:<36} {item.ours:<34} {item.theirs:<34} {item.remark}")
    if apart:
        click.echo(f"\n{apart} do not agree (marked !)")
        sys.exit(1)


@main.command(epilog=_epilog("sweep distribution", "a study failed"))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--jobs", type=click.IntRange(min=1), default=cores, show_default="cores", help="Blocks at once.")
@click.option("--cluster", metavar="ADDRESS", help="Address of a Dask scheduler whose workers compute the blocks.")
def sweep(names: tuple[str, ...], jobs: int, cluster: str | None) -> None:
    """Compute the tables of long studies again (writes book/studies).

    Finished blocks are kept in _build/sweeps until the tables are written. A sweep that was stopped continues from
    them, unless the code, the libraries or the seed of its study have changed since.
    """
    from ncpress import sweeps
    from ncutil.studies import catalogue  # imports the science, which the other commands do not need

    project = Project.find()
    try:
        studies = {name: catalogue.study(name) for name in names}
        place = running.commit(project.root)
        with running.only_one(project), sweeps.workers(jobs, cluster, catalogue.use_one_thread) as pool:
            for name, study in studies.items():
                _study(project, name, study, pool, place)
    except (ValueError, OSError) as error:  # no such study, no Dask, no scheduler, a worker of other code, a full disk
        raise PressError(str(error)) from None
    except KeyboardInterrupt:
        click.echo("\ninterrupted; finished blocks are kept, and the same command continues from them", err=True)
        sys.exit(130)


def _study(project: Project, name: str, study: "Study", pool: Executor, place: dict[str, Any]) -> None:
    from ncpress import sweeps

    started, key = datetime.now(UTC), sweeps.code(study.experiment.__module__)
    folder = project.build / "sweeps" / f"{name}-{staleness.short(key)}"
    blocks = [{**block, "seed": study.seed} for block in study.blocks]
    with tqdm(desc=name, unit="block", mininterval=1) as bar:

        def tell(done: int, of: int) -> None:
            bar.total, bar.n = of, done
            bar.refresh()

        outcome = sweeps.run(study.experiment, blocks, study.add, folder, pool, tell, bar.write)
    record = {
        "study": name,
        "command": f"ncutil sweep {name}",
        "seed": study.seed,
        "blocks": [dict(block) for block in study.blocks],
        **place,
        "key": key,
        "versions": staleness.versions(),
        "processors": outcome.processors,
        "started": started.isoformat(timespec="seconds"),
        "processor_seconds": round(outcome.seconds, 1),
    }
    for path in sweeps.publish(study.tables(outcome.total), name, project.studies):
        click.echo(f"wrote {path.relative_to(project.root)}")
    write_json(project.studies / f"{name}.json", record)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
