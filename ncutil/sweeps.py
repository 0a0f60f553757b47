"""Studies too long for a chapter: cut into blocks, each kept when it is done, so that a killed study goes on.

A block trains its networks, reduces them to sums by group and forgets them; what is kept are small tables, and their
sum is the study's result. `ncutil sweep NAME` runs a study and writes its tables and the record of its run to
`book/studies/`, where the chapter on phase diagrams reads them with `table` and `record`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ncutil import chsh, ensembles, ncnet

Array = NDArray[Any]
Block = Mapping[str, Any]

SEED = 2026
"""Of every study: other first weights than in the chapters."""

SUMS = ("runs", "s", "s_squared", "s0", "delta", "above", "contextual", "measure")
"""What a group of runs is reduced to: how many; sums of S, S^2, S0 and Delta; runs with S > 2, with a positive measure;
sum of the positive measures."""


@dataclass(frozen=True)
class Study:
    """What a study does: its blocks, what one block gives, and what becomes of the sum of all of them.

    `measure(**block)` gives a table whose columns other than `keys` add up over blocks; `finish` makes the tables that
    are kept, by suffix of their file's name.
    """

    measure: Callable[..., pd.DataFrame]
    blocks: Sequence[Block]
    keys: Sequence[str]
    finish: Callable[[pd.DataFrame], dict[str, pd.DataFrame]] = field(default=lambda total: {"": total})


def run(
    study: Study,
    folder: Path,
    pool: Executor,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, pd.DataFrame]:
    """Do the blocks of a study that are not yet in the folder, then add all of them up.

    Every block becomes a file, under its own name only when it is whole. The folder belongs to one study and one
    version of its blocks: ValueError if it holds a block that the study does not have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{_name(block)}.csv.gz": block for block in study.blocks}
    strange = sorted(path.name for path in set(folder.glob("*.csv.gz")) - set(files))
    if strange:
        raise ValueError(f"{folder} holds blocks of another version of this study, such as {strange[0]}: remove it")
    waiting = {pool.submit(study.measure, **block): path for path, block in files.items() if not path.exists()}
    done = len(files) - len(waiting)
    tell(done, len(files))
    failed: BaseException | None = None
    for future in as_completed(waiting):
        if future.cancelled():
            continue
        if error := future.exception():
            # What is already under way is still worth keeping.
            failed = failed or error
            for other in waiting:
                other.cancel()
            continue
        path = waiting[future]
        part = path.with_name(f"{path.name}.part")
        future.result().to_csv(part, index=False, compression="gzip")
        part.replace(path)
        done += 1
        tell(done, len(files))
    if failed:
        raise failed
    return study.finish(add(map(pd.read_csv, files), study.keys))


def add(tables: Iterable[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """The sum of tables over everything that is no key, in the order of the keys."""
    return pd.concat(tables).groupby(list(keys), as_index=False, sort=True).sum()


def table(name: str) -> pd.DataFrame:
    """A study's table, as it was committed."""
    return pd.read_csv(_published(f"{name}.csv"))


def record(name: str) -> dict[str, Any]:
    """When, where and with what a study's tables were made."""
    found: dict[str, Any] = json.loads(_published(f"{name}.json").read_text(encoding="utf-8"))
    return found


def _published(file: str) -> Path:
    """A file of the clone's `book/studies`, or of the copy in an installed package."""
    here = Path(__file__).parent
    folders = here.parent / "book" / "studies", here / "studies"
    found = [folder / file for folder in folders if (folder / file).is_file()]
    if not found:
        known = sorted({path.name for folder in folders for path in folder.glob("*")})
        raise ValueError(f"no {file!r} among the studies; known: {', '.join(known)}")
    return found[0]


def write(tables: Mapping[str, pd.DataFrame], name: str, folder: Path) -> list[Path]:
    """Write a study's tables for `table` to read; a reader sees the old file or the whole new one."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, content in tables.items():
        path = folder / f"{name}{'-' if suffix else ''}{suffix}.csv"
        part = path.with_name(f".{path.name}.part")
        content.to_csv(part, index=False, float_format="%.6g")
        part.replace(path)
        written.append(path)
    return written


@contextmanager
def workers(jobs: int, cluster: str | None = None) -> Iterator[Executor]:
    """Processes on this machine, one thread each, or the workers of a Dask scheduler."""
    if cluster is None:
        with ProcessPoolExecutor(jobs, get_context("spawn"), _one_thread) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("a cluster needs Dask: pip install 'ncutil[cluster]'") from None
    with Client(cluster) as client:
        yield client.get_executor()


def _one_thread() -> None:
    ensembles.THREADS = 1


def _name(block: Block) -> str:
    return "-".join(f"{key}={value}" for key, value in block.items())


def reduced(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Runs, one a row as `ncnet.per_run` gives them, as the sums of `SUMS` by group."""
    each = frame.assign(
        runs=1,
        s_squared=frame.s**2,
        above=frame.s > 2,
        contextual=frame.measure > 0,
        measure=frame.measure.clip(lower=0),
    )
    return each.groupby(list(keys), as_index=False)[list(SUMS)].sum()


def means(sums: pd.DataFrame) -> pd.DataFrame:
    """Sums turned into means and shares by run, `low` and `high` being the 95 % interval of the mean S.

    >>> means(pd.DataFrame({"runs": [4], "s": [8.0], "s_squared": [20.0], "above": [1]})).round(2).to_dict("records")
    [{'runs': 4, 's': 2.0, 'above': 0.25, 'low': 0.87, 'high': 3.13}]
    """
    names = [name for name in SUMS[1:] if name in sums]
    result = sums.assign(**{name: sums[name] / sums.runs for name in names})
    spread = (result.s_squared - result.s**2).clip(lower=0) / (result.runs - 1).clip(lower=1)
    half = 1.96 * np.sqrt(spread)
    return result.assign(low=result.s - half, high=result.s + half).drop(columns="s_squared")


def _chosen(trained: ncnet.Trained, **names: Any) -> pd.DataFrame:
    """Runs of single trainings, and of the best of four, at the last record."""
    pools = {1: trained.final, 4: trained.best_of(4).final}
    frames = [ncnet.per_run(pool.frame()).assign(restarts=k, **names) for k, pool in pools.items()]
    return pd.concat(frames, ignore_index=True)


# The studies of the chapter on phase diagrams.


def _distribution(width: int, first: int, runs: int) -> pd.DataFrame:
    """How often each value of S is met, and how often all but the last context are learned with it."""
    trained = ncnet.train(width, runs, seed=SEED, first=first)
    frames = []
    for restarts, pool in ((1, trained), (4, trained.best_of(4))):
        frame = pool.frame()
        c = frame.c.to_numpy().reshape(-1, 4)
        frames.append(ncnet.per_run(frame).assign(width=width, restarts=restarts, learned=(c[:, :3] == 1).all(1)))
    runs_ = pd.concat(frames)
    each = runs_.assign(runs=1, contextual=runs_.measure > 0, s=runs_.s.round(6))
    return each.groupby(["width", "restarts", "s", "learned"], as_index=False)[["runs", "s0", "contextual"]].sum()


def _course(width: int, runs: int) -> pd.DataFrame:
    """S after more and more steps; of four restarts the best is chosen at each."""
    marks = [0, 10, 20, 50, 100, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000]
    trained = ncnet.train(width, runs, seed=SEED, steps=marks[-1], record=marks)
    frames = []
    for k, mark in enumerate(marks):
        part = slice(k, k + 1)
        at = replace(
            trained, logits=trained.logits[:, :, part], losses=trained.losses[:, :, part], steps=trained.steps[part]
        )
        frames.append(_chosen(at, width=width).assign(step=mark))
    return reduced(pd.concat(frames), ["width", "restarts", "step"])


def _rate(width: int, rate: float, runs: int) -> pd.DataFrame:
    trained = ncnet.train(width, runs, seed=SEED, rate=rate)
    return reduced(_chosen(trained, width=width, rate=rate), ["width", "restarts", "rate"])


def _data(width: int, seen: int, runs: int) -> pd.DataFrame:
    trained = ncnet.train(width, runs, seed=SEED, seen=seen, alike=4)
    return reduced(_chosen(trained, width=width, size=seen), ["width", "restarts", "size", "inputs"])


def _parity(bits: int, width: int, runs: int) -> pd.DataFrame:
    """First bit against parity of more and more bits, both heads asking about the same ones; 3,000 steps."""
    trained = ncnet.train(width, runs, seed=SEED, bits=bits, inputs="shared", steps=3000, rate=0.02)
    return reduced(_chosen(trained, width=width, bits=bits), ["bits", "width", "restarts"])


FUNCTIONS = np.array(list(product((0, 1), repeat=4)))
"""All 16 Boolean functions of two bits, as truth tables over 00, 01, 10, 11: function k has k in binary digits."""

NAMES = (
    "0", "and", "a and not b", "a", "b and not a", "b", "xor", "or",
    "nor", "xnor", "not b", "a or not b", "not a", "b or not a", "nand", "1",
)  # fmt: skip

PAIRS = np.array(list(combinations(range(16), 2)))
"""The 120 ways to choose two different tasks for a side."""


def _tasks(inputs: str, width: int, half: int, runs: int, restarts: int = 4, piece: int = 40) -> pd.DataFrame:
    """Every pair of tasks trained, every quadruple composed of them; one half of the seeds.

    Rows of pairs have `minus` = -1 and their tasks in `a1` and `b1`; sums are of E[AB], and of the product of the means
    as `s` and `s0`. Rows of quadruples have S with the minus sign at context `minus` (0 to 3 for 11, 12, 21, 22).
    """
    bits = ncnet.corners(2)
    hers, his = (np.repeat(range(4), 4), np.tile(range(4), 4)) if inputs == "separate" else (np.arange(4),) * 2
    x = np.hstack([bits[hers], bits[his]]) if inputs == "separate" else bits
    asked = np.array(list(product(range(16), repeat=2)))
    targets = np.stack([FUNCTIONS[asked[:, 0]][:, hers], FUNCTIONS[asked[:, 1]][:, his]], axis=-1)
    tables: dict[int, list[pd.DataFrame]] = {1: [], restarts: []}
    for first in range(half * runs, (half + 1) * runs, piece):
        seeds = 2**32 * SEED + restarts * first + np.arange(restarts * piece)
        goals = np.repeat(targets, len(seeds), axis=0)
        trained = ensembles.train(x, goals, width, np.tile(seeds, len(asked)), steps=1500, rate=0.05)
        right = trained.outcomes[-1].reshape(len(asked), piece, restarts, len(x), 2)
        losses = trained.losses[-1].sum(-1).reshape(len(asked), piece, restarts)
        best = np.take_along_axis(right, losses.argmin(2)[:, :, None, None, None], axis=2)[:, :, 0]
        for k, outcome in ((1, right[:, :, 0]), (restarts, best)):
            moments = (outcome.prod(-1).mean(-1), outcome[..., 0].mean(-1), outcome[..., 1].mean(-1))
            tables[k].append(_quadruples(*(np.moveaxis(m, 1, 0).reshape(piece, 16, 16) for m in moments)))
    keys = ["a1", "a2", "b1", "b2", "minus"]
    frames = [add(parts, keys).assign(restarts=k) for k, parts in tables.items()]
    return pd.concat(frames).assign(inputs=inputs, width=width, half=half)


def _quadruples(e: Array, mean_a: Array, mean_b: Array) -> pd.DataFrame:
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
        sums = (s, s**2, s0, bell.delta, s > 2, bell.measure > 0, positive)
        columns = dict(zip(SUMS[1:], (x.sum(0).ravel() for x in sums), strict=True))
        frames.append(pd.DataFrame(tasks, columns=["a1", "a2", "b1", "b2"]).assign(minus=minus, runs=len(e), **columns))
    pairs = pd.DataFrame(list(product(range(16), repeat=2)), columns=["a1", "b1"])
    single = {"s": e, "s_squared": e**2, "s0": mean_a * mean_b}
    columns = {name: single[name].sum(0).ravel() if name in single else 0 for name in SUMS[1:]}
    frames.append(pairs.assign(a2=-1, b2=-1, minus=-1, runs=len(e), **columns))
    return pd.concat(frames)[["a1", "a2", "b1", "b2", "minus", *SUMS]]


def _search(total: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mean correlators of all pairs; how many quadruples pass 2; and the best ones, chosen on one half of the seeds."""
    setting = ["inputs", "width", "restarts"]
    pairs = add([total[total.minus < 0]], [*setting, "a1", "b1"])[[*setting, "a1", "b1", "runs", "s", "s0"]]
    quadruples = total[total.minus >= 0]
    names = [*setting, "a1", "a2", "b1", "b2", "minus"]
    both = quadruples[quadruples.half == 0].merge(quadruples[quadruples.half == 1], on=names, suffixes=("", "_fresh"))
    chosen = []
    for statistic, (_, group) in product(("s", "measure"), both.groupby(setting)):
        chosen.append(group.nlargest(10, [statistic, "s"]).assign(chosen_by=statistic, rank=range(1, 11)))
    whole = means(add([quadruples], names))
    counted = whole.assign(
        quadruples=1,
        surely_above=whole.low > 2,
        null_above=(whole.low > 2) & (whole.s0 > 2),
        ever_contextual=whole.contextual > 0,
    )
    columns = ["quadruples", "surely_above", "null_above", "ever_contextual"]
    counts = counted.groupby(setting, as_index=False)[columns].sum()
    best = pd.concat(chosen).drop(columns=["half", "half_fresh"])
    return {"pairs": pairs, "best": best, "counts": counts}


def _grid(**values: Sequence[Any]) -> list[Block]:
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


_WIDTHS = (1, 2, 3, 4, 5, 6, 8)

STUDIES: dict[str, Study] = {
    "distribution": Study(
        _distribution,
        [
            *_grid(width=[3], first=range(0, 100_000, 4_000), runs=[4_000]),
            *_grid(width=[1, 2, 4, 5, 6, 8], first=range(0, 10_000, 5_000), runs=[5_000]),
        ],
        ["width", "restarts", "s", "learned"],
    ),
    "course": Study(_course, _grid(width=[*_WIDTHS, 12, 16], runs=[2_000]), ["width", "restarts", "step"]),
    "rate": Study(
        _rate,
        _grid(width=_WIDTHS, rate=[0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5], runs=[2_000]),
        ["width", "restarts", "rate"],
    ),
    "data": Study(
        _data, _grid(width=_WIDTHS, seen=range(2, 17, 2), runs=[2_000]), ["width", "restarts", "size", "inputs"]
    ),
    "parity": Study(
        _parity,
        _grid(bits=[2, 3, 4, 5, 6], width=[1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24], runs=[200]),
        ["bits", "width", "restarts"],
    ),
    "tasks": Study(
        _tasks,
        _grid(inputs=ncnet.INPUTS, width=[2, 3, 4], half=[0, 1], runs=[120]),
        ["inputs", "width", "restarts", "half", "a1", "a2", "b1", "b2", "minus"],
        _search,
    ),
}
"""By name: `distribution` of S; S over training (`course`), learning `rate`s, amounts of `data`; critical width against
`parity`; all `tasks`."""
