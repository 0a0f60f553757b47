"""Checks of arguments that many functions share."""

from collections.abc import Iterable


def known(what: str, given: str, names: Iterable[str]) -> None:
    """Raise ValueError, which lists the known names, unless the given one is among them.

    >>> known("task", "nandy", ("and", "nand"))
    Traceback (most recent call last):
    ValueError: unknown task 'nandy'; known: and, nand
    """
    names = list(names)
    if given not in names:
        raise ValueError(f"unknown {what} {given!r}; known: {', '.join(names)}")
