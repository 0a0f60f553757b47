"""What a class gets: a folder for each problem set, how to install what it needs, and a page that says what to do."""

import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from ncclass.collection import CELL_SECONDS, LIMITS, read_course
from ncclass.problem_sets import ProblemSet, write_release
from ncpress.project import PressError, Project
from ncpress.wheels import build_wheel

COURSE = """\
# One class. Its seed draws the numbers of its problem sets: keep it for the whole term.
seed: {seed}
# When each set is due; UTC where no zone is given. Take away the # of what you use.
due:
{sets}"""

README = """\
# Problem sets

{table}

## Set up, once

On Linux or macOS; on Windows in WSL (https://aka.ms/wsl). With conda: `conda env create -f environment.yml`, then
`conda activate ncnet-class`. With Python 3.11 or newer alone, in this folder:

    python3 -m venv .venv
    .venv/bin/python -m pip install -c constraints.txt {wheels}
    source .venv/bin/activate

The wheel `ncutil` has what notebooks import, `ncpress` brings the command `ncutil`. Type the last line in every new
terminal, or write `.venv/bin/ncutil` and `.venv/bin/jupyter` below.

On Linux, PyTorch comes with GPU libraries of several gigabytes. The small CPU build is enough; for it, set this first:

    export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

Then open a notebook: `jupyter lab 01-chsh/01-chsh.ipynb`.

## Work

- Write where it says `YOUR CODE HERE` or `YOUR ANSWER HERE`. Do not delete or copy those cells: they carry names.
- Leave the given cells as they are: grading runs them as they were released, without what you wrote into them.
- The cells under them check your work while you write. They do not show everything that is graded.
- Cells of your own are welcome, before the check that needs them.
- Hints unfold: first a hint, then what the result looks like, then where the book explains it. Pictures in them show
  the numbers of another class.
- Your notebook is run from top to bottom, alone, without network, within {wall} minutes, and {cell} seconds a cell.

Hints point to chapters of the book *NCnet and neurashed, recomputed*. Your teacher has its address, or its pages as a
folder: open `index.html` in it. In a clone of its repository, `make book` makes them. `help(chsh)` in a notebook has
what the package itself says.

Before you hand in:

    ncutil class check 01-chsh/01-chsh.ipynb

It says which parts pass their checks, and what else fails or is missing.

## Hand in

The `.ipynb` file, under its own name, and no other notebook beside it. Its numbers are those of this class.
"""


def course_seed(folder: Path, seed: int | None, names: list[str]) -> int:
    """The seed of a class: the one it has, or the one given, or a new one, which `course.yml` then keeps."""
    path = folder / "course.yml"
    if path.is_file():
        kept = read_course(folder).seed
        if seed not in (None, kept):
            raise PressError(
                f"{path} says that this class has seed {kept}, not {seed}; another class has its own folder"
            )
        return kept
    seed = secrets.randbelow(10**6) if seed is None else seed
    folder.mkdir(parents=True, exist_ok=True)
    sets = "".join(f"  # {name}: 2027-03-01 18:00\n" for name in names)
    path.write_text(COURSE.format(seed=seed, sets=sets), encoding="utf-8")
    return seed


def write(project: Project, folder: Path, sets: list[ProblemSet], drawn: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write the whole release, and only then put it in the place of an earlier one; `drawn` has each set's pictures."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".release-") as scratch:
        fresh = Path(scratch) / "release"
        fresh.mkdir()
        for problem_set in sets:
            write_release(fresh, problem_set, drawn[problem_set.name])
        wheels = [
            f"./{build_wheel(project.root, fresh)}",
            f"./{build_wheel(project.root / 'ncpress', fresh)}[classroom]",
        ]
        shutil.copyfile(project.root / "constraints.txt", fresh / "constraints.txt")
        rows = [f"| {s.name} | {s.title} | {len(s.parts)} | {s.points:g} | {s.minutes} min |" for s in sets]
        table = "\n".join(["| set | title | parts | points | time |", "| --- | --- | --- | --- | --- |", *rows])
        quoted = " ".join(f'"{wheel}"' for wheel in wheels)
        text = README.format(table=table, wheels=quoted, wall=LIMITS.wall // 60, cell=CELL_SECONDS)
        (fresh / "README.md").write_text(text, encoding="utf-8")
        environment = {
            "name": "ncnet-class",
            "channels": ["conda-forge"],
            "dependencies": ["python=3.11", "pip", {"pip": ["-c constraints.txt", *wheels]}],
        }
        (fresh / "environment.yml").write_text(yaml.safe_dump(environment, sort_keys=False), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(scratch) / "earlier")
        fresh.rename(folder)
