"""Clones to test in, the project as it stands and a small one with two quick chapters, and the tiers of the tests."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

import ncpress  # noqa: F401, before any test imports nbformat: what it leaves out then is not imported at all
from ncpress import verdicts
from ncpress.__main__ import main
from ncpress.project import Project
from ncutil.evidence import claims
from ncutil.ground.files import lock

# No test asserts a time, so none may fail on a slow machine. Fifty examples find what a hundred find, of what these
# properties can show: a fault in a formula fails on the first few.
settings.register_profile("book", deadline=None, max_examples=50)
settings.load_profile("book")

ROOT = Path(__file__).parents[1]

PROJECT = Project(ROOT)
"""The project as it stands, whose chapters are read once, when a test first asks for them."""

TIERS = {
    "unit": "everything else: no build, no browser, no sandbox",
    "build": "whole commands and studies: chapters, books, environments, type checks",
    "browser": "built pages in a Chromium",
    "sandbox": "programs in the grading sandbox",
    "classroom": "problem sets and their grading",
    "benchmark": "speed, measured with --benchmark-only and skipped without it",
}
"""The tiers of the tests; each test has one, as a marker: `pytest -m unit`."""

TIER_OF_FILE = {
    "problem_sets": "classroom",
    "test_classroom": "classroom",
    "test_fresh": "build",
    "test_hostile": "sandbox",
    "test_lora_chapter": "build",
    "test_problem_sets": "classroom",
    "test_sandbox": "sandbox",
    "test_site": "browser",
    "test_texts": "build",
}

TIER_OF_TEST = {
    "test_ncnet_runs_where_a_draw_leaves_a_group_empty": "build",
    "test_sweep_that_is_stopped_ends_and_continues": "build",
    "test_a_study_that_is_stopped_ends_at_once_and_keeps_what_is_finished": "build",
    "test_chapter_runs_on_a_users_file_with_every_check": "build",
    "test_checkers_are_content": "build",
    "test_killed_study_goes_on_where_it_was": "build",
    "test_memory_does_not_grow_with_the_number_of_blocks": "build",
    "test_pdf_is_printed": "browser",
    "test_the_command_writes_tables_and_their_record": "build",
}

TIER_OF_FIXTURE = {"browser": "browser", "graded": "classroom", "book": "build", "built": "build", "clone": "build"}
"""Where neither file nor name decides, the first of these fixtures that a test uses does; without one it is a unit."""


def tier_of_file(path: Path) -> str | None:
    """The tier of all tests of a file, where one is given for it."""
    return "benchmark" if path.parent.name == "benchmarks" else TIER_OF_FILE.get(path.stem)


def tier(item: pytest.Item) -> str:
    """The tier of a test."""
    by_fixture = [found for name, found in TIER_OF_FIXTURE.items() if name in getattr(item, "fixturenames", ())]
    name = getattr(item, "originalname", item.name)
    return tier_of_file(item.path) or TIER_OF_TEST.get(name) or next(iter(by_fixture), "unit")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where one tier is asked for, a file of another is not imported, which takes longer than many tests."""
    asked = config.option.markexpr
    return True if asked in TIERS and (tier_of_file(collection_path) or asked) != asked else None


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in TIERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(tier(item))
    # README's commands run all chapters, which the fixture `book` then need not do.
    items.sort(key=lambda item: item.path.stem != "test_fresh")


CLAIMS = """
- id: alpha-two
  source: P1
  place: Theorem 1
  statement: Two is two.
  chapter: 01-alpha
  quantity: two
  holds_if: {within: [2, 2]}
- id: beta-mean
  source: P2
  place: Figure 5
  statement: The mean is high.
  chapter: 02-beta
  quantity: mean
  holds_if: {above: 2.9}
- id: later
  source: P2
  place: Figure 6
  statement: Later.
  chapter: 03-gamma
  quantity: none
  holds_if: {above: 1}
- id: never
  source: P2
  place: Outlook
  statement: Never.
  reason: It needs a data set that is not public.
"""

HEAD = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""

ALPHA = """# Alpha

The opening.

```{code-cell} ipython3
:tags: [parameters]

level = 2.0  # a number
seed = 0
```

## The number

```{code-cell} ipython3
from ncutil.bell import chsh
from ncutil.evidence import claims

claims.value("bound", chsh.classical_bound("product"))
claims.record("alpha-two", level, (level, level))
```

The bound is {glue:text}`bound`, and $a^2$.

```{exercise} Think
:label: ex-alpha

What is two?
```

```{solution} ex-alpha
:class: dropdown

Two.
```
"""

BETA = """# Beta

The opening of beta, with the word quixotic.

```{code-cell} ipython3
:tags: [parameters]

runs = 40
pause = 0.0
seed = 1
```

```{code-cell} ipython3
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ncutil.evidence import claims, figures, stats

time.sleep(pause)
frame = pd.DataFrame({"x": 3 + np.random.default_rng(seed).normal(size=runs) / 50})
```

```{code-cell} ipython3
---
mystnb:
  figure:
    caption: A rising line.
    name: fig-beta
  image:
    alt: A line that wobbles about three.
---
plt.plot(frame.x)
figures.publish("wobble", frame)
```

```{code-cell} ipython3
claims.record("beta-mean", frame.x.mean(), stats.bootstrap(frame.x, seed=seed))
```
"""

SEED = "{type: whole number, least: 0, largest: 1_000_000, meaning: seed of every draw}"
PARAMETERS = f"""01-alpha:
  level: {{type: number, least: -10, largest: 10, meaning: a number}}
  seed: {SEED}
02-beta:
  runs: {{type: whole number, least: 2, largest: 1_000_000, meaning: runs of the line}}
  pause: {{type: number, least: 0, largest: 600, meaning: seconds to wait}}
  seed: {SEED}
"""

TOC = """format: jb-book
root: index
parts:
  - caption: Chapters
    numbered: true
    chapters:
      - file: notebooks/01-alpha
      - file: notebooks/02-beta
  - caption: Evidence
    chapters:
      - file: book/claims
      - file: book/crosswalk
"""


def cli(clone: Path, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a clone, with the clone's own `ncutil`."""
    return subprocess.run(
        [sys.executable, "-m", "ncpress", *words],
        cwd=cwd or clone,
        env=clone_environment(clone) | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@contextmanager
def inside(clone: Path) -> Iterator[Project]:
    """What a command of a clone sees, in this process: the clone's files, with the code that is imported already."""
    caches = claims.load, verdicts.read_claims
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Project, "find", lambda: Project(clone))
        for module in (claims, verdicts):
            patch.setattr(module, "place", lambda: clone / "book" / "claims.yml")
        try:
            for cache in caches:
                cache.cache_clear()
            yield Project(clone)
        finally:
            for cache in caches:
                cache.cache_clear()


def press(clone: Path, *words: str) -> Result:
    """Run the command line in a clone as `cli` does, without the second that a new interpreter needs to start."""
    with inside(clone):
        done = CliRunner().invoke(main, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def clone_environment(clone: Path) -> dict[str, str]:
    """The environment in which Python takes `ncutil` from a clone."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("NCUTIL_")}
    return unset | {"PYTHONPATH": str(clone), "JUPYTER_PLATFORM_DIRS": "1"}


def copy_project(target: Path) -> Path:
    """Copy the files that git tracks, or would track, as they stand in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def git(clone: Path, *words: str) -> str:
    """Run git in a clone; returns what it prints."""
    identity = ["-c", "user.name=Reader", "-c", "user.email=reader@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=clone, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_small_clone(target: Path) -> Path:
    """A clone with the real package and settings, and two chapters of a second each."""
    copy_project(target)
    shutil.rmtree(target / "tests")
    for path in [*(target / "notebooks").glob("[0-9]*.md"), *(target / "book").glob("*.md")]:
        if path.stem not in ("claims", "crosswalk"):
            path.unlink()
    shutil.rmtree(target / "book" / "results", ignore_errors=True)
    (target / "notebooks").mkdir(exist_ok=True)
    (target / "notebooks" / "01-alpha.md").write_text(HEAD + ALPHA)
    (target / "notebooks" / "02-beta.md").write_text(HEAD + BETA)
    (target / "notebooks" / "profiles.yml").write_text("smoke:\n  02-beta: {runs: 10}\n")
    (target / "notebooks" / "parameters.yml").write_text(PARAMETERS)
    (target / "book" / "claims.yml").write_text(CLAIMS)
    (target / "_toc.yml").write_text(TOC)
    (target / "index.md").write_text(
        "# Front\n\n(page-verdicts)=\n## How\n\n<!-- generated: verdicts --><!-- end -->\n"
    )
    (target / ".gitignore").write_text("_build/\n__pycache__/\n")
    git(target, "init", "-q", ".")
    git(target, "add", "-A")
    git(target, "commit", "-q", "-m", "Small clone")
    return target


def shared(factory: pytest.TempPathFactory, name: str) -> Path:
    """A place that all processes have in common that run the tests."""
    place = factory.getbasetemp()
    return (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / name


README_RUNS = "readme-runs"
"""What README's commands ran, in the shared place of this name: the same chapters as those of the fixture `book`."""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, once for all processes that run the tests."""
    place = shared(factory, name)
    whole = place / "whole"
    with lock(place.with_suffix(".lock")):
        if not whole.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            make(place / "clone")
            whole.touch()
    return place / "clone"


@pytest.fixture(scope="session")
def _cloned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "small", make_small_clone)


@pytest.fixture
def clone(_cloned_once: Path, tmp_path: Path) -> Path:
    """A fresh small clone, nothing run."""
    return Path(shutil.copytree(_cloned_once, tmp_path / "clone", symlinks=True))


@pytest.fixture(scope="session")
def _built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(target: Path) -> None:
        make_small_clone(target)
        for words in (["build"], ["compare", "--accept"], ["build", "--check"]):
            done = cli(target, *words)
            assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "built", make)


@pytest.fixture
def built(_built_once: Path, tmp_path: Path) -> Path:
    """A small clone of one's own whose chapters have run and whose book is built and published."""
    return Path(shutil.copytree(_built_once, tmp_path / "clone", symlinks=True))


CANARY = "yellow-feathered"
"""Stands in every solution and hidden test of the `book`: wherever students or readers look, it must not turn up."""


def plant_canaries(clone: Path) -> int:
    """Write the canary into every region that students must not see; returns how many."""
    planted = 0
    for path in (clone / "notebooks" / "assignments").glob("*.md"):
        lines = []
        for line in path.read_text().splitlines():
            lines.append(line)
            if "BEGIN SOLUTION" in line or "BEGIN HIDDEN TESTS" in line:
                indent = line[: len(line) - len(line.lstrip())]
                lines.append(f"{indent}# {CANARY}-{planted}")
            elif line.startswith('+++ {"nbgrader"'):
                lines += ["", f"{CANARY}-{planted}"]
            else:
                continue
            planted += 1
        path.write_text("\n".join(lines) + "\n")
    return planted


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it stands, executed and built in the smoke profile; its problem sets carry canaries."""

    def make(target: Path) -> None:
        copy_project(target)
        plant_canaries(target)
        # A chapter whose code, parameters or libraries are others than there runs again.
        if (runs := shared(tmp_path_factory, README_RUNS)).is_dir():
            shutil.copytree(runs, target / "_build" / "runs")
        done = cli(target, "build", "--profile", "smoke")
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "book", make)


@pytest.fixture(scope="session")
def site_url(book: Path) -> Iterator[str]:
    """The built book, served from this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *words: object) -> None:
            """A browser that leaves a page early breaks its connections off; that is no fault of the page."""

    handler = functools.partial(Quiet, directory=str(book / "_build" / "html"))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def find_chromium() -> str | None:
    """Path of a Chromium on this machine."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)
