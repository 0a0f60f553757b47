"""The two distributions of this repository as wheels: `ncutil` for a notebook, and `ncpress` with the classroom."""

import subprocess
import sys
from pathlib import Path

from ncpress.project import PressError


def build_wheel(source: Path, folder: Path) -> str:
    """Build the wheel of the distribution whose pyproject.toml lies in `source` into a folder; returns its name."""
    before = set(folder.glob("*.whl"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder.resolve())]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if done.returncode:
        raise PressError(f"the wheel of {source.name} could not be built: {done.stderr.strip()}")
    (made,) = set(folder.glob("*.whl")) - before
    return made.name
