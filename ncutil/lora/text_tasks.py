"""Data sets of real text for the LoRA study, from a folder or the hub.

A data set is two JSON Lines files, `NAME_train.jsonl` and `NAME_test.jsonl`, a row an example, in one of three forms:
`text, label`; `sentence1, sentence2, label`; `question, choices, label` (the index of the right choice). What is read
here is trained in `ncutil.lora.text_study`. Explained in the chapter on the LoRA study.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ncutil.lora.extras import library, one_line, unreachable
from ncutil.lora.tasks import SPLITS, Split, Task

Row = Mapping[str, Any]

VARIABLE = "NCUTIL_LORA_DATA"
"""Environment variable that names a folder of data sets."""

FORMS = {"text": ("text",), "pair": ("sentence1", "sentence2"), "choice": ("question", "choices")}
"""Columns of a data set beside `label`, by its form."""

SUBSET = 0
"""Seed of the subset that is taken of a data set: the same for every run, so that its states are computed once."""


def _commonsenseqa(row: Row) -> Row:
    choices = row["choices"]
    return {"question": row["question"], "choices": choices["text"], "label": choices["label"].index(row["answerKey"])}


def _mathqa(row: Row) -> Row:
    """Its options stand in one text, "a ) 38 , b ) 27.675 , ..."; a row that does not parse into five has no label."""
    parts = pd.Series([row["options"]]).str.split(r"(?:^|,)\s*[a-e] \)\s*", regex=True)[0][1:]
    label = "abcde".find(row["correct"]) if len(parts) == 5 else -1
    return {"question": row["Problem"], "choices": [part.strip() for part in parts], "label": label}


_ON_HUB: dict[str, tuple[str, str | None, str, Callable[[Row], Row]]] = {
    "sst2": ("nyu-mll/glue", "sst2", "validation", lambda row: {"text": row["sentence"], "label": row["label"]}),
    "mrpc": ("nyu-mll/glue", "mrpc", "validation", dict),
    "commonsenseqa": ("tau/commonsense_qa", None, "validation", _commonsenseqa),
    # The original is a loading script, which `datasets` no longer runs; this is the same rows as Parquet.
    "mathqa": ("regisss/math_qa", None, "test", _mathqa),
    **{f"pawsx_{k}": ("google-research-datasets/paws-x", k, "test", dict) for k in ("en", "de", "fr", "es")},
}
"""Where a task lives on the hub: repository, configuration, split with public labels that is held out, its row."""


def read_task(name: str, examples: int, held_out: int, *, data: str | Path | None = None) -> Task:
    """Read a task: as many training and held-out examples as asked, a fixed random subset of the data set.

    - name : data set, such as "polarity" or "mathqa"
    - examples, held_out : rows to take of its training and of its test file
    - data : folder with `NAME_train.jsonl` and `NAME_test.jsonl`, or "hub"; by default the folder in NCUTIL_LORA_DATA

    Raises ValueError for a folder, file or data set that is not there, wrong columns, a row that does not fit and fewer
    rows than asked; ConnectionError where the hub could not be reached.
    """
    where = data or os.environ.get(VARIABLE)
    if where is None or (where != "hub" and not Path(where).is_dir()):
        wrong = f"no data for {name!r}" if where is None else f"no folder {where}"
        hub = ", or -p data=hub to download" if name in _ON_HUB else ""
        raise ValueError(f"{wrong}: give a folder with {name}_train.jsonl (-p data=FOLDER, or {VARIABLE}){hub}")
    files = {split: Path(where) / f"{name}_{split}.jsonl" for split in SPLITS}
    rows = _hub_rows(name) if where == "hub" else {split: _jsonl(path) for split, path in files.items()}
    here = rows["train"][0].keys()
    form = next((form for form, columns in FORMS.items() if {*columns, "label"} <= here), None)
    if form is None:
        known = "; ".join(", ".join((*columns, "label")) for columns in FORMS.values())
        raise ValueError(f"{name} has the columns {', '.join(here)}; expected one of: {known}")
    classes = _classes(f"{name}, train", rows["train"]) if form != "choice" else []
    splits = {}
    for split, asked in (("train", examples), ("test", held_out)):
        found = rows[split]
        if asked < 1 or len(found) < asked:
            most = f"ask for 1 to {len(found)} (-p examples={len(found)})"
            raise ValueError(f"{name}: {asked} {split} examples asked, the data set has {len(found)}: {most}")
        chosen = np.random.default_rng(SUBSET).permutation(len(found))[:asked]
        splits[split] = _split(f"{name}, {split}", [found[at] for at in chosen], form, classes)
    if len(classes) == 1:
        raise ValueError(f"{name}: there is nothing to tell apart, every row has the label {classes[0]!r}")
    if form == "choice" and len({len(options) for split in splits.values() for options in split.inputs}) > 1:
        raise ValueError(f"{name}: every question must have the same number of choices")
    return Task(name, splits["train"], splits["test"], len(classes) or 1, len(splits["train"].inputs[0]))


def _jsonl(path: Path) -> list[Row]:
    if not path.is_file():
        known = sorted(p.name.removesuffix("_train.jsonl") for p in path.parent.glob("*_train.jsonl"))
        raise ValueError(f"missing file {path}; data sets in that folder: {', '.join(known) or 'none'}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({one_line(error)}): save it as UTF-8") from None
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object a line, got {line[:40]!r}")
        rows += [row] if line.strip() else []
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def _hub_rows(name: str) -> dict[str, list[Row]]:
    if name not in _ON_HUB:
        raise ValueError(f"no data set {name!r} known on the hub, only {', '.join(_ON_HUB)}; give -p data=FOLDER")
    repository, configuration, held_out, convert = _ON_HUB[name]
    datasets = library("datasets")
    try:
        loaded = {s: datasets.load_dataset(repository, configuration, split=s) for s in ("train", held_out)}
    except (OSError, RuntimeError, ValueError) as error:
        raise unreachable(f"data set {repository} ({name})", "give local files, -p data=FOLDER", error) from None
    rows = {"train" if s == "train" else "test": [convert(row) for row in rows] for s, rows in loaded.items()}
    return {split: [row for row in found if row["label"] != -1] for split, found in rows.items()}


def _classes(where: str, rows: Sequence[Row]) -> list[Any]:
    """The labels of a class data set in a fixed order: those of its training rows."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("label"), (str, int)):
            got = json.dumps(row, ensure_ascii=False)[:120]
            raise ValueError(f"{where}, row {number}: expected a label, text or a whole number; got {got}")
    return sorted({row["label"] for row in rows}, key=str)


def _split(where: str, rows: Sequence[Row], form: str, classes: list[Any]) -> Split:
    texts, labels = list[list[tuple[str, str | None]]](), list[int]()
    for row in rows:
        first, *rest = map(row.get, FORMS[form])
        options = (rest[0] if isinstance(rest[0], list) else []) if form == "choice" else rest or [None]
        known: Sequence[Any] = range(len(options)) if form == "choice" else classes
        fits = isinstance(first, str) and all(isinstance(option, str) or form == "text" for option in options)
        if not fits or row.get("label") not in known:
            wanted = f"{', '.join(FORMS[form])} as text and a label among {list(known)}"
            raise ValueError(f"{where}: expected {wanted}, got {json.dumps(row, ensure_ascii=False)[:120]}")
        texts.append([(str(first), option) for option in options])
        labels.append(known.index(row["label"]))
    return Split(texts, np.array(labels))


def as_yes_no(task: Task) -> Task:
    """A multiple choice as "is this the right answer?": two classes, half of each, chance 1/2; a class task as it is.

    Half of the examples keep their right option, the others a wrong one drawn at random.
    """
    if task.outputs > 1:
        return task
    splits = []
    for number, split in enumerate((task.train, task.test)):
        rng = np.random.default_rng([SUBSET, number])
        right = rng.permutation(len(split.labels)) % 2
        wrong = (split.labels + rng.integers(1, task.options, len(split.labels))) % task.options
        shown = np.where(right, split.labels, wrong)
        splits.append(Split([[split.inputs[n][k]] for n, k in enumerate(shown)], right))
    return Task(task.name, splits[0], splits[1])
