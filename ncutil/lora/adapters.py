"""Low-rank adapters on a frozen encoder, as many as one likes at once, and S of the pairs of tasks that they learn.

LoRA (Hu et al. 2022) leaves a weight matrix W as it is and trains a product of low rank beside it, W + alpha / r * B A.
Here R adapters with ranks of their own stand on each layer: A (R, largest rank, inputs) is random, with zeros in the
rows beyond a replica's rank; B (R, outputs, largest rank) is 0, so that training starts from the frozen model. Where
both factors are 0 both gradients are 0, so a padded row stays exactly 0 and all ranks train in one program.

A *replica* is one adapted encoder with two heads, Alice's and Bob's, trained on the pair of tasks of one context; a
*run* is the four replicas of one rank and seed. Explained in the chapter on the LoRA study.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
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
"""Names of the linear layers that get an adapter, as in the LoRA paper."""

RATE = 5e-3
"""Learning rate of Adam."""

ALPHA = 2.0
ALPHA_EXPONENTS = {"sqrt": 0.5, "fixed": 0.0, "linear": 1.0}
"""How alpha follows the rank, by the name of the rule: alpha = ALPHA * r**exponent. All rules agree at rank 1."""

LEARNT, CHANCE, BLOWN, CONSTANT, PATIENCE = 0.5, 0.9, 2.0, 1e-3, 480
"""What `diverged` goes by: losses in units of log 2, a standard deviation of logits, and a number of updates."""

CONTEXTS = ("11", "12", "21", "22")
BY_HEAD = [f"{what}_{side}{context}" for what in ("loss", "spread") for side in "ab" for context in CONTEXTS]
"""Columns that `diverged` goes by: loss, and standard deviation of logits, of each head in each training context."""


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

    def forward(self, x: Tensor) -> Tensor:
        if self.merged is not None:
            return cast(Tensor, self.base(x))
        # Adding the update to the weight first costs less than two thin products wherever a rank is near the width.
        weight = (self.base.weight + self.update).mT
        mine = x.reshape(len(self.a), -1, x.shape[-1])
        return torch.baddbmm(self.base.bias, mine, weight).reshape(*x.shape[:-1], -1)

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


def adapt(model: nn.Module, ranks: Numbers, seeds: Numbers, alpha_rule: str = "sqrt") -> nn.Module:
    """A frozen copy of a model with an `Adapter` on each layer in `LAYERS`, ValueError if it has none of these."""
    adapted = copy.deepcopy(model).requires_grad_(False)
    found = [name for name, module in adapted.named_modules() if name.split(".")[-1] in LAYERS]
    if not found:
        raise ValueError(f"the model has no linear layer named {' or '.join(LAYERS)}")
    for number, name in enumerate(found):
        parent, _, child = name.rpartition(".")
        layer = cast(nn.Linear, adapted.get_submodule(name))
        # Each layer draws an A of its own.
        own = Adapter(layer, ranks, [[seed, number] for seed in seeds], alpha_rule)
        setattr(adapted.get_submodule(parent), child, own)
    return adapted


class Replicas(nn.Module):
    """Adapted encoders with Alice's head and Bob's, for all contexts and ranks of one seed, as precise as the model.

    Replicas are ordered by rank, then context 11, 12, 21, 22. A task's head starts alike in both of its contexts.
    """

    def __init__(self, model: nn.Module, ranks: Numbers, seed: int, alpha_rule: str = "sqrt") -> None:
        super().__init__()
        each = [rank for rank in ranks for _ in CONTEXTS]
        self.encoder = adapt(model, each, [seed] * len(each), alpha_rule)
        b = next(module.b for module in self.encoder.modules() if isinstance(module, Adapter))
        width = b.shape[1]
        alice, bob = np.random.default_rng([seed, 0, 1]).uniform(-1, 1, (2, 2, width)) / math.sqrt(width)
        start = np.tile(np.array([*product(alice, bob)], np.float32), (len(ranks), 1, 1))
        self.weight = nn.Parameter(torch.tensor(start, dtype=b.dtype))  # (R, 2 heads, width)
        self.bias = nn.Parameter(torch.zeros(len(each), 2, dtype=b.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (R, samples, 2) for inputs (R, sides, samples, words): one side if both heads see the same, or two."""
        count, sides, samples, words = inputs.shape
        states = self.encoder(inputs.reshape(-1, words)).reshape(count, sides, samples, -1)
        logits = torch.einsum("rsnd,rhd->rsnh", states, self.weight)
        seen = logits[:, 0] if sides == 1 else torch.stack([logits[:, 0, :, 0], logits[:, 1, :, 1]], -1)
        return seen + self.bias[:, None]


class Data(NamedTuple):
    """Inputs (4 contexts, sides, samples, words) and goals (4 contexts, samples, 2) of one split."""

    inputs: Tensor
    goals: Tensor


def contexts(tasks: Tasks, split: str = "train") -> Data:
    """What the four contexts see and are asked; inputs that all tasks share are kept once, for both heads."""
    pairs = [(getattr(a, split), getattr(b, split)) for a, b in product(*tasks)]
    alike = all(np.array_equal(a.inputs, b.inputs) for a, b in pairs)
    inputs = np.array([[a.inputs] if alike else [a.inputs, b.inputs] for a, b in pairs])
    goals = np.array([np.stack([a.labels, b.labels], -1) for a, b in pairs])
    return Data(torch.tensor(inputs), torch.tensor(goals, dtype=torch.float32))


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
    record: Numbers | None = None,
) -> pd.DataFrame:
    """Train every rank, context and seed, and say what came out epoch by epoch.

    All replicas of a seed are one tensor program, seeds run side by side on the machine's cores. Adam without decay on
    adapters and heads; the loss of a replica is the sum of its two heads' mean logistic losses.

    - model : maps inputs (n, words) to states (n, width of the adapted layers); its layers in `LAYERS` get adapters
    - tasks : two by two, tasks[0] Alice's and tasks[1] Bob's
    - ranks : of the adapters, from 1 to the smaller side of the smallest adapted layer
    - seeds : integers from 0; a seed fixes A, the heads and the order of the samples, whatever the rank and the context
    - epochs, rate, batch : passes, learning rate, samples of each task in a step
    - alpha_rule : how alpha follows the rank, one of `ALPHA_EXPONENTS`
    - record : epochs after which outcomes are taken, 0 = before training; by default the last

    Returns one row per `rank`, `seed`, recorded `epoch` and `outcomes`, "train" or "test", the samples on which a head
    that is right scores +1, else -1. The columns beside these and those of `measures` (ij is the context):

    - `cij` : C = E[AB]; `acc_aij`, `acc_bij` : accuracy (0 to 1) of Alice's head of task i, of Bob's of task j
    - `loss` : training loss in nats, mean over contexts of the sum over heads
    - `diverged` : True on all rows of a run that `diverged` marks by what was recorded of it

    Raises ValueError for tasks that are not two by two or of different size, and settings that make no sense.
    """
    _check(tasks, ranks, seeds, epochs, rate, batch)
    kept = [epochs] if record is None else record
    checks.integers("record", kept, 0, epochs)
    data = {split: contexts(tasks, split) for split in SPLITS}
    updates = math.ceil(len(tasks[0][0].train.labels) / batch)

    def one(seed: int) -> pd.DataFrame:
        replicas = Replicas(model, ranks, seed, alpha_rule)
        step, frames = stepper(replicas, data["train"], rate), []
        for epoch in range(epochs + 1):
            if epoch:
                for part in _batches(data["train"], batch, seed, epoch):
                    step(part)
            if epoch in kept:
                frames.append(_outcomes(replicas, data, ranks).assign(seed=seed, epoch=epoch))
        frame = pd.concat(frames, ignore_index=True)
        return frame.drop(columns=BY_HEAD).assign(diverged=diverged(frame, updates))

    with one_thread(), ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return measures(pd.concat(pool.map(one, seeds), ignore_index=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch uses one thread while the block runs: more gain little at this size, and change the last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batches(data: Data, batch: int, seed: int, epoch: int) -> Sequence[Tensor]:
    order = np.random.default_rng([seed, epoch, 2]).permutation(data.goals.shape[1])
    return torch.split(torch.tensor(order), batch)


def stepper(replicas: Replicas, data: Data, rate: float) -> Callable[[Tensor], Tensor]:
    """A function that does an update of Adam on the samples with some numbers; it returns the losses before it."""
    times = len(replicas.bias) // len(CONTEXTS)
    optimizer = torch.optim.Adam([p for p in replicas.parameters() if p.requires_grad], lr=rate, fused=True)
    # Linux gives freed memory back after every update, and gets it again at the next, until one large block was freed.
    torch.empty(31 * 2**20, dtype=torch.uint8)

    def step(part: Tensor) -> Tensor:
        optimizer.zero_grad()
        logits = replicas(data.inputs[:, :, part].repeat(times, 1, 1, 1))
        goals = data.goals[:, part].to(logits.dtype).repeat(times, 1, 1)
        losses = functional.binary_cross_entropy_with_logits(logits, goals, reduction="none").mean(1).sum(-1)
        # Summed over replicas: the gradient of the sum is, replica by replica, the gradient of its own loss.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return losses.detach()

    return step


def losses(model: nn.Module, tasks: Tasks, ranks: Numbers, seed: int, *, epochs: int = 4, batch: int = 32) -> Array:
    """Loss at every update of every replica of one seed, (updates, ranks, 4 contexts), in nats; trained as in `train`.

    A model in double precision (`model.double()`) is trained in it.
    """
    _check(tasks, ranks, [seed], epochs, RATE, batch, least=1)
    data = contexts(tasks)
    step = stepper(Replicas(model, ranks, seed), data, RATE)
    seq = [step(part) for epoch in range(1, epochs + 1) for part in _batches(data, batch, seed, epoch)]
    return torch.stack(seq).reshape(len(seq), len(ranks), 4).numpy()


def losses_peft(
    model: nn.Module, tasks: Tasks, rank: int, context: int, seed: int, *, epochs: int = 4, batch: int = 32
) -> Array:
    """Loss at every update of one replica, from where `losses` starts, with peft in a plain loop: a reference for it.

    `context` is 0 to 3, for 11, 12, 21, 22. Needs the extra `lora`.
    """
    _check(tasks, [rank], [seed], epochs, RATE, batch, least=1)
    if context not in range(len(CONTEXTS)):
        raise ValueError(f"context is 0 to 3, for {', '.join(CONTEXTS)}; got {context!r}")
    data, seq = contexts(tasks), []
    ours = Replicas(model, [rank], seed)
    encoder = peft_model(model, LAYERS, rank, alpha(rank))
    adapters = [module for module in ours.encoder.modules() if isinstance(module, Adapter)]
    theirs = [module for name, module in encoder.named_modules() if name.split(".")[-1] in LAYERS]
    heads = nn.Linear(ours.weight.shape[-1], 2, dtype=ours.weight.dtype)
    with torch.no_grad():
        for adapter, layer in zip(adapters, theirs, strict=True):
            layer.lora_A["default"].weight.copy_(adapter.a[context])
        heads.weight.copy_(ours.weight[context])
        heads.bias.zero_()
    optimizer = torch.optim.Adam([*(p for p in encoder.parameters() if p.requires_grad), *heads.parameters()], lr=RATE)
    for epoch in range(1, epochs + 1):
        for part in _batches(data, batch, seed, epoch):
            states = [encoder(inputs) for inputs in data.inputs[context][:, part]]
            logits = torch.stack([heads(states[0])[:, 0], heads(states[-1])[:, 1]], -1)
            loss = functional.binary_cross_entropy_with_logits(logits, data.goals[context, part].to(logits.dtype))
            optimizer.zero_grad()
            total = 2 * loss  # the sum over heads, not their mean
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seq.append(total.item())
    return np.array(seq)


@torch.no_grad()
def _outcomes(replicas: Replicas, data: dict[str, Data], ranks: Numbers) -> pd.DataFrame:
    """One row per rank and split, with the columns `BY_HEAD`, of the training samples, in both."""
    frames, by_head = [], {}
    for split, part in data.items():
        goals = part.goals.repeat(len(ranks), 1, 1)
        blocks = [replicas(block.repeat(len(ranks), 1, 1, 1)) for block in torch.split(part.inputs, 64, dim=2)]
        logits = torch.cat(blocks, 1)
        right = torch.where((logits > 0) == (goals > 0), 1.0, -1.0).double()
        accuracy = (1 + right.mean(1)) / 2
        if split == "train":
            losses = functional.binary_cross_entropy_with_logits(logits, goals, reduction="none").mean(1)
            by_head = {"loss": losses, "spread": logits.std(1)}
        columns = {"c": right.prod(-1).mean(1), "acc_a": accuracy[:, 0], "acc_b": accuracy[:, 1]}
        columns |= {f"{what}_{side}": values[:, k] for what, values in by_head.items() for k, side in enumerate("ab")}
        table = {"rank": list(ranks), "outcomes": split}
        for name, values in columns.items():
            table |= dict(zip([name + context for context in CONTEXTS], values.reshape(-1, 4).T.numpy(), strict=True))
        frames.append(pd.DataFrame(table).assign(loss=by_head["loss"].sum(-1).reshape(-1, 4).mean(1).numpy()))
    return pd.concat(frames, ignore_index=True)


def diverged(frame: pd.DataFrame, updates: int) -> Array:
    """Which runs of one seed's records have diverged, True on all rows of their rank; `updates` are those of an epoch.

    One head in one context is enough, if at a recorded epoch after the start, on the training samples, it

    - has a loss that is not finite, or above 2 log 2: far worse than a coin;
    - has forgotten: a loss above 0.9 log 2 after one below half of log 2;
    - has logits that do not vary from input to input;
    - is dead: a loss above 0.9 log 2 at the last recorded epoch, and 480 updates or more were made by then.

    Always giving the commoner label costs 0.9 log 2 or more where it is that of 68 % or less: then it is caught.
    """
    lost: dict[int, bool] = {}
    for rank, part in frame.query("outcomes == 'train' and epoch > 0").sort_values("epoch").groupby("rank"):
        losses = part[BY_HEAD[:8]].to_numpy() / math.log(2)
        spread = part[BY_HEAD[8:]].to_numpy()
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
    splits = [split for task in four for split in (task.train, task.test)]
    if not all(np.ndim(split.inputs) == 2 and np.isin(split.labels, (0, 1)).all() for split in splits):
        raise ValueError("the four tasks need inputs (samples, words), and labels 0 and 1")
    sizes = {(len(task.train.labels), len(task.test.labels)) for task in four}
    words = {np.shape(split.inputs)[1] for split in splits}
    if len(sizes) > 1 or len(words) > 1:
        got = f"{sorted(sizes)} samples to train and test on, and {sorted(words)} words"
        raise ValueError(f"the four tasks need equally many samples, and sentences of one length; got {got}")
    checks.integers("ranks", ranks, 1)
    checks.integers("seeds", seeds, 0)
    checks.integer(least, epochs=epochs)
    checks.integer(1, batch=batch)
    checks.positive(rate=rate)
