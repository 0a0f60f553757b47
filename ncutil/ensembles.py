"""Thousands of small networks at once: one hidden ReLU layer, any number of heads, logistic loss, full batch.

`train_reference` is plain autograd, to read and to believe; `train` is a compiled kernel, hundreds of times faster than
a loop of modules, and tested equal to it. Both start member k from its own seeded generator, so that a member is the
same run alone or among 10^5 others. Explained in the chapter on NCnet.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

BLOCK = 128
"""Members in a block of the kernel: its innermost axis, a block's weights and gradients fit a core's first cache."""

OPTIMIZERS = ("adam", "sgd")
DTYPES = ("float32", "float64")
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants, PyTorch's defaults."""


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

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        A wrong shape, a target other than 0 and 1, a value that is not finite, an unknown optimizer or dtype, a
        record outside 0..steps.

    Examples
    --------
    >>> bits = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> xor = [[0], [1], [1], [0]]
    >>> result = train(bits, xor, width=8, seeds=range(3), steps=500, rate=0.05)
    >>> result.outcomes.shape, float(result.outcomes.mean())
    ((1, 3, 4, 1), 1.0)
    """
    setup = _setup(inputs, targets, width, seeds, steps, rate, optimizer, weights, input_mask, head_mask, record, dtype)
    members, (patterns, heads) = len(setup.seeds), setup.targets.shape[-2:]
    goals = np.broadcast_to(setup.targets, (members, patterns, heads))
    logits = np.empty((len(setup.record), members, patterns, heads), dtype)
    hidden, head = np.empty((members, *setup.see.shape)), np.empty((members, *setup.read.shape))
    keep = np.concatenate([setup.see.ravel(), setup.read.ravel()]) != 0

    def run(first: int) -> None:
        part = slice(first, min(first + BLOCK, members))
        # A short block is filled with copies of its last member, so that no member's arithmetic depends on its place.
        lanes = np.minimum(np.arange(first, first + BLOCK), part.stop - 1)
        start = np.concatenate([a.reshape(BLOCK, -1) for a in setup.start(setup.seeds[lanes])], axis=1)
        params = np.ascontiguousarray(start.T, dtype)
        shares = np.ascontiguousarray(setup.weights[lanes].T, dtype)
        kept = np.empty((len(setup.record), patterns, heads, BLOCK), dtype)
        goal = np.ascontiguousarray(np.moveaxis(goals[lanes], 0, -1), dtype)
        bits = setup.inputs.astype(dtype)
        _train_block(params, bits, goal, shares, keep, setup.record, kept, width, steps, rate, optimizer == "adam")
        here = part.stop - first
        logits[:, part] = np.moveaxis(kept, -1, 1)[:, :here]
        hidden[part] = params[: setup.see.size, :here].T.reshape(here, *setup.see.shape)
        head[part] = params[setup.see.size :, :here].T.reshape(here, *setup.read.shape)

    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        list(pool.map(run, range(0, members, BLOCK)))
    return Ensemble(setup.seeds, setup.record, logits, setup.targets, setup.weights, hidden, head)


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

    torch.set_num_threads(1)
    setup = _setup(inputs, targets, width, seeds, steps, rate, optimizer, weights, input_mask, head_mask, record, dtype)
    kind = getattr(torch, dtype)
    x, t, shares, see, read, hidden, head = (
        torch.tensor(array, dtype=kind)
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
            kept.append(logits.detach().numpy())
        if surgery or (gradients and recorded):
            apart = [torch.autograd.grad(loss, (hidden, head), retain_graph=True) for loss in losses]
            own = torch.stack([shared for shared, _ in apart]) * see
            if gradients and recorded:
                kept_gradients.append(own.numpy())
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
    final = hidden.detach().numpy(), head.detach().numpy()
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


@lru_cache(maxsize=512)
def _draw(hidden: tuple[int, int], head: tuple[int, int], seeds: bytes) -> tuple[Array, Array]:
    """First weights of the members with these seeds; kept, because the four contexts of a run start alike."""
    (width, bits), heads = (hidden[0], hidden[1] - 1), head[0]
    size = width * bits + heads * width
    drawn = np.stack([np.random.default_rng(seed).standard_normal(size) for seed in np.frombuffer(seeds, np.int64)])
    into_hidden = math.sqrt(2 / bits) * drawn[:, : width * bits].reshape(-1, width, bits)
    into_head = math.sqrt(1 / width) * drawn[:, width * bits :].reshape(-1, heads, width)
    bias = ((0, 0), (0, 0), (0, 1))
    return np.pad(into_hidden, bias), np.pad(into_head, bias)


# The kernel. Every array ends in the lane axis, BLOCK members side by side; each inner loop runs over the lanes and
# compiles to vector instructions. No sum runs across lanes, so contraction into multiply-adds is the only liberty that
# the compiler needs, and no member can feel another. The helpers are written into the kernel before it is compiled:
# linked in later, from the cache or not, they would round differently from one installation to the next.
_helper = numba.njit(inline="always")
_compiled = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")

_LOG2E = np.float32(1 / math.log(2))
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 8))
"""Taylor coefficients of 2^x: on [-1/2, 1/2] seven terms leave 5e-9, less than float32 resolves."""


@_helper
def _sigmoid(z: Array, exponent: Array, power: Array) -> None:
    """z <- 1 / (1 + e^-z). `power` is `exponent` seen as float32: writing k + 127 into its bits makes 2^k."""
    if z.itemsize == 8:
        for k in range(BLOCK):
            z[k] = 1 / (1 + math.exp(-z[k]))
    else:
        one = np.float32(1)
        for k in range(BLOCK):
            x = min(max(-z[k] * _LOG2E, np.float32(-126)), np.float32(126))
            whole = np.floor(x + np.float32(0.5))
            r = x - whole
            exponent[k] = (np.int32(whole) + np.int32(127)) << np.int32(23)
            z[k] = one + r * (_C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))))
        for k in range(BLOCK):
            z[k] = one / (one + z[k] * power[k])


@_compiled
def _train_block(
    params: Array,
    inputs: Array,
    targets: Array,
    shares: Array,
    keep: Array,
    record: Array,
    kept: Array,
    width: int,
    steps: int,
    rate: float,
    adam: bool,
) -> None:
    """Train one block in place: all its steps, one after the other, while its weights lie in the cache."""
    patterns, bits = inputs.shape
    heads = targets.shape[1]
    kind = params.dtype
    split = width * (bits + 1)
    gradient, first, second = np.zeros_like(params), np.zeros_like(params), np.zeros_like(params)
    hidden, head = params[:split].reshape(width, bits + 1, BLOCK), params[split:].reshape(heads, width + 1, BLOCK)
    to_hidden = gradient[:split].reshape(width, bits + 1, BLOCK)
    to_head = gradient[split:].reshape(heads, width + 1, BLOCK)
    act, error, back = np.empty((width, BLOCK), kind), np.empty((heads, BLOCK), kind), np.empty(BLOCK, kind)
    exponent = np.empty(BLOCK, np.int32)
    power = exponent.view(np.float32)
    zero = kind.type(0)
    records = 0
    for step in range(steps + 1):
        recorded = records < len(record) and record[records] == step
        gradient[:] = zero
        for p in range(patterns):
            for u in range(width):
                for k in range(BLOCK):
                    act[u, k] = hidden[u, bits, k]
                for i in range(bits):
                    x = inputs[p, i]
                    if x != zero:
                        for k in range(BLOCK):
                            act[u, k] += x * hidden[u, i, k]
                for k in range(BLOCK):
                    act[u, k] = max(act[u, k], zero)
            for h in range(heads):
                for k in range(BLOCK):
                    error[h, k] = head[h, width, k]
                for u in range(width):
                    for k in range(BLOCK):
                        error[h, k] += head[h, u, k] * act[u, k]
                if recorded:
                    kept[records, p, h] = error[h]
                _sigmoid(error[h], exponent, power)
                for k in range(BLOCK):
                    error[h, k] = (error[h, k] - targets[p, h, k]) * shares[p, k]
                    to_head[h, width, k] += error[h, k]
                for u in range(width):
                    for k in range(BLOCK):
                        to_head[h, u, k] += error[h, k] * act[u, k]
            for u in range(width):
                for k in range(BLOCK):
                    back[k] = error[0, k] * head[0, u, k]
                for h in range(1, heads):
                    for k in range(BLOCK):
                        back[k] += error[h, k] * head[h, u, k]
                for k in range(BLOCK):
                    back[k] = back[k] if act[u, k] > zero else zero
                    to_hidden[u, bits, k] += back[k]
                for i in range(bits):
                    x = inputs[p, i]
                    if x != zero:
                        for k in range(BLOCK):
                            to_hidden[u, i, k] += x * back[k]
        records += recorded
        if step < steps:
            _update(params, gradient, first, second, keep, step + 1, rate, adam)


@_helper
def _update(
    params: Array, gradient: Array, first: Array, second: Array, keep: Array, step: int, rate: float, adam: bool
) -> None:
    """One step of SGD or of Adam (Kingma and Ba 2015, in PyTorch's form) on the links that are kept."""
    kind = params.dtype.type
    b1, b2, c1, c2 = kind(BETA1), kind(BETA2), kind(1 - BETA1), kind(1 - BETA2)
    root, eps = kind(1 / math.sqrt(1 - BETA2**step)), kind(EPSILON)
    size = kind(rate / (1 - BETA1**step)) if adam else kind(rate)
    for j in range(len(params)):
        if not keep[j]:
            continue
        w, g, m, v = params[j], gradient[j], first[j], second[j]
        if adam:
            for k in range(BLOCK):
                m[k] = b1 * m[k] + c1 * g[k]
                v[k] = b2 * v[k] + c2 * g[k] * g[k]
                w[k] -= size * m[k] / (np.sqrt(v[k]) * root + eps)
        else:
            for k in range(BLOCK):
                w[k] -= size * g[k]


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
    for name, given, known in (("optimizer", optimizer, OPTIMIZERS), ("dtype", dtype, DTYPES)):
        if given not in known:
            raise ValueError(f"unknown {name} {given!r}; known: {', '.join(known)}")
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
