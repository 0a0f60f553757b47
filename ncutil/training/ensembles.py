"""Thousands of small networks at once: one hidden ReLU layer, any number of heads, logistic loss, full batch.

`train_reference` is plain autograd, to read and to believe; `train` is a compiled kernel, thousands of times faster
than a loop of modules, and tested equal to it. Both start member k from its own seeded generator, so that a member is
the same run alone or among 10^6 others. All members of a call are in memory at once; more than that stream through
in blocks, as in `ncutil sweep distribution`. Explained in the chapter on NCnet.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncutil.training import _vectors
from ncutil.training._vectors import LANES, Lanes, Program

Array = NDArray[Any]

OPTIMIZERS = ("adam", "sgd")
DTYPES = ("float32", "float64")
DEVICES = ("cpu", "cuda")
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants, PyTorch's defaults."""

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Threads that train blocks side by side; a worker that has a core to itself sets it to 1."""


@dataclass(frozen=True)
class Ensemble:
    """A trained ensemble: what was recorded on the way, and the weights at the end.

    Attributes
    ----------
    seeds : (members,)
    steps : (records,), updates done when each record was taken
    logits : (records, members, patterns, heads)
    targets : (patterns, heads) or (members, patterns, heads), 0 or 1, as given
    weights : (members, patterns), each pattern's share in a member's training loss; rows sum to 1
    hidden : (members, width, bits + 1), final weights into each hidden unit, its bias last
    head : (members, heads, width + 1), final weights into each head, its bias last
    gradients : (records, members, heads, width, bits + 1) or None
        Gradient of each head's own loss on each hidden unit, where the reference was asked for it.
    """

    seeds: Array
    steps: Array
    logits: Array
    targets: Array
    weights: Array
    hidden: Array
    head: Array
    gradients: Array | None = None

    @property
    def losses(self) -> Array:
        """Training loss of each head in nats, (records, members, heads)."""
        each = np.logaddexp(0, (1 - 2 * self.targets) * self.logits)
        return cast(Array, np.einsum("rmph,mp->rmh", each, self.weights, dtype=float))

    @property
    def outcomes(self) -> Array:
        """+1 where a head is right on a pattern, -1 where it is wrong, (records, members, patterns, heads).

        A logit that is NaN, after steps too large for the numbers, is wrong.
        """
        return np.where(np.where(self.targets > 0, self.logits > 0, self.logits <= 0), 1.0, -1.0)


class Options(TypedDict, total=False):
    """Keyword arguments that both paths take; `train` says what they are, all but `steps` and `rate` have defaults."""

    steps: Required[int]
    rate: Required[float]
    optimizer: str
    weights: ArrayLike | None
    input_mask: ArrayLike | None
    head_mask: ArrayLike | None
    record: Sequence[int] | None


@dataclass(frozen=True)
class _Setup:
    """What both paths train, validated."""

    inputs: Array
    targets: Array
    seeds: Array
    steps: int
    rate: float
    adam: bool
    weights: Array
    see: Array  # (width, bits + 1), 1 where a hidden unit sees a bit; the bias always
    read: Array  # (heads, width + 1), 1 where a head reads a hidden unit; the bias always
    record: Array

    def start(self) -> tuple[Array, Array]:
        """First weights of all members: (members, width, bits + 1) and (members, heads, width + 1)."""
        # The four contexts of a run start alike: what stands twice is drawn once.
        seeds, place = np.unique(self.seeds, return_inverse=True)
        hidden, head = _draw(seeds, self.see.shape[1] - 1, *self.read.shape)
        return (hidden * self.see)[place], (head * self.read)[place]


def train(
    inputs: ArrayLike,
    targets: ArrayLike,
    width: int,
    seeds: ArrayLike,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    **options: Unpack[Options],
) -> Ensemble:
    """Train all members at once on the compiled kernel.

    Parameters
    ----------
    inputs : (patterns, bits)
        Every pattern is seen at every step.
    targets : (patterns, heads), 0 or 1; (members, patterns, heads) where every member has its own
    width : hidden units
    seeds : (members,), integers from 0 to 2**63 - 1
        Member k draws its first weights from `default_rng(seeds[k])`: normal, variance 2 / bits into the hidden units
        and 1 / width into the heads; biases start at 0.
    steps, rate, optimizer : updates, learning rate, "adam" or "sgd"
    weights : (patterns,) or (members, patterns), optional
        How much each pattern counts in the mean loss, 0 = held out; equal by default.
    input_mask : (width, bits), optional
        1 where a unit sees a bit, 0 where the link is cut.
    head_mask : (heads, width), optional
        1 where a head reads a unit, 0 where the link is cut.
    record : steps after which logits are kept, 0 = before the first; by default only the last
    dtype : "float32" or "float64"
        On four bits, three units and XOR for one head or none, 99 % of members in float32 have the losses of float64
        to 1e-5 after 200 steps; of two heads with XOR each, and Adam, it is 98 % (99 % in PyTorch's float32).
    device : "cpu", or "cuda" for the same training in PyTorch on a GPU

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        A wrong shape, a target other than 0 and 1, a value that is not finite, a fraction where a whole number
        belongs, an unknown optimizer, dtype or device, a GPU that is not there, a record outside 0..steps.

    Examples
    --------
    >>> bits = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> xor = [[0], [1], [1], [0]]
    >>> result = train(bits, xor, width=8, seeds=range(3), steps=500, rate=0.05)
    >>> result.outcomes.shape, float(result.outcomes.mean())
    ((1, 3, 4, 1), 1.0)
    """
    if device != "cpu":
        return train_reference(inputs, targets, width, seeds, dtype=dtype, device=device, **options)
    setup = _setup(inputs, targets, width, seeds, dtype, **options)
    members, (patterns, heads) = len(setup.seeds), setup.targets.shape[-2:]
    goals = np.broadcast_to(setup.targets, (members, patterns, heads))
    run, together = _compiled(setup.inputs.shape[1], int(width), heads, setup.adam, dtype)
    # Patterns come in groups: what fills up the last one has no share in the loss.
    extra = -patterns % together
    bits = np.pad(setup.inputs, ((0, extra), (0, 0))).astype(dtype)
    keep = np.concatenate([setup.see.ravel(), setup.read.ravel()]).astype(dtype)
    rates, marks = _rates(setup).astype(dtype), np.append(setup.record, -1)
    logits = np.empty((len(setup.record), members, patterns, heads), dtype)
    hidden, head = setup.start()
    start = np.concatenate([hidden.reshape(members, -1), head.reshape(members, -1)], axis=1)

    def block(first: int) -> None:
        part = slice(first, min(first + BLOCK, members))
        here = part.stop - first
        # The last vector is filled with copies of the last member, so that no member depends on its place.
        own = np.minimum(np.arange(first, first + here + -here % LANES), part.stop - 1)
        params = _vectors.in_lanes(start[own], dtype)
        goal = _vectors.in_lanes(np.pad(goals[own], ((0, 0), (0, extra), (0, 0))), dtype)
        shares = _vectors.in_lanes(np.pad(setup.weights[own], ((0, 0), (0, extra))), dtype)
        work = _vectors.aligned((3, *params.shape[1:]), dtype)
        kept = _vectors.aligned((len(params), len(marks), patterns + extra, heads, LANES), dtype)
        sizes = (len(params), patterns + extra, setup.steps, len(marks))
        run(params, work, bits, goal, shares, keep, rates, marks, kept, *sizes)
        seen = np.moveaxis(kept[:, :-1, :patterns], -1, 1).reshape(len(own), -1, patterns, heads)
        logits[:, part] = seen[:here].swapaxes(0, 1)
        final = params.swapaxes(1, 2).reshape(len(own), -1)[:here]
        hidden[part] = final[:, : setup.see.size].reshape(here, *setup.see.shape)
        head[part] = final[:, setup.see.size :].reshape(here, *setup.read.shape)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(block, range(0, members, BLOCK)))
    return Ensemble(setup.seeds, setup.record, logits, setup.targets, setup.weights, hidden, head)


def train_reference(
    inputs: ArrayLike,
    targets: ArrayLike,
    width: int,
    seeds: ArrayLike,
    *,
    dtype: str = "float64",
    device: str = "cpu",
    gradients: bool = False,
    surgery: bool = False,
    **options: Unpack[Options],
) -> Ensemble:
    """Train the same members in plain PyTorch: the member axis first, one stacked tensor a layer, autograd the rest.

    Parameters, result and errors are those of `train`, and two options come on top.

    Parameters
    ----------
    gradients : bool
        Keep at each record the gradient of each head's own loss on each hidden unit.
    surgery : bool
        Where two heads' gradients on a hidden unit point apart, take from each its part along the other before they
        are added (Yu et al. 2020, here unit by unit).
    """
    import torch

    _known("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' needs a GPU that PyTorch can use; it finds none (device='cpu' does without)")
    torch.set_num_threads(1)
    setup = _setup(inputs, targets, width, seeds, dtype, **options)
    kind = getattr(torch, dtype)
    x, t, shares, see, read, hidden, head = (
        torch.tensor(array, dtype=kind, device=device)
        for array in (setup.inputs, setup.targets, setup.weights, setup.see, setup.read, *setup.start())
    )
    hidden.requires_grad_()
    head.requires_grad_()
    first, second = ([torch.zeros_like(layer) for layer in (hidden, head)] for _ in range(2))
    kept, kept_gradients = [], []

    for step in range(setup.steps + 1):
        act = torch.relu(torch.einsum("pi,mui->mpu", x, hidden[..., :-1]) + hidden[:, None, :, -1])
        logits = torch.einsum("mpu,mhu->mph", act, head[..., :-1]) + head[:, None, :, -1]
        each = torch.nn.functional.softplus((1 - 2 * t) * logits)
        # Summed over members: the gradient of the sum is, member by member, the gradient of its own loss.
        losses = torch.einsum("mph,mp->h", each, shares)
        recorded = step in setup.record
        if recorded:
            kept.append(logits.detach().cpu().numpy())
        if surgery or (gradients and recorded):
            apart = [torch.autograd.grad(loss, (hidden, head), retain_graph=True) for loss in losses]
            own = torch.stack([shared for shared, _ in apart]) * see
            if gradients and recorded:
                kept_gradients.append(own.cpu().numpy())
        if step < setup.steps:
            if surgery:
                shared, separate = _without_conflict(own), torch.stack([separate for _, separate in apart]).sum(0)
            else:
                shared, separate = torch.autograd.grad(losses.sum(), (hidden, head))
            # A cut link starts at 0 and, without a gradient, stays there.
            slopes = shared * see, separate * read
            for layer, slope, m, v in zip((hidden, head), slopes, first, second, strict=True):
                if setup.adam:
                    m += (1 - BETA1) * (slope - m)
                    v += (1 - BETA2) * (slope**2 - v)
                    size = (v / (1 - BETA2 ** (step + 1))).sqrt() + EPSILON
                    slope = m / (1 - BETA1 ** (step + 1)) / size
                with torch.no_grad():
                    layer -= setup.rate * slope

    own_gradients = np.moveaxis(np.stack(kept_gradients), 1, 2) if gradients else None
    final = hidden.detach().cpu().numpy(), head.detach().cpu().numpy()
    return Ensemble(setup.seeds, setup.record, np.stack(kept), setup.targets, setup.weights, *final, own_gradients)


def _without_conflict(own: Any) -> Any:
    """Sum over heads of (heads, members, width, bits + 1) gradients, each freed of its part against any other."""
    freed = own.clone()
    for i in range(len(own)):
        for j in range(len(own)):
            along = (freed[i] * own[j]).sum(-1, keepdim=True)
            length = (own[j] ** 2).sum(-1, keepdim=True)
            # Only a negative product is a conflict; a head without a gradient on this unit is no opponent.
            freed[i] -= along.clamp(max=0) / length.clamp(min=1e-30) * own[j]
    return freed.sum(0)


def _draw(seeds: Array, bits: int, heads: int, row: int) -> tuple[Array, Array]:
    """First weights of the members with these seeds, biases last and 0; `row` is width + 1."""
    width = row - 1
    size = width * bits + heads * width
    drawn = np.stack([np.random.default_rng(seed).standard_normal(size) for seed in seeds])
    into_hidden = math.sqrt(2 / bits) * drawn[:, : width * bits].reshape(-1, width, bits)
    into_head = math.sqrt(1 / width) * drawn[:, width * bits :].reshape(-1, heads, width)
    bias = ((0, 0), (0, 0), (0, 1))
    return np.pad(into_hidden, bias), np.pad(into_head, bias)


# The kernel. Members lie side by side in the lanes of vectors, and a program for one vector of members is written out
# for the shape of the network: every unit and link in line, loops over steps, patterns and vectors only. All steps of a
# vector are done before the next begins, so that its weights stay in the first cache. It is written in LLVM's language
# because no compiler of loops did well enough: in trials the best kernel in numba was 13 to 14 times as fast as JAX on
# two heads and 16 patterns and 6 to 7 times on one head and 4, where 15 and 10 were the aim.

BLOCK = 256
"""Members in one call of the kernel, trained by one thread."""


@cache
def _compiled(bits: int, width: int, heads: int, adam: bool, dtype: str) -> tuple[Callable[..., None], int]:
    """The kernel for a shape, and how many patterns it takes at once."""
    shape = _Shape(bits, width, heads, adam)
    name = f"ensembles-{bits}-{width}-{heads}-{'adam' if adam else 'sgd'}"
    arrays = ["lanes", "lanes", "numbers", "lanes", "lanes", "numbers", "numbers", "counts", "lanes"]
    arguments = [*arrays, *["count"] * 4]
    run = _vectors.compiled(name, partial(_write, shape), arguments, dtype, made_of=Path(__file__).read_bytes())
    return run, shape.together


@dataclass(frozen=True)
class _Shape:
    """What a kernel is written for, and in which row of its arrays a weight stands."""

    bits: int
    width: int
    heads: int
    adam: bool

    @property
    def rows(self) -> int:
        return self.width * (self.bits + 1) + self.heads * (self.width + 1)

    @property
    def together(self) -> int:
        # Long stretches without a jump let LLVM's work grow faster than their length.
        return max(1, min(4, 512 // self.rows))

    def into_hidden(self, unit: int, bit: int) -> int:
        """Row of a weight into a hidden unit; that of bit `bits` is the bias."""
        return unit * (self.bits + 1) + bit

    def into_head(self, head: int, unit: int) -> int:
        """Row of a weight into a head; that of unit `width` is the bias."""
        return self.width * (self.bits + 1) + head * (self.width + 1) + unit


def _write(shape: _Shape, p: Program) -> None:
    """The whole kernel: vectors of members, steps, groups of patterns."""
    builder = p.builder
    params, work, inputs, targets, shares, keep, rates, marks, kept, vectors, patterns, steps, slots = p.arguments
    gradient, first, second = work, p.at(work, shape.rows), p.at(work, 2 * shape.rows)
    answers = p.times(patterns, shape.heads)
    slot = builder.alloca(p.count)
    with p.loop(vectors) as vector:
        with p.loop(3 * shape.rows) as row:
            p.store(p.zero(), work, row)
        weights = p.at(params, p.times(vector, shape.rows))
        goals, parts = p.at(targets, p.times(vector, answers)), p.at(shares, p.times(vector, patterns))
        slice_ = p.at(kept, p.times(vector, p.times(slots, answers)))
        builder.store(p.whole(0), slot)
        with p.loop(builder.add(steps, p.whole(1))) as step:
            # Each step writes its logits into the next free slot; a step to be recorded leaves them there.
            now = builder.load(slot)
            logits = p.at(slice_, p.times(now, answers))
            recorded = builder.icmp_signed("==", builder.load(p.at(marks, now)), step)
            builder.store(builder.add(now, builder.zext(recorded, p.count)), slot)
            with p.loop(builder.udiv(patterns, p.whole(shape.together))) as group:
                pattern = p.times(group, shape.together)
                _backpropagate(shape, p, (weights, gradient, inputs, goals, parts, logits), pattern)
            with builder.if_then(builder.icmp_signed("<", step, steps)), p.loop(shape.rows) as row:
                slope, size = p.load(gradient, row) * p.spread(keep, row), p.spread(rates, p.times(step, 2))
                if shape.adam:
                    m = p.load(first, row) * BETA1 + slope * (1 - BETA1)
                    v = p.load(second, row) * BETA2 + slope * (1 - BETA2) * slope
                    p.store(m, first, row)
                    p.store(v, second, row)
                    slope = m / (p.root(v) * p.spread(rates, p.times(step, 2), 1) + EPSILON)
                p.store(p.load(weights, row) - size * slope, weights, row)
                p.store(p.zero(), gradient, row)


def _backpropagate(shape: _Shape, p: Program, arrays: Sequence[Any], pattern: Any) -> None:
    """Forward and backward through a few patterns at once, so that each gradient is fetched and stored once."""
    weights, gradient, inputs, goals, parts, logits = arrays
    units, heads, bits, group = range(shape.width), range(shape.heads), range(shape.bits), range(shape.together)
    hidden = [[p.load(weights, shape.into_hidden(u, i)) for i in range(shape.bits + 1)] for u in units]
    head = [[p.load(weights, shape.into_head(h, u)) for u in range(shape.width + 1)] for h in heads]
    x: list[list[Lanes]] = []
    act: list[list[Lanes]] = []
    error: list[list[Lanes]] = []
    for k in group:
        x.append([p.spread(inputs, p.times(pattern, shape.bits), k * shape.bits + i) for i in bits])
        sums = [_vectors.total(hidden[u][shape.bits], (x[k][i] * hidden[u][i] for i in bits)) for u in units]
        act.append([z.pick("<", 0.0, 0.0, z) for z in sums])
        error.append([])
        for h in heads:
            z = _vectors.total(head[h][shape.width], (head[h][u] * act[k][u] for u in units))
            place = p.times(pattern, shape.heads), k * shape.heads + h
            p.store(z, logits, *place)
            error[k].append((p.sigmoid(z) - p.load(goals, *place)) * p.load(parts, pattern, k))

    def add(row: int, terms: list[Lanes]) -> None:
        p.store(_vectors.total(p.load(gradient, row), terms), gradient, row)

    for h in heads:
        for u in units:
            add(shape.into_head(h, u), [error[k][h] * act[k][u] for k in group])
        add(shape.into_head(h, shape.width), [error[k][h] for k in group])
    for u in units:
        back = [_vectors.total(error[k][0] * head[0][u], (error[k][h] * head[h][u] for h in heads[1:])) for k in group]
        back = [act[k][u].pick("<=", 0.0, 0.0, slope) for k, slope in enumerate(back)]
        for i in bits:
            add(shape.into_hidden(u, i), [x[k][i] * back[k] for k in group])
        add(shape.into_hidden(u, shape.bits), back)


def _rates(setup: _Setup) -> Array:
    """By step: the factor on the slope, and that on Adam's root (Kingma and Ba 2015, in PyTorch's form)."""
    done = np.arange(1, setup.steps + 1)
    if not setup.adam:
        return np.full((setup.steps, 2), setup.rate)
    return np.stack([setup.rate / (1 - BETA1**done), 1 / np.sqrt(1 - BETA2**done)], axis=1)


def _setup(
    inputs: ArrayLike,
    targets: ArrayLike,
    width: int,
    seeds: ArrayLike,
    dtype: str,
    *,
    steps: int,
    rate: float,
    optimizer: str = "adam",
    weights: ArrayLike | None = None,
    input_mask: ArrayLike | None = None,
    head_mask: ArrayLike | None = None,
    record: Sequence[int] | None = None,
) -> _Setup:
    x, t, seed = np.asarray(inputs, float), np.asarray(targets, float), np.asarray(seeds)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"inputs must be finite, (patterns, bits); got shape {x.shape}")
    if seed.ndim != 1 or seed.size == 0 or seed.dtype.kind not in "iu" or seed.min() < 0 or seed.max() >= 2**63:
        raise ValueError(
            "seeds must be a non-empty vector of integers from 0 to 2**63 - 1; "
            f"got shape {seed.shape}, {seed.dtype}, values {seed.ravel()[:5]}"
        )
    own = (len(seed),) if t.ndim == 3 else ()
    if t.ndim not in (2, 3) or t.shape[:-1] != (*own, len(x)) or t.size == 0 or not np.isin(t, (0, 1)).all():
        raise ValueError(
            f"targets must be 0 or 1, ({len(x)} patterns, heads) or ({len(seed)} members, {len(x)} patterns, heads); "
            f"got shape {t.shape}, values {np.unique(t)[:5]}"
        )
    whole = isinstance(width, Integral) and isinstance(steps, Integral)
    if not (whole and isinstance(rate, Real)) or width < 1 or steps < 0 or not 0 < rate < math.inf:
        raise ValueError(
            "need whole numbers width >= 1 and steps >= 0, and one number rate > 0; "
            f"got width={width!r}, steps={steps!r}, rate={rate!r}"
        )
    _known("optimizer", optimizer, OPTIMIZERS)
    _known("dtype", dtype, DTYPES)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    if w.shape not in ((len(x),), (len(seed), len(x))) or not np.isfinite(w).all() or (w < 0).any():
        raise ValueError(f"weights must be >= 0, ({len(x)},) or ({len(seed)}, {len(x)}); got shape {w.shape}")
    with np.errstate(over="ignore"):
        total = w.sum(-1, keepdims=True)
    if not (total > 0).all():
        raise ValueError("weights must leave every member a pattern to train on")
    if not np.isfinite(total).all():
        raise ValueError(f"weights must have a finite sum; got values up to {w.max():g}")
    steps_kept = np.array([int(steps)] if record is None else record)
    whole = steps_kept.ndim == 1 and steps_kept.dtype.kind in "iu"
    if not whole or steps_kept.size == 0 or (np.diff(steps_kept, prepend=-1) < 1).any():
        raise ValueError(f"record must be increasing whole steps from 0; got {steps_kept.tolist()}")
    if steps_kept[-1] > steps:
        raise ValueError(f"record asks for step {steps_kept[-1]}, but there are {steps} steps")
    return _Setup(
        x,
        t,
        seed.astype(np.int64),
        int(steps),
        float(rate),
        optimizer == "adam",
        np.broadcast_to(w / total, (len(seed), len(x))),
        _links("input_mask", input_mask, (width, x.shape[1])),
        _links("head_mask", head_mask, (t.shape[-1], width)),
        steps_kept.astype(np.int64),
    )


def _links(name: str, mask: ArrayLike | None, shape: tuple[int, int]) -> Array:
    """A mask of links with its column of biases, which are never cut."""
    links = np.ones(shape) if mask is None else np.asarray(mask, float)
    if links.shape != shape or not np.isin(links, (0, 1)).all():
        raise ValueError(f"{name} must be 0 or 1, {shape}; got shape {links.shape}")
    return np.pad(links, ((0, 0), (0, 1)), constant_values=1)


def _known(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ValueError(f"unknown {what} {given!r}; known: {', '.join(known)}")
