"""How a chapter hands on what it computed: as outputs of its notebook, under mime types of our own.

`ncutil run` copies these records into run.json and CSV files, and `ncpress.outputs` shows them on a page. Plain Jupyter
prints one line for each.
"""

from collections.abc import Mapping
from typing import Any

CLAIM_MIME = "application/vnd.ncutil.claim+json"
SCALAR_MIME = "application/vnd.ncutil.scalar+json"
TABLE_MIME = "application/vnd.ncutil.table+json"

GLUE_PREFIX = "application/papermill.record/"
"""Papermill's mark for a form of an output that is kept and not shown; MyST-NB inserts such a form into prose."""


def show(forms: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    """Show one output that has several forms, by mime type."""
    from IPython.display import display  # the press reads this module too, and needs no IPython

    display(dict(forms), raw=True, metadata=dict(metadata or {}))


def glue(name: str, text: str, forms: Mapping[str, Any] | None = None) -> None:
    """Bind a text to a name, so that prose shows it with {glue:text}`name`.

    `forms` are more forms of the same output, by mime type; a page shows none of them. This is the output of
    `myst_nb.glue(name, text, display=False)`, made without Sphinx, which `myst_nb` imports.
    """
    glued = {f"{GLUE_PREFIX}text/plain": repr(text)}
    show({**glued, **(forms or {})}, {"scrapbook": {"name": name, "mime_prefix": GLUE_PREFIX}})
