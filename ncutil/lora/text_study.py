"""LoRA on real encoders and real text: the groups of tasks, every choice of a study, and its table.

"text" adapts the last layer of a sentence encoder, on states that are computed once and kept on disk; "paper" adapts
all layers of a BERT, on a GPU where there is one. Both adapt query and value, ask every multiple choice as "is this the
right answer?", so that chance is 1/2 everywhere, and continue from what is finished after an interruption. Explained in
the chapter on the LoRA study.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ncutil.ground import checks, staleness
from ncutil.ground.files import cores
from ncutil.lora import adapters
from ncutil.lora.encoders import Bert, LastLayer, fingerprint, frozen_states, load_encoder, tokenize
from ncutil.lora.tables import cached
from ncutil.lora.tasks import SPLITS, Numbers, Split, Task
from ncutil.lora.text_tasks import as_yes_no, read_task

Named = Mapping[str, Task]
Folder = str | Path


@dataclass(frozen=True)
class Recipe:
    """Every choice of a study. The paper's own are not known: all of these are ours.

    - examples, held_out : training and test examples a task, a fixed random subset of each data set
    - length : tokens that are kept of a text
    - epochs, every : passes over the training examples; passes between two records of the outcomes
    - batch : examples of each of the two tasks in a step
    - rate : learning rate of Adam, constant, without decay
    """

    examples: int
    held_out: int
    length: int
    epochs: int
    every: int
    batch: int
    rate: float

    def __post_init__(self) -> None:
        counts = (self.examples, self.held_out, self.length, self.epochs, self.every, self.batch)
        if min(counts) < 1 or not self.rate > 0:
            raise ValueError(f"a recipe needs positive numbers; got {self}")

    def records(self) -> list[int]:
        """Epochs after which outcomes are taken: before training, every so often, and the last."""
        return sorted({*range(0, self.epochs + 1, self.every), self.epochs})


TEXT = Recipe(examples=1000, held_out=500, length=40, epochs=15, every=3, batch=16, rate=1e-3)
"""For "text": a sentence encoder on two cores."""

PAPER = Recipe(examples=3000, held_out=400, length=128, epochs=10, every=1, batch=32, rate=2e-4)
"""For "paper": BERT on a GPU."""


@dataclass(frozen=True)
class Group:
    """An encoder (see `load_encoder`), Alice's two tasks and Bob's (`read_task`), and how alpha follows the rank."""

    model: str | Path
    alice: tuple[str, str]
    bob: tuple[str, str]
    alpha_rule: str = "sqrt"

    def __post_init__(self) -> None:
        for pair in (self.alice, self.bob):
            if not isinstance(pair, (tuple, list)) or [*map(type, pair)] != [str, str]:
                raise ValueError(f"names of tasks are two by two; got {self.alice!r} and {self.bob!r}")
        checks.known("alpha rule", self.alpha_rule, adapters.ALPHA_EXPONENTS)


TEXT_GROUPS = {
    "mixed": Group("minilm", ("subjectivity", "commonsenseqa"), ("polarity", "mathqa")),
    "hard": Group("minilm", ("commonsenseqa", "mathqa"), ("pawsx_en", "pawsx_de")),
    "mixed, alpha = 2r": Group("minilm", ("subjectivity", "commonsenseqa"), ("polarity", "mathqa"), "linear"),
}
"""The groups of "text": an easy and a hard task each, or all of them hard; and the first with another rule."""

GROUPS = {
    "mixed": Group("bert-base-uncased", ("sst2", "commonsenseqa"), ("mrpc", "mathqa")),
    "multilingual": Group("bert-base-multilingual-cased", ("pawsx_en", "pawsx_fr"), ("pawsx_de", "pawsx_es")),
}
"""The paper's two groups. Models and data sets are the paper's; which task is Alice's or Bob's is our choice."""


def train_groups(
    study: str,
    ranks: Numbers,
    seeds: Numbers,
    *,
    store: Folder,
    data: Folder | None = None,
    models: Folder | None = None,
    examples: int | None = None,
    dry: bool = False,
) -> pd.DataFrame:
    """Every group of a study: the table of `adapters.train` with the columns `group` and `tie`, its rule for alpha.

    The heads read the first position. Example k of the one task is paired with example k of the other. Data sets of one
    length are shuffled alike, so a translation stays with its text; any other pairing is arbitrary, and C then holds
    what accuracy gives.

    - study : "text", `TEXT_GROUPS` by the recipe `TEXT`, or "paper", `GROUPS` by `PAPER`
    - ranks, seeds : from 1 to the encoder's width, from 0; as in `adapters.train`
    - store : folder for frozen states, and for the table of each rank and seed as soon as it is done
    - data : as in `text_tasks.read_task`
    - models : folder that holds the encoders, each in a folder of its name; by default the package or the hub
    - examples : to train on of each task, and to hold out at most; by default what the recipe says
    - dry : read every model and data set, train nothing, and give an empty table

    Raises ValueError for ranks out of range and for what is wrong with a model or a data set, before anything is
    computed.
    """
    checks.known("study", study, ("text", "paper"))
    recipe, groups = (TEXT, TEXT_GROUPS) if study == "text" else (PAPER, GROUPS)
    if examples:
        recipe = replace(recipe, examples=examples, held_out=min(examples, recipe.held_out))
    if models:
        groups = {name: replace(g, model=Path(models).expanduser() / g.model) for name, g in groups.items()}
    checks.integers("ranks", ranks, 1)
    checks.integers("seeds", seeds, 0)
    read = {name: _read(group, ranks, data, recipe) for name, group in groups.items()}
    if dry:
        return pd.DataFrame()
    frames = {n: _train(study, group, read[n], ranks, seeds, recipe, Path(store)) for n, group in groups.items()}
    told = [frame.assign(group=n, tie=groups[n].alpha_rule) for n, frame in frames.items()]
    return pd.concat(told, ignore_index=True)


def _read(group: Group, ranks: Numbers, data: Folder | None, recipe: Recipe) -> tuple[Named, Any, Any]:
    """The tasks by name, the encoder and its tokenizer; ValueError for whatever is wrong with what a study is given."""
    names = dict.fromkeys([*group.alice, *group.bob])
    tasks = {name: as_yes_no(read_task(name, recipe.examples, recipe.held_out, data=data)) for name in names}
    encoder, tokenizer = load_encoder(group.model)
    width = encoder.config.hidden_size
    if max(ranks) > width:
        above = "a rank above the layer's width can add nothing"
        raise ValueError(f"{above}: give ranks from 1 to {width}; got {list(ranks)}")
    return tasks, encoder, tokenizer


def _train(
    study: str, group: Group, read: tuple[Named, Any, Any], ranks: Numbers, seeds: Numbers, recipe: Recipe, store: Path
) -> pd.DataFrame:
    """All ranks and seeds of a group, side by side on the cores, one after another on a GPU."""
    texts, encoder, tokenizer = read
    device = "cuda" if study == "paper" and torch.cuda.is_available() else "cpu"
    model = LastLayer(encoder) if study == "text" else Bert(encoder)

    def coded(part: Split) -> Split:
        tokens = tokenize(tokenizer, [text for [text] in part.inputs], recipe.length)
        return Split(frozen_states(encoder, tokens, store) if study == "text" else tokens, part.labels)

    named = {name: replace(task, train=coded(task.train), test=coded(task.test)) for name, task in texts.items()}
    parts = {f"{name} {split}": getattr(task, split) for name, task in named.items() for split in SPLITS}
    shown = fingerprint({f"{at} {k}": x for at, part in parts.items() for k, x in vars(part).items()})
    given = [group.alice, group.bob, group.alpha_rule, asdict(recipe), shown, fingerprint(encoder.state_dict()), device]
    tasks = [[named[name] for name in side] for side in (group.alice, group.bob)]
    base = staleness.key(modules=[__name__])
    options: dict[str, Any] = {"epochs": recipe.epochs, "rate": recipe.rate, "batch": recipe.batch}
    options |= {"record": recipe.records(), "alpha_rule": group.alpha_rule, "device": device}

    def one(run: tuple[int, int]) -> pd.DataFrame:
        rank, seed = map(int, run)
        key = {**base, "parameters": [*given, rank, seed]}
        return cached(store / study, key, lambda: adapters.train(model, tasks, [rank], [seed], **options).table)

    jobs = 1 if device == "cuda" else cores()
    with adapters.one_thread(), ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pd.concat(pool.map(one, product(ranks, seeds)), ignore_index=True)
