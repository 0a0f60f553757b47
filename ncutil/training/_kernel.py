"""The kernel of `ensembles.train`: forward, backward and update of many networks of one shape, as a vector program.

A vector holds one number of each of sixteen members. A program is written out for the shape of the network: every unit
and link in line, loops over steps, patterns and vectors only. All steps of a vector are done before the next begins, so
that its weights stay in the first cache. No compiler of loops did well enough: in trials the best kernel in numba was
13 to 14 times as fast as JAX on two heads and 16 patterns, and 6 to 7 times on one head and 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncutil.training import _vectors
from ncutil.training._vectors import Program, Vector

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants, PyTorch's defaults."""


@dataclass(frozen=True)
class Shape:
    """The networks that a program is written for, and the row of its arrays that holds a weight."""

    bits: int
    width: int
    heads: int
    adam: bool

    @property
    def rows(self) -> int:
        """Weights of a member, biases included."""
        return self.into_head(self.heads, 0)

    @property
    def at_once(self) -> int:
        """Patterns that the program takes at once."""
        # LLVM's work on instructions without a jump grows faster than their number.
        return max(1, min(4, 512 // self.rows))

    def into_hidden(self, unit: int, bit: int) -> int:
        """Row of a weight into a hidden unit; that of bit `bits` is the bias."""
        return unit * (self.bits + 1) + bit

    def into_head(self, head: int, unit: int) -> int:
        """Row of a weight into a head, after all those into hidden units; that of unit `width` is the bias."""
        return self.into_hidden(self.width, 0) + head * (self.width + 1) + unit


@cache
def compiled(shape: Shape, dtype: str) -> Callable[..., None]:
    """The program for a shape; `write` names its arguments."""
    name = f"ensembles-{shape.bits}-{shape.width}-{shape.heads}-{'adam' if shape.adam else 'sgd'}"
    arrays = ["vectors", "vectors", "numbers", "vectors", "vectors", "numbers", "numbers", "counts", "vectors"]
    return _vectors.compiled(name, partial(write, shape), [*arrays, *["count"] * 4], dtype, modules=[__name__])


def step_sizes(steps: int, rate: float, adam: bool) -> NDArray[Any]:
    """(steps, 2): the factor on the slope, and that on Adam's root (Kingma and Ba 2015, in PyTorch's form)."""
    done = np.arange(1, steps + 1)
    if not adam:
        return np.full((steps, 2), rate)
    return np.stack([rate / (1 - BETA1**done), 1 / np.sqrt(1 - BETA2**done)], axis=1)


def write(shape: Shape, p: Program) -> None:
    """The whole kernel: vectors of members, steps, groups of patterns."""
    builder = p.builder
    params, work, inputs, targets, shares, links, rates, marks, kept, vectors, patterns, steps, slots = p.arguments
    gradient, first, second = work, p.at(work, shape.rows), p.at(work, 2 * shape.rows)
    answers = p.times(patterns, shape.heads)
    slot = builder.alloca(p.count)
    with p.loop(vectors) as vector:
        with p.loop(3 * shape.rows) as row:
            p.store(p.zero(), work, row)
        weights = p.at(params, p.times(vector, shape.rows))
        goals, parts = p.at(targets, p.times(vector, answers)), p.at(shares, p.times(vector, patterns))
        kept_here = p.at(kept, p.times(vector, p.times(slots, answers)))
        builder.store(p.integer(0), slot)
        with p.loop(builder.add(steps, p.integer(1))) as step:
            # Each step writes its logits into the next free slot; a step to be recorded leaves them there.
            now = builder.load(slot)
            logits = p.at(kept_here, p.times(now, answers))
            recorded = builder.icmp_signed("==", builder.load(p.at(marks, now)), step)
            builder.store(builder.add(now, builder.zext(recorded, p.count)), slot)
            with p.loop(builder.udiv(patterns, p.integer(shape.at_once))) as group:
                pattern = p.times(group, shape.at_once)
                _backpropagate(shape, p, (weights, gradient, inputs, goals, parts, logits), pattern)
            with builder.if_then(builder.icmp_signed("<", step, steps)), p.loop(shape.rows) as row:
                slope, size = p.load(gradient, row) * p.broadcast(links, row), p.broadcast(rates, p.times(step, 2))
                if shape.adam:
                    m = p.load(first, row) * BETA1 + slope * (1 - BETA1)
                    v = p.load(second, row) * BETA2 + slope * (1 - BETA2) * slope
                    p.store(m, first, row)
                    p.store(v, second, row)
                    slope = m / (p.sqrt(v) * p.broadcast(rates, p.times(step, 2), 1) + EPSILON)
                p.store(p.load(weights, row) - size * slope, weights, row)
                p.store(p.zero(), gradient, row)


def _backpropagate(shape: Shape, p: Program, arrays: Sequence[Any], pattern: Any) -> None:
    """Forward and backward through a few patterns at once, so that each gradient is fetched and stored once."""
    weights, gradient, inputs, goals, parts, logits = arrays
    units, heads, bits, group = range(shape.width), range(shape.heads), range(shape.bits), range(shape.at_once)
    hidden = [[p.load(weights, shape.into_hidden(u, i)) for i in range(shape.bits + 1)] for u in units]
    head = [[p.load(weights, shape.into_head(h, u)) for u in range(shape.width + 1)] for h in heads]
    x, act, error = (list[list[Vector]]([[] for _ in group]) for _ in range(3))
    for k in group:
        x[k] = [p.broadcast(inputs, p.times(pattern, shape.bits), k * shape.bits + i) for i in bits]
        sums = [sum((x[k][i] * hidden[u][i] for i in bits), hidden[u][shape.bits]) for u in units]
        act[k] = [z.select("<", 0.0, 0.0, z) for z in sums]
        for h in heads:
            z = sum((head[h][u] * act[k][u] for u in units), head[h][shape.width])
            place = p.times(pattern, shape.heads), k * shape.heads + h
            p.store(z, logits, *place)
            error[k].append((p.sigmoid(z) - p.load(goals, *place)) * p.load(parts, pattern, k))

    def add(row: int, terms: list[Vector]) -> None:
        p.store(sum(terms, p.load(gradient, row)), gradient, row)

    for h in heads:
        for u in units:
            add(shape.into_head(h, u), [error[k][h] * act[k][u] for k in group])
        add(shape.into_head(h, shape.width), [error[k][h] for k in group])
    for u in units:
        back = [sum((error[k][h] * head[h][u] for h in heads[1:]), error[k][0] * head[0][u]) for k in group]
        back = [act[k][u].select("<=", 0.0, 0.0, slope) for k, slope in enumerate(back)]
        for i in bits:
            add(shape.into_hidden(u, i), [x[k][i] * back[k] for k in group])
        add(shape.into_hidden(u, shape.bits), back)
