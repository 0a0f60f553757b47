"""Watch a command from outside: feed it, keep its output, end it where it takes what the kernel does not bound.

The kernel limits single processes. What a whole tree of them takes together is read here from /proc, ten times a
second. Every process may hide its memory from its user; one that does counts as one that takes too much.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

MIB = 2**20
MARK = "/.sandbox"
"""A folder that only a sandbox has at its root."""

SYSTEMS = ("/folder", "/tmp", "/dev/shm")
"""The file systems in memory that a program in a sandbox may write to; it starts in the first."""

GRACE = 5.0
"""Seconds within which the files have to be out, after the wall time or after the monitor has ended the program."""

PATIENCE = 1.0
"""Seconds within which a program that was ended has to have given its memory back."""

FIRST = 3
"""Number of the last of the processes that were in a sandbox before its program: the tool's own, and the wrapper."""

CROWD = 10
"""Times as many files as may be left may be there while the program runs."""

INTERVAL = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True)
class Limits:
    """What one program may take; each is for all of its processes together unless said otherwise."""

    wall: float = 120.0
    """Seconds from start to end."""
    cpu: int = 120
    """Seconds of processor time, of each process and of all together."""
    memory: int = 2048
    """MiB."""
    processes: int = 64
    """Processes and threads at a time."""
    files: int = 64
    """Open files of each process."""
    disk: int = 64
    """MiB of its folder, and as much again for temporary files."""
    entries: int = 2000
    """Files and folders."""
    output: int = 64 * 1024
    """Bytes of standard output and error that are kept; the rest is read and thrown away."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    `status` is "done" (it left with 0), "failed" (it left with something else), or the limit that it passed: "wall
    time", "processor time", "memory" (all processes together, or one that hides what it takes; one alone gets a
    MemoryError), or "disk" (what it left is too much to be taken; while it runs, a full folder is an OSError).
    """

    status: str
    returncode: int
    seconds: float
    output: str


@dataclass
class _Kept:
    """What comes through a pipe, as much of it as the bound allows."""

    keep: Callable[[bytes], object]
    bound: int
    taken: int = 0

    def take(self, chunk: bytes) -> None:
        if self.taken < self.bound:
            self.keep(chunk[: self.bound - self.taken])
        self.taken += len(chunk)

    @property
    def whole(self) -> bool:
        return self.taken <= self.bound


def watch(
    words: Sequence[str], limits: Limits, packed: bytes | None = None, left: IO[bytes] | None = None, **how: Any
) -> Ended:
    """Start a command and wait for its end.

    With `packed` and `left` it runs in a sandbox that takes the first, an archive, on its standard input and gives
    one back on its standard output, for `left`. Without, it runs bare. `how` goes to `subprocess.Popen`.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        words,
        # A pipe, and no file: a program that reopens it finds nothing of this machine.
        stdin=subprocess.PIPE if packed else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if left else subprocess.STDOUT,
        start_new_session=True,
        **how,
    )
    output = bytearray()
    said, handed_out = _Kept(output.extend, limits.output), None
    with selectors.DefaultSelector() as pipes:
        pipes.register(process.stderr if left else process.stdout, selectors.EVENT_READ, said)  # type: ignore[arg-type]
        if left:
            # What stands in an archive besides the contents: a head and a rest of a block for each file, and an end.
            handed_out = _Kept(left.write, limits.disk * MIB + limits.entries * 1024 + 10240)
            pipes.register(process.stdout, selectors.EVENT_READ, handed_out)  # type: ignore[arg-type]
        if packed:
            threading.Thread(target=_feed, args=(process.stdin, packed), daemon=True).start()
        try:
            reason = _wait(process, pipes, limits, started, bool(left))
        finally:
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
    seconds = time.monotonic() - started
    code = 128 - process.returncode if process.returncode < 0 else process.returncode
    killed = code == 128 + signal.SIGKILL
    if reason:
        status = reason
    elif killed and seconds >= limits.wall:
        status = "wall time"
    elif code == 128 + signal.SIGXCPU or (killed and seconds >= limits.cpu):
        status = "processor time"
    else:
        status = "done" if code == 0 else "failed"
    if handed_out and not handed_out.whole:
        status = "disk"
    text = output.decode("utf-8", "replace")
    return Ended(status, code, seconds, text if said.whole else f"{text}\n[the rest was thrown away]\n")


def _feed(stream: IO[bytes], packed: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), stream:
        stream.write(packed)


def _wait(
    process: subprocess.Popen[bytes],
    pipes: selectors.BaseSelector,
    limits: Limits,
    started: float,
    isolated: bool,
) -> str:
    """Read what a command says until it ends or has to be ended; returns for which limit, if for one."""
    reason, ended, look = "", 0.0, 0.0
    tree: set[psutil.Process] = set()
    hidden: set[int] = set()
    try:
        while process.poll() is None:
            _read(process, pipes)
            now = time.monotonic()
            if now - started > limits.wall + (GRACE if isolated else 0):
                reason = reason or "wall time"
                _kill(process)
            elif now >= look:
                look, below = now + INTERVAL, _tree(process.pid)
                tree |= set(below)
                passed, hidden = _excess(below, limits, hidden)
                if passed and not reason:
                    reason, ended = passed, now
                if reason and isolated and now - ended <= (PATIENCE if passed == "memory" else GRACE):
                    _sweep(below)
                elif reason:
                    _kill(process)
    finally:
        # In a sandbox all of its processes end with the first. Without one, those do that have been seen.
        tree |= set(_tree(process.pid))
        _kill(process)
        for other in tree:
            with contextlib.suppress(psutil.Error):
                other.kill()
        process.wait()
    # One that has not been seen may hold the pipes open for as long as it likes.
    until = time.monotonic() + GRACE
    while pipes.get_map() and time.monotonic() < until:
        _read(process, pipes)
    return reason


def _read(process: subprocess.Popen[bytes], pipes: selectors.BaseSelector) -> None:
    """Take what there is, or wait for an interval."""
    if not pipes.get_map():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(INTERVAL)
    for key, _ in pipes.select(INTERVAL) if pipes.get_map() else ():
        if chunk := os.read(key.fd, 65536):
            key.data.take(chunk)
        else:
            pipes.unregister(key.fileobj)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _sweep(tree: Iterable[psutil.Process]) -> None:
    """End everything in a sandbox but its first processes and those that the wrapper, one of them, has started.

    Of these, `timeout` is ended: then the wrapper hands the files out. The program can take on that name, but it can
    neither become a child of the wrapper nor have its number.
    """
    for process in tree:
        with contextlib.suppress(psutil.Error):
            wrapped = 1 < _number_inside(process.ppid()) <= FIRST and process.name() != "timeout"
            if _number_inside(process.pid) > FIRST and not wrapped:
                process.kill()


# ---------------------------------------------------------------------------------------------------------------------
# Looking


def _tree(root: int) -> list[psutil.Process]:
    """All processes below one, the nearest first."""
    try:
        return list(psutil.Process(root).children(recursive=True))
    except psutil.Error:
        return []


def _excess(tree: Sequence[psutil.Process], limits: Limits, before: set[int]) -> tuple[str, set[int]]:
    """Which limit the processes of a tree pass together that the kernel does not keep for all of them, if any.

    Also returns which of them hide their memory now; `before` are those that did so at the last look.
    """
    threads = {process.pid: found for process in tree if (found := _threads(process.pid))}
    # Threads have their memory in common; one that is ending shows none.
    one, bound = [max(found, key=_resident) for found in threads.values()], limits.memory * MIB
    hidden = {process for process, thread in zip(threads, one, strict=True) if _hides(process, thread)}
    hidden = {process for process in hidden if _number_inside(process) > FIRST}
    unnamed = _unnamed_files(thread for found in threads.values() for thread in found)
    # What is resident includes what processes share, but is read in no time; looking closely takes milliseconds.
    if (hidden & before) or (unnamed + sum(map(_resident, one)) > bound and unnamed + sum(map(_own, one)) > bound):
        return "memory", hidden
    if _entries(threads) > CROWD * limits.entries:
        return "disk", hidden
    return "processor time" if sum(map(_processor_time, tree)) > limits.cpu else "", hidden


def _threads(process: int) -> list[Path]:
    """Where the kernel shows the living threads of a process; its first one may have ended before the others."""
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                if thread.joinpath("stat").read_bytes().rpartition(b") ")[2][:1] not in (b"Z", b"X"):
                    found.append(thread)
    return found


def _hides(process: int, thread: Path) -> bool:
    """Whether a process has forbidden that its user looks into it (PR_SET_DUMPABLE): what is shown then is root's.

    The same is true of one that is ending, but that has no memory any more.
    """
    with contextlib.suppress(OSError):
        return (thread / "fd").stat().st_uid != Path(f"/proc/{process}").stat().st_uid and _resident(thread) > 0
    return False


def _number_inside(process: int) -> int:
    """Number of a process in the innermost namespace that it is in."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return process


def _processor_time(process: psutil.Process) -> float:
    """Seconds of a process and of those of its children that it has waited for."""
    with contextlib.suppress(psutil.Error):
        return float(sum(process.cpu_times()[:4]))
    return 0.0


def _entries(tree: Iterable[int]) -> int:
    """Files and folders in the sandbox's file systems: each takes memory that no size of a file system counts."""
    for process in tree:
        place = Path(f"/proc/{process}/root")
        with contextlib.suppress(OSError):
            if (place / MARK.lstrip("/")).exists():
                found = [os.statvfs(f"{place}{system}") for system in SYSTEMS]
                return sum(system.f_files - system.f_ffree for system in found)
    return 0


def _resident(thread: Path) -> int:
    """Bytes of a process in memory or swapped out, and of the kernel's tables of where they are."""
    with contextlib.suppress(OSError):
        return _sum((thread / "status").read_text(errors="replace"), "VmRSS:", "VmSwap:", "VmPTE:")
    return 0


def _own(thread: Path) -> int:
    """The same without what comes from files; what it shares with others in equal parts."""
    try:
        status = (thread / "status").read_text(errors="replace")
        rollup = (thread / "smaps_rollup").read_text()
        return _sum(rollup, "Pss_Anon:", "Pss_Shmem:", "SwapPss:") + _sum(status, "VmPTE:")
    except OSError:
        return _resident(thread)


def _sum(text: str, *names: str) -> int:
    """Bytes that a file of the kernel gives for these names together, in kB each."""
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(names))


def _unnamed_files(threads: Iterable[Path]) -> int:
    """Bytes in memory that count as files and that a thread holds open; each thread may have its own.

    Where there is a filter of system calls, none can be made. One that is mapped counts for the process that mapped it.
    """
    found = {}
    for thread in threads:
        with contextlib.suppress(OSError):
            for entry in os.scandir(thread / "fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path).startswith("/memfd:"):
                        file = entry.stat()
                        found[file.st_dev, file.st_ino] = file.st_blocks * 512
    return sum(found.values())
