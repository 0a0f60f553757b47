"""Run a stranger's program: its own folder, its own process tree, no network, and limits on everything it can take.

bubblewrap does the isolating (or podman, or docker); this module writes its command line, watches from outside what
the kernel doesn't bound, and takes the files that come out as what they are, a stranger's data. The folder never is
a folder of this machine while the program runs: its files go in as an archive, live on a file system in memory whose
size the kernel bounds, and come out as an archive of which only regular files are kept. Explained, with what it does
not promise, on the page about the sandbox.
"""

import contextlib
import itertools
import os
import resource
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import psutil

import ncutil
from ncutil.press import archive

MIB = 2**20
BUBBLEWRAP, NONE = "bwrap", "none"
CONTAINERS = ("podman", "docker")
IMAGE = "debian:stable-slim"
"""What a container starts from; programs and libraries are this system's own, mounted read-only."""

PLACE = "/submission"
"""Where the program finds its folder; it starts there."""

MARK = "/.sandbox"
"""A folder that only a sandbox has at its root."""

GRACE = 5.0
"""Seconds after the wall time within which the files have to be out."""

CROWD = 10
"""Times as many files as may be left may be there while the program runs."""

INTERVAL = 0.1
"""Seconds between two looks at memory."""


@dataclass(frozen=True)
class Limits:
    """What one program may take; each is for all of its processes together unless said otherwise."""

    wall: float = 120.0
    """Seconds from start to end."""
    cpu: int = 120
    """Seconds of processor time, of each process."""
    memory: int = 2048
    """MiB."""
    processes: int = 64
    """Processes and threads at a time."""
    files: int = 256
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
    time", "processor time", "memory" (all processes together; one alone gets a MemoryError), or "disk" (what it left
    is too much to be taken; while it runs, a full folder is an OSError).
    """

    status: str
    returncode: int
    seconds: float
    output: str


class NoSandboxError(RuntimeError):
    """Nothing on this machine isolates a program; the message says what is at risk and what to install."""


@cache
def find_sandbox() -> str:
    """Name of the tool that isolates programs on this machine: "bwrap", "podman" or "docker", tried in this order.

    Raises
    ------
    NoSandboxError
        None of them works here; says why, what to install, and what is at risk without.
    """
    complaints = []
    for tool in (BUBBLEWRAP, *CONTAINERS):
        if shutil.which(tool) is None:
            complaints.append(f"{tool}: not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            ended = run(["true"], Path(folder), sandbox=tool, limits=Limits(wall=60))
        if ended.status == "done":
            return tool
        complaints.append(f"{tool}: {(ended.output.strip() or ended.status).splitlines()[0]}")
    raise NoSandboxError(
        "a submission is a stranger's program, and nothing here can isolate it: it could read the other submissions, "
        "the solutions and your files, change them, and send them away. Install bubblewrap (Debian, Ubuntu: apt "
        "install bubblewrap; Fedora: dnf install bubblewrap) or podman. If you trust every submission as your own "
        f"program, say so with --unsafe-no-sandbox. Tried: {'; '.join(complaints)}"
    )


def run(
    command: Sequence[str],
    folder: Path,
    *,
    readable: Iterable[Path] = (),
    limits: Limits | None = None,
    sandbox: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command on the files of a folder, out of reach of everything else.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; its files are named relative to the folder, in which it starts.
    folder : Path
        Its regular files go in. When the command has ended or was ended, the folder holds what it left: regular files
        and folders, nothing else. Where that is too much or cannot be read, the folder is as it was.
    readable : iterable of Path
        What it may read besides Python's environment, the system's libraries and `ncutil`, under the same names.
    limits : Limits, optional
    sandbox : str, optional
        "bwrap", "podman" or "docker"; found if not given. "none" isolates nothing and only sets what limits it can.
    env : mapping, optional
        Variables to add to the few that it gets; nothing of this process's environment is handed on.

    Raises
    ------
    NoSandboxError
        No sandbox was named and none works here.
    """
    limits = limits or Limits()
    sandbox = sandbox or find_sandbox()
    variables = _environment() | dict(env or {})
    if sandbox == NONE:
        return _run_bare(command, folder, limits, variables)
    inside = ["sh", "-c", _WRAPPER, "sh", *_limited(command, limits)]
    seen = [*_libraries(), *(path.resolve() for path in readable)]
    with tempfile.TemporaryFile() as packed, tempfile.TemporaryFile() as left:
        archive.pack(folder, packed)
        packed.seek(0)
        if sandbox == BUBBLEWRAP:
            # The first process in there keeps the environment that it was started with: it gets next to none.
            words = _bubblewrap(inside, seen, limits, variables)
            ended = _watch(words, packed, left, limits, env={})
        else:
            name = f"ncutil-{os.getpid()}-{next(_COUNTER)}"
            try:
                ended = _watch(_container(sandbox, name, inside, seen, limits, variables), packed, left, limits)
            finally:
                # Ending the command does not end a container; where it has ended by itself this does nothing.
                subprocess.run([sandbox, "kill", name], capture_output=True)
        return ended if ended.status == "disk" else _take_out(left, folder, limits, ended)


# ---------------------------------------------------------------------------------------------------------------------
# What runs inside

_WRAPPER = f"""
tar -xf - && "$@" >&2 </dev/null
status=$?
if test -d {MARK}; then
  for signal in STOP KILL KILL; do
    for process in /proc/[0-9]*; do
      process=${{process##*/}}
      case $process in 1|$$|$PPID) ;; *) kill -$signal $process ;; esac
    done
  done
fi 2>/dev/null
tar --format=ustar --hard-dereference -cf - .
exit $status
"""
"""Take the files in, run the command, end whatever it left running, hand the files out. It runs as the stranger does,
who can stop it and so lose the own files, and nothing else. What `tar` cannot put into an archive of that form (a name
that is too long) it leaves out and says so."""


def _limited(command: Sequence[str], limits: Limits) -> list[str]:
    """The command under `timeout`, `choom` and `prlimit`: limits that the kernel keeps."""
    memory = limits.memory * MIB
    return [
        *("timeout", "--signal=KILL", f"{limits.wall:g}"),
        # Where memory runs out in spite of all, the kernel ends this first.
        *("choom", "-n", "1000", "--"),
        "prlimit",
        f"--cpu={limits.cpu}:{limits.cpu + 1}",
        f"--data={memory}",
        # Address space is reserved far beyond what is used: this only bounds what no other limit sees.
        f"--as={4 * memory + 8 * 2**30}",
        f"--nproc={limits.processes}",
        f"--nofile={limits.files}",
        f"--fsize={limits.disk * MIB}",
        "--core=0",
        "--",
        *command,
    ]


def _environment() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return one | {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(ncutil.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@cache
def _libraries() -> tuple[Path, ...]:
    """Folders of Python, its packages, and `ncutil`; the system's own come with /usr."""
    paths = [sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))]
    if site.ENABLE_USER_SITE:
        paths.append(site.getusersitepackages())
    found = [Path(path) for path in paths] + [Path(ncutil.__file__).parent]
    kept: list[Path] = []
    for path in sorted({path for path in found if path.exists() and not path.is_relative_to("/usr")}):
        if not any(path.is_relative_to(parent) for parent in kept):
            kept.append(path)
    return tuple(kept)


_COUNTER = itertools.count()

_SYSTEM = ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
_SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime")


def _bubblewrap(
    inside: Sequence[str], readable: Iterable[Path], limits: Limits, variables: Mapping[str, str]
) -> list[str]:
    size, small = str(limits.disk * MIB), str(16 * MIB)
    tool = shutil.which(BUBBLEWRAP) or BUBBLEWRAP
    words = [tool, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]
    for name, value in variables.items():
        words += ["--setenv", name, value]
    words += ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for path in map(Path, _SYSTEM):
        words += ["--symlink", str(path.readlink()), str(path)] if path.is_symlink() else []
        words += ["--ro-bind", str(path), str(path)] if path.is_dir() and not path.is_symlink() else []
    words += ["--perms", "0755", "--dir", "/etc"]
    for setting in _SETTINGS:
        words += ["--ro-bind-try", setting, setting]
    for place, most in ((PLACE, size), ("/tmp", size), ("/dev/shm", small)):
        words += ["--perms", "1777", "--size", most, "--tmpfs", place]
    for path in readable:
        for parent in reversed(path.parents[:-1]):
            words += ["--perms", "0755", "--dir", str(parent)]
        words += ["--ro-bind", str(path), str(path)]
    # The root and /dev are file systems in memory as well, and without a size.
    words += ["--dir", MARK, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", PLACE]
    alone = ["--unshare-user", "--disable-userns"]
    if os.geteuid() != 0:
        return [*words, *alone, "--", *inside]
    # Root is never bounded in its number of processes: it becomes a user of its own, and only then shuts the door.
    user = str(_user())
    words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--", "setpriv", "--reuid", user, "--regid", user]
    words += ["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--"]
    return [*words, tool, *alone, "--die-with-parent", "--dev-bind", "/", "/", "--", *inside]


def _user() -> int:
    """A user number for one run, so that no two runs share a count of processes."""
    return 20_000 + (os.getpid() * 64 + next(_COUNTER)) % 40_000


def _container(
    tool: str,
    name: str,
    inside: Sequence[str],
    readable: Iterable[Path],
    limits: Limits,
    variables: Mapping[str, str],
) -> list[str]:
    size = limits.disk * MIB
    words = [tool, "run", "--rm", "--interactive", "--name", name, "--network=none", "--read-only", "--cap-drop=all"]
    words += ["--security-opt=no-new-privileges", f"--user={_user()}", f"--workdir={PLACE}", "--entrypoint="]
    words += [f"--memory={limits.memory}m", f"--memory-swap={limits.memory}m", f"--pids-limit={limits.processes}"]
    words += [f"--tmpfs={place}:rw,size={size},mode=1777" for place in ("/tmp", PLACE)]
    words += [f"--tmpfs={MARK}:ro,size=4096", "--shm-size=16m"]
    words += [f"--env={key}={value}" for key, value in variables.items()]
    for path in dict.fromkeys([Path("/usr"), *map(Path, _SYSTEM), *map(Path, _SETTINGS), *readable]):
        if path.exists():
            words.append(f"--volume={path}:{path}:ro")
    return [*words, IMAGE, *inside]


# ---------------------------------------------------------------------------------------------------------------------
# Watching from outside


def _watch(words: Sequence[str], packed: IO[bytes] | None, left: IO[bytes] | None, limits: Limits, **how: Any) -> Ended:
    """Start a command, feed it an archive and keep the one it returns, both if any; end it where it takes too much."""
    started = time.monotonic()
    process = subprocess.Popen(
        words,
        stdin=packed or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if left else subprocess.STDOUT,
        start_new_session=True,
        **how,
    )
    reason, output = "", bytearray()
    drains: list[tuple[Any, int, Callable[[bytes], object]]]
    drains = [(process.stderr if left else process.stdout, limits.output, output.extend)]
    if left:
        # What stands in an archive besides the contents: a head for each file, and an end.
        drains.append((process.stdout, limits.disk * MIB + limits.entries * 1024 + 10240, left.write))
    with ThreadPoolExecutor(len(drains)) as pool:
        whole = [pool.submit(_drain, *drain) for drain in drains]
        try:
            while process.poll() is None:
                if time.monotonic() - started > limits.wall + (GRACE if left else 0):
                    reason = reason or "wall time"
                    _kill(process)
                elif not reason and (reason := _excess(process.pid, limits)):
                    _stop(process)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(INTERVAL)
        finally:
            # In a sandbox all of its processes end with the first; without one, those that stayed in its group do.
            _kill(process)
            process.wait()
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
    if left and not whole[1].result():
        status = "disk"
    text = output.decode("utf-8", "replace")
    return Ended(status, code, seconds, text if whole[0].result() else f"{text}\n[the rest was thrown away]\n")


def _drain(stream: IO[bytes], bound: int, keep: Callable[[bytes], object]) -> bool:
    """Read a pipe to its end and keep as much as the bound allows; returns whether that was all."""
    taken = 0
    while chunk := os.read(stream.fileno(), 65536):
        if taken < bound:
            keep(chunk[: bound - taken])
        taken += len(chunk)
    stream.close()
    return taken <= bound


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the command but not what hands its files out, where the two can be told apart."""
    with contextlib.suppress(psutil.Error, StopIteration):
        next(child for child in _tree(process.pid) if child.name() == "timeout").kill()
        return
    _kill(process)


def _tree(root: int) -> list[psutil.Process]:
    """All processes below one, the nearest first."""
    try:
        return list(psutil.Process(root).children(recursive=True))
    except psutil.Error:
        return []


def _excess(root: int, limits: Limits) -> str:
    """Which limit the processes below one pass together that the kernel does not keep for all of them, if any."""
    tree, bound = [process.pid for process in _tree(root)], limits.memory * MIB
    unnamed = sum(map(_unnamed_files, tree))
    # What is resident includes what processes share, but is read in no time; looking closely takes milliseconds.
    if unnamed + sum(map(_resident, tree)) > bound and unnamed + sum(map(_own, tree)) > bound:
        return "memory"
    return "disk" if _entries(tree) > CROWD * limits.entries else ""


def _entries(tree: Iterable[int]) -> int:
    """Files and folders in the sandbox's file systems: each takes memory that no size of a file system counts."""
    for process in tree:
        place = Path(f"/proc/{process}/root")
        with contextlib.suppress(OSError):
            if (place / MARK.lstrip("/")).exists():
                found = [os.statvfs(f"{place}{system}") for system in (PLACE, "/tmp", "/dev/shm")]
                return sum(system.f_files - system.f_ffree for system in found)
    return 0


def _resident(process: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _own(process: int) -> int:
    """Bytes of a process that come from no file, what it shares with others in equal parts."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return 0


def _unnamed_files(process: int) -> int:
    """Bytes in memory that count as files, and exist only while the process holds them open."""
    taken = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith("/memfd:"):
                    taken += entry.stat().st_blocks * 512
    return taken


def _run_bare(command: Sequence[str], folder: Path, limits: Limits, variables: Mapping[str, str]) -> Ended:
    """No isolation: a session of its own and the limits of single processes, for submissions that one trusts."""
    words = list(command)
    if shutil.which("prlimit"):
        bounds = [f"--cpu={limits.cpu}:{limits.cpu + 1}", f"--data={limits.memory * MIB}", f"--nofile={limits.files}"]
        words = ["prlimit", *bounds, f"--fsize={limits.disk * MIB}", "--core=0", "--", *words]
    home = {"HOME": str(folder), "PWD": str(folder)}
    return _watch(words, None, None, limits, cwd=folder, env={**variables, **home})


# ---------------------------------------------------------------------------------------------------------------------
# Files in, files out


def _take_out(source: IO[bytes], folder: Path, limits: Limits, ended: Ended) -> Ended:
    """Put what is in a stranger's archive in place of what is in a folder, all or nothing."""
    source.seek(0)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        archive.unpack(source, fresh, limits.disk * MIB, limits.entries)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in fresh.iterdir():
            path.rename(folder / path.name)
    except archive.TooMuchError:
        return replace(ended, status="disk")
    except (OSError, ValueError) as error:
        status = "failed" if ended.status == "done" else ended.status
        return replace(ended, status=status, output=f"{ended.output}\n[what it left is not readable: {error}]\n")
    finally:
        shutil.rmtree(fresh)
    return ended
