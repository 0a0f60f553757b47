"""LoRA on real encoders: a head for Alice's task and one for Bob's, on one encoder, a run for each pair of tasks.

`train_top` adapts the last layer only, all ranks and pairs at once, on states that are computed once and kept on disk.
`train_all` adapts every layer with peft, one run after another, in mixed precision on a GPU. Both adapt query and
value, and continue from what is finished after an interruption. Explained in the chapter on the LoRA study.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from ncutil.ground import checks, staleness
from ncutil.lora import adapters
from ncutil.lora.encoders import States, Tokens, fingerprint, frozen_states, load_encoder, tokenize
from ncutil.lora.extras import library, peft_model
from ncutil.lora.tables import cached
from ncutil.lora.tasks import SPLITS, Array, Numbers, Task
from ncutil.lora.text_tasks import as_yes_no, read_task
from ncutil.lora.top_layer import SETTINGS, Setting, TopLayer, cross_entropies

Pair = tuple[str, str]
Named = dict[str, Task]
Folder = str | Path
Coded = dict[str, Tokens]
"""Tokens and labels of each split."""


@dataclass(frozen=True)
class Recipe:
    """Every choice of a study. The paper's own are not known: all of these are ours.

    - examples, held_out : training and test examples a task, a fixed random subset of each data set
    - length : tokens that are kept of a text
    - epochs, every : passes over the training examples; passes between two records of the outcomes
    - batch : examples of each of the two tasks in a step
    - rate : learning rate of Adam, constant, without decay
    - dropout : before the adapters and inside the encoder; `train_top` has none
    """

    examples: int
    held_out: int
    length: int
    epochs: int
    every: int
    batch: int
    rate: float
    dropout: float = 0.0

    def __post_init__(self) -> None:
        counts = (self.examples, self.held_out, self.length, self.epochs, self.every, self.batch)
        if min(counts) < 1 or not self.rate > 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"a recipe needs positive numbers and a dropout from 0 to below 1; got {self}")

    def records(self) -> list[int]:
        """Epochs after which outcomes are taken: before training, every so often, and the last."""
        return sorted({*range(0, self.epochs + 1, self.every), self.epochs})


TEXT = Recipe(examples=1000, held_out=500, length=40, epochs=15, every=3, batch=16, rate=1e-3)
"""For `train_top`: a sentence encoder on two cores."""

PAPER = Recipe(examples=3000, held_out=400, length=128, epochs=10, every=1, batch=32, rate=2e-4, dropout=0.1)
"""For `train_all`: BERT on a GPU."""


@dataclass(frozen=True)
class Group:
    """An encoder (see `load_encoder`), Alice's two tasks and Bob's (`read_task`), and how alpha follows the rank."""

    model: str | Path
    alice: Pair
    bob: Pair
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
"""The groups for `train_top`: an easy and a hard task each, or all of them hard; and the first with another rule."""

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
    """Every group of a study, with a column `group` and one, `tie`, for the rule by which alpha follows the rank.

    - study : "text", `TEXT_GROUPS` by `train_top`, or "paper", `GROUPS` by `train_all`
    - ranks, seeds, store, data : as in `train_top`
    - models : folder that holds the encoders, each in a folder of its name; by default the package or the hub
    - examples : to train on of each task, and to hold out at most; by default what the recipe says
    - dry : read every model and data set, train nothing, and give an empty table

    Raises what `train_top` raises before anything is computed.
    """
    checks.known("study", study, ("text", "paper"))
    train, recipe, groups = (train_top, TEXT, TEXT_GROUPS) if study == "text" else (train_all, PAPER, GROUPS)
    if examples:
        recipe = replace(recipe, examples=examples, held_out=min(examples, recipe.held_out))
    if models:
        groups = {name: replace(g, model=Path(models).expanduser() / g.model) for name, g in groups.items()}
    for group in groups.values():
        _read(group, ranks, seeds, data, recipe)
    if dry:
        return pd.DataFrame()
    run = partial(train, ranks=ranks, seeds=seeds, store=store, data=data, recipe=recipe)
    frames = [run(group).assign(group=name, tie=group.alpha_rule) for name, group in groups.items()]
    return pd.concat(frames, ignore_index=True)


def train_top(
    group: Group, ranks: Numbers, seeds: Numbers, *, store: Folder, data: Folder | None = None, recipe: Recipe = TEXT
) -> pd.DataFrame:
    """Train adapters in the last layer of a BERT encoder, all ranks and contexts at once, and take their outcomes.

    Multiple choices are asked as "is this the right answer?", so that chance is 1/2 everywhere. The heads read the
    first position. A seed draws the adapters, the heads and the order of the examples, whatever the rank and the
    context; its table is kept as soon as it is done, in `store`, as are the frozen layers' states.

    Ranks are from 1 to the encoder's width, seeds from 0; for `data` see `text_tasks.read_task`. Returns one row per
    run, recorded epoch and kind of outcomes, with the columns of `adapters.train`. Raises ValueError for ranks out of
    range, and for what is wrong with the model or the data sets.
    """
    found, encoder, tokenizer = _read(group, ranks, seeds, data, recipe)
    tasks = {name: as_yes_no(task) for name, task in found.items()}
    splits = {(name, split): getattr(task, split) for name, task in tasks.items() for split in SPLITS}
    states = frozen_states(encoder, tokenizer, splits, recipe.length, Path(store))
    inputs = [(*at, state.key, fingerprint({"labels": state.labels})) for at, state in states.items()]
    layer, base, tables = encoder.encoder.layer[-1], staleness.key(modules=[__name__]), []
    with adapters.one_thread():
        for seed in map(int, seeds):
            parameters = [group.alice, group.bob, group.alpha_rule, inputs, [*map(int, ranks)], seed, asdict(recipe)]
            compute = partial(_train_top, layer, group, tasks, states, ranks, seed, recipe)
            tables.append(cached(Path(store) / "top", {**base, "parameters": parameters}, compute))
    return _wide(pd.concat(tables, ignore_index=True), group, tasks, recipe)


def _train_top(
    layer: Any, group: Group, tasks: Named, states: dict[Pair, States], ranks: Numbers, seed: int, recipe: Recipe
) -> pd.DataFrame:
    """One row per rank, context, recorded epoch and kind of outcomes."""
    names = {(side, i): (group.alice, group.bob)[side][i] for side, i in SETTINGS}
    alphas = [adapters.alpha(rank, group.alpha_rule) for rank in ranks]
    top = TopLayer(layer, {at: tasks[name].outputs for at, name in names.items()}, ranks, alphas, seed, recipe.rate)
    tables = []
    for epoch in range(recipe.epochs + 1):
        for rows in _batches(seed, epoch, recipe) if epoch else ():
            top.step({at: states[name, "train"].batch(rows[at]) for at, name in names.items()})
        if epoch not in recipe.records():
            continue
        # Logits have an axis for the partner's setting.
        logits = {(*at, split): top.answers(*at, states[name, split]) for at, name in names.items() for split in SPLITS}
        for i, j in SETTINGS:
            heads = (
                {s: _judged(logits[side, own, s][:, other], states[names[side, own], s].labels) for s in SPLITS}
                for side, own, other in ((0, i, j), (1, j, i))
            )
            found = _rows(*heads).assign(rank=[*ranks] * 2, seed=seed, context=f"{i + 1}{j + 1}", epoch=epoch)
            tables.append(found)
    return pd.concat(tables, ignore_index=True)


def _batches(seed: int, epoch: int, recipe: Recipe) -> Iterator[dict[Setting, Array]]:
    """Rows of each task's batches, by (side, setting), in an order that ranks and partners share."""
    orders = {task: np.random.default_rng([seed, 3, epoch, *task]).permutation(recipe.examples) for task in SETTINGS}
    for first in range(0, recipe.examples, recipe.batch):
        yield {task: order[first : first + recipe.batch] for task, order in orders.items()}


def _judged(logits: Tensor, labels: Array) -> dict[str, Array]:
    """Outcomes of replicas (replicas, examples), +1 where right; their mean loss, and how much logits vary."""
    goals = torch.from_numpy(labels)
    centred = logits - logits.mean(-1, keepdim=True)
    return {
        "outcomes": torch.where(logits.argmax(-1) == goals, 1, -1).numpy(),
        "loss": cross_entropies(logits, goals).mean(-1).numpy(),
        "spread": centred.std(-2).amax(-1).numpy(),
    }


def _rows(alice: Coded, bob: Coded) -> pd.DataFrame:
    """What both heads of a context did on training and on test examples, a row per replica and kind of outcomes.

    Example k of the one task is paired with example k of the other. Data sets of one length are shuffled alike, so
    a translation stays with its text; any other pairing is arbitrary, and C then holds what accuracy gives.
    """
    trained = {f"{what}_{k}": x["train"][what] for what in ("loss", "spread") for k, x in (("a", alice), ("b", bob))}
    tables = []
    for split in SPLITS:
        a, b = alice[split]["outcomes"], bob[split]["outcomes"]
        columns = {"c": (a * b).mean(-1), "acc_a": (1 + a.mean(-1)) / 2, "acc_b": (1 + b.mean(-1)) / 2, **trained}
        tables.append(pd.DataFrame(columns).assign(outcomes=split))
    return pd.concat(tables, ignore_index=True)


def _wide(table: pd.DataFrame, group: Group, tasks: Named, recipe: Recipe) -> pd.DataFrame:
    """The four contexts of a run side by side, as `adapters.train` gives them."""
    measured = ["c", "acc_a", "acc_b", "loss_a", "loss_b", "spread_a", "spread_b"]
    wide = table.pivot(index=["seed", "epoch", "outcomes", "rank"], columns="context", values=measured)
    wide.columns = wide.columns.map("".join)
    wide = wide.reset_index()
    sides = (("a", group.alice), ("b", group.bob))
    heads = {f"loss_{x}{i + 1}{j + 1}": own[(i, j)[k]] for k, (x, own) in enumerate(sides) for i, j in SETTINGS}
    wide["loss"] = wide[list(heads)].sum(axis=1) / len(SETTINGS)
    for column, name in heads.items():
        # `diverged` counts in units of what guessing between two classes costs.
        wide[column] *= math.log(2) / math.log(max(tasks[name].outputs, tasks[name].options))
    updates = math.ceil(recipe.examples / recipe.batch)
    lost = pd.concat([pd.Series(adapters.diverged(part, updates), part.index) for _, part in wide.groupby("seed")])
    return adapters.measures(wide.drop(columns=adapters.BY_HEAD).assign(diverged=lost))


def train_all(
    group: Group, ranks: Numbers, seeds: Numbers, *, store: Folder, data: Folder | None = None, recipe: Recipe = PAPER
) -> pd.DataFrame:
    """Train adapters in every layer of a BERT encoder with peft, one run after another, and take their outcomes.

    Classes are answered by a linear head on the first position; of a multiple choice each option is read with the
    question, the head gives it a score, and the highest one is the answer. Uses a GPU where there is one, then in
    bfloat16 where that is safe. Each rank, context and seed is kept as soon as it is done. All else as in `train_top`.
    """
    library("peft")
    tasks, encoder, tokenizer = _read(group, ranks, seeds, data, recipe)
    coded = {n: {s: _code(tokenizer, task, s, recipe.length) for s in SPLITS} for n, task in tasks.items()}
    inputs = {n: [*map(fingerprint, both.values()), tasks[n].outputs] for n, both in coded.items()}
    weights, base, tables = fingerprint(encoder.state_dict()), staleness.key(modules=[__name__]), []
    for seed, rank, (i, j) in product(map(int, seeds), map(int, ranks), SETTINGS):
        pair, alpha = (group.alice[i], group.bob[j]), adapters.alpha(rank, group.alpha_rule)
        parameters = [weights, [inputs[name] for name in pair], rank, alpha, i, j, seed, asdict(recipe)]
        data_of, outputs = [coded[name] for name in pair], [tasks[name].outputs for name in pair]
        compute = partial(_train_pair, encoder, data_of, outputs, (i, j), rank, alpha, seed, recipe)
        tables.append(cached(Path(store) / "run", {**base, "parameters": parameters}, compute))
    return _wide(pd.concat(tables, ignore_index=True), group, tasks, recipe)


def _code(tokenizer: Any, task: Task, split: str, length: int) -> Tokens:
    """A split as token ids, (examples, options, tokens) each, with its `labels`."""
    part = getattr(task, split)
    tokens = tokenize(tokenizer, part, length).items()
    return {name: ids.reshape(-1, task.options, ids.shape[-1]) for name, ids in tokens} | {"labels": part.labels}


def _train_pair(
    encoder: Any, data: list[Coded], outputs: list[int], at: Setting, rank: int, alpha: float, seed: int, recipe: Recipe
) -> pd.DataFrame:
    """One encoder with adapters in all its layers and two heads: one row per recorded epoch and kind of outcomes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tasks, width, heads, tables = list(enumerate(at)), encoder.config.hidden_size, torch.nn.ModuleList(), []

    def reseed(*stream: int) -> None:
        torch.manual_seed(int(np.random.default_rng([seed, *stream]).integers(2**62)))

    def logits(head: int, part: Tokens, rows: Array) -> Tensor:
        """Answers of a head to some examples, (examples, classes or options)."""
        tokens = {name: x[rows].reshape(-1, x.shape[-1]) for name, x in part.items() if name != "labels"}
        longest = int(tokens["attention_mask"].sum(1).max())
        some = {name: torch.from_numpy(ids[:, :longest]).to(device) for name, ids in tokens.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            answers: Tensor = heads[head](adapted(**some).last_hidden_state[:, 0])
        # A multiple choice has one score for each option, other tasks have one option and a score for each class.
        return answers.float().reshape(len(rows), -1)

    def loss(head: int, rows: Array) -> Tensor:
        part = data[head]["train"]
        return functional.cross_entropy(logits(head, part, rows), torch.from_numpy(part["labels"][rows]).to(device))

    @torch.no_grad()
    def judged(head: int, part: Tokens) -> dict[str, Array]:
        parts = np.array_split(np.arange(len(part["labels"])), range(64, len(part["labels"]), 64))
        return _judged(torch.cat([logits(head, part, rows).cpu() for rows in parts])[None], part["labels"])

    with torch.random.fork_rng():
        for task, n in zip(tasks, outputs, strict=True):
            reseed(0, *task)  # a head starts alike whoever the partner is
            heads.append(torch.nn.Linear(width, n))
        reseed(1)
        adapted = peft_model(encoder, adapters.LAYERS, rank, alpha, recipe.dropout).to(device)
        for module in adapted.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = recipe.dropout
        heads.to(device)
        weights = [p for part in (adapted, heads) for p in part.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=recipe.rate)
        reseed(2)
        for epoch in range(recipe.epochs + 1):
            adapted.train()
            for rows in _batches(seed, epoch, recipe) if epoch else ():
                losses = [loss(head, rows[head, setting]) for head, setting in tasks]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if epoch in recipe.records():
                adapted.eval()
                alice, bob = ({s: judged(head, both[s]) for s in SPLITS} for head, both in enumerate(data))
                tables.append(_rows(alice, bob).assign(epoch=epoch))
    return pd.concat(tables, ignore_index=True).assign(rank=rank, seed=seed, context=f"{at[0] + 1}{at[1] + 1}")


def _read(group: Group, ranks: Numbers, seeds: Numbers, data: Folder | None, recipe: Recipe) -> tuple[Named, Any, Any]:
    """The tasks by name, the encoder and its tokenizer; ValueError for whatever is wrong with what a study is given."""
    checks.integers("ranks", ranks, 1)
    checks.integers("seeds", seeds, 0)
    names = dict.fromkeys([*group.alice, *group.bob])
    tasks = {name: read_task(name, recipe.examples, recipe.held_out, data=data) for name in names}
    encoder, tokenizer = load_encoder(group.model)
    width = encoder.config.hidden_size
    if max(ranks) > width:
        above = "a rank above the layer's width can add nothing"
        raise ValueError(f"{above}: give ranks from 1 to {width}; got {list(ranks)}")
    return tasks, encoder, tokenizer
