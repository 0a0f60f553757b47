"""Studies too long for a chapter: cut into blocks, each kept when it is done, so that a killed study goes on.

A block trains its networks, reduces them to sums by group and forgets them; what is kept are small tables, and their
sum is the study's result. So a million networks stream through in the memory of one block, however long the study.
`ncutil sweep NAME` runs a study and writes its tables and the record of its run to `book/studies/`, where the chapter
on phase diagrams reads them with `table` and `record`.
"""

import gzip
import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from hashlib import sha256
from itertools import combinations, product
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import llvmlite
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, norm

from ncutil.bell import chsh, ncnet
from ncutil.training import _vectors, ensembles

Array = NDArray[Any]
Block = Mapping[str, Any]

SEED = 2026
"""Of every study: other first weights than in the chapters."""

SUMS = ("runs", "units", "s", "s_squared", "s0", "gap_squared", "delta", "above", "contextual", "measure")
"""What a group of runs is reduced to: how many, and how many of them are independent; sums of S and S0; of the squares
of S and of S - S0, each averaged over runs that are not independent; of Delta; runs with S > 2 and with a positive
measure; sum of the positive measures."""


IN_HAND = 64
"""Blocks that are given out at once: results that wait to be written are no more than these."""


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


def version() -> str:
    """A hash of all that a block's numbers depend on: the seed, the sources that studies reach, and their libraries."""
    reached = (sys.modules[__name__], chsh, ensembles, _vectors, ncnet)
    sources = [Path(str(module.__file__)).read_bytes() for module in reached]
    return sha256(b"".join([repr((SEED, np.__version__, llvmlite.__version__)).encode(), *sources])).hexdigest()[:12]


@cache
def _loaded() -> str:
    """The version that this process computes with; its sources may change on disk while a study runs."""
    return version()


def run(
    study: Study,
    folder: Path,
    pool: Executor,
    tell: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, pd.DataFrame], float]:
    """Do the blocks of a study that are not yet in the folder, then add all of them up.

    Every block becomes a file, under its own name only when it is whole; one that cannot be read is done again, and
    `say` is told. The folder belongs to one study and one `version`, and may go once the tables are kept.

    Returns
    -------
    The study's tables by suffix, and the seconds of processor time of all blocks, those found in the folder included.

    Raises
    ------
    ValueError
        A worker that would compute with another `version`; what a block raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{_name(block)}.csv.gz": block for block in study.blocks}
    rest = [path for path in files if not _sound(path, study.keys, say)]
    waiting: dict[Future[tuple[pd.DataFrame, float]], Path] = {}
    failed: BaseException | None = None
    tell(len(files) - len(rest), len(files))
    while rest or waiting:
        while rest and len(waiting) < IN_HAND:
            path = rest.pop(0)
            waiting[pool.submit(_timed, study.measure, files[path], _loaded())] = path
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            path = waiting.pop(future)
            if future.cancelled():
                continue
            if error := future.exception():
                # What is already under way is still worth keeping.
                failed, rest = failed or error, []
                for other in waiting:
                    other.cancel()
                continue
            _keep(path, *future.result())
            tell(sum(map(Path.exists, files)), len(files))
    if failed:
        raise failed
    total, seconds = reduce(lambda a, b: (add([a[0], b[0]], study.keys), a[1] + b[1]), map(_read, files))
    return study.finish(total), seconds


def _timed(measure: Callable[..., pd.DataFrame], block: Block, asked: str) -> tuple[pd.DataFrame, float]:
    if _loaded() != asked:
        raise ValueError(f"a worker has other code or libraries: version {_loaded()}, asked for is {asked}")
    # Of the process, for training has threads of its own; so a process does one block at a time.
    clock = time.process_time()
    return measure(**block), time.process_time() - clock


def _keep(path: Path, content: pd.DataFrame, seconds: float) -> None:
    """Write a block, the seconds of processor time that it took in the first line."""
    part = path.with_name(f"{path.name}.part")
    with gzip.open(part, "wt", encoding="utf-8") as file:
        file.write(f"{seconds:.3f}\n")
        content.to_csv(file, index=False)
    part.replace(path)


def _read(path: Path) -> tuple[pd.DataFrame, float]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        seconds = float(file.readline())
        return pd.read_csv(file), seconds


def _sound(path: Path, keys: Sequence[str], say: Callable[[str], None]) -> bool:
    """Whether a block is there; a damaged one is taken away."""
    try:
        _read(path)[0][list(keys)]
    except FileNotFoundError:
        return False
    except (OSError, EOFError, zlib.error, ValueError, KeyError):
        say(f"{path.name} cannot be read and is done again")
        path.unlink()
        return False
    return True


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
    folders = here.parents[1] / "book" / "studies", here / "published"
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
        content.to_csv(part, index=False, float_format="%.10g")
        part.replace(path)
        written.append(path)
    return written


@contextmanager
def workers(jobs: int, cluster: str | None = None) -> Iterator[Executor]:
    """Processes on this machine, or the workers of a Dask scheduler; one thread for each block.

    Processes end with what they are used for: at once when that breaks off, even when this process is killed. To be
    called from the main thread.
    """
    if cluster is None:
        others = active_children()
        pool = ProcessPoolExecutor(jobs, get_context("spawn"), _process)
        # Started deaf to Ctrl-C, which may come before they have read their first line.
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _ in range(jobs):
            pool.submit(int)
        signal.signal(signal.SIGINT, heard)
        ours = [process for process in active_children() if process not in others]
        try:
            yield pool
            pool.shutdown()
        except BaseException:
            for process in ours:
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("a cluster needs Dask: pip install 'ncpress[cluster]'") from None
    with Client(cluster) as client:
        client.register_worker_callbacks(_one_thread)
        yield client.get_executor()


def _process() -> None:
    """Set up a process of `workers`: Ctrl-C is for the main one, and whatever ends that ends this one."""

    def leave() -> None:
        parent = parent_process()
        if parent:
            parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=leave, daemon=True).start()
    _one_thread()


def _one_thread() -> None:
    ensembles.THREADS = 1


def _name(block: Block) -> str:
    return "-".join(f"{key}={value}" for key, value in block.items())


def reduced(frame: pd.DataFrame, keys: Sequence[str], alike: int = 1) -> pd.DataFrame:
    """Runs, one a row as `ncnet.per_run` gives them, as the sums of `SUMS` by group.

    `alike` runs, one after the other, have something in common that the next ones have not, such as the patterns that
    they were trained on: they count as one unit when it comes to errors.
    """
    unit = [*keys, frame.run // alike]
    each = frame.assign(gap=frame.s - frame.s0)
    alone = each.groupby(unit)[["s", "gap"]].transform("mean")
    each = each.assign(
        runs=1,
        units=1 / each.groupby(unit).s.transform("size"),
        s_squared=alone.s**2,
        gap_squared=alone.gap**2,
        above=frame.s > 2,
        contextual=frame.measure > 0,
        measure=frame.measure.clip(lower=0),
    )
    return each.groupby(list(keys), as_index=False)[list(SUMS)].sum()


def means(sums: pd.DataFrame) -> pd.DataFrame:
    """Sums turned into means and shares by run, with errors and 95 % intervals of two of them.

    `low` and `high` are the ends of the interval of the mean S, `error` its standard error; `gap` is the mean of
    S - S0, with `gap_low`, `gap_high` and `gap_error`.

    >>> sums = {"runs": [4], "units": [4], "s": [8.0], "s_squared": [20.0], "s0": [8.0], "gap_squared": [4.0]}
    >>> means(pd.DataFrame(sums))[["s", "low", "high", "gap", "gap_error"]].round(2).to_dict("records")
    [{'s': 2.0, 'low': 0.87, 'high': 3.13, 'gap': 0.0, 'gap_error': 0.58}]
    """
    names = [name for name in SUMS[2:] if name in sums]
    result = sums.assign(**{name: sums[name] / sums.runs for name in names})
    result = result.assign(gap=result.s - result.s0)
    others, wide = (result.units - 1).clip(lower=1), norm.ppf(0.975)
    for mean, square, kind in (("s", "s_squared", ""), ("gap", "gap_squared", "gap_")):
        error = np.sqrt((result[square] - result[mean] ** 2).clip(lower=0) / others)
        ends = {f"{kind}low": result[mean] - wide * error, f"{kind}high": result[mean] + wide * error}
        result = result.assign(**{f"{kind}error": error, **ends})
    return result.drop(columns=["s_squared", "gap_squared"])


def luck(excess: pd.Series, error: pd.Series) -> Array:
    """One-sided normal p-values of means that lie by `excess` above a limit, with standard errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(norm.sf(np.where(excess > 0, excess / error, -np.inf)))


def found(p: Array, rate: float = 0.05) -> Array:
    """Which of many p-values count, so many that at most a share `rate` of them is expected to be luck.

    Benjamini and Hochberg (1995).

    >>> p = luck(pd.Series([5.0, 2.0, 2.0, 0.0, -1.0]), pd.Series([1.0, 1.0, 0.0, 0.0, 1.0]))
    >>> found(p, rate=0.05).tolist()
    [True, True, True, False, False]
    """
    return np.asarray(false_discovery_control(p) < rate)


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
    trained = ncnet.train(width, runs, seed=SEED, seen=seen, runs_per_subset=4)
    each, keys = _chosen(trained, width=width, size=seen), ["width", "restarts", "size", "inputs"]
    # Four single runs see the same patterns; the best of them is one run.
    return pd.concat([reduced(each[each.restarts == k], keys, alike=4 // k) for k in (1, 4)])


def _parity(bits: int, width: int, runs: int) -> pd.DataFrame:
    """First bit against parity of more and more bits, both heads asking about the same ones; 3,000 steps.

    Each run is a group of its own: networks of all widths begin from the same draws, so runs of the same number are
    alike, and errors that concern several widths take S of each run.
    """
    trained = ncnet.train(width, runs, seed=SEED, bits=bits, inputs="shared", steps=3000, rate=0.02)
    return reduced(_chosen(trained, width=width, bits=bits), ["bits", "width", "restarts", "run"])


def _by_run(total: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Sums over all runs; S of single trainings, a row for each bits and width, a column for each run."""
    keys = ["bits", "width", "restarts"]
    each = total[total.restarts == 1].pivot(index=keys[:2], columns="run", values="s").reset_index()
    return {"": add([total.drop(columns="run")], keys), "runs": each}


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
    as `s` and `s0`. Rows of quadruples have S with the minus sign at context `minus` (0 to 3 for 11, 12, 21, 22). With
    three minus signs every correlator has the other sign, which is what calling right wrong on one side comes to; the
    measure takes the largest of all eight forms, whatever `minus` is.
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
        sums = (s, s**2, s0, (s - s0) ** 2, bell.delta, s > 2, bell.measure > 0, positive)
        columns = dict(zip(SUMS[2:], (x.sum(0).ravel() for x in sums), strict=True)) | {"runs": len(e), "units": len(e)}
        frames.append(pd.DataFrame(tasks, columns=["a1", "a2", "b1", "b2"]).assign(minus=minus, **columns))
    pairs = pd.DataFrame(list(product(range(16), repeat=2)), columns=["a1", "b1"])
    single = {"s": e, "s0": mean_a * mean_b}
    columns = {name: single[name].sum(0).ravel() if name in single else 0 for name in SUMS[2:]}
    frames.append(pairs.assign(a2=-1, b2=-1, minus=-1, runs=len(e), units=len(e), **columns))
    return pd.concat(frames)[["a1", "a2", "b1", "b2", "minus", *SUMS]]


APART = 0.06
"""Distance from which on a mean S and the mean of its null count as apart, as in chapter 2."""


def _search(total: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Correlators of all pairs; quadruples above 2 and apart from their null; contextual ones; the best ones.

    What is counted as above, apart or both is `found` among the quadruples of a setting; the same on one half of the
    seeds alone (`_first`), and how many of these are not above, apart or both on the other half (`_fails`). The best
    are chosen on one half of the seeds, by the measure only where some run of a setting has a positive one.
    """
    setting, tasks = ["inputs", "width", "restarts"], ["a1", "a2", "b1", "b2"]
    pairs = add([total[total.minus < 0]], [*setting, "a1", "b1"])[[*setting, "a1", "b1", "runs", "s", "s0"]]
    quadruples = total[total.minus >= 0]
    names = [*setting, *tasks, "minus"]
    both = quadruples[quadruples.half == 0].merge(quadruples[quadruples.half == 1], on=names, suffixes=("", "_fresh"))
    chosen = []
    for statistic, (_, group) in product(("s", "measure"), both.groupby(setting)):
        if group[statistic].max() > 0:
            winners = group.nlargest(10, [statistic, "s"])
            chosen.append(winners.assign(chosen_by=statistic, rank=range(1, 1 + len(winners))))
    best = pd.concat(chosen).drop(columns=["half", "half_fresh"])
    whole = add([quadruples], names)
    counts = []
    for at, part in quadruples.groupby(setting):
        group, first, fresh = (
            means(add([of], [*tasks, "minus"])) for of in (part, part[part.half == 0], part[part.half == 1])
        )
        hits = _lists(group)
        above = hits["above"]
        of = {"quadruples": len(group), "above": above.sum(), "above_null_too": (above & (group.s0 > 2)).sum()}
        of |= {"above_apart": hits["above_apart"].sum(), "above_gap_most": group.gap[above].abs().max()}
        of |= {"apart": hits["apart"].sum(), "gap_most": group.gap.abs().max()}
        of |= {"contextual": (group.contextual > 0).sum()}
        again = {"above": fresh.s > 2, "apart": fresh.gap * np.sign(first.gap) > APART}
        again["above_apart"] = again["above"] & again["apart"]
        for name, hit in _lists(first).items():
            of |= {f"{name}_first": hit.sum(), f"{name}_fails": (hit & ~again[name]).sum()}
        counts.append(dict(zip(setting, at, strict=True)) | of)
    once = whole[(whole.minus == 0) & (whole.contextual > 0)]
    contextual = once[[*setting, *tasks, "runs", "contextual", "measure"]]
    return {"pairs": pairs, "best": best, "counts": pd.DataFrame(counts), "contextual": contextual}


def _lists(group: pd.DataFrame) -> dict[str, Array]:
    """Which quadruples are `found` to lie above 2, apart from their null, and both."""
    above, apart = luck(group.s - 2, group.error), luck(group.gap.abs() - APART, group.gap_error)
    # That both hold is as uncertain as the less certain of the two.
    return {"above": found(above), "apart": found(apart), "above_apart": found(np.maximum(above, apart))}


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
        _grid(bits=[2, 3, 4, 5, 6], width=[1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24], runs=[1_000]),
        ["bits", "width", "restarts", "run"],
        _by_run,
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
