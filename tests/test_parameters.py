"""The schema of parameters: every chapter's, and what a value may be."""

import re
from pathlib import Path

import pytest
from conftest import PROJECT, ROOT

from ncpress.parameters import Parameter, check, read_schema, unknown
from ncpress.project import WordError, parse_overrides

WHOLE = Parameter("whole number", "networks", 2, 1_000_000)
NUMBER = Parameter("number", "learning rate", 0.1, 0.9999)
LIST = Parameter("whole numbers", "ranks", 1, 768)
STUDY = Parameter("text", "the study", choices=["bits", "text"])
DATA = Parameter("path", "a folder", choices=["", "hub"])


def test_schema_has_every_parameter_of_every_chapter_and_no_other() -> None:
    """Reading it also checks the defaults, and reading the profiles checks theirs."""
    assert {name: [*entries] for name, entries in PROJECT.schema.items()} == {
        name: [*chapter.parameters] for name, chapter in PROJECT.chapters.items()
    }
    assert {"smoke", "paper"} <= PROJECT.profiles.keys()
    for entries in PROJECT.schema.values():
        assert all(entry.meaning and "\n" not in entry.meaning for entry in entries.values())


def test_schema_gives_a_name_one_type_in_all_chapters() -> None:
    """The command line hands one value to all chapters that have the name."""
    types: dict[str, set[str]] = {}
    for entries in PROJECT.schema.values():
        for name, entry in entries.items():
            types.setdefault(name, set()).add(entry.type)
    assert all(len(found) == 1 for found in types.values())


@pytest.mark.parametrize(
    ("chapter", "pair"),
    [
        ("1", "seed=-1"),
        ("2", "rate=0"),
        ("3", "ranks=[2.5]"),
        ("3", "study=word"),
        ("3", "size=900"),
        ("3", "pretraining=0"),
        ("5", "runs=1"),
        ("6", "epochs=0"),
    ],
)
def test_command_line_refuses_what_a_chapter_cannot_run(chapter: str, pair: str) -> None:
    with pytest.raises(WordError, match=f"^parameter '{pair.split('=')[0]}' is "):
        parse_overrides(PROJECT, [pair], PROJECT.select([chapter]), ROOT)


@pytest.mark.parametrize(
    ("wanted", "given", "value"),
    [
        (WHOLE, "2", 2),
        (WHOLE, "1e6", 1_000_000),
        (WHOLE, "1_000", 1000),
        (WHOLE, 1e3, 1000),
        (WHOLE, "010", 10),
        (NUMBER, "1e-1", 0.1),
        (NUMBER, 0.9999, 0.9999),
        (LIST, "[1, 2,1e2]", [1, 2, 100]),
        (LIST, "8", [8]),
        (LIST, (4, 2), [4, 2]),
        (STUDY, "text", "text"),
        (DATA, "", ""),
        (DATA, "hub", "hub"),
    ],
)
def test_check_converts_what_fits(wanted: Parameter, given: object, value: object, tmp_path: Path) -> None:
    found = check("x", given, wanted, "01-alpha", tmp_path)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        *(
            (WHOLE, given)
            for given in ("1", 0, "1000001", "1e999999999", "nan", "inf", "1.5", "", True, None, [3], "0x3")
        ),
        *((NUMBER, given) for given in (0.0, "1", "nan", True, "much", [0.5])),
        *((LIST, given) for given in ("[]", [], "1,1", "0", "[1, 2.5]", [True], 3, None)),
        *((STUDY, given) for given in ("bit", "", None, 1)),
        *((DATA, given) for given in ("nowhere", None, 3, "~nobody-here/x", "x" * 5000)),
    ],
)
def test_check_refuses_what_does_not_fit(wanted: Parameter, given: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^parameter 'x' is ") as caught:
        check("x", given, wanted, "01-alpha", tmp_path)
    assert wanted.meaning in str(caught.value)


def test_check_names_range_value_and_meaning(tmp_path: Path) -> None:
    said = "parameter 'runs' is a whole number from 2 to 1000000, got 0 (02-ncnet: networks)"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        check("runs", "0", WHOLE, "02-ncnet", tmp_path)


def test_check_takes_paths_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    assert check("data", "sets", DATA, "03-lora", tmp_path) == str(tmp_path / "sets")


ENTRY = {"type": "whole number", "least": 0, "largest": 9, "meaning": "a seed"}


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (None, "expected chapters"),
        ({"01-a": [1]}, "expected chapters"),
        ({"01-a": {"seed": ENTRY}, "1-a": {}}, "unknown chapter '1-a' (did you mean '01-a'?)"),
        ({"01-a": {"seed": ENTRY, "sed": ENTRY}}, "01-a: unknown parameter 'sed' (did you mean 'seed'?)"),
        ({"01-a": {}}, "01-a: no entry for the parameter 'seed'"),
        ({"01-a": {"seed": "a seed"}}, "01-a, seed: expected type, meaning"),
        ({"01-a": {"seed": ENTRY | {"most": 3}}}, "01-a, seed: expected type, meaning"),
        ({"01-a": {"seed": ENTRY | {"type": "whole"}}}, "unknown type 'whole'"),
        ({"01-a": {"seed": {"type": "whole number", "meaning": "a seed"}}}, "least value"),
        ({"01-a": {"seed": ENTRY | {"least": 4}}}, "parameter 'seed' is a whole number from 4 to 9, got 3"),
    ],
)
def test_schema_faults_are_named(listed: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_schema(listed, {"01-a": {"seed": 3}}, tmp_path)


def test_unknown_suggests_only_near_names() -> None:
    assert "did you mean 'epochs'?" in unknown("parameter", "epoch", ["epochs", "seed"])
    assert "did you mean" not in unknown("parameter", "zzz", ["epochs", "seed"])
