"""NCnet as an experiment: two heads on one hidden layer, a pair of tasks per context, and S of their outcomes.

Alice's head and Bob's have two tasks each; task i of hers with task j of his is context (i, j), and every context
trains a network of its own. A *run* is four such networks from the same first weights. On each input a head's outcome
is +1 where it is right and -1 where it is wrong. Explained in the chapter on NCnet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ncutil.bell import chsh
from ncutil.ground.checks import known
from ncutil.training import ensembles

Array = NDArray[Any]

TASKS: dict[str, Callable[[Array], Array]] = {
    "first": lambda bits: bits[:, 0] == 1,
    "and": lambda bits: bits.min(1) == 1,
    "or": lambda bits: bits.max(1) == 1,
    "nand": lambda bits: bits.min(1) == 0,
    "nor": lambda bits: bits.max(1) == 0,
    "xor": lambda bits: bits.sum(1) % 2 == 1,
    "xnor": lambda bits: bits.sum(1) % 2 == 0,
}
"""Truth tables by name, for any number of bits: "xor" of more than two is their parity."""

INPUTS = ("separate", "shared")
SHARING = ("full", "none", "overlap")

Pair = tuple[str, str]


def corners(bits: int) -> Array:
    """All patterns of this many bits, (2**bits, bits), counting upwards.

    >>> corners(2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return np.array(list(product((0, 1), repeat=bits)))


def truth_table(task: str, bits: int = 2) -> Array:
    """Label of every pattern of `corners(bits)` under a task, 0 or 1; ValueError lists the known tasks."""
    known("task", task, TASKS)
    return TASKS[task](corners(bits)).astype(int)


def patterns(alice: Pair, bob: Pair, bits: int = 2, inputs: str = "separate") -> tuple[Array, Array]:
    """Input patterns, (patterns, bits of both), and targets, (2, 2, patterns, 2): [i, j, :, 0] is Alice's task i.

    `alice` and `bob` are the two tasks of each head, setting 1 and setting 2, which depend on `bits` bits. `inputs` is
    "separate", every combination of Alice's bits and Bob's, or "shared", the same bits for both.
    """
    known("inputs", inputs, INPUTS)
    if len(alice) != 2 or len(bob) != 2:
        raise ValueError(f"each head has two tasks, one a setting; got {alice} and {bob}")
    own = corners(bits)
    hers = his = np.arange(len(own))
    if inputs == "separate":
        hers, his = np.repeat(hers, len(own)), np.tile(his, len(own))
    x = own if inputs == "shared" else np.hstack([own[hers], own[his]])
    targets = [[[truth_table(a, bits)[hers], truth_table(b, bits)[his]] for b in bob] for a in alice]
    return x, np.moveaxis(np.array(targets), 2, 3)


def wiring(width: int, sharing: str = "full", bits: int = 2, inputs: str = "separate") -> dict[str, Any]:
    """Hidden units and masks of a network whose heads have `width` units each, as arguments of `ensembles.train`.

    "full": both heads share the same `width` units. "none": each head has `width` units of its own.
    "overlap": two XORnets of two units each that share 4 - width of them (figure 1b), so width is 2, 3 or 4 in all;
    a unit of one head has links from that head's bits only.

    >>> wiring(3, "overlap")["head_mask"].tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    known("sharing", sharing, SHARING)
    if sharing == "full":
        return {"width": width}
    if sharing == "none":
        return {"width": 2 * width, "head_mask": np.kron(np.eye(2, dtype=int), np.ones((1, width), int))}
    if width not in (2, 3, 4):
        raise ValueError(f"two XORnets of two units overlap at width 2, 3 or 4; got {width}")
    unit = np.arange(width)
    head_mask = np.stack([unit < 2, unit >= width - 2]).astype(int)
    of_unit = head_mask.T if inputs == "separate" else np.ones((width, 1), int)
    return {"width": width, "head_mask": head_mask, "input_mask": np.repeat(of_unit, bits, axis=1)}


@dataclass(frozen=True)
class Trained:
    """Four contexts of many runs: the logits and the losses of every head.

    - targets : (2, 2, patterns, 2); logits : (2, 2, records, runs, patterns, 2); losses : (2, 2, records, runs, 2)
    - trained_on : (runs, patterns), True where a run was trained on a pattern; steps : (records,)
    """

    targets: Array
    logits: Array
    losses: Array
    trained_on: Array
    steps: Array

    @property
    def outcomes(self) -> Array:
        """+1 where a head is right, -1 where it is wrong, shape of `logits`."""
        return np.where(np.where(self.targets[:, :, None, None] > 0, self.logits > 0, self.logits <= 0), 1.0, -1.0)

    @property
    def final(self) -> "Trained":
        """The last record alone."""
        return replace(self, logits=self.logits[:, :, -1:], losses=self.losses[:, :, -1:], steps=self.steps[-1:])

    def best_of(self, restarts: int, select: str = "network") -> "Trained":
        """Groups of `restarts` runs, of which each context keeps the one with the lowest training loss at the end.

        "network" compares the sum of both heads' losses; "head" lets each head choose for itself, which makes sense
        only where the heads share nothing.
        """
        known("select", select, ("network", "head"))
        runs = self.losses.shape[3] // restarts
        if restarts < 1 or runs < 1:
            raise ValueError(f"cannot take the best of {restarts} among {self.losses.shape[3]} runs")
        final = self.losses[:, :, -1, : runs * restarts].reshape(2, 2, runs, restarts, 2)
        if select == "network":
            final = np.broadcast_to(final.sum(-1, keepdims=True), final.shape)
        best = final.argmin(3) + np.arange(runs)[:, None] * restarts
        logits = np.take_along_axis(self.logits, best[:, :, None, :, None, :], axis=3)
        losses = np.take_along_axis(self.losses, best[:, :, None], axis=3)
        # All restarts of one run are trained on the same patterns, see `train`.
        return replace(self, logits=logits, losses=losses, trained_on=self.trained_on[: runs * restarts : restarts])

    def frame(self) -> pd.DataFrame:
        """One row per run, context, recorded step and kind of inputs; the columns are those of `experiment`."""
        frames, loss = [], np.moveaxis(self.losses.sum(-1), (0, 1), (-2, -1))
        a, b = np.moveaxis(self.outcomes, -1, 0)
        for kind, on in (("seen", self.trained_on), ("held out", ~self.trained_on)):
            if not on.any():
                continue
            share = on / on.sum(-1, keepdims=True)
            # (records, runs, 2, 2) each: contexts last, as `chsh` takes them
            c, mean_a, mean_b = (np.einsum("ijrmp,mp->rmij", x, share).clip(-1, 1) for x in (a * b, a, b))
            bell = chsh.contextuality(chsh.from_moments(c, mean_a, mean_b))
            moments = {"c": c, "mean_a": mean_a, "mean_b": mean_b, "loss": loss}
            of_run = {"s": bell.s, "s0": chsh.independent_heads(mean_a, mean_b)}
            of_run |= {"s_odd": bell.s_odd, "delta": bell.delta, "measure": bell.measure}
            step, run, i, j = (axis.ravel() for axis in np.indices(c.shape))
            context = np.char.add((i + 1).astype(str), (j + 1).astype(str))
            columns = {"run": run, "context": context, "step": self.steps[step], "inputs": kind}
            columns |= {name: values.ravel() for name, values in moments.items()}
            columns |= {name: np.repeat(values.ravel(), 4) for name, values in of_run.items()}
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)


def train(
    width: int,
    runs: int,
    *,
    seed: int,
    steps: int = 1500,
    rate: float = 0.05,
    alice: Pair = ("first", "xor"),
    bob: Pair = ("first", "xor"),
    bits: int = 2,
    inputs: str = "separate",
    sharing: str = "full",
    seen: int | None = None,
    runs_per_subset: int = 1,
    first: int = 0,
    trainer: Callable[..., ensembles.Ensemble] = ensembles.train,
    **options: Any,
) -> Trained:
    """Train the four contexts of many runs; parameters as in `experiment`.

    Run r starts from seed 2**32 * seed + r in all four contexts; `first` is the number of the first run. With `seen`,
    each group of `runs_per_subset` runs draws its own patterns to train on. `trainer` may be
    `ensembles.train_reference`, and takes further options.
    """
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must lie in 0..2**31 - 1; got {seed}")
    x, targets = patterns(alice, bob, bits, inputs)
    trained_on = np.ones((runs, len(x)), bool)
    options |= {"steps": steps, "rate": rate, **wiring(width, sharing, bits, inputs)}
    if seen is not None:
        if not 1 <= seen <= len(x):
            raise ValueError(f"seen must be 1 to {len(x)} patterns; got {seen}")
        rng = np.random.default_rng([seed, seen, first] if first else [seed, seen])
        drawn = rng.permuted(np.tile(np.arange(len(x)) < seen, (-(-runs // runs_per_subset), 1)), axis=1)
        trained_on = np.repeat(drawn, runs_per_subset, axis=0)[:runs]
        options["weights"] = np.tile(trained_on, (4, 1))
    # The four contexts of all runs are one ensemble, context by context.
    every = np.repeat(targets.reshape(4, *targets.shape[2:]), runs, axis=0)
    trained = trainer(x, every, seeds=np.tile(2**32 * seed + first + np.arange(runs), 4), **options)
    # (records, 4 runs, ...) to (2, 2, records, runs, ...)
    both = (x.reshape(len(x), 2, 2, runs, *x.shape[2:]) for x in (trained.logits, trained.losses))
    logits, losses = (np.moveaxis(x, 0, 2) for x in both)
    return Trained(targets, logits, losses, trained_on, trained.steps)


def experiment(
    widths: Sequence[int] = (2, 3, 4), runs: int = 100, *, restarts: int = 1, select: str = "network", **options: Any
) -> pd.DataFrame:
    """S of many runs at some widths.

    `widths` are hidden units, or units a head where nothing is shared; `runs` are independent runs per width, of four
    networks each. `restarts` networks are trained per context, and `Trained.best_of` chooses by `select`. Options:
    `seed`, `steps`, `rate` of the training (Adam, full batch); `alice`, `bob`, `bits`, `inputs`, `sharing`, see
    `patterns` and `wiring`; `seen` patterns to train on, drawn anew for each run (all by default); `record`, the steps
    at which everything is measured (the last by default).

    One row per run, width, context, step and kind of inputs ("seen" in training or "held out"): `run`, `width`,
    `context` ("11" to "22"), `step`, `inputs`; `c` = E[AB] of the outcomes, `mean_a`, `mean_b`; `loss`, summed over
    heads, in nats. Repeated over the four contexts of a run: `s`; `s0`, the S of independent heads with the same means;
    `s_odd`, the largest of the 8 forms; `delta`, the signalling; `measure`, Contextuality-by-Default, contextual where
    positive.

    >>> frame = experiment([3], runs=2, seed=0, steps=50)
    >>> frame[["run", "width", "context"]].head(4).to_numpy().tolist()
    [[0, 3, '11'], [0, 3, '12'], [0, 3, '21'], [0, 3, '22']]
    """
    if runs < 1 or restarts < 1 or not len(widths):
        raise ValueError(f"need widths, runs and restarts; got widths={list(widths)}, runs={runs}, restarts={restarts}")
    frames = []
    for width in widths:
        trained = train(width, runs * restarts, runs_per_subset=restarts, **options).best_of(restarts, select)
        frames.append(trained.frame().assign(width=width))
    frame = pd.concat(frames, ignore_index=True)
    return frame[["run", "width", *frame.columns.drop(["run", "width"])]]


def per_run(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per run of an experiment's frame instead of one per context: S, its null, signalling and measure.

    Columns of single contexts are dropped. `accuracy` is the share of right answers, mean over contexts and heads.
    """
    if len(frame) % 4 or frame.context.tolist() != ["11", "12", "21", "22"] * (len(frame) // 4):
        raise ValueError("expected the rows of an experiment: contexts 11, 12, 21, 22 of one run after the other")
    right = (2 + frame.mean_a + frame.mean_b).to_numpy().reshape(-1, 4).mean(1) / 4
    once = frame[frame.context == "11"].drop(columns=["context", "c", "mean_a", "mean_b", "loss"])
    return once.assign(accuracy=right).reset_index(drop=True)
