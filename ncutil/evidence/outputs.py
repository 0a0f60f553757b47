"""How a chapter hands records to the press: as outputs of its notebook, under mime types of our own.

`ncutil run` takes them out into run.json and CSV; in plain Jupyter they print as one line.
"""

from collections.abc import Mapping
from typing import Any

CLAIM_MIME = "application/vnd.ncutil.claim+json"
SCALAR_MIME = "application/vnd.ncutil.scalar+json"
TABLE_MIME = "application/vnd.ncutil.table+json"


def emit(mime: str, data: Mapping[str, Any], text: str) -> None:
    """Show a line of text that carries a record."""
    show({mime: dict(data), "text/plain": text})


def show(bundle: Mapping[str, Any]) -> None:
    """Show one output that has several forms, by mime type."""
    from IPython.display import display  # the press reads this module too, and has no use for IPython

    display(dict(bundle), raw=True)
