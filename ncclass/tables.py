"""Tables that spreadsheets open and that run no formula there: `cell` writes a value, `bare` reads it back."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ncutil.ground.files import write

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a formula may begin with."""


def cell(value: Any) -> str:
    """A value for a table: text that would be a formula gets an apostrophe.

    So does text that looks as if it had got one, so that `bare` gives each back as it was.

    >>> cell("=1+1"), cell("'=1+1"), cell(-0.5)
    ("'=1+1", "''=1+1", '-0.5')
    """
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value).encode("utf-8", "replace").decode()
    return f"'{text}" if _is_formula(text) else text


def bare(text: str) -> str:
    """The text of a cell, without the apostrophe that `cell` has put before it.

    >>> bare("'=1+1"), bare("'tis")
    ('=1+1', "'tis")
    """
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet may take a text, without the apostrophes before it, for a formula.

    Some skip characters that cannot be seen.
    """
    text = text.lstrip("'")
    seen = next((number for number, sign in enumerate(text) if sign.isprintable() and sign != " "), len(text))
    return text.startswith(FORMULA) or text[seen:].startswith(FORMULA)


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write CSV so that a reader sees either the old file or the whole new one."""
    text = io.StringIO()
    # In quotes, a cell stays one cell also for a program that separates by semicolons.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    writer.writerows([[cell(value) for value in row] for row in rows])
    write(path, text.getvalue())
