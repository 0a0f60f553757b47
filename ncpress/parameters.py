"""What the parameters of the chapters mean and which values they may have, as `notebooks/parameters.yml` lists them.

A chapter's values come from its parameters cell, from a profile and from the command line. All of them go through
`check` before a kernel starts.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any

TYPES = ("whole number", "whole numbers", "number", "text", "path")


@dataclass(frozen=True)
class Parameter:
    """One entry of parameters.yml.

    `type` is one of `TYPES`. `least` and `largest` bound a number, or each number of a list. A text is one of
    `choices`; a path is one of them, or that of a file or folder that exists.
    """

    type: str
    meaning: str
    least: float = 0
    largest: float = 0
    choices: Sequence[str] = ()

    @property
    def expected(self) -> str:
        """The values that fit, in words.

        >>> Parameter("whole number", "networks", 2, 1_000_000).expected
        'a whole number from 2 to 1000000'
        """
        bounds, names = f"from {self.least} to {self.largest}", [repr(choice) for choice in self.choices]
        return {
            "whole number": f"a whole number {bounds}",
            "whole numbers": f"one or more whole numbers {bounds}, each once",
            "number": f"a number {bounds}",
            "text": " or ".join(names),
            "path": " or ".join(["the path of a file or folder that exists", *names]),
        }[self.type]


Schema = Mapping[str, Mapping[str, Parameter]]
"""Parameters by chapter and name."""


def unknown(what: str, name: str, known: Iterable[str], where: str = "known") -> str:
    """One line about a name that is not known: the nearest one that is, and all of them.

    >>> unknown("parameter", "rums", ["runs", "seed"])
    "unknown parameter 'rums' (did you mean 'runs'?); known: runs, seed"
    """
    known = list(known)
    near = get_close_matches(name, known, 1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r}{meant}; {where}: {', '.join(known)}"


def read_schema(listed: Any, defaults: Mapping[str, Mapping[str, Any]], folder: Path) -> Schema:
    """The entries of parameters.yml, checked against the chapters.

    Parameters
    ----------
    listed : content of the file: entries by chapter and parameter
    defaults : values of the chapters' parameters cells, by chapter and parameter
    folder : that relative paths start from

    Raises
    ------
    ValueError
        A parameter without an entry, an entry without a parameter, an entry that is not one, or a default that does
        not fit.
    """
    if not isinstance(listed, dict) or not all(isinstance(entries, dict) for entries in listed.values()):
        raise ValueError("expected chapters, each with its parameters")
    schema: dict[str, dict[str, Parameter]] = {}
    for chapter in listed:
        if chapter not in defaults:
            raise ValueError(unknown("chapter", str(chapter), defaults))
    for chapter, values in defaults.items():
        entries = listed.get(chapter, {})
        for name in entries:
            if name not in values:
                raise ValueError(f"{chapter}: {unknown('parameter', str(name), values)}")
        for name in values:
            if name not in entries:
                raise ValueError(f"{chapter}: no entry for the parameter {name!r}")
        schema[chapter] = {name: _entry(given, f"{chapter}, {name}") for name, given in entries.items()}
        for name, value in values.items():
            check(name, value, schema[chapter][name], chapter, folder)
    return schema


def _entry(given: Any, here: str) -> Parameter:
    try:
        entry = Parameter(**given)
    except TypeError:
        raise ValueError(f"{here}: expected type, meaning, and least and largest or choices, got {given!r}") from None
    if entry.type not in TYPES:
        raise ValueError(f"{here}: {unknown('type', str(entry.type), TYPES)}")
    if "number" in entry.type and entry.least >= entry.largest:
        raise ValueError(f"{here}: a number needs a least value and a larger one, the largest")
    return entry


def check(name: str, value: Any, wanted: Parameter, chapter: str, folder: Path) -> Any:
    """A value as the parameter's type; ValueError with the range and the meaning if it does not fit.

    Numbers may come as text: the command line gives text, and so does YAML for `1e9`. A path is taken from `folder`
    and comes back absolute.
    """
    try:
        return _converted(value, wanted, folder)
    except (ValueError, TypeError, ArithmeticError, OSError, RuntimeError):
        shown = value if isinstance(value, str) and re.fullmatch(r"[\d.e+-]+", value) else repr(value)
        about = f"{chapter}: {wanted.meaning}"
        raise ValueError(f"parameter {name!r} is {wanted.expected}, got {shown} ({about})") from None


def _converted(value: Any, wanted: Parameter, folder: Path) -> Any:
    match wanted.type:
        case "number":
            return _bounded(float(value), wanted)
        case "whole number":
            return _whole(value, wanted)
        case "whole numbers":
            items = value.strip().strip("[]").split(",") if isinstance(value, str) else value
            numbers = [_whole(item, wanted) for item in items]
            if not numbers or len(set(numbers)) < len(numbers):
                raise ValueError
            return numbers
    if value in wanted.choices:
        return value
    path = folder / Path(value).expanduser()
    if wanted.type == "text" or not path.exists():
        raise ValueError
    return str(path.resolve())


def _whole(value: Any, wanted: Parameter) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    # Not int(float(value)), which rounds, and no int before the bounds: that of 1e999999999 fills the memory.
    number = _bounded(Decimal(value), wanted)
    if number % 1:
        raise ValueError
    return int(number)


def _bounded(number: Any, wanted: Parameter) -> Any:
    if not wanted.least <= number <= wanted.largest:
        raise ValueError
    return number
