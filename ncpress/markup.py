"""Text of a machine or a person in the MyST of a page: shown as it is, whatever Markdown makes of such characters."""

import re
import string

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
