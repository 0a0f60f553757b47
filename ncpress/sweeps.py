"""Long computations in blocks: each finished block is kept, so that a computation that was killed goes on.

A job is a function of plain parameters that gives a table, and a block is one call of it. Blocks are computed by
processes of this machine or by the workers of a Dask cluster. The tables of all blocks are added up one by one, so
memory does not grow with their number. The command `ncutil sweep` runs the studies of `ncutil.studies` in this way.
"""

import gzip
import json
import os
import signal
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, reduce
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from ncutil.ground import files, staleness
from ncutil.ground.staleness import Key

if TYPE_CHECKING:  # `build` asks for what is stale and needs no pandas
    import pandas as pd

Block = Mapping[str, Any]
Job = Callable[..., "pd.DataFrame"]
Receipt = dict[str, Any]
Add = Callable[[Sequence["pd.DataFrame"]], "pd.DataFrame"]

IN_HAND = 64
"""Most blocks given out at once, so that few results wait to be written."""


@dataclass(frozen=True)
class Outcome:
    """The sum of all blocks, their seconds of processor time, and the number of blocks by name of the processor."""

    total: "pd.DataFrame"
    seconds: float
    processors: dict[str, int]


@cache
def code(module: str) -> Key:
    """All that the results of a job in this module depend on, besides its parameters, as this process began."""
    return staleness.key(modules=[module], rounding=False)


def stale(folder: Path) -> list[str]:
    """A line for each published study whose code or libraries have changed; records without a key are left out."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    records = [record for record in records if "key" in record]
    if not records:
        return []
    # One key for all, as versions take time to look up; of it, each record needs the part that it names.
    now = staleness.key(modules={name for record in records for name in record["key"]["modules"]}, rounding=False)
    lines = []
    for record in records:
        old = record["key"]
        parts = {part: {name: now[part].get(name) for name in old[part]} for part in ("modules", "versions")}
        if changed := staleness.changes(old, now | parts):
            commit = str(record["commit"])[:10]
            lines.append(f"study {record['study']} was published at commit {commit}; since then {changed}")
    return lines


def run(
    job: Job,
    blocks: Sequence[Block],
    add: Add,
    folder: Path,
    pool: Executor,
    tell: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Compute the blocks that are not yet in the folder, then add all of them up.

    A block becomes a file under its own name only when it is whole, with the name of its processor and the seconds
    that it took.

    Parameters
    ----------
    job : importable by name in a worker
    blocks : parameters of each call
    add : the sum of several tables; KeyError for a table of other columns
    folder : of one job and one `code`; it may be deleted once the sum is kept
    pool : as `workers` gives it
    tell : is given the number of finished blocks and of all
    say : is given a line for each block that cannot be read and is computed again

    Raises
    ------
    ValueError
        A worker that has another `code`; any error that a block raises, after the blocks under way are kept.
    """
    kept = {folder / f"{_name(block)}.csv.gz": block for block in blocks}
    rest = [path for path in kept if not _sound(path, add, say)]
    waiting: dict[Future[tuple[pd.DataFrame, Receipt]], Path] = {}
    failed: BaseException | None = None
    asked = staleness.short(code(job.__module__))
    tell(len(kept) - len(rest), len(kept))
    while rest or waiting:
        while rest and len(waiting) < IN_HAND:
            path = rest.pop(0)
            waiting[pool.submit(_compute, job, kept[path], job.__module__, asked)] = path
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            path = waiting.pop(future)
            if future.cancelled():
                continue
            if error := future.exception():
                failed, rest = failed or error, []
                for other in waiting:
                    other.cancel()
                continue
            table, receipt = future.result()
            content = f"{json.dumps(receipt)}\n{table.to_csv(index=False)}"
            files.write(path, gzip.compress(content.encode(), mtime=0))
            tell(sum(map(Path.exists, kept)), len(kept))
    if failed:
        raise failed
    receipts: list[Receipt] = []

    def tables() -> Iterator["pd.DataFrame"]:
        for path in kept:
            table, receipt = _read(path)
            receipts.append(receipt)
            yield table

    total = reduce(lambda one, other: add([one, other]), tables())
    processors = Counter(receipt["processor"] for receipt in receipts)
    return Outcome(total, sum(receipt["seconds"] for receipt in receipts), dict(processors))


def _name(block: Block) -> str:
    return "-".join(f"{key}={value}" for key, value in block.items())


def _compute(job: Job, block: Block, module: str, asked: str) -> tuple["pd.DataFrame", Receipt]:
    # The module by name, for in another process a script is no longer `__main__`.
    if (own := staleness.short(code(module))) != asked:
        raise ValueError(f"a worker has other code or libraries: its key is {own}, asked for is {asked}")
    # Time of the process, for a job may have threads of its own; so a process computes one block at a time.
    clock = time.process_time()
    table = job(**block)
    return table, {"seconds": round(time.process_time() - clock, 3), "processor": staleness.processor()}


def _read(path: Path) -> tuple["pd.DataFrame", Receipt]:
    import pandas as pd

    with gzip.open(path, "rt", encoding="utf-8") as file:
        receipt = json.loads(file.readline())
        return pd.read_csv(file), {"seconds": receipt["seconds"], "processor": receipt["processor"]}


def _sound(path: Path, add: Add, say: Callable[[str], None]) -> bool:
    """Whether a block is kept; a damaged one is deleted."""
    try:
        add([_read(path)[0]])
    except FileNotFoundError:
        return False
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        say(f"{path.name} cannot be read and is computed again")
        path.unlink()
        return False
    return True


@contextmanager
def workers(jobs: int, cluster: str | None, setup: Callable[[], None]) -> Iterator[Executor]:
    """Processes on this machine, or the workers of a Dask scheduler; each calls `setup` first.

    When the block of this `with` is left by an error, and when this process is killed, the processes end at once. To
    be called from the main thread.
    """
    if cluster is None:
        others = active_children()
        pool = ProcessPoolExecutor(jobs, get_context("spawn"), _process, (setup,))
        # Workers inherit that Ctrl-C is ignored: it may come before they have read their first line.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _ in range(jobs):
            pool.submit(int)
        signal.signal(signal.SIGINT, handler)
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
        client.register_worker_callbacks(setup)
        yield client.get_executor()


def _process(setup: Callable[[], None]) -> None:
    """Set up a process of `workers`: it ignores Ctrl-C, which the main process handles, and ends with that process."""

    def leave() -> None:
        parent = parent_process()
        if parent:
            parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=leave, daemon=True).start()
    setup()


def publish(tables: Mapping[str, "pd.DataFrame"], name: str, folder: Path) -> list[Path]:
    """Write tables as CSV, named after the study and the suffix of each."""
    paths = []
    for suffix, content in tables.items():
        paths.append(folder / f"{name}{'-' if suffix else ''}{suffix}.csv")
        files.write(paths[-1], content.to_csv(index=False, float_format="%.10g"))
    return paths
