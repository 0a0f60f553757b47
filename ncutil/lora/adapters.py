"""Low-rank adapters on a frozen encoder, as many as one likes at once, and S of the pairs of tasks that they learn.

LoRA (Hu et al. 2022) leaves a weight matrix W as it is and trains a product of low rank beside it, W + alpha / r * B A.
Here R adapters with ranks of their own stand on each layer: A (R, largest rank, inputs) is random, with zeros in the
rows beyond a replica's rank; B (R, outputs, largest rank) is 0, so that training starts from the frozen model. Where
both factors are 0 both gradients are 0, so a padded row stays exactly 0 and several ranks can train in one program.

A *replica* is one adapted encoder with two heads, Alice's and Bob's, trained on one pair of tasks; a *run* is the four
replicas of one rank and seed, one for each context. Explained in the chapter on the LoRA study.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from ncutil.bell import chsh
from ncutil.ground import checks
from ncutil.ground.files import cores
from ncutil.lora.extras import peft_model
from ncutil.lora.tasks import SPLITS, Array, Numbers, Tasks

LAYERS = ("query", "value")
"""Names of the linear layers that get an adapter unless others are named: those of the LoRA paper."""

RATE = 5e-3
"""Learning rate of Adam."""

ALPHA = 2.0
ALPHA_EXPONENTS = {"sqrt": 0.5, "fixed": 0.0, "linear": 1.0}
"""How alpha follows the rank, by the name of the rule: alpha = ALPHA * r**exponent. All rules agree at rank 1."""

LEARNT, CHANCE, BLOWN, CONSTANT, PATIENCE = 0.5, 0.9, 2.0, 1e-3, 480
"""What `diverged` goes by: losses in units of a guess, a standard deviation of probabilities, a number of updates."""

NARROW = 64
"""Up to this width all ranks of a seed are one program, padded; above it each rank has its own, without padding."""

CONTEXTS = ("11", "12", "21", "22")
BY_HEAD = [f"{what}_{side}{context}" for what in ("loss", "spread") for side in "ab" for context in CONTEXTS]
"""Columns that `diverged` goes by: loss, and spread of the probabilities, of each head in each training context."""

NO_CLASS = -1e4
"""Logit of a class that a task does not have, where the other head's task has more."""

Pairs = Sequence[tuple[int, int]]
"""Numbers of Alice's and of Bob's task, a pair for each replica of a rank."""


def alpha(rank: int, rule: str = "sqrt") -> float:
    """LoRA's alpha at a rank by one of `ALPHA_EXPONENTS`; an adapter's product is multiplied by alpha / rank."""
    return float(ALPHA * rank ** ALPHA_EXPONENTS[rule])


class Adapter(nn.Module):
    """R low-rank adapters on one frozen linear layer.

    A batch holds the inputs of replica 1, then those of replica 2, and so on, equally many each, so that any model of
    layers that act on single samples can run R replicas.

    - base : the linear layer, which is frozen
    - ranks : rank of each replica, from 1 to the smaller side of the layer
    - seeds : replica k draws A from `default_rng(seeds[k])`, uniform with variance 1 / (3 inputs); a smaller rank takes
      the first rows of what a larger one takes
    - alpha_rule : one of `ALPHA_EXPONENTS`
    """

    scale: Tensor

    def __init__(self, base: nn.Linear, ranks: Numbers, seeds: Sequence[Any], alpha_rule: str = "sqrt") -> None:
        super().__init__()
        out, inputs = base.weight.shape
        layer = f"ranks for a layer of {inputs} inputs and {out} outputs"
        checks.integers(layer, list(dict.fromkeys(ranks)), 1, min(out, inputs))
        if len(seeds) != len(ranks):
            raise ValueError(f"need a seed per replica; got {len(seeds)} for {len(ranks)} ranks")
        checks.known("alpha rule", alpha_rule, ALPHA_EXPONENTS)
        a = np.zeros((len(ranks), max(ranks), inputs), np.float32)
        for rows, rank, seed in zip(a, ranks, seeds, strict=True):
            rows[:rank] = np.random.default_rng(seed).uniform(-1, 1, (rank, inputs)) / math.sqrt(inputs)
        self.base, dtype = base.requires_grad_(False), base.weight.dtype
        self.a = nn.Parameter(torch.tensor(a, dtype=dtype))
        self.b = nn.Parameter(torch.zeros(len(ranks), out, max(ranks), dtype=dtype))
        scale = ALPHA * np.array(ranks, float) ** (ALPHA_EXPONENTS[alpha_rule] - 1)
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype)[:, None, None])
        self.merged: int | None = None

    @property
    def update(self) -> Tensor:
        """What each replica adds to the weight, scale * B A, (R, outputs, inputs)."""
        return self.scale * self.b @ self.a

    def forward(self, x: Tensor, product: Tensor | None = None) -> Tensor:
        """Output for x; `product` is what the frozen layer makes of x, where that is known already."""
        if self.merged is None:
            mine, (out, inputs) = x.reshape(len(self.a), -1, x.shape[-1]), self.base.weight.shape
            # The full update costs as much as a batch of this size; below it, two thin products cost less.
            if mine.shape[1] * (out + inputs) < out * inputs:
                added = mine @ self.a.mT @ (self.scale * self.b).mT
            elif product is not None:
                added = mine @ self.update.mT
            else:
                both = mine @ (self.base.weight + self.update).mT
                both = both if self.base.bias is None else both + self.base.bias
                return both.reshape(*x.shape[:-1], -1)
            return added.reshape(*x.shape[:-1], -1) + (self.base(x) if product is None else product)
        return cast(Tensor, self.base(x))

    @torch.no_grad()
    def merge(self, replica: int = 0) -> None:
        """Add one replica's update to the weight: the layer alone then computes what that replica computes."""
        if self.merged is not None:
            raise ValueError(f"replica {self.merged} is merged already; unmerge it first")
        self.base.weight += self.update[replica]
        self.merged = replica

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the merged update out again; the weight is what it was, up to round-off."""
        if self.merged is None:
            raise ValueError("no replica is merged")
        self.base.weight -= self.update[self.merged]
        self.merged = None


def adapt(
    model: nn.Module, ranks: Numbers, seeds: Numbers, alpha_rule: str = "sqrt", layers: Sequence[str] = LAYERS
) -> nn.Module:
    """A frozen copy of a model with an `Adapter` on each layer of these names, ValueError if it has none of them."""
    adapted = copy.deepcopy(model).requires_grad_(False)
    found = [name for name, module in adapted.named_modules() if name.split(".")[-1] in layers]
    if not found:
        raise ValueError(f"the model has no linear layer named {' or '.join(layers)}")
    for number, name in enumerate(found):
        parent, _, child = name.rpartition(".")
        layer = cast(nn.Linear, adapted.get_submodule(name))
        # Each layer draws an A of its own.
        own = Adapter(layer, ranks, [[seed, number] for seed in seeds], alpha_rule)
        setattr(adapted.get_submodule(parent), child, own)
    return adapted


class Replicas(nn.Module):
    """Adapted encoders with Alice's head and Bob's, for all pairs of tasks and ranks of one seed.

    Replicas are ordered by rank, then as `pairs`. A task's head starts alike whatever the other task is.

    - model : maps inputs (n, ...) to states (n, width)
    - classes : how many each of Alice's tasks has, and each of Bob's
    - pairs : of tasks, by default all
    """

    def __init__(
        self,
        model: nn.Module,
        ranks: Numbers,
        seed: int,
        classes: Sequence[Numbers] = ((2, 2), (2, 2)),
        *,
        pairs: Pairs = (),
        alpha_rule: str = "sqrt",
        layers: Sequence[str] = LAYERS,
    ) -> None:
        super().__init__()
        self.pairs = list(pairs) or [(i, j) for i in range(len(classes[0])) for j in range(len(classes[1]))]
        each = [rank for rank in ranks for _ in self.pairs]
        self.encoder = adapt(model, each, [seed] * len(each), alpha_rule, layers)
        b = next(module.b for module in reversed([*self.encoder.modules()]) if isinstance(module, Adapter))
        width, most = b.shape[1], max(map(max, classes))
        first = np.random.default_rng([seed, 0, 1]).uniform(-1, 1, (2, max(map(len, classes)), width, most))
        start = np.array([[first[0, i], first[1, j]] for i, j in self.pairs], np.float32) / math.sqrt(width)
        known = np.array([[classes[0][i], classes[1][j]] for i, j in self.pairs])
        beyond = np.where(np.arange(most) < known[..., None], 0, NO_CLASS)[:, :, None]
        self.weight = nn.Parameter(torch.tensor(np.tile(start, (len(ranks), 1, 1, 1)), dtype=b.dtype))
        self.bias = nn.Parameter(torch.zeros(len(each), 2, 1, most, dtype=b.dtype))
        self.beyond: Tensor
        self.register_buffer("beyond", torch.tensor(np.tile(beyond, (len(ranks), 1, 1, 1)), dtype=b.dtype))
        self.guess = torch.tensor(np.tile(np.log(known), (len(ranks), 1)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (R, 2 heads, samples, classes) for inputs (R, sides, samples, ...).

        There is one side if both heads see the same, else two.
        """
        count, sides, samples = inputs.shape[:3]
        states = self.encoder(inputs.flatten(0, 2)).reshape(count, sides, samples, -1)
        return cast(Tensor, states @ self.weight + self.bias + self.beyond)


class Data(NamedTuple):
    """One split: what Alice's tasks show (a tensor each, (samples, ...)) and ask, and what Bob's do."""

    inputs: tuple[list[Tensor], list[Tensor]]
    goals: tuple[list[Tensor], list[Tensor]]

    def batch(self, pairs: Pairs, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs (pairs, sides, samples, ...), one side where all tasks share their inputs; goals (pairs, 2, samples).

        These are the samples with the numbers `rows`.
        """
        goals = torch.stack([torch.stack([self.goals[0][i][rows], self.goals[1][j][rows]]) for i, j in pairs])
        one = self.inputs[0][0]
        if all(x is one for side in self.inputs for x in side):
            return one[rows].expand(len(pairs), 1, *one[rows].shape), goals
        return torch.stack([torch.stack([self.inputs[0][i][rows], self.inputs[1][j][rows]]) for i, j in pairs]), goals


def data_of(tasks: Tasks, split: str = "train", device: str = "cpu") -> Data:
    """What the tasks of each side show and ask; equal inputs are one tensor."""
    shown: list[tuple[Array, Tensor]] = []

    def tensor(array: Array) -> Tensor:
        for known, same in shown:
            if array is known or np.array_equal(array, known):
                return same
        shown.append((array, torch.as_tensor(array).to(device)))
        return shown[-1][1]

    parts = [[cast(Any, getattr(task, split)) for task in side] for side in tasks]
    alice, bob = ([tensor(part.inputs) for part in side] for side in parts)
    a, b = ([torch.as_tensor(part.labels, device=device).long() for part in side] for side in parts)
    return Data((alice, bob), (a, b))


class Record(NamedTuple):
    """After an epoch: which samples of each split each head has right, (R, 2 heads, samples), +1 or -1; on the training
    samples each head's loss, in units of a guess among its classes, and the spread of its probabilities, (R, 2)."""

    epoch: int
    right: dict[str, Array]
    loss: Array
    spread: Array


def fit(
    replicas: Replicas,
    data: Mapping[str, Data],
    seed: int,
    *,
    epochs: int,
    record: Numbers,
    rate: float = RATE,
    batch: int = 32,
    device: str = "cpu",
) -> Iterator[Record]:
    """Train replicas on the split "train" of some data, and say after some epochs what is right in every split.

    Adam without decay on adapters and heads; the loss of a replica is the sum of its two heads' mean cross-entropies.
    `seed` fixes the order of the samples. On a GPU the encoder runs in bfloat16.
    """
    replicas.to(device)
    step = stepper(replicas, data["train"], rate)
    for epoch in range(epochs + 1):
        if epoch:
            for rows in _batches(len(data["train"].goals[0][0]), batch, seed, epoch):
                step(rows)
        if epoch in record:
            yield _record(replicas, data, epoch)


class Trained(NamedTuple):
    """What `train` gives.

    - table : one row per `rank`, `seed`, recorded `epoch` and `outcomes`, "train" or "test", the samples on which a
      head that is right scores +1, else -1. Columns beside these and those of `measures` (ij is the context):
      `cij`, C = E[AB]; `acc_aij`, `acc_bij`, accuracy (0 to 1) of Alice's head of task i, of Bob's of task j; `loss`,
      training loss in units of a guess, mean over contexts of the sum over heads; `diverged`, True on all rows of a
      run that `diverged` marks by what was recorded of it
    - outcomes : by (rank, seed, epoch) and split the outcomes themselves, (2, 2, 2, samples): Alice's task, Bob's task,
      head, sample
    """

    table: pd.DataFrame
    outcomes: dict[tuple[int, int, int], dict[str, Array]]


def train(
    model: nn.Module,
    tasks: Tasks,
    ranks: Numbers,
    seeds: Numbers,
    *,
    epochs: int = 60,
    rate: float = RATE,
    batch: int = 32,
    alpha_rule: str = "sqrt",
    layers: Sequence[str] = LAYERS,
    record: Numbers | None = None,
    device: str = "cpu",
) -> Trained:
    """Train every rank, context and seed of four tasks with `fit`, and say what came out epoch by epoch.

    Programs run side by side on the machine's cores; each uses one thread.

    - model : maps inputs (n, ...) to states (n, width); its layers of the names `layers` get adapters
    - tasks : two by two, tasks[0] Alice's and tasks[1] Bob's
    - ranks : of the adapters, from 1 to the smaller side of the smallest adapted layer
    - seeds : integers from 0; a seed fixes A, the heads and the order of the samples, whatever the rank and the context
    - epochs, rate, batch : passes, learning rate, samples of each task in a step
    - alpha_rule : how alpha follows the rank, one of `ALPHA_EXPONENTS`
    - record : epochs after which outcomes are taken, 0 = before training; by default the last

    Raises ValueError for tasks that are not two by two or of different size, and settings that make no sense.
    """
    _check(tasks, ranks, seeds, epochs, rate, batch)
    kept = [epochs] if record is None else record
    checks.integers("record", kept, 0, epochs)
    checks.known("alpha rule", alpha_rule, ALPHA_EXPONENTS)
    data = {split: data_of(tasks, split, device) for split in SPLITS}
    classes = [[task.outputs for task in side] for side in tasks]
    updates = math.ceil(len(tasks[0][0].train.labels) / batch)
    adapted = [m for name, m in model.named_modules() if name.split(".")[-1] in layers]
    narrow = all(max(cast(nn.Linear, layer).weight.shape) <= NARROW for layer in adapted)
    programs = [list(ranks)] if narrow else [[rank] for rank in ranks]
    options = {"epochs": epochs, "record": kept, "rate": rate, "batch": batch, "device": device}

    def one(job: tuple[int, Numbers]) -> tuple[pd.DataFrame, dict[tuple[int, int, int], dict[str, Array]]]:
        (seed, own), frames, outcomes = job, list[pd.DataFrame](), dict[tuple[int, int, int], dict[str, Array]]()
        replicas = Replicas(model, own, seed, classes, alpha_rule=alpha_rule, layers=layers)
        for found in fit(replicas, data, seed, **cast(Any, options)):
            each = {split: right.reshape(len(own), 2, 2, 2, -1) for split, right in found.right.items()}
            outcomes |= {(r, seed, found.epoch): {s: x[k] for s, x in each.items()} for k, r in enumerate(own)}
            frames.append(_columns(found, each, own).assign(seed=seed, epoch=found.epoch))
        frame = pd.concat(frames, ignore_index=True)
        return frame.drop(columns=BY_HEAD).assign(diverged=diverged(frame, updates)), outcomes

    with one_thread(), ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        frames, outcomes = zip(*pool.map(one, product(seeds, programs)), strict=True)
    return Trained(measures(pd.concat(frames, ignore_index=True)), {at: x for own in outcomes for at, x in own.items()})


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch uses one thread while the block runs: more gain little at this size, and change the last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def no_subnormals() -> Iterator[None]:
    """Results that are almost 0 become 0 while the block runs: some processors compute with them many times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _batches(samples: int, batch: int, seed: int, epoch: int) -> Sequence[Tensor]:
    return torch.split(torch.tensor(np.random.default_rng([seed, epoch, 2]).permutation(samples)), batch)


def _cross_entropies(logits: Tensor, goals: Tensor) -> Tensor:
    """Of each answer, in nats, (..., samples), for logits (..., samples, classes)."""
    return functional.cross_entropy(logits.flatten(0, -2), goals.flatten(), reduction="none").reshape(goals.shape)


def stepper(replicas: Replicas, data: Data, rate: float) -> Callable[[Tensor], Tensor]:
    """A function that does an update of Adam on the samples with some numbers; it returns the losses (R,) before it."""
    optimizer = torch.optim.Adam([p for p in replicas.parameters() if p.requires_grad], lr=rate, fused=True)
    # Linux gives freed memory back after every update, and gets it again at the next, until one large block was freed.
    torch.empty(31 * 2**20, dtype=torch.uint8)

    @no_subnormals()
    def step(rows: Tensor) -> Tensor:
        optimizer.zero_grad()
        logits, goals = _answers(replicas, data, rows)
        losses = _cross_entropies(logits, goals).mean(-1).sum(-1)
        # Summed over replicas: the gradient of the sum is, replica by replica, the gradient of its own loss.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return losses.detach()

    return step


def _answers(replicas: Replicas, data: Data, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
    """Logits (R, 2, samples, classes) of some samples and what is right, (R, 2, samples)."""
    inputs, goals = data.batch(replicas.pairs, rows)
    times = len(replicas.bias) // len(replicas.pairs)
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.device.type == "cuda"):
        logits = replicas(inputs.repeat(times, *[1] * (inputs.ndim - 1)))
    return logits if logits.dtype == torch.float64 else logits.float(), goals.repeat(times, 1, 1)


def losses(
    model: nn.Module,
    tasks: Tasks,
    ranks: Numbers,
    seed: int,
    *,
    layers: Sequence[str] = LAYERS,
    epochs: int = 4,
    batch: int = 32,
) -> Array:
    """Loss at every update of every replica of one seed, (updates, ranks, 4 contexts), in nats; trained as in `train`.

    A model in double precision (`model.double()`) is trained in it, on inputs that are numbers of words or double too.
    """
    _check(tasks, ranks, [seed], epochs, RATE, batch, least=1)
    data, classes = data_of(tasks), [[task.outputs for task in side] for side in tasks]
    step = stepper(Replicas(model, ranks, seed, classes, layers=layers), data, RATE)
    samples = len(tasks[0][0].train.labels)
    seq = [step(rows) for epoch in range(1, epochs + 1) for rows in _batches(samples, batch, seed, epoch)]
    return torch.stack(seq).reshape(len(seq), len(ranks), 4).numpy()


def losses_peft(
    model: nn.Module,
    tasks: Tasks,
    rank: int,
    context: int,
    seed: int,
    *,
    layers: Sequence[str] = LAYERS,
    epochs: int = 4,
    batch: int = 32,
) -> Array:
    """Loss at every update of one replica, from where `losses` starts, with peft in a plain loop: a reference for it.

    `context` is 0 to 3, for 11, 12, 21, 22. Needs the extra `lora`.
    """
    _check(tasks, [rank], [seed], epochs, RATE, batch, least=1)
    if context not in range(len(CONTEXTS)):
        raise ValueError(f"context is 0 to 3, for {', '.join(CONTEXTS)}; got {context!r}")
    data, seq = data_of(tasks), []
    pairs = [divmod(context, 2)]
    ours = Replicas(
        model, [rank], seed, [[task.outputs for task in side] for side in tasks], pairs=pairs, layers=layers
    )
    encoder = peft_model(model, layers, rank, alpha(rank))
    adapters = [module for module in ours.encoder.modules() if isinstance(module, Adapter)]
    theirs = [module for name, module in encoder.named_modules() if name.split(".")[-1] in layers]
    alice, bob = (nn.Parameter(head.clone()) for head in ours.weight.detach()[0])
    biases = nn.Parameter(ours.bias.detach()[0].clone())
    with torch.no_grad():
        for adapter, layer in zip(adapters, theirs, strict=True):
            cast(Any, layer).lora_A["default"].weight.copy_(adapter.a[0])
    learning = [*(p for p in encoder.parameters() if p.requires_grad), alice, bob, biases]
    optimizer = torch.optim.Adam(learning, lr=RATE)
    for epoch in range(1, epochs + 1):
        for rows in _batches(len(tasks[0][0].train.labels), batch, seed, epoch):
            inputs, goals = data.batch(pairs, rows)
            states = [encoder(side) for side in inputs[0]]
            answers = (states[0] @ alice + biases[0], states[-1] @ bob + biases[1])
            both = zip(answers, ours.beyond[0], goals[0], strict=True)
            loss = torch.stack([functional.cross_entropy(own + beyond, goal) for own, beyond, goal in both]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seq.append(loss.item())
    return np.array(seq)


@torch.no_grad()
def _record(replicas: Replicas, data: Mapping[str, Data], epoch: int) -> Record:
    right, loss, spread = {}, np.empty(0), np.empty(0)
    for split, part in data.items():
        blocks = torch.split(torch.arange(len(part.goals[0][0])), 256)
        each = [_answers(replicas, part, rows) for rows in blocks]
        logits, goals = (torch.cat([block[k] for block in each], 2) for k in (0, 1))
        right[split] = torch.where(logits.argmax(-1) == goals, 1, -1).to(torch.int8).cpu().numpy()
        if split == "train":
            loss = (_cross_entropies(logits, goals).mean(-1).cpu() / replicas.guess).numpy()
            spread = logits.softmax(-1).std(2).amax(-1).cpu().numpy()
    return Record(epoch, right, loss, spread)


def _columns(found: Record, each: Mapping[str, Array], ranks: Numbers) -> pd.DataFrame:
    """One row per rank and split, with the columns `BY_HEAD` in both; `each` is (ranks, 2, 2, 2, samples)."""
    by_head = {
        f"{what}_{side}": x[:, k]
        for what, x in (("loss", found.loss), ("spread", found.spread))
        for k, side in enumerate("ab")
    }
    frames = []
    for split, right in each.items():
        accuracy = (1 + right.mean(-1)) / 2
        columns = {"c": right.prod(-2).mean(-1), "acc_a": accuracy[..., 0], "acc_b": accuracy[..., 1]} | by_head
        table: dict[str, Any] = {"rank": list(ranks), "outcomes": split}
        for name, values in columns.items():
            table |= dict(zip([name + context for context in CONTEXTS], values.reshape(-1, 4).T, strict=True))
        frames.append(pd.DataFrame(table).assign(loss=found.loss.sum(-1).reshape(-1, 4).mean(1)))
    return pd.concat(frames, ignore_index=True)


def diverged(frame: pd.DataFrame, updates: int) -> Array:
    """Which runs of one seed's records have diverged, True on all rows of their rank; `updates` are those of an epoch.

    The unit of losses is what guessing among a task's classes costs. One head in one context is enough, if at a
    recorded epoch after the start, on the training samples, it

    - has a loss that is not finite, or above 2: far worse than a guess;
    - has forgotten: a loss above 0.9 after one below half;
    - has probabilities that do not vary from input to input;
    - is dead: a loss above 0.9 at the last recorded epoch, and 480 updates or more were made by then.

    Always giving the commoner of two labels costs 0.9 or more where it is that of 68 % or less: then it is caught.
    """
    lost: dict[int, bool] = {}
    for rank, part in frame.query("outcomes == 'train' and epoch > 0").sort_values("epoch").groupby("rank"):
        losses, spread = part[BY_HEAD[:8]].to_numpy(), part[BY_HEAD[8:]].to_numpy()
        learnt = np.minimum.accumulate(losses, axis=0) < LEARNT
        bad = ~(losses < BLOWN) | (learnt & (losses > CHANCE)) | ~(spread > CONSTANT)
        dead = part.epoch.iloc[-1] * updates >= PATIENCE and (losses[-1] > CHANCE).any()
        lost[cast(int, rank)] = bool(bad.any() or dead)
    return frame["rank"].map(lambda rank: lost.get(rank, False)).to_numpy(bool)


def measures(frame: pd.DataFrame) -> pd.DataFrame:
    """Add to a table with `c..`, `acc_a..`, `acc_b..` what follows from them.

    That is `s`; `s0`, the S of independent heads with the same accuracies; `s_odd`, the largest of the 8 forms;
    `delta`, the signalling; `measure`, Contextuality-by-Default, contextual where positive; `accuracy`, the mean over
    contexts and heads. ValueError if a column is missing.

    >>> row = {f"c{k}": [1.0] for k in CONTEXTS} | {f"acc_{x}{k}": [1.0] for x in "ab" for k in CONTEXTS}
    >>> float(measures(pd.DataFrame(row)).s[0])
    2.0
    """
    wanted = [f"{name}{context}" for name in ("c", "acc_a", "acc_b") for context in CONTEXTS]
    missing = [name for name in wanted if name not in frame]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, frame))}")
    c, a, b = np.moveaxis(frame[wanted].to_numpy(float).reshape(-1, 3, 2, 2), 1, 0)
    mean_a, mean_b = 2 * a - 1, 2 * b - 1
    bell = chsh.contextuality(chsh.from_moments(c, mean_a, mean_b))
    null, accuracy = chsh.independent_heads(mean_a, mean_b), (a.mean((-1, -2)) + b.mean((-1, -2))) / 2
    return frame.assign(s=bell.s, s0=null, s_odd=bell.s_odd, delta=bell.delta, measure=bell.measure, accuracy=accuracy)


def _check(tasks: Tasks, ranks: Numbers, seeds: Numbers, epochs: int, rate: float, batch: int, least: int = 0) -> None:
    """`least` is the smallest number of epochs."""
    sides = tasks if isinstance(tasks, (tuple, list)) else [tasks]
    kinds = [[type(x).__name__ for x in side] if isinstance(side, (tuple, list)) else repr(side) for side in sides]
    if kinds != [["Task", "Task"]] * 2:
        raise ValueError(f"need tasks, two by two, Alice's two and Bob's two; got {kinds}")
    four = [task for side in tasks for task in side]
    for task in four:
        shown = [np.unique(split.labels) for split in (task.train, task.test)]
        if any(not np.isin(labels, range(task.outputs)).all() for labels in shown):
            raise ValueError(f"labels of {task.name} are whole numbers from 0 to {task.outputs - 1}; got {shown}")
    sizes = {(len(task.train.labels), len(task.test.labels)) for task in four}
    shapes = {tuple(split.inputs.shape[1:]) for task in four for split in (task.train, task.test)}
    if len(sizes) > 1 or len(shapes) > 1:
        got = f"{sorted(sizes)} samples to train and test on, and inputs of shape {sorted(shapes)}"
        raise ValueError(f"the four tasks need equally many samples, and inputs of one shape; got {got}")
    checks.integers("ranks", ranks, 1)
    checks.integers("seeds", seeds, 0)
    checks.integer(least, epochs=epochs)
    checks.integer(1, batch=batch)
    checks.positive(rate=rate)
