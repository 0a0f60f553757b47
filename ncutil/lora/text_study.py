"""LoRA on real encoders: a head for Alice's task and one for Bob's, on one encoder, a run for each pair of tasks.

`train_top` adapts the last layer only: everything below is frozen, computed once and kept on disk, and all ranks and
pairs train at once. `train_all` adapts every layer with peft, one run after another, in mixed precision on a GPU. Both
adapt query and value, keep what is finished, and take up where a killed run stopped. Their tables have the columns of
`ncutil.lora.adapters.train`. Explained in the chapter on the LoRA study.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ncutil.lora import adapters, text_tasks, top_layer
from ncutil.lora.text_tasks import (
    Task,
    Tokens,
    as_yes_no,
    digest,
    library,
    load_encoder,
    read_task,
    stored,
    tokenize,
)
from ncutil.lora.top_layer import (
    SETTINGS,
    Setting,
    States,
    TopLayer,
    frozen_states,
    losses,
)

Array = NDArray[Any]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Recipe:
    """Every choice of a study. The paper's own are not known: all of these are ours.

    Attributes
    ----------
    examples, held_out : training and test examples a task, a fixed random subset of each data set
    length : tokens that are kept of a text
    epochs, every : passes over the training examples; passes between two looks at the outcomes
    batch : examples of each of the two tasks in a step
    rate : learning rate of Adam, constant, without decay
    tie : how alpha follows the rank, one of `lora.TIES`
    dropout : before the adapters and inside the encoder; `train_top` has none
    """

    examples: int
    held_out: int
    length: int
    epochs: int
    every: int
    batch: int
    rate: float
    tie: str = "sqrt"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        counts = (self.examples, self.held_out, self.length, self.epochs, self.every, self.batch)
        if min(counts) < 1 or not self.rate > 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"a recipe needs positive numbers and a dropout from 0 to below 1; got {self}")
        if self.tie not in adapters.TIES:
            raise ValueError(f"unknown tie {self.tie!r}; known: {', '.join(adapters.TIES)}")

    def alpha(self, rank: int) -> float:
        """LoRA's alpha at a rank; the adapter's product is multiplied by alpha / rank.

        >>> [TEXT.alpha(rank) for rank in (1, 4, 16)]
        [2.0, 4.0, 8.0]
        """
        return float(adapters.ALPHA * rank ** adapters.TIES[self.tie])

    def records(self) -> list[int]:
        """Epochs after which outcomes are taken: before training, every so often, and the last."""
        return sorted({*range(0, self.epochs + 1, self.every), self.epochs})


TEXT = Recipe(examples=1000, held_out=500, length=40, epochs=15, every=3, batch=16, rate=1e-3)
"""For `train_top`: a sentence encoder on two cores."""

PAPER = Recipe(examples=3000, held_out=400, length=128, epochs=10, every=1, batch=32, rate=2e-4, dropout=0.1)
"""For `train_all`: BERT on a GPU."""


@dataclass(frozen=True)
class Group:
    """Four tasks: the encoder that learns them, Alice's two and Bob's two, and how alpha follows the rank."""

    model: str
    alice: Pair
    bob: Pair
    tie: str = "sqrt"


TEXT_GROUPS = {
    "mixed": Group("minilm", ("subjectivity", "commonsenseqa"), ("polarity", "mathqa")),
    "hard": Group("minilm", ("commonsenseqa", "mathqa"), ("pawsx_en", "pawsx_de")),
    "mixed, alpha = 2r": Group("minilm", ("subjectivity", "commonsenseqa"), ("polarity", "mathqa"), "linear"),
}
"""The groups for `train_top`: an easy and a hard task each, or all of them hard; and the first under another tie."""

GROUPS = {
    "mixed": Group("bert-base-uncased", ("sst2", "commonsenseqa"), ("mrpc", "mathqa")),
    "multilingual": Group("bert-base-multilingual-cased", ("pawsx_en", "pawsx_fr"), ("pawsx_de", "pawsx_es")),
}
"""The paper's two groups. Models and data sets are the paper's, who has which is ours."""


def train_groups(
    study: str,
    ranks: Sequence[int],
    seeds: Sequence[int],
    *,
    store: str | Path,
    data: str | Path | None = None,
    models: str | Path | None = None,
    examples: int | None = None,
    dry: bool = False,
) -> pd.DataFrame:
    """Every group of a study, with a column `group` and one for the `tie`.

    Parameters
    ----------
    study : "text", `TEXT_GROUPS` by `train_top`, or "paper", `GROUPS` by `train_all`
    ranks, seeds, store, data : as in `train_top`
    models : folder that holds the encoders, each in a folder of its name; by default the package or the hub
    examples : to train on of each task, and to hold out at most; by default what the recipe says
    dry : read every model and data set, train nothing, and give an empty table

    Raises ValueError for an unknown study, and what `train_top` raises, before anything is computed.
    """
    if study not in ("text", "paper"):
        raise ValueError(f"studies with real text are text and paper; got {study!r}")
    train, recipe, groups = (train_top, TEXT, TEXT_GROUPS) if study == "text" else (train_all, PAPER, GROUPS)
    if examples:
        recipe = replace(recipe, examples=examples, held_out=min(examples, recipe.held_out))
    place = Path(models).expanduser() if models else None
    encoder = {name: place / group.model if place else group.model for name, group in groups.items()}
    for name, group in groups.items():
        _ready(encoder[name], group.alice, group.bob, ranks, seeds, data, recipe)
    if dry:
        return pd.DataFrame()
    frames = []
    for name, group in groups.items():
        own = replace(recipe, tie=group.tie)
        frame = train(encoder[name], group.alice, group.bob, ranks, seeds, store=store, data=data, recipe=own)
        frames.append(frame.assign(group=name, tie=group.tie))
    return pd.concat(frames, ignore_index=True)


def train_top(
    model: str | Path,
    alice: Pair,
    bob: Pair,
    ranks: Sequence[int],
    seeds: Sequence[int],
    *,
    store: str | Path,
    data: str | Path | None = None,
    recipe: Recipe = TEXT,
) -> pd.DataFrame:
    """Train adapters in the last layer of a BERT encoder, all ranks and contexts at once, and take their outcomes.

    Multiple choices are asked as "is this the right answer?", so that chance is 1/2 everywhere. The heads read the
    first position. A seed draws the adapters, the heads and the order of the examples, whatever the rank and the
    context; its table is kept as soon as it is done.

    Parameters
    ----------
    model : see `texts.load_encoder`
    alice, bob : two tasks each, see `texts.read_task`
    ranks : from 1 to the encoder's width
    seeds : integers from 0
    store : folder for the frozen layers' states and for finished tables
    data : see `texts.read_task`
    recipe : the remaining choices

    Returns
    -------
    DataFrame
        One row per run, recorded epoch and kind of outcomes; the columns are those of `lora.train`.

    Raises
    ------
    ValueError
        Tasks that are not two by two, a rank below 1 or above the width, or what `texts` finds wrong.
    """
    found, encoder, tokenizer = _ready(model, alice, bob, ranks, seeds, data, recipe)
    tasks = {name: as_yes_no(task) for name, task in found.items()}
    weights, folder = digest(encoder), Path(store)
    states = {
        (name, split): frozen_states(encoder, tokenizer, getattr(task, split), recipe.length, folder, weights)
        for name, task in tasks.items()
        for split in ("train", "test")
    }
    known = [(state.key, digest(state.labels)) for state in states.values()]
    frames = []
    with _one_thread():
        for seed in map(int, seeds):
            key = digest("top", alice, bob, known, list(ranks), seed, asdict(recipe), *_CODE)

            def compute(seed: int = seed) -> pd.DataFrame:
                return _train_top(encoder.encoder.layer[-1], (alice, bob), tasks, states, ranks, seed, recipe)

            frames.append(stored(folder / f"top-{key}.csv", compute))
    return _wide(pd.concat(frames, ignore_index=True), (alice, bob), tasks, recipe)


def _train_top(
    layer: Any,
    pairs: Sequence[Pair],
    tasks: dict[str, Task],
    states: dict[tuple[str, str], States],
    ranks: Sequence[int],
    seed: int,
    recipe: Recipe,
) -> pd.DataFrame:
    """One row per rank, context, recorded epoch and kind of outcomes."""
    at = {(side, i): pairs[side][i] for side, i in SETTINGS}
    outputs = {task: tasks[name].outputs for task, name in at.items()}
    top = TopLayer(layer, outputs, ranks, [recipe.alpha(rank) for rank in ranks], seed, recipe.rate)
    tables = []
    for epoch in range(recipe.epochs + 1):
        if epoch:
            for rows in _batches(seed, epoch, recipe):
                top.step({task: states[name, "train"].batch(rows[task]) for task, name in at.items()})
        if epoch not in recipe.records():
            continue
        looks = {
            (*task, split): _look(top.answers(*task, states[name, split]), states[name, split].labels)
            for task, name in at.items()
            for split in ("train", "test")
        }
        for i, j in SETTINGS:
            a, b = (
                {
                    split: {what: x[:, other] for what, x in looks[side, own, split].items()}
                    for split in ("train", "test")
                }
                for side, own, other in ((0, i, j), (1, j, i))
            )
            tables.append(_rows(a, b).assign(rank=list(ranks) * 2, seed=seed, context=f"{i + 1}{j + 1}", epoch=epoch))
    return pd.concat(tables, ignore_index=True)


def _batches(seed: int, epoch: int, recipe: Recipe) -> Iterator[dict[Setting, Array]]:
    """Rows of each task's batches, by (side, setting), in an order that ranks and partners share."""
    orders = {task: np.random.default_rng([seed, 3, epoch, *task]).permutation(recipe.examples) for task in SETTINGS}
    for first in range(0, recipe.examples, recipe.batch):
        yield {task: order[first : first + recipe.batch] for task, order in orders.items()}


def _look(logits: Tensor, labels: Array) -> dict[str, Array]:
    """Outcomes (..., examples), +1 where right; the mean loss, and how much answers differ between examples, (...)."""
    goals = torch.from_numpy(labels)
    centred = logits - logits.mean(-1, keepdim=True)
    return {
        "outcomes": torch.where(logits.argmax(-1) == goals, 1, -1).numpy(),
        "loss": losses(logits, goals).mean(-1).numpy(),
        "spread": centred.std(-2).amax(-1).numpy(),
    }


def _rows(a: dict[str, dict[str, Array]], b: dict[str, dict[str, Array]]) -> pd.DataFrame:
    """What both heads of a context did on training and on test examples, a row per replica and kind of outcomes.

    Example k of the one task is paired with example k of the other. Data sets of one length are shuffled alike, so
    what is row by row a translation stays together; any other pairing is arbitrary, and C then holds what accuracy
    gives and nothing else.
    """
    tables = []
    for split in ("train", "test"):
        x, y = np.atleast_2d(a[split]["outcomes"]), np.atleast_2d(b[split]["outcomes"])
        columns = {"c": (x * y).mean(-1), "acc_a": (1 + x.mean(-1)) / 2, "acc_b": (1 + y.mean(-1)) / 2}
        for what in ("loss", "spread"):
            columns |= {f"{what}_{side}": np.atleast_1d(head["train"][what]) for side, head in (("a", a), ("b", b))}
        tables.append(pd.DataFrame(columns).assign(outcomes=split))
    return pd.concat(tables, ignore_index=True)


_MEASURED = ["c", "acc_a", "acc_b", "loss_a", "loss_b", "spread_a", "spread_b"]


def _wide(table: pd.DataFrame, pairs: Sequence[Pair], tasks: dict[str, Task], recipe: Recipe) -> pd.DataFrame:
    """The four contexts of a run side by side, as `lora.train` gives them."""
    wide = table.pivot(index=["seed", "epoch", "outcomes", "rank"], columns="context", values=_MEASURED)
    wide.columns = wide.columns.map("".join)
    wide = wide.reset_index()
    heads = {f"loss_{side}{i + 1}{j + 1}": pairs[k][(i, j)[k]] for k, side in enumerate("ab") for i, j in SETTINGS}
    wide["loss"] = wide[list(heads)].sum(axis=1) / len(SETTINGS)
    for name, task in heads.items():
        # `lora.diverged` counts in units of what guessing between two classes costs.
        answers = max(tasks[task].outputs, tasks[task].options)
        wide[name] *= math.log(2) / math.log(answers)
    updates = math.ceil(recipe.examples / recipe.batch)
    lost = pd.concat([pd.Series(adapters.diverged(part, updates), part.index) for _, part in wide.groupby("seed")])
    by_head = [name for name in map(str, wide) if name.startswith(("loss_", "spread_"))]
    return adapters.measures(wide.drop(columns=by_head).assign(diverged=lost))


def train_all(
    model: str | Path,
    alice: Pair,
    bob: Pair,
    ranks: Sequence[int],
    seeds: Sequence[int],
    *,
    store: str | Path,
    data: str | Path | None = None,
    recipe: Recipe = PAPER,
) -> pd.DataFrame:
    """Train adapters in every layer of a BERT encoder with peft, one run after another, and take their outcomes.

    Classes are answered by a linear head on the first position; of a multiple choice each option is read with the
    question, the head gives it a score, and the highest one is the answer. Uses a GPU where there is one, then in
    bfloat16 where that is safe. Each rank, context and seed is kept as soon as it is done.

    Parameters, result and errors are those of `train_top`.
    """
    library("peft")
    tasks, encoder, tokenizer = _ready(model, alice, bob, ranks, seeds, data, recipe)
    coded = {
        name: {split: _code(tokenizer, task, split, recipe.length) for split in ("train", "test")}
        for name, task in tasks.items()
    }
    known = {name: [*(split.key for split in both.values()), tasks[name].outputs] for name, both in coded.items()}
    weights, tables = digest(encoder), []
    for seed, rank, (i, j) in product(map(int, seeds), map(int, ranks), SETTINGS):
        pair = alice[i], bob[j]
        key = digest("all", weights, [known[name] for name in pair], rank, i, j, seed, asdict(recipe), *_CODE)

        def compute(pair: Pair = pair, at: Setting = (i, j), rank: int = rank, seed: int = seed) -> pd.DataFrame:
            run = _Run(encoder, [tasks[name].outputs for name in pair], at, rank, seed, recipe)
            table = run.train([coded[name] for name in pair])
            return table.assign(rank=rank, seed=seed, context=f"{at[0] + 1}{at[1] + 1}")

        tables.append(stored(Path(store) / f"run-{key}.csv", compute))
    return _wide(pd.concat(tables, ignore_index=True), (alice, bob), tasks, recipe)


@dataclass(frozen=True)
class _Coded:
    """A split as token ids, (examples, options, tokens) each, its labels, and a hash of both."""

    tokens: Tokens
    labels: Array
    key: str


def _code(tokenizer: Any, task: Task, split: str, length: int) -> _Coded:
    part = getattr(task, split)
    tokens = {
        name: ids.reshape(-1, task.options, ids.shape[-1]) for name, ids in tokenize(tokenizer, part, length).items()
    }
    return _Coded(tokens, part.labels, digest(*(tokens[name] for name in sorted(tokens)), part.labels))


class _Run:
    """One encoder with adapters in all its layers and two heads, for one rank, context and seed."""

    def __init__(self, encoder: Any, outputs: Sequence[int], at: Setting, rank: int, seed: int, recipe: Recipe) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tasks, self.seed, self.recipe = list(enumerate(at)), seed, recipe
        config = library("peft").LoraConfig(
            r=rank, lora_alpha=recipe.alpha(rank), lora_dropout=recipe.dropout, target_modules=list(adapters.LAYERS)
        )
        with torch.random.fork_rng():
            heads = []
            for task, n in zip(self.tasks, outputs, strict=True):
                # A head starts alike whoever the partner is.
                torch.manual_seed(_number(seed, 0, *task))
                heads.append(torch.nn.Linear(encoder.config.hidden_size, n))
            torch.manual_seed(_number(seed, 1))
            self.encoder = library("peft").get_peft_model(copy.deepcopy(encoder), config).to(self.device)
        for module in self.encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = recipe.dropout
        self.heads = torch.nn.ModuleList(heads).to(self.device)
        trained = [p for part in (self.encoder, self.heads) for p in part.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=recipe.rate)

    def logits(self, head: int, part: _Coded, rows: Array) -> Tensor:
        """Answers of a head to some examples, (examples, classes or options)."""
        tokens = {name: ids[rows].reshape(-1, ids.shape[-1]) for name, ids in part.tokens.items()}
        longest = int(tokens["attention_mask"].sum(1).max())
        some = {name: torch.from_numpy(ids[:, :longest]).to(self.device) for name, ids in tokens.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            answers: Tensor = self.heads[head](self.encoder(**some).last_hidden_state[:, 0])
        # A multiple choice has one score for each option, other tasks have one option and a score for each class.
        return answers.float().reshape(len(rows), -1)

    def train(self, data: Sequence[dict[str, _Coded]]) -> pd.DataFrame:
        """One row per recorded epoch and kind of outcomes."""
        tables = []
        with torch.random.fork_rng():
            torch.manual_seed(_number(self.seed, 2))
            for epoch in range(self.recipe.epochs + 1):
                if epoch:
                    self.encoder.train()
                    for rows in _batches(self.seed, epoch, self.recipe):
                        self._step([(both["train"], rows[t]) for t, both in zip(self.tasks, data, strict=True)])
                if epoch in self.recipe.records():
                    self.encoder.eval()
                    looks = [{name: self._look(h, part) for name, part in both.items()} for h, both in enumerate(data)]
                    tables.append(_rows(*looks).assign(epoch=epoch))
        return pd.concat(tables, ignore_index=True)

    def _step(self, batches: Sequence[tuple[_Coded, Array]]) -> None:
        losses = [
            functional.cross_entropy(self.logits(head, part, rows), torch.from_numpy(part.labels[rows]).to(self.device))
            for head, (part, rows) in enumerate(batches)
        ]
        self.optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @torch.no_grad()
    def _look(self, head: int, part: _Coded) -> dict[str, Array]:
        rows = np.arange(len(part.labels))
        return _look(
            torch.cat([self.logits(head, part, rows[k : k + 64]).cpu() for k in range(0, len(rows), 64)]), part.labels
        )


def _number(*stream: int) -> int:
    """A seed for PyTorch from a stream of integers."""
    return int(np.random.default_rng(stream).integers(2**62))


def _ready(
    model: str | Path,
    alice: Pair,
    bob: Pair,
    ranks: Sequence[int],
    seeds: Sequence[int],
    data: str | Path | None,
    recipe: Recipe,
) -> tuple[dict[str, Task], Any, Any]:
    """The tasks by name, the encoder and its tokenizer; ValueError for whatever is wrong with what a study is given."""
    for pair in (alice, bob):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            example = "('sst2', 'commonsenseqa') and ('mrpc', 'mathqa')"
            raise ValueError(f"tasks are two by two, such as {example}; got {alice!r} and {bob!r}")
    adapters.check_numbers("ranks", ranks, 1)
    adapters.check_numbers("seeds", seeds, 0)
    names = dict.fromkeys([*alice, *bob])
    tasks = {name: read_task(name, recipe.examples, recipe.held_out, data=data) for name in names}
    encoder, tokenizer = load_encoder(model)
    _check_width(ranks, encoder.config.hidden_size)
    return tasks, encoder, tokenizer


def _check_width(ranks: Sequence[int], width: int) -> None:
    if max(ranks) > width:
        raise ValueError(
            f"a rank above the layer's width can add nothing: give ranks from 1 to {width}; got {list(ranks)}"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """More threads gain little at this size, and change the last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_FILES = (__file__, adapters.__file__, text_tasks.__file__, top_layer.__file__)
_CODE = [torch.__version__, *(digest(Path(str(file)).read_text(encoding="utf-8")) for file in _FILES)]
"""A stored table is taken for a run's own only if the same code made it."""
