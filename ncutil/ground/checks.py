"""Checks of arguments that many functions share."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def known(what: str, given: str, names: Iterable[str]) -> None:
    """Raise ValueError unless the given name is among the known ones.

    >>> known("task", "nandy", ("and", "nand"))
    Traceback (most recent call last):
    ValueError: unknown task 'nandy'; known: and, nand
    """
    names = list(names)
    if given not in names:
        raise ValueError(f"unknown {what} {given!r}; known: {', '.join(names)}")


def integer(least: int, **given: Any) -> None:
    """Raise ValueError unless each argument is a whole number, `least` or more."""
    for name, value in given.items():
        if not _whole(value) or value < least:
            raise ValueError(f"{name} is a whole number from {least}; got {value!r}")


def integers(what: str, given: Any, least: int, most: int | None = None) -> None:
    """Raise ValueError unless these are whole numbers in a range, one or more, and none twice."""
    numbers = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []
    fits = all(_whole(number) and least <= number <= (math.inf if most is None else most) for number in numbers)
    if not numbers or not fits or len(set(numbers)) < len(numbers):
        span = f"{least}" if most is None else f"{least} to {most}"
        raise ValueError(f"need {what}: whole numbers from {span}, at least one, each once; got {numbers or given!r}")


def positive(**given: Any) -> None:
    """Raise ValueError unless each argument is a finite number above 0."""
    for name, value in given.items():
        if not isinstance(value, Real) or not 0 < float(value) < math.inf:
            raise ValueError(f"{name} is a positive number; got {value!r}")


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
