"""S of all tasks of two bits against all others: 120 pairs of tasks on each side, and four places of the minus sign."""

from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, norm

from ncutil.bell import chsh, ncnet
from ncutil.studies.summary import APART, SUMS, Study, add, grid, means
from ncutil.training import ensembles

Array = NDArray[Any]

SETTING = ["inputs", "width", "restarts"]
QUADRUPLE = ["a1", "a2", "b1", "b2"]

FUNCTIONS = np.array(list(product((0, 1), repeat=4)))
"""All 16 Boolean functions of two bits, as truth tables over 00, 01, 10, 11: function k has k in binary digits."""

NAMES = (
    "0", "and", "a and not b", "a", "b and not a", "b", "xor", "or",
    "nor", "xnor", "not b", "a or not b", "not a", "b or not a", "nand", "1",
)  # fmt: skip

PAIRS = np.array(list(combinations(range(16), 2)))
"""The 120 ways to choose two different tasks for a side."""


def experiment(
    inputs: str, width: int, half: int, runs: int, *, seed: int, restarts: int = 4, piece: int = 40
) -> pd.DataFrame:
    """Sums over every pair of tasks, and over every quadruple, composed of four pairs; one half of the seeds.

    Rows of pairs have `minus` = -1 and their tasks in `a1` and `b1`; sums are of E[AB], and of the product of the means
    as `s` and `s0`. Rows of quadruples have S with the minus sign at context `minus` (0 to 3 for 11, 12, 21, 22); the
    measure takes the largest of all eight forms, whatever `minus` is.
    """
    x, _ = ncnet.patterns(("first", "xor"), ("first", "xor"), inputs=inputs)
    hers, his = x[:, :2] @ (2, 1), x[:, -2:] @ (2, 1)
    asked = np.array(list(product(range(16), repeat=2)))
    targets = np.stack([FUNCTIONS[asked[:, 0]][:, hers], FUNCTIONS[asked[:, 1]][:, his]], axis=-1)
    parts: dict[int, list[pd.DataFrame]] = {1: [], restarts: []}
    for first in range(half * runs, (half + 1) * runs, piece):
        seeds = 2**32 * seed + restarts * first + np.arange(restarts * piece)
        goals = np.repeat(targets, len(seeds), axis=0)
        trained = ensembles.train(x, goals, width, np.tile(seeds, len(asked)), steps=1500, rate=0.05)
        right = trained.outcomes[-1].reshape(len(asked), piece, restarts, len(x), 2)
        losses = trained.losses[-1].sum(-1).reshape(len(asked), piece, restarts)
        best = np.take_along_axis(right, losses.argmin(2)[:, :, None, None, None], axis=2)[:, :, 0]
        for k, outcome in ((1, right[:, :, 0]), (restarts, best)):
            moments = (m.mean(-1) for m in (outcome.prod(-1), outcome[..., 0], outcome[..., 1]))
            parts[k].append(quadruples(*(np.moveaxis(m, 1, 0).reshape(piece, 16, 16) for m in moments)))
    frames = [add(of_k, [*QUADRUPLE, "minus"]).assign(restarts=k) for k, of_k in parts.items()]
    return pd.concat(frames).assign(inputs=inputs, width=width, half=half)


def quadruples(e: Array, mean_a: Array, mean_b: Array) -> pd.DataFrame:
    """Sums over runs for every quadruple; moments of every pair of tasks have shape (runs, 16, 16)."""
    a, b = PAIRS[:, None, :, None], PAIRS[None, :, None, :]
    # (runs, pairs of hers, pairs of his, 2, 2): each context's moments, taken from its own networks
    c, means_a, means_b = (moment[:, a, b] for moment in (e, mean_a, mean_b))
    null = means_a * means_b
    bell = chsh.contextuality(chsh.from_moments(c, means_a, means_b))
    positive = bell.measure.clip(min=0)
    tasks = np.concatenate([np.repeat(PAIRS, len(PAIRS), axis=0), np.tile(PAIRS, (len(PAIRS), 1))], axis=1)
    frames = []
    for minus in range(4):
        s, s0 = (x.sum((-2, -1)) - 2 * x[..., minus // 2, minus % 2] for x in (c, null))
        sums = (s, s**2, s0, (s - s0) ** 2, bell.delta, s > 2, bell.measure > 0, positive)
        columns = dict(zip(SUMS[2:], (x.sum(0).ravel() for x in sums), strict=True)) | {"runs": len(e), "units": len(e)}
        frames.append(pd.DataFrame(tasks, columns=QUADRUPLE).assign(minus=minus, **columns))
    pairs = pd.DataFrame(list(product(range(16), repeat=2)), columns=["a1", "b1"])
    single = dict.fromkeys(SUMS[2:], 0) | {"s": e.sum(0).ravel(), "s0": (mean_a * mean_b).sum(0).ravel()}
    frames.append(pairs.assign(a2=-1, b2=-1, minus=-1, runs=len(e), units=len(e), **single))
    return pd.concat(frames)[[*QUADRUPLE, "minus", *SUMS]]


def tables(total: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Correlators of all pairs; quadruples above 2 and apart from their null; contextual ones; the best ones.

    Counts of above, apart and both are those of `rejected` among the quadruples of a setting; `_first`, the same on one
    half of the seeds alone; `_fails`, how many of these are not so on the other half. The best are chosen on one half,
    by the measure only where some run of a setting has a positive one.
    """
    pairs = add([total[total.minus < 0]], [*SETTING, "a1", "b1"])[[*SETTING, "a1", "b1", "runs", "s", "s0"]]
    each = total[total.minus >= 0]
    names = [*SETTING, *QUADRUPLE, "minus"]
    both = each[each.half == 0].merge(each[each.half == 1], on=names, suffixes=("", "_fresh"))
    ranked = []
    for statistic, (_, group) in product(("s", "measure"), both.groupby(SETTING)):
        if group[statistic].max() > 0:
            winners = group.nlargest(10, [statistic, "s"])
            ranked.append(winners.assign(chosen_by=statistic, rank=range(1, 1 + len(winners))))
    best = pd.concat(ranked).drop(columns=["half", "half_fresh"])
    whole = add([each], names)
    counts = []
    for at, part in each.groupby(SETTING):
        halves = part, part[part.half == 0], part[part.half == 1]
        group, first, fresh = (means(add([of], [*QUADRUPLE, "minus"])) for of in halves)
        hits = rejected(*p_values(group))
        above = hits["above"]
        of = dict(zip(SETTING, at, strict=True)) | {"quadruples": len(group), "above": above.sum()}
        of |= {"above_null_too": (above & (group.s0 > 2)).sum(), "above_apart": hits["above_apart"].sum()}
        of |= {"above_gap_most": group.gap[above].abs().max(), "apart": hits["apart"].sum()}
        of |= {"gap_most": group.gap.abs().max(), "contextual": (group.contextual > 0).sum()}
        again = {"above": fresh.s > 2, "apart": fresh.gap * np.sign(first.gap) > APART}
        again["above_apart"] = again["above"] & again["apart"]
        for name, hit in rejected(*p_values(first)).items():
            of |= {f"{name}_first": hit.sum(), f"{name}_fails": (hit & ~again[name]).sum()}
        counts.append(of)
    once = whole[(whole.minus == 0) & (whole.contextual > 0)]
    contextual = once[[*SETTING, *QUADRUPLE, "runs", "contextual", "measure"]]
    return {"pairs": pairs, "best": best, "counts": pd.DataFrame(counts), "contextual": contextual}


def p_values(group: pd.DataFrame) -> Array:
    """One-sided normal p-values of `means`: of S above 2, and of a gap above `APART`; (2, rows)."""
    excess, error = np.array([group.s - 2, group.gap.abs() - APART]), np.array([group.error, group.gap_error])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(norm.sf(np.where(excess > 0, excess / error, -np.inf)))


def rejected(above: Array, apart: Array) -> dict[str, Array]:
    """Which null hypotheses to reject, where at most 5 % are expected to be false (Benjamini and Hochberg 1995)."""
    # Both hold only as surely as the less certain of the two.
    p = {"above": above, "apart": apart, "above_apart": np.maximum(above, apart)}
    return {name: np.asarray(false_discovery_control(values) < 0.05) for name, values in p.items()}


STUDY = Study(
    experiment,
    grid(inputs=ncnet.INPUTS, width=[2, 3, 4], half=[0, 1], runs=[120]),
    [*SETTING, "half", *QUADRUPLE, "minus"],
    tables,
)
