"""The studies by name, and their published tables."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from ncutil.ground.checks import known
from ncutil.studies.summary import Study
from ncutil.training import ensembles

NAMES = ("distribution", "course", "rate", "data", "parity", "tasks", "words", "common_cause", "languages", "bits")
"""Each is a module of this package."""


def study(name: str) -> Study:
    """A study to run; ValueError lists the known names."""
    known("study", name, NAMES)
    found: Study = import_module(f"ncutil.studies.{name}").STUDY
    return found


def table(name: str) -> pd.DataFrame:
    """A published table, by the name of its study, or "study-suffix" where a study has several."""
    return pd.read_csv(_published(f"{name}.csv"))


def record(name: str) -> dict[str, Any]:
    """When, where and with what a study's tables were made."""
    found: dict[str, Any] = json.loads(_published(f"{name}.json").read_text(encoding="utf-8"))
    return found


def use_one_thread() -> None:
    """Let this process train in one thread, as a worker does that has one core."""
    ensembles.THREADS = 1


def _published(file: str) -> Path:
    """A file of the clone's `book/studies`, or of the copy in an installed package."""
    here = Path(__file__).parent
    folders = here.parents[1] / "book" / "studies", here / "published"
    found = {path.name: path for folder in folders for path in folder.glob("*")}
    if file not in found:
        raise ValueError(f"no {file!r} among the studies; known: {', '.join(sorted(found))}")
    return found[file]
