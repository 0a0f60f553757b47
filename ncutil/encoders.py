"""LoRA on real encoders: a head for Alice's task and one for Bob's, on one encoder, a run for each pair of tasks.

`train_top` adapts the last layer only: everything below is frozen, computed once and kept on disk, and all ranks and
pairs train at once. `train_all` adapts every layer with peft, one run after another, in mixed precision on a GPU. Both
adapt query and value, keep what is finished, and take up where a killed run stopped. Their tables have the columns of
`ncutil.lora.train`. Explained in the chapter on the LoRA study.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ncutil import lora
from ncutil.texts import Split, Task, as_yes_no, digest, load_encoder, read_task, stored, tokenize, whole

Array = NDArray[Any]
Pair = tuple[str, str]

SETTINGS = tuple(product((0, 1), repeat=2))
"""Alice's setting and Bob's in the contexts 11, 12, 21, 22; also (side, setting) of the four tasks."""


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
        if self.tie not in lora.TIES:
            raise ValueError(f"unknown tie {self.tie!r}; known: {', '.join(lora.TIES)}")

    def alpha(self, rank: int) -> float:
        """LoRA's alpha at a rank; the adapter's product is multiplied by alpha / rank.

        >>> [TEXT.alpha(rank) for rank in (1, 4, 16)]
        [2.0, 4.0, 8.0]
        """
        return float(lora.ALPHA * rank ** lora.TIES[self.tie])

    def records(self) -> list[int]:
        """Epochs after which outcomes are taken: before training, every so often, and the last."""
        return sorted({*range(0, self.epochs + 1, self.every), self.epochs})


TEXT = Recipe(examples=1000, held_out=500, length=40, epochs=15, every=3, batch=16, rate=1e-3)
"""For `train_top`: a sentence encoder on two cores."""

PAPER = Recipe(examples=3000, held_out=400, length=128, epochs=10, every=1, batch=32, rate=2e-4, dropout=0.1)
"""For `train_all`: BERT on a GPU."""

GROUPS: dict[str, tuple[str, Pair, Pair]] = {
    "mixed": ("bert-base-uncased", ("sst2", "commonsenseqa"), ("mrpc", "mathqa")),
    "multilingual": ("bert-base-multilingual-cased", ("pawsx_en", "pawsx_fr"), ("pawsx_de", "pawsx_es")),
}
"""The paper's two groups: model, Alice's tasks, Bob's. The models and data sets are the paper's, who has which is ours."""


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
    tasks = {name: as_yes_no(task) for name, task in _tasks(alice, bob, ranks, seeds, data, recipe).items()}
    encoder, tokenizer = load_encoder(model)
    _check_width(ranks, encoder.config.hidden_size)
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
    return _wide(pd.concat(frames, ignore_index=True), (alice, bob), tasks)


@dataclass(frozen=True)
class States:
    """What the frozen layers make of a split's texts.

    hidden : (texts, tokens, width), what goes into the last layer; keys, values : the same shape, what the last layer
    makes of it before any adapter; mask : (texts, tokens); labels : (texts,); key : name of the states on disk
    """

    hidden: Array
    keys: Array
    values: Array
    mask: Array
    labels: Array
    key: str

    def batch(self, rows: Array) -> tuple[Tensor, ...]:
        """Hidden, keys, values, mask and labels of some rows, without columns that are padding in all of them."""
        longest = int(self.mask[rows].sum(1).max())
        cut = (torch.from_numpy(a[rows, :longest]) for a in (self.hidden, self.keys, self.values, self.mask))
        return (*cut, torch.from_numpy(self.labels[rows]))


def frozen_states(
    encoder: Any, tokenizer: Any, split: Split, length: int, store: Path, weights: str | None = None
) -> States:
    """The frozen layers' states of every text of a split, read from `store`, or computed and put there.

    The file's name is a hash of the encoder's weights and of the tokens: another model's or text's states are never
    taken for these. About 60 MB for 1,000 texts of 40 tokens at width 384.
    """
    tokens = tokenize(tokenizer, split, length)
    key = digest("states", weights or digest(encoder), *(tokens[name] for name in sorted(tokens)))
    path = store / f"states-{key}.npy"

    def compute(first: int) -> Array:
        some = {name: torch.from_numpy(ids[first : first + 64]) for name, ids in tokens.items()}
        hidden: Array = encoder(**some, output_hidden_states=True).hidden_states[-2].numpy()
        return hidden

    at = encoder.encoder.layer[-1].attention.self
    with torch.inference_mode():
        if not path.is_file():
            parts = [compute(first) for first in range(0, len(tokens["input_ids"]), 64)]
            whole(path, lambda part: np.save(part, np.concatenate(parts)))
        hidden = np.load(path)
        keys, values = (layer(torch.from_numpy(hidden)).numpy() for layer in (at.key, at.value))
    return States(hidden, keys, values, tokens["attention_mask"] > 0, split.labels, key)


class TopLayer:
    """Adapters in the last layer of a BERT and heads on it, for all ranks and contexts of one seed at once.

    Factors have shape (ranks, 2, 2, ...), Alice's setting and Bob's on the middle axes, and are padded with zeros to the
    largest rank as in `ncutil.lora`. A head, and the adapters of any rank, start alike in every context.

    Parameters
    ----------
    layer : the frozen last layer, a BertLayer of transformers
    outputs : classes of Alice's two tasks and of Bob's two
    """

    def __init__(self, layer: Any, outputs: Sequence[Sequence[int]], ranks: Sequence[int], seed: int, recipe: Recipe):
        self.layer, self.ranks, at = layer, list(ranks), layer.attention.self
        self.heads, width, most = at.num_attention_heads, at.query.in_features, max(ranks)

        def draw(*shape: int, stream: Sequence[int]) -> Tensor:
            drawn = np.random.default_rng([seed, *stream]).uniform(-1, 1, shape) / math.sqrt(width)
            return torch.tensor(drawn, dtype=torch.float32)

        used = (torch.arange(most) < torch.tensor(self.ranks)[:, None]).float()[:, None, None, :, None]
        first = {name: draw(most, width, stream=[k]) for k, name in enumerate(lora.LAYERS)}
        self.a = {name: (used * values).repeat(1, 2, 2, 1, 1) for name, values in first.items()}
        self.b = {name: torch.zeros(len(ranks), 2, 2, width, most) for name in first}
        scale = [recipe.alpha(rank) / rank for rank in ranks]
        self.scale = torch.tensor(scale).repeat_interleave(2)[:, None, None]
        self.readouts = {
            (side, i): (
                draw(outputs[side][i], width, stream=[2, side, i]).repeat(len(ranks), 2, 1, 1),
                torch.zeros(len(ranks), 2, 1, outputs[side][i]),
            )
            for side, i in SETTINGS
        }
        trained = [*self.a.values(), *self.b.values(), *(x for pair in self.readouts.values() for x in pair)]
        self.optimizer = torch.optim.Adam([x.requires_grad_() for x in trained], lr=recipe.rate, fused=True)

    def logits(self, side: int, setting: int, batch: Sequence[Tensor]) -> Tensor:
        """Answers of Alice's (side 0) or Bob's head, (ranks, settings of the partner, examples, classes)."""
        hidden, keys, values, mask = batch[:4]
        own = {
            name: [
                (x[name][:, setting] if side == 0 else x[name][:, :, setting]).flatten(0, 1) for x in (self.a, self.b)
            ]
            for name in lora.LAYERS
        }

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1))

        # Only the first position is read after the attention, so it alone asks.
        first, (a, b) = hidden[:, 0], own["query"]
        asked = self.layer.attention.self.query(first) + self.scale * torch.einsum("nd,rkd->rnk", first, a) @ b.mT
        scores = torch.einsum("rnhe,nthe->nhrt", split(asked), split(keys)) / math.sqrt(asked.shape[-1] // self.heads)
        attention = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(-1)
        # Averaging and multiplying commute: B is applied to the average of what A gives at each position.
        a, b = own["value"]
        inner = torch.einsum("nhrt,ntrk->rhnk", attention, torch.einsum("ntd,rkd->ntrk", hidden, a))
        added = inner @ b.unflatten(1, (self.heads, -1)).mT
        seen = torch.einsum("nhrt,nthe->rnhe", attention, split(values)).flatten(-2)
        seen = seen + self.scale * added.transpose(1, 2).flatten(-2)
        out = self.layer.feed_forward_chunk(self.layer.attention.output(seen, first))
        weight, bias = self.readouts[side, setting]
        return out.unflatten(0, (-1, 2)) @ weight.mT + bias

    def step(self, batches: dict[tuple[int, int], Sequence[Tensor]]) -> Tensor:
        """One update from a batch of each task, by (side, setting); the losses before it, (ranks, 2, 2), in nats."""
        losses = {at: _losses(self.logits(*at, batch), batch[-1]).mean(-1) for at, batch in batches.items()}
        alice, bob = (torch.stack([losses[side, i] for i in (0, 1)], 1 + side) for side in (0, 1))
        self.optimizer.zero_grad()
        # The sum, not the mean: each replica's gradient is that of its own run.
        (alice + bob).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return (alice + bob).detach()

    @torch.no_grad()
    def answers(self, side: int, setting: int, states: States) -> Tensor:
        """Logits on all examples of a split, (ranks, settings of the partner, examples, classes)."""
        rows = np.arange(len(states.labels))
        parts = [self.logits(side, setting, states.batch(rows[k : k + 64])) for k in range(0, len(rows), 64)]
        return torch.cat(parts, 2)


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
    top = TopLayer(layer, [[tasks[name].outputs for name in pair] for pair in pairs], ranks, seed, recipe)
    at = {(side, i): pairs[side][i] for side, i in SETTINGS}
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


def _batches(seed: int, epoch: int, recipe: Recipe) -> Iterator[dict[tuple[int, int], Array]]:
    """Rows of each task's batches, by (side, setting), in an order that ranks and partners share."""
    orders = {task: np.random.default_rng([seed, 3, epoch, *task]).permutation(recipe.examples) for task in SETTINGS}
    for first in range(0, recipe.examples, recipe.batch):
        yield {task: order[first : first + recipe.batch] for task, order in orders.items()}


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each answer in nats, the shape of logits without its last axis."""
    every = labels.expand(logits.shape[:-1])
    return functional.cross_entropy(logits.flatten(0, -2), every.flatten(), reduction="none").reshape(every.shape)


def _look(logits: Tensor, labels: Array) -> dict[str, Array]:
    """Outcomes (..., examples), +1 where right; the mean loss and how much the answers differ between examples (...)."""
    goals = torch.from_numpy(labels)
    centred = logits - logits.mean(-1, keepdim=True)
    return {
        "outcomes": torch.where(logits.argmax(-1) == goals, 1, -1).numpy(),
        "loss": _losses(logits, goals).mean(-1).numpy(),
        "spread": centred.std(-2).amax(-1).numpy(),
    }


def _rows(a: dict[str, dict[str, Array]], b: dict[str, dict[str, Array]]) -> pd.DataFrame:
    """What both heads of a context did on training and on test examples, a row per replica and kind of outcomes.

    Example k of the one task is paired with example k of the other: an arbitrary pairing, so C holds what accuracy
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


def _wide(table: pd.DataFrame, pairs: Sequence[Pair], tasks: dict[str, Task]) -> pd.DataFrame:
    """The four contexts of a run side by side, as `lora.train` gives them."""
    keys = ["rank", "seed", "epoch", "outcomes"]
    wide = table.pivot(index=keys, columns="context", values=_MEASURED)
    wide.columns = [f"{name}{context}" for name, context in wide.columns]
    wide = wide.reset_index().sort_values(["seed", "epoch", "outcomes", "rank"], ignore_index=True)
    losses = [f"loss_{side}{context}" for side in "ab" for context in lora.CONTEXTS]
    wide["loss"] = wide[losses].sum(axis=1) / 4
    # `lora.diverged` counts in units of what guessing between two classes costs.
    for name in losses:
        task = tasks[pairs["ab".index(name[5])][int(name[6 if name[5] == "a" else 7]) - 1]]
        wide[name] *= math.log(2) / math.log(task.outputs if task.outputs > 1 else task.options)
    lost = pd.concat([pd.Series(lora.diverged(part), part.index) for _, part in wide.groupby("seed")])
    by_head = [name for name in wide if name.startswith(("loss_", "spread_"))]
    return lora.measures(wide.drop(columns=by_head).assign(diverged=lost))


def _tasks(
    alice: Pair, bob: Pair, ranks: Sequence[int], seeds: Sequence[int], data: str | Path | None, recipe: Recipe
) -> dict[str, Task]:
    for pair in (alice, bob):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            example = "('sst2', 'commonsenseqa') and ('mrpc', 'mathqa')"
            raise ValueError(f"tasks are two by two, such as {example}; got {alice!r} and {bob!r}")
    for what, given in (("ranks", ranks), ("seeds", seeds)):
        if not len(given) or len(set(given)) < len(given) or min(given) < (what == "ranks"):
            raise ValueError(f"need {what}, each once, none below {int(what == 'ranks')}; got {list(given)}")
    names = dict.fromkeys([*alice, *bob])
    return {name: read_task(name, recipe.examples, recipe.held_out, data=data) for name in names}


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


_CODE = [torch.__version__, *(digest(Path(str(m)).read_text(encoding="utf-8")) for m in (__file__, lora.__file__))]
"""A stored table is taken for a run's own only if the same code made it."""
