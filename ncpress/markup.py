"""MyST for generated pages: tables, and text of a machine or a person that is shown as it stands."""

import re
import string
from collections.abc import Iterable, Sequence

_PUNCTUATION = re.compile(f"([{re.escape(string.punctuation)}])")


def literal(text: str) -> str:
    """MyST that shows a line of text as it is: no typography, mathematics, emphasis, roles or HTML.

    >>> print(literal("Xeon(R) -- <b>"))
    Xeon\\(R\\) \\-\\- \\<b\\>
    """
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """MyST that shows a line of text as it is, in the type of code.

    >>> print(code("a`b"), code("`"))
    ``a`b`` `` ` ``
    """
    line = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    # A space at each end is taken off again; it parts a text that begins or ends with a backtick from the fence.
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def table(heading: Sequence[str], widths: str, rows: Iterable[Sequence[str]], name: str) -> str:
    """A table in MyST, from cells in MyST without line breaks; `widths` are in percent, `name` is a class for CSS."""
    lines = ["::::{list-table}", ":header-rows: 1", f":widths: {widths}", f":class: {name}", ""]
    for cells in [heading, *rows]:
        lines += [("* - " if number == 0 else "  - ") + (cell or "–") for number, cell in enumerate(cells)]
    return "\n".join([*lines, "::::"])
