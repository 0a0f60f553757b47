"""Thousands of small networks at once: one hidden ReLU layer, any number of heads, logistic loss, full batch.

`train_reference` is plain autograd and easy to check. `train` is a compiled kernel, thousands of times faster than a
loop of modules; tests hold it equal to the reference. Both draw the first weights of a member from its own seed, so a
member is the same run alone or among 10^6 others. All members of a call are in memory at once; a study of more trains
them block by block, as `ncutil sweep distribution` does. Explained in the chapter on NCnet.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncutil.ground.checks import integer, integers, known, positive
from ncutil.ground.files import cores
from ncutil.training import _kernel, _vectors
from ncutil.training._kernel import BETA1, BETA2, EPSILON

Array = NDArray[Any]

OPTIMIZERS = ("adam", "sgd")
DTYPES = ("float32", "float64")
DEVICES = ("cpu", "cuda")

BLOCK = 256
"""Members in one call of the kernel, trained by one thread."""

THREADS = cores()
"""Threads that train blocks at the same time; a worker that has one core sets it to 1."""


@dataclass(frozen=True)
class Ensemble:
    """A trained ensemble: logits recorded during training, and the weights at the end.

    - seeds : (members,); steps : (records,), updates done when each record was taken
    - logits : (records, members, patterns, heads)
    - targets : (patterns, heads) or (members, patterns, heads), 0 or 1, as given
    - weights : (members, patterns), each pattern's share in a member's training loss; rows sum to 1
    - hidden : (members, width, bits + 1), final weights into each hidden unit, its bias last
    - head : (members, heads, width + 1), final weights into each head, its bias last
    - gradients : (records, members, heads, width, bits + 1), of each head's own loss on each hidden unit, if asked for
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
        """+1 where a head is right on a pattern, -1 where it is wrong or its logit NaN, in the shape of the logits."""
        return np.where(np.where(self.targets > 0, self.logits > 0, self.logits <= 0), 1.0, -1.0)


def train(
    inputs: ArrayLike,
    targets: ArrayLike,
    width: int,
    seeds: ArrayLike,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    **options: Any,
) -> Ensemble:
    """Train all members at once on the compiled kernel.

    - inputs : (patterns, bits), all of which every step takes
    - targets : (patterns, heads), 0 or 1; (members, patterns, heads) where every member has its own
    - width : hidden units
    - seeds : (members,), integers from 0 to 2**63 - 1. Member k draws its first weights from `default_rng(seeds[k])`:
      normal, variance 2 / bits into the hidden units and 1 / width into the heads; biases start at 0.
    - steps, rate, optimizer : updates, learning rate, "adam" or "sgd"
    - weights : (patterns,) or (members, patterns), how much each pattern counts in the mean loss; equal by default
    - input_mask : (width, bits), 1 where a unit has a link from a bit, 0 where it has none
    - head_mask : (heads, width), 1 where a head has a link from a unit, 0 where it has none
    - record : increasing steps after which logits are kept, 0 = before the first; by default only the last
    - dtype : "float32" or "float64". On four bits, three units and XOR for one head or none, 99 % of members in float32
      have the losses of float64 to 1e-5 after 200 steps; of two heads with XOR each, and Adam, it is 98 % (99 % in
      PyTorch's float32).
    - device : "cpu", or "cuda" for the same training in PyTorch on a GPU

    ValueError for a wrong shape, a target other than 0 and 1, a value that is not finite, a fraction where a whole
    number belongs, an unknown optimizer, dtype or device, a GPU that is not there, a record outside 0..steps.

    >>> bits = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> result = train(bits, [[0], [1], [1], [0]], width=8, seeds=range(3), steps=500, rate=0.05)
    >>> result.outcomes.shape, float(result.outcomes.mean())
    ((1, 3, 4, 1), 1.0)
    """
    if device != "cpu":
        return train_reference(inputs, targets, width, seeds, dtype=dtype, device=device, **options)
    start, x, links, steps, rate, adam = _start(inputs, targets, width, seeds, dtype=dtype, **options)
    records, members, patterns, heads = start.logits.shape
    goals = np.broadcast_to(start.targets, (members, patterns, heads))
    shape = _kernel.Shape(x.shape[1], int(width), heads, adam)
    run = _kernel.compiled(shape, dtype)
    # The kernel takes patterns in groups; the patterns that fill up the last one have weight 0 in the loss.
    extra = -patterns % shape.at_once
    bits = np.pad(x, ((0, extra), (0, 0))).astype(dtype)
    keep = np.concatenate([link.ravel() for link in links]).astype(dtype)
    sizes, marks = _kernel.step_sizes(steps, rate, adam).astype(dtype), np.append(start.steps, -1)
    weights = np.concatenate([start.hidden.reshape(members, -1), start.head.reshape(members, -1)], axis=1)

    def block(first: int) -> None:
        own = np.arange(first, min(first + BLOCK, members))
        # Copies of the last member fill the last vector, so that no member depends on its place.
        filled = np.pad(own, (0, -len(own) % _vectors.LENGTH), "edge")
        params = _vectors.interleaved(weights[filled], dtype)
        goal = _vectors.interleaved(np.pad(goals[filled], ((0, 0), (0, extra), (0, 0))), dtype)
        shares = _vectors.interleaved(np.pad(start.weights[filled], ((0, 0), (0, extra))), dtype)
        work = _vectors.aligned((3, *params.shape[1:]), dtype)
        kept = _vectors.aligned((len(params), records + 1, patterns + extra, heads, _vectors.LENGTH), dtype)
        counts = (len(params), patterns + extra, steps, records + 1)
        run(params, work, bits, goal, shares, keep, sizes, marks, kept, *counts)
        start.logits[:, own] = _vectors.apart(kept)[: len(own), :-1, :patterns].swapaxes(0, 1)
        weights[own] = _vectors.apart(params)[: len(own)]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(block, range(0, members, BLOCK)))
    hidden, head = np.split(weights, [links[0].size], axis=1)
    return replace(start, hidden=hidden.reshape(start.hidden.shape), head=head.reshape(start.head.shape))


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
    **options: Any,
) -> Ensemble:
    """Train the same members in plain PyTorch: one tensor for each layer, the member axis first, and autograd.

    Parameters, result and errors are those of `train`, with two more options. `gradients` records the gradient of each
    head's own loss on each hidden unit. `surgery` projects the gradients of two heads on a hidden unit onto the normal
    planes of each other before they are added, where their inner product is negative (Yu et al. 2020, here by unit).
    """
    import torch

    known("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' needs a GPU that PyTorch can use; it finds none (device='cpu' does without)")
    torch.set_num_threads(1)
    start, given, links, steps, rate, adam = _start(inputs, targets, width, seeds, dtype=dtype, **options)
    x, t, shares, into_hidden, into_head, hidden, head = (
        torch.tensor(array, dtype=getattr(torch, dtype), device=device)
        for array in (given, start.targets, start.weights, *links, start.hidden, start.head)
    )
    layers = hidden.requires_grad_(), head.requires_grad_()
    first, second = ([torch.zeros_like(layer) for layer in layers] for _ in range(2))
    kept, kept_gradients = [], []

    for step in range(steps + 1):
        act = torch.relu(torch.einsum("pi,mui->mpu", x, hidden[..., :-1]) + hidden[:, None, :, -1])
        logits = torch.einsum("mpu,mhu->mph", act, head[..., :-1]) + head[:, None, :, -1]
        each = torch.nn.functional.softplus((1 - 2 * t) * logits)
        # Summed over members: the gradient of the sum is, member by member, the gradient of its own loss.
        losses = torch.einsum("mph,mp->h", each, shares)
        recorded = step in start.steps
        if recorded:
            kept.append(logits.detach().cpu().numpy())
        if surgery or (gradients and recorded):
            apart = [torch.autograd.grad(loss, layers, retain_graph=True) for loss in losses]
            own = torch.stack([shared for shared, _ in apart]) * into_hidden
            if gradients and recorded:
                kept_gradients.append(own.cpu().numpy())
        if step < steps:
            if surgery:
                shared, separate = _without_conflict(own), torch.stack([separate for _, separate in apart]).sum(0)
            else:
                shared, separate = torch.autograd.grad(losses.sum(), layers)
            # A cut link starts at 0 and, without a gradient, stays there.
            slopes = shared * into_hidden, separate * into_head
            for layer, slope, m, v in zip(layers, slopes, first, second, strict=True):
                if adam:
                    m += (1 - BETA1) * (slope - m)
                    v += (1 - BETA2) * (slope**2 - v)
                    size = (v / (1 - BETA2 ** (step + 1))).sqrt() + EPSILON
                    slope = m / (1 - BETA1 ** (step + 1)) / size
                with torch.no_grad():
                    layer -= rate * slope

    own_gradients = np.moveaxis(np.stack(kept_gradients), 1, 2) if gradients else None
    final = [layer.detach().cpu().numpy() for layer in layers]
    return replace(start, logits=np.stack(kept), hidden=final[0], head=final[1], gradients=own_gradients)


def _without_conflict(own: Any) -> Any:
    """Sum over heads of (heads, members, width, bits + 1) gradients, each projected where it conflicts with another."""
    freed = own.clone()
    for i, j in product(range(len(own)), repeat=2):
        along, length = (freed[i] * own[j]).sum(-1, keepdim=True), (own[j] ** 2).sum(-1, keepdim=True)
        # Only a negative product is a conflict; a gradient of 0 conflicts with none.
        freed[i] -= along.clamp(max=0) / length.clamp(min=1e-30) * own[j]
    return freed.sum(0)


def first_weights(seeds: Array, bits: int, width: int, heads: int) -> tuple[Array, Array]:
    """First weights of the members with these seeds, biases last and 0, in the shapes of `Ensemble`."""
    size = width * bits + heads * width
    drawn = np.stack([np.random.default_rng(seed).standard_normal(size) for seed in seeds])
    into_hidden = math.sqrt(2 / bits) * drawn[:, : width * bits].reshape(-1, width, bits)
    into_head = math.sqrt(1 / width) * drawn[:, width * bits :].reshape(-1, heads, width)
    return np.pad(into_hidden, [(0, 0), (0, 0), (0, 1)]), np.pad(into_head, [(0, 0), (0, 0), (0, 1)])


def _start(
    inputs: ArrayLike,
    targets: ArrayLike,
    width: int,
    seeds: ArrayLike,
    *,
    dtype: str,
    steps: int,
    rate: float,
    optimizer: str = "adam",
    weights: ArrayLike | None = None,
    input_mask: ArrayLike | None = None,
    head_mask: ArrayLike | None = None,
    record: Sequence[int] | None = None,
) -> tuple[Ensemble, Array, list[Array], int, float, bool]:
    """The ensemble before training, inputs, links (1 or 0; of biases always 1), steps, rate, and whether it is Adam."""
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
    integer(1, width=width)
    integer(0, steps=steps)
    positive(rate=rate)
    known("optimizer", optimizer, OPTIMIZERS)
    known("dtype", dtype, DTYPES)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    if w.shape not in ((len(x),), (len(seed), len(x))) or not (w >= 0).all():
        raise ValueError(f"weights must be >= 0, ({len(x)},) or ({len(seed)}, {len(x)}); got shape {w.shape}")
    with np.errstate(over="ignore"):
        total = w.sum(-1, keepdims=True)
    if not ((total > 0) & (total < math.inf)).all():
        raise ValueError(
            f"weights must have a finite sum above 0 in each member; got {total.min():g} to {total.max():g}"
        )
    recorded = [steps] if record is None else list(record)
    integers("record", recorded, 0, int(steps))
    if recorded != sorted(recorded):
        raise ValueError(f"record must be increasing steps; got {recorded}")
    masks = {"input_mask": (input_mask, (width, x.shape[1])), "head_mask": (head_mask, (t.shape[-1], width))}
    links = []
    for name, (mask, shape) in masks.items():
        link = np.ones(shape) if mask is None else np.asarray(mask, float)
        if link.shape != shape or not np.isin(link, (0, 1)).all():
            raise ValueError(f"{name} must be 0 or 1, {shape}; got shape {link.shape}")
        links.append(np.pad(link, ((0, 0), (0, 1)), constant_values=1))
    # The four contexts of a run have one seed, which is drawn from once.
    once, place = np.unique(seed.astype(np.int64), return_inverse=True)
    drawn = first_weights(once, x.shape[1], width, t.shape[-1])
    layers = ((layer * link)[place] for layer, link in zip(drawn, links, strict=True))
    logits = np.empty((len(recorded), len(seed), *t.shape[-2:]), dtype)
    shares = np.broadcast_to(w / total, (len(seed), len(x)))
    start = Ensemble(once[place], np.array(recorded, np.int64), logits, t, shares, *layers)
    return start, x, links, int(steps), float(rate), optimizer == "adam"
