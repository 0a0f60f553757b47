"""What a problem set asks of a solution, and how an answer is judged: as data, against what the reference gives.

The hidden tests of a problem set assign a list to `asked`: values that a solution has to have computed, and calls of a
function that it has to have written. A student's process gets only the names and the inputs. Another process judges
what it hands back, so the expected values are never in the student's process.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from typing import Any

import numpy as np

DEPTH = 12
"""Lists in lists that an answer may have; a table of tables needs three."""

KEYS = 1000
"""Keys in all dicts of an answer: numbers can be chosen such that a dict of very many of them takes hours to make."""

PADDED = 10**7
"""Characters of the longest text in an answer times its leaves: NumPy gives each item of a list the longest's room."""

NOTHING: tuple[Any, ...] = ([], "", {}, None)
"""Answers that no judge may take for right."""

DIMENSIONS, LENGTH = 8, 10**7
"""Dimensions of an array in an answer, and the length of each."""


@dataclass(frozen=True)
class Ask:
    """One thing that is asked: `inputs` holds the arguments of every call, or is None where a value is asked for.

    `expected` holds the reference's answer to each input (one in all for a value); `judge`, where given, decides alone.
    """

    name: str
    inputs: tuple[tuple[Any, ...], ...] | None
    expected: tuple[Any, ...]
    points: float
    says: str
    within: float
    judge: Callable[..., bool] | None

    def passes(self, answers: Sequence[Any]) -> bool:
        """Whether every answer is right; an answer on which the judge raises an error is wrong."""
        if len(answers) != len(self.expected):
            return False
        arguments = self.inputs or ((),) * len(answers)
        for given, expected, words in zip(answers, self.expected, arguments, strict=True):
            try:
                right = bool(self.judge(given, *words)) if self.judge else agree(given, expected, self.within)
            except Exception:
                right = False
            if not right:
                return False
        return True


def answer(
    name: str, value: Any, *, points: float, says: str, within: float = 1e-4, judge: Callable[..., bool] | None = None
) -> Ask:
    """Ask for the value that a solution has given to a name.

    Parameters
    ----------
    name : of the variable
    value : what the reference has
    points : for a right answer
    says : what is checked, in words for the student; must not tell the answer
    within : largest difference, relative to values above 1 and absolute below
    judge : decides on the value instead, for questions with more than one right answer

    Examples
    --------
    >>> answer("s", 2.5, points=1, says="S of the example").passes([np.float32(2.5)])
    True
    """
    return _checked(Ask(name, None, (plain(value),), points, says, within, judge))


def call(
    function: Callable[..., Any],
    *inputs: tuple[Any, ...],
    points: float,
    says: str,
    within: float = 1e-4,
    judge: Callable[..., bool] | None = None,
) -> Ask:
    """Ask for the outputs of the function of this name, one for each tuple of inputs; all have to be right.

    `function` is the reference's; a judge gets the output and the inputs. Parameters as in `answer`.

    Examples
    --------
    >>> def double(x):
    ...     return 2 * x
    >>> ask = call(double, (1,), (-0.5,), points=2, says="double")
    >>> ask.passes([2, -1]), ask.passes([2, 1])
    (True, False)
    """
    copies = tuple(tuple(plain(value) for value in words) for words in inputs)
    expected = tuple(plain(function(*words)) for words in decode(encode(copies)))
    return _checked(Ask(function.__name__, copies, expected, points, says, within, judge))


def _checked(ask: Ask) -> Ask:
    if ask.points <= 0 or not ask.says:
        raise ValueError(f"{ask.name}: an ask needs points above 0 and words that say what is checked")
    if not ask.passes(ask.expected):
        raise ValueError(f"{ask.name}: the reference's own answer {ask.expected} is not accepted ({ask.says})")
    if ask.judge and (found := [nothing for nothing in NOTHING if ask.passes([nothing] * len(ask.expected))]):
        raise ValueError(f"{ask.name}: its judge gives points for {found[0]!r} ({ask.says})")
    return ask


def plain(value: Any) -> Any:
    """A value as it looks after its journey as JSON; TypeError if it is not data."""
    return decode(encode(value))


def agree(given: Any, expected: Any, within: float) -> bool:
    """Whether a plain value is the expected one, numbers up to `within` (relative above 1, absolute below).

    A list or tuple serves as an array, and an array as a list; an array of one number serves as the number. Shapes have
    to be the same otherwise.

    >>> agree([1, 2.00001], np.array([1, 2]), 1e-4), agree(1, True, 1e-4), agree([[1], [2, 3]], [[1], [2, 3]], 1e-4)
    (True, False, True)
    """
    if expected is None or isinstance(expected, (bool, str)):
        return type(given) is type(expected) and given == expected
    if isinstance(expected, dict):
        same = isinstance(given, dict) and given.keys() == expected.keys()
        return same and all(agree(given[key], value, within) for key, value in expected.items())
    if isinstance(expected, np.ndarray) and expected.dtype.kind == "U":
        expected = expected.tolist()
    if isinstance(expected, (list, tuple)) and not _numeric(expected):
        given = given.tolist() if isinstance(given, np.ndarray) else given
        same = isinstance(given, (list, tuple)) and len(given) == len(expected)
        return same and all(agree(a, b, within) for a, b in zip(given, expected, strict=True))
    if isinstance(expected, np.ndarray) and expected.dtype == bool:
        array = np.asarray(given) if _truths(given) else np.empty(0)
        return array.dtype == bool and array.shape == expected.shape and bool((array == expected).all())
    if not _numeric(given):
        return False
    a, b = np.asarray(given, float), np.asarray(expected, float)
    if a.shape != b.shape and not a.size == b.size == 1:
        return False
    a = a.reshape(b.shape)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= within * np.maximum(1, np.abs(b))
    return bool((equal | (near & np.isfinite(b))).all())


def _numeric(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        # Rows of several lengths are no array; they are compared one by one.
        return all(_numeric(item) for item in value) and len({np.shape(item) for item in value}) == 1
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return isinstance(value, Real) and not isinstance(value, bool)


def _truths(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_truths(item) for item in value)
    return isinstance(value, bool) or (isinstance(value, np.ndarray) and value.dtype == bool)


def encode(value: Any, depth: int = DEPTH) -> Any:
    """A value as JSON's types; TypeError for what is not data.

    Numbers, text, None, lists, tuples, dicts, arrays of numbers or of text, and what turns into one (a tensor, a column
    of a table); a table is a dict of its columns.

    >>> decode(encode({"a": np.eye(2), "b": [1, None], "c": (2, 3)}))
    {'a': array([[1., 0.],
           [0., 1.]]), 'b': [1, None], 'c': (2, 3)}
    >>> context = np.array(["11", "12", "11"])
    >>> decode(encode(context))[context == "11"]
    array(['11', '11'], dtype='<U2')
    """
    if depth == 0:
        raise TypeError(f"lists within lists, more than {DEPTH} deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, Integral)):
        return int(value)
    if isinstance(value, (float, Real)):
        return float(value)
    if isinstance(value, Mapping):
        return {"dict": [[encode(key, depth - 1), encode(item, depth - 1)] for key, item in value.items()]}
    if isinstance(value, list):
        return [encode(item, depth - 1) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item, depth - 1) for item in value]}
    if hasattr(value, "columns") and hasattr(value, "items"):
        return {"dict": [[str(name), encode(column, depth - 1)] for name, column in value.items()]}
    array = value.detach() if hasattr(value, "detach") else value
    array = np.asarray(array) if hasattr(array, "__array__") else None
    if array is None:
        raise TypeError(f"not data but {type(value).__name__} (expected numbers, text, lists, dicts, arrays, tables)")
    if array.dtype.kind not in "biufU" or array.ndim == 0:
        return encode(array.tolist(), depth - 1)
    return {"texts" if array.dtype.kind == "U" else "array": array.tolist(), "shape": list(array.shape)}


def decode(value: Any) -> Any:
    """What `encode` wrote; ValueError for anything else, and for what takes much more room than it has characters."""
    level, leaves, longest, keys = [value], 0, 0, 0
    for _ in range(3 * DEPTH + DIMENSIONS):
        leaves += sum(not isinstance(item, (list, dict)) for item in level)
        longest = max([longest, *(len(item) for item in level if isinstance(item, str))])
        dicts = [item for item in level if isinstance(item, dict)]
        keys += sum(len(item["dict"]) for item in dicts if isinstance(item.get("dict"), list))
        lists = [item for item in level if isinstance(item, list)]
        level = list(chain.from_iterable(lists + [item.values() for item in dicts]))
    if level or keys > KEYS or leaves * longest > PADDED:
        raise ValueError("an answer with too many keys, too long texts, or lists too deep in lists")
    return _decode(value)


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"dict"} and isinstance(value["dict"], list):
        pairs = [pair for pair in value["dict"] if isinstance(pair, list) and len(pair) == 2]
        if len(pairs) == len(value["dict"]) and not any(isinstance(key, (list, dict)) for key, _ in pairs):
            return {key: _decode(item) for key, item in pairs}
    if value.keys() == {"tuple"} and isinstance(value["tuple"], list):
        return tuple(_decode(item) for item in value["tuple"])
    if value.keys() == {"array", "shape"}:
        return _array(value["array"], value["shape"], (bool, int, float))
    if value.keys() == {"texts", "shape"}:
        return _array(value["texts"], value["shape"], (str,))
    raise ValueError("an answer that is not in the form of `encode`")


def _array(nested: Any, shape: Any, kinds: tuple[type, ...]) -> np.ndarray:
    """Lists in lists of this shape, items of these kinds, as an array; NumPy itself would make one of anything."""
    if not isinstance(shape, list) or len(shape) > DIMENSIONS:
        raise ValueError("an array without a shape")
    items = [nested]
    for length in shape:
        fits = type(length) is int and 0 <= length <= LENGTH
        if not fits or not all(isinstance(item, list) and len(item) == length for item in items):
            raise ValueError("an array of another shape than it says")
        items = list(chain.from_iterable(items))
    if not all(isinstance(item, kinds) for item in items):
        raise ValueError("an array of something else than numbers, or than text")
    array = np.array(items)
    if array.dtype.kind not in "biufU":
        raise ValueError("an array of numbers beyond all bounds")
    return array.reshape(shape)
