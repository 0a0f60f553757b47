"""Thousands of small networks at once: one hidden ReLU layer, any number of heads, logistic loss, full batch.

`train_reference` is plain autograd, to read and to believe; `train` is a compiled kernel, thousands of times faster
than a loop of modules, and tested equal to it. Both start member k from its own seeded generator, so that a member is
the same run alone or among 10^6 others. Explained in the chapter on NCnet.
"""

import ctypes
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from hashlib import sha256
from pathlib import Path
from threading import get_ident
from typing import Any, cast

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import ArrayLike, NDArray

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
        """+1 where a head is right on a pattern, -1 where it is wrong, (records, members, patterns, heads)."""
        return np.where((self.logits > 0) == (self.targets > 0), 1.0, -1.0)


@dataclass(frozen=True)
class _Setup:
    """What both paths train, validated: patterns, members, their first weights and their links."""

    inputs: Array
    targets: Array
    seeds: Array
    weights: Array
    see: Array  # (width, bits + 1), 1 where a hidden unit sees a bit; the bias always
    read: Array  # (heads, width + 1), 1 where a head reads a hidden unit; the bias always
    record: Array

    def start(self, seeds: Array) -> tuple[Array, Array]:
        hidden, head = _draw(self.see.shape, self.read.shape, seeds.tobytes())
        return hidden * self.see, head * self.read


def train(
    inputs: ArrayLike,
    targets: ArrayLike,
    width: int,
    seeds: ArrayLike,
    *,
    steps: int,
    rate: float,
    optimizer: str = "adam",
    weights: ArrayLike | None = None,
    input_mask: ArrayLike | None = None,
    head_mask: ArrayLike | None = None,
    record: Sequence[int] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Ensemble:
    """Train all members at once on the compiled kernel.

    Parameters
    ----------
    inputs : (patterns, bits)
        Every pattern is seen at every step.
    targets : (patterns, heads), 0 or 1; (members, patterns, heads) where every member has its own
    width : hidden units
    seeds : (members,), integers from 0
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
    device : "cpu", or "cuda" for the same training in PyTorch on a GPU

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        A wrong shape, a target other than 0 and 1, a value that is not finite, an unknown optimizer, dtype or
        device, a GPU that is not there, a record outside 0..steps.

    Examples
    --------
    >>> bits = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> xor = [[0], [1], [1], [0]]
    >>> result = train(bits, xor, width=8, seeds=range(3), steps=500, rate=0.05)
    >>> result.outcomes.shape, float(result.outcomes.mean())
    ((1, 3, 4, 1), 1.0)
    """
    if device != "cpu":
        return train_reference(
            inputs,
            targets,
            width,
            seeds,
            steps=steps,
            rate=rate,
            optimizer=optimizer,
            weights=weights,
            input_mask=input_mask,
            head_mask=head_mask,
            record=record,
            dtype=dtype,
            device=device,
        )
    setup = _setup(inputs, targets, width, seeds, steps, rate, optimizer, weights, input_mask, head_mask, record, dtype)
    members, (patterns, heads) = len(setup.seeds), setup.targets.shape[-2:]
    goals = np.broadcast_to(setup.targets, (members, patterns, heads))
    run, together = _compiled(setup.inputs.shape[1], int(width), heads, optimizer == "adam", dtype)
    # Patterns come in groups: what fills up the last one has no share in the loss.
    extra = -patterns % together
    bits = np.pad(setup.inputs, ((0, extra), (0, 0))).astype(dtype)
    keep = np.concatenate([setup.see.ravel(), setup.read.ravel()]).astype(dtype)
    rates = _rates(steps, rate, optimizer).astype(dtype)
    marks = np.append(setup.record, -1)
    logits = np.empty((len(setup.record), members, patterns, heads), dtype)
    hidden, head = np.empty((members, *setup.see.shape)), np.empty((members, *setup.read.shape))

    def block(first: int) -> None:
        part = slice(first, min(first + BLOCK, members))
        # The last vector is filled with copies of the last member, so that no member depends on its place.
        lanes = np.minimum(np.arange(first, first + -(-(part.stop - first) // LANES) * LANES), part.stop - 1)
        start = np.concatenate([a.reshape(len(lanes), -1) for a in setup.start(setup.seeds[lanes])], axis=1)
        params = _in_lanes(start, dtype)
        goal = _in_lanes(np.pad(goals[lanes], ((0, 0), (0, extra), (0, 0))), dtype)
        shares = _in_lanes(np.pad(setup.weights[lanes], ((0, 0), (0, extra))), dtype)
        work = _aligned((3, *params.shape[1:]), dtype)
        kept = _aligned((len(params), len(marks), patterns + extra, heads, LANES), dtype)
        arrays = (params, work, bits, goal, shares, keep, rates, marks, kept)
        sizes = (len(params), patterns + extra, steps, len(marks))
        run(*(array.ctypes.data for array in arrays), *sizes)
        here = part.stop - first
        seen = np.moveaxis(kept[:, :-1, :patterns], -1, 1).reshape(len(lanes), -1, patterns, heads)
        logits[:, part] = seen[:here].swapaxes(0, 1)
        final = params.swapaxes(1, 2).reshape(len(lanes), -1)[:here]
        hidden[part] = final[:, : setup.see.size].reshape(here, *setup.see.shape)
        head[part] = final[:, setup.see.size :].reshape(here, *setup.read.shape)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(block, range(0, members, BLOCK)))
    return Ensemble(setup.seeds, setup.record, logits, setup.targets, setup.weights, hidden, head)


def stream(
    inputs: ArrayLike, targets: ArrayLike, width: int, seeds: ArrayLike, *, size: int = 2**14, **options: Any
) -> Iterator[Ensemble]:
    """Train members `size` at a time, so that a million take no more memory than the largest piece.

    The pieces come in the order of the seeds and hold what `train` would have given for these members; reduce each
    before the next one comes. Parameters, and what has a member axis, as in `train`.

    Examples
    --------
    >>> bits = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> parts = stream(bits, [[0], [1], [1], [0]], 8, range(5), size=2, steps=500, rate=0.05)
    >>> [float(part.outcomes.mean()) for part in parts]
    [1.0, 1.0, 1.0]
    """
    seed, t = np.asarray(seeds), np.asarray(targets)
    weights = np.asarray(options.pop("weights", None))
    if size < 1:
        raise ValueError(f"size must be at least 1 member; got {size}")
    for first in range(0, len(seed), size):
        part = slice(first, first + size)
        own: dict[str, Any] = {"weights": weights[part] if weights.ndim == 2 else weights} if weights.ndim else {}
        yield train(inputs, t[part] if t.ndim == 3 else t, width, seed[part], **own, **options)


def train_reference(
    inputs: ArrayLike,
    targets: ArrayLike,
    width: int,
    seeds: ArrayLike,
    *,
    steps: int,
    rate: float,
    optimizer: str = "adam",
    weights: ArrayLike | None = None,
    input_mask: ArrayLike | None = None,
    head_mask: ArrayLike | None = None,
    record: Sequence[int] | None = None,
    dtype: str = "float64",
    device: str = "cpu",
    gradients: bool = False,
    surgery: bool = False,
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
    setup = _setup(inputs, targets, width, seeds, steps, rate, optimizer, weights, input_mask, head_mask, record, dtype)
    kind = getattr(torch, dtype)
    x, t, shares, see, read, hidden, head = (
        torch.tensor(array, dtype=kind, device=device)
        for array in (setup.inputs, setup.targets, setup.weights, setup.see, setup.read, *setup.start(setup.seeds))
    )
    hidden.requires_grad_()
    head.requires_grad_()
    first, second = ([torch.zeros_like(layer) for layer in (hidden, head)] for _ in range(2))
    kept, kept_gradients = [], []

    for step in range(steps + 1):
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
        if step < steps:
            if surgery:
                shared, separate = _without_conflict(own), torch.stack([separate for _, separate in apart]).sum(0)
            else:
                shared, separate = torch.autograd.grad(losses.sum(), (hidden, head))
            # A cut link starts at 0 and, without a gradient, stays there.
            slopes = shared * see, separate * read
            for layer, slope, m, v in zip((hidden, head), slopes, first, second, strict=True):
                if optimizer == "adam":
                    m += (1 - BETA1) * (slope - m)
                    v += (1 - BETA2) * (slope**2 - v)
                    size = (v / (1 - BETA2 ** (step + 1))).sqrt() + EPSILON
                    slope = m / (1 - BETA1 ** (step + 1)) / size
                with torch.no_grad():
                    layer -= rate * slope

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


@lru_cache(maxsize=64)
def _draw(hidden: tuple[int, int], head: tuple[int, int], seeds: bytes) -> tuple[Array, Array]:
    """First weights of the members with these seeds; kept, because the four contexts of a run start alike."""
    (width, bits), heads = (hidden[0], hidden[1] - 1), head[0]
    size = width * bits + heads * width
    drawn = np.stack([np.random.default_rng(seed).standard_normal(size) for seed in np.frombuffer(seeds, np.int64)])
    into_hidden = math.sqrt(2 / bits) * drawn[:, : width * bits].reshape(-1, width, bits)
    into_head = math.sqrt(1 / width) * drawn[:, width * bits :].reshape(-1, heads, width)
    bias = ((0, 0), (0, 0), (0, 1))
    return np.pad(into_hidden, bias), np.pad(into_head, bias)


# The kernel. Members lie side by side, LANES to a vector register, and a program for one vector of members is written
# out for the shape of the network: every unit and link in line, loops over steps, patterns and vectors only. LLVM turns
# it into machine code for the processor at hand, in a fraction of a second and once a machine. All steps of a vector
# are done before the next begins, so that its weights stay in the first cache; no sum runs across lanes, so no member
# can feel another; the only liberty the compiler has is to contract products and sums into multiply-adds.

LANES = 16
"""Members in a vector: one register of 512 bits in float32, two or four where registers are shorter."""

BLOCK = 256
"""Members in one call of the kernel, trained by one thread."""

Kernel = Callable[..., None]


@dataclass(frozen=True)
class _Lanes:
    """A vector of LANES numbers in the program that is being written; arithmetic on it writes instructions."""

    builder: ir.IRBuilder
    value: Any

    def _of(self, other: "_Lanes | float") -> Any:
        return other.value if isinstance(other, _Lanes) else ir.Constant(self.value.type, [other] * LANES)

    def __add__(self, other: "_Lanes | float") -> "_Lanes":
        return _Lanes(self.builder, self.builder.fadd(self.value, self._of(other), flags=["contract"]))

    def __sub__(self, other: "_Lanes | float") -> "_Lanes":
        return _Lanes(self.builder, self.builder.fsub(self.value, self._of(other), flags=["contract"]))

    def __mul__(self, other: "_Lanes | float") -> "_Lanes":
        return _Lanes(self.builder, self.builder.fmul(self.value, self._of(other), flags=["contract"]))

    def __truediv__(self, other: "_Lanes") -> "_Lanes":
        return _Lanes(self.builder, self.builder.fdiv(self.value, other.value))

    def pick(self, sign: str, bound: float, yes: "_Lanes | float", no: float) -> "_Lanes":
        """One thing in lanes where this number compares so with the bound, another elsewhere."""
        holds = self.builder.fcmp_ordered(sign, self.value, self._of(bound))
        return _Lanes(self.builder, self.builder.select(holds, self._of(yes), self._of(no)))


def _sum(first: _Lanes, others: Iterable[_Lanes]) -> _Lanes:
    return reduce(_Lanes.__add__, others, first)


def _sigmoid(z: _Lanes, double: bool) -> _Lanes:
    """1 / (1 + e^-z), with e^-z = 2^x, x split into an integer, written into the exponent's bits, and a polynomial."""
    builder, mantissa, bias, terms = z.builder, *((52, 1023, 14) if double else (23, 127, 8))
    limit = float(bias - 1)
    x = z * (-1 / math.log(2))
    x = x.pick("<", limit, x, limit)
    x = x.pick(">", -limit, x, -limit)
    # A number this large has no room for a fraction: adding it rounds x, and leaves x + bias in the lowest bits.
    shift = x._of(1.5 * 2**mantissa + bias)
    moved = builder.fadd(x.value, shift)
    rest = x - _Lanes(builder, builder.fsub(moved, shift))
    whole = ir.VectorType(ir.IntType(64 if double else 32), LANES)
    bits = builder.shl(builder.bitcast(moved, whole), ir.Constant(whole, [mantissa] * LANES))
    power = _Lanes(builder, builder.bitcast(bits, z.value.type))
    one = _Lanes(builder, x._of(1.0))
    # Taylor coefficients of 2^x: what is left out is less than the type resolves on [-1/2, 1/2].
    *others, highest = (math.log(2) ** k / math.factorial(k) for k in range(terms))
    series = rest * highest + others[-1]
    for coefficient in others[-2::-1]:
        series = rest * series + coefficient
    return one / (power * series + 1.0)


class _Program:
    """The function that is being written, with what every part of it needs."""

    def __init__(self, bits: int, width: int, heads: int, double: bool) -> None:
        self.bits, self.width, self.heads, self.double = bits, width, heads, double
        self.rows = width * (bits + 1) + heads * (width + 1)
        # Long stretches without a jump let LLVM's work grow faster than their length.
        self.together = max(1, min(4, 512 // self.rows))
        self.number = ir.DoubleType() if double else ir.FloatType()
        self.vector, self.count = ir.VectorType(self.number, LANES), ir.IntType(64)
        lanes, numbers = self.vector.as_pointer(), self.number.as_pointer()
        arrays = [lanes, lanes, numbers, lanes, lanes, numbers, numbers, self.count.as_pointer(), lanes]
        self.module = ir.Module(name="ensembles")
        kind = ir.FunctionType(ir.VoidType(), [*arrays, *[self.count] * 4])
        self.function = ir.Function(self.module, kind, "run")
        root = ir.FunctionType(self.vector, [self.vector])
        self.root = ir.Function(self.module, root, f"llvm.sqrt.v{LANES}f{64 if double else 32}")
        for array in self.function.args[: len(arrays)]:
            array.add_attribute("noalias")
        self.builder = ir.IRBuilder(self.function.append_basic_block())

    def into_hidden(self, unit: int, bit: int) -> int:
        """Row of a weight into a hidden unit; that of bit `bits` is the bias."""
        return unit * (self.bits + 1) + bit

    def into_head(self, head: int, unit: int) -> int:
        """Row of a weight into a head; that of unit `width` is the bias."""
        return self.width * (self.bits + 1) + head * (self.width + 1) + unit

    def at(self, array: Any, *index: Any) -> Any:
        """Pointer to the entry that is `sum(index)` further on."""
        for offset in index:
            array = self.builder.gep(array, [ir.Constant(self.count, offset) if isinstance(offset, int) else offset])
        return array

    def load(self, *place: Any) -> _Lanes:
        return _Lanes(self.builder, self.builder.load(self.at(*place)))

    def store(self, lanes: _Lanes, *place: Any) -> None:
        self.builder.store(lanes.value, self.at(*place))

    def spread(self, *place: Any) -> _Lanes:
        """One number in every lane."""
        index, empty = ir.IntType(32), ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(empty, self.builder.load(self.at(*place)), ir.Constant(index, 0))
        everywhere = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        return _Lanes(self.builder, self.builder.shuffle_vector(first, empty, everywhere))

    def times(self, number: Any, factor: int) -> Any:
        return self.builder.mul(number, ir.Constant(self.count, factor))

    @contextmanager
    def loop(self, end: Any) -> Iterator[Any]:
        """What is written inside is done for 0, 1, ... end - 1, at least once."""
        before = self.builder.block
        inside, after = self.function.append_basic_block(), self.function.append_basic_block()
        self.builder.branch(inside)
        self.builder.position_at_end(inside)
        number = self.builder.phi(self.count)
        number.add_incoming(ir.Constant(self.count, 0), before)
        yield number
        following = self.builder.add(number, ir.Constant(self.count, 1))
        number.add_incoming(following, self.builder.block)
        self.builder.cbranch(self.builder.icmp_signed("<", following, end), inside, after)
        self.builder.position_at_end(after)


def _write(program: _Program, adam: bool) -> None:
    """The whole kernel: vectors of members, steps, groups of patterns."""
    p, builder = program, program.builder
    params, work, inputs, targets, shares, keep, rates, marks, kept, vectors, patterns, steps, slots = p.function.args
    gradient, first, second = work, p.at(work, p.rows), p.at(work, 2 * p.rows)
    answers = p.times(patterns, p.heads)
    slot = builder.alloca(p.count)
    with p.loop(vectors) as vector:
        with p.loop(ir.Constant(p.count, 3 * p.rows)) as row:
            p.store(_Lanes(builder, ir.Constant(p.vector, [0.0] * LANES)), work, row)
        weights = p.at(params, p.times(vector, p.rows))
        goals, parts = p.at(targets, builder.mul(vector, answers)), p.at(shares, builder.mul(vector, patterns))
        slice_ = p.at(kept, builder.mul(vector, builder.mul(slots, answers)))
        builder.store(ir.Constant(p.count, 0), slot)
        with p.loop(builder.add(steps, ir.Constant(p.count, 1))) as step:
            # Each step writes its logits into the next free slot; a step to be recorded leaves them there.
            now = builder.load(slot)
            logits = p.at(slice_, builder.mul(now, answers))
            recorded = builder.icmp_signed("==", builder.load(p.at(marks, now)), step)
            builder.store(builder.add(now, builder.zext(recorded, p.count)), slot)
            with p.loop(builder.udiv(patterns, ir.Constant(p.count, p.together))) as group:
                pattern = p.times(group, p.together)
                _backpropagate(p, weights, gradient, inputs, goals, parts, logits, pattern)
            with builder.if_then(builder.icmp_signed("<", step, steps)), p.loop(ir.Constant(p.count, p.rows)) as row:
                slope, size = p.load(gradient, row) * p.spread(keep, row), p.spread(rates, p.times(step, 2))
                if adam:
                    m = p.load(first, row) * BETA1 + slope * (1 - BETA1)
                    v = p.load(second, row) * BETA2 + slope * (1 - BETA2) * slope
                    p.store(m, first, row)
                    p.store(v, second, row)
                    root = _Lanes(builder, builder.call(p.root, [v.value]))
                    slope = m / (root * p.spread(rates, p.times(step, 2), 1) + EPSILON)
                p.store(p.load(weights, row) - size * slope, weights, row)
                p.store(_Lanes(builder, ir.Constant(p.vector, [0.0] * LANES)), gradient, row)
    builder.ret_void()


def _backpropagate(
    p: _Program, weights: Any, gradient: Any, inputs: Any, goals: Any, parts: Any, logits: Any, pattern: Any
) -> None:
    """Forward and backward through a few patterns at once, so that each gradient is fetched and stored once."""
    units, heads, bits, group = range(p.width), range(p.heads), range(p.bits), range(p.together)
    hidden = [[p.load(weights, p.into_hidden(u, i)) for i in range(p.bits + 1)] for u in units]
    head = [[p.load(weights, p.into_head(h, u)) for u in range(p.width + 1)] for h in heads]
    x: list[list[_Lanes]] = []
    act: list[list[_Lanes]] = []
    error: list[list[_Lanes]] = []
    for k in group:
        x.append([p.spread(inputs, p.times(pattern, p.bits), k * p.bits + i) for i in bits])
        sums = [_sum(hidden[u][p.bits], (x[k][i] * hidden[u][i] for i in bits)) for u in units]
        act.append([z.pick(">", 0.0, z, 0.0) for z in sums])
        error.append([])
        for h in heads:
            z = _sum(head[h][p.width], (head[h][u] * act[k][u] for u in units))
            place = p.times(pattern, p.heads), k * p.heads + h
            p.store(z, logits, *place)
            error[k].append((_sigmoid(z, p.double) - p.load(goals, *place)) * p.load(parts, pattern, k))

    def add(row: int, terms: list[_Lanes]) -> None:
        p.store(_sum(p.load(gradient, row), terms), gradient, row)

    for h in heads:
        for u in units:
            add(p.into_head(h, u), [error[k][h] * act[k][u] for k in group])
        add(p.into_head(h, p.width), [error[k][h] for k in group])
    for u in units:
        back = [_sum(error[k][0] * head[0][u], (error[k][h] * head[h][u] for h in heads[1:])) for k in group]
        back = [act[k][u].pick(">", 0.0, slope, 0.0) for k, slope in enumerate(back)]
        for i in bits:
            add(p.into_hidden(u, i), [x[k][i] * back[k] for k in group])
        add(p.into_hidden(u, p.bits), back)


_ENGINES: list[Any] = []
"""What was compiled: machine code lives as long as its engine."""


@cache
def _compiled(bits: int, width: int, heads: int, adam: bool, dtype: str) -> tuple[Kernel, int]:
    """The kernel for a shape, and how many patterns it takes at once. Machine code is kept beside Python's own."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(*processor, opt=2, jit=True)
    program = _Program(bits, width, heads, dtype == "float64")
    source = Path(__file__)
    made_of = (source.read_bytes(), llvmlite.__version__, processor, bits, width, heads, adam, dtype)
    kept = source.parent / "__pycache__" / f"ensembles-{sha256(repr(made_of).encode()).hexdigest()[:24]}.o"
    try:
        code = kept.read_bytes()
    except OSError:
        _write(program, adam)
        code = machine.emit_object(llvm.parse_assembly(str(program.module)))
        _keep(code, kept)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 9, *[ctypes.c_int64] * 4)(engine.get_function_address("run"))
    _ENGINES.append(engine)
    return call, program.together


def _keep(code: bytes, place: Path) -> None:
    """Write a file so that no other process finds half of it; where nothing may be written, the next one compiles."""
    with suppress(OSError):
        place.parent.mkdir(exist_ok=True)
        partial = place.with_suffix(f".{os.getpid()}-{get_ident()}")
        partial.write_bytes(code)
        partial.replace(place)


def _rates(steps: int, rate: float, optimizer: str) -> Array:
    """By step: the factor on the slope, and that on Adam's root (Kingma and Ba 2015, in PyTorch's form)."""
    done = np.arange(1, steps + 1)
    if optimizer == "sgd":
        return np.full((steps, 2), rate)
    return np.stack([rate / (1 - BETA1**done), 1 / np.sqrt(1 - BETA2**done)], axis=1)


def _aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """An empty array that begins where a vector may begin."""
    step = LANES * np.dtype(dtype).itemsize
    memory = np.empty(math.prod(shape) * np.dtype(dtype).itemsize + step, np.uint8)
    start = -memory.ctypes.data % step
    return memory[start : start + memory.size - step].view(dtype).reshape(shape)


def _in_lanes(values: Array, dtype: str) -> Array:
    """(members, ...) to (vectors, ..., LANES)."""
    moved = np.moveaxis(values.reshape(-1, LANES, *values.shape[1:]), 1, -1)
    result = _aligned(moved.shape, dtype)
    result[:] = moved
    return result


def _setup(
    inputs: ArrayLike,
    targets: ArrayLike,
    width: int,
    seeds: ArrayLike,
    steps: int,
    rate: float,
    optimizer: str,
    weights: ArrayLike | None,
    input_mask: ArrayLike | None,
    head_mask: ArrayLike | None,
    record: Sequence[int] | None,
    dtype: str,
) -> _Setup:
    x, t, seed = np.asarray(inputs, float), np.asarray(targets, float), np.asarray(seeds)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"inputs must be finite, (patterns, bits); got shape {x.shape}")
    if seed.ndim != 1 or seed.size == 0 or seed.dtype.kind not in "iu" or (seed < 0).any():
        raise ValueError(f"seeds must be a non-empty vector of integers from 0; got shape {seed.shape}, {seed.dtype}")
    own = (len(seed),) if t.ndim == 3 else ()
    if t.ndim not in (2, 3) or t.shape[:-1] != (*own, len(x)) or t.size == 0 or not np.isin(t, (0, 1)).all():
        raise ValueError(
            f"targets must be 0 or 1, ({len(x)} patterns, heads) or ({len(seed)} members, {len(x)} patterns, heads); "
            f"got shape {t.shape}, values {np.unique(t)[:5]}"
        )
    if width < 1 or steps < 0 or not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"need width >= 1, steps >= 0, rate > 0; got width={width}, steps={steps}, rate={rate}")
    _known("optimizer", optimizer, OPTIMIZERS)
    _known("dtype", dtype, DTYPES)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    if w.shape not in ((len(x),), (len(seed), len(x))) or not np.isfinite(w).all() or (w < 0).any():
        raise ValueError(f"weights must be >= 0, ({len(x)},) or ({len(seed)}, {len(x)}); got shape {w.shape}")
    if (w.sum(-1) == 0).any():
        raise ValueError("weights must leave every member a pattern to train on")
    steps_kept = np.array([steps] if record is None else record)
    if steps_kept.ndim != 1 or steps_kept.size == 0 or (np.diff(steps_kept, prepend=-1) < 1).any():
        raise ValueError(f"record must be increasing steps from 0; got {steps_kept.tolist()}")
    if steps_kept[-1] > steps:
        raise ValueError(f"record asks for step {steps_kept[-1]}, but there are {steps} steps")
    return _Setup(
        x,
        t,
        seed.astype(np.int64),
        np.broadcast_to(w / w.sum(-1, keepdims=True), (len(seed), len(x))),
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
