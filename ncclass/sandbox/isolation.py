"""Run a program that is not trusted: its own folder, its own process tree, no network, limits on all that it can take.

bubblewrap does the isolating (or podman, or docker); this module writes its command line. `monitor` bounds from outside
what the kernel does not bound, `syscalls` lists what the kernel has to refuse, and `archive` reads the files that come
out as data that is not trusted. The folder is never a folder of this machine while the program runs. Its files go in as
an archive, live on a file system in memory whose size the kernel bounds, and come out as an archive. The page about the
sandbox explains this, with what it does not promise.

A program can read Python's environment, the system's libraries, and what the caller makes `readable`. The caller also
says what is `private`: where the program could read that, it is not run.
"""

import contextlib
import itertools
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO

from ncclass.sandbox import archive, syscalls
from ncclass.sandbox.monitor import MARK, MIB, SYSTEMS, Ended, Limits, watch

__all__ = ["BUBBLEWRAP", "NONE", "Ended", "Limits", "NoSandboxError", "find_sandbox", "keep_private", "run"]

BUBBLEWRAP, NONE = "bwrap", "none"
CONTAINERS = ("podman", "docker")
IMAGE = "debian:stable-slim"
"""What a container starts from; programs and libraries are this system's own, mounted read-only."""

PLACE = SYSTEMS[0]
"""Where the program finds its folder; it starts there."""

SPARE = 4
"""Processes besides those of the command: the wrapper, `timeout`, and what the wrapper starts."""


class NoSandboxError(RuntimeError):
    """Nothing on this machine isolates a program, or it could read what is private; the message says what to do."""


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
        "nothing here can isolate a program: it could read your files, change them, and send them away. Install "
        "bubblewrap (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap) or podman. Tried: "
        + "; ".join(complaints)
    )


def run(
    command: Sequence[str],
    folder: Path,
    *,
    readable: Sequence[Path] = (),
    private: Iterable[Path] = (),
    limits: Limits | None = None,
    sandbox: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command on the files of a folder; it can reach nothing else.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; its files are named relative to the folder, in which it starts.
    folder : Path
        Its regular files go in. When the command has ended or was ended, the folder holds what it left: regular files
        and folders, nothing else. Where that is too much or cannot be read, the folder is as it was.
    readable : sequence of Path
        What it may read besides Python's environment and the system's libraries, under the same absolute names.
    private : iterable of Path
        What it must not be able to read, as in `keep_private`.
    limits : Limits, optional
    sandbox : str, optional
        "bwrap", "podman" or "docker"; found if not given. "none" isolates nothing and only sets what limits it can.
    env : mapping, optional
        Variables to add to the few that it gets, such as PYTHONPATH; it gets none of this process's own.

    Raises
    ------
    NoSandboxError
        No sandbox was named and none works here, or the command could read what is private.
    """
    limits = limits or Limits()
    sandbox = sandbox or find_sandbox()
    variables = _environment() | dict(env or {})
    if sandbox == NONE:
        return _run_bare(command, folder, limits, variables)
    keep_private(private, readable)
    inside = _inside(command, limits)
    shown = _outermost([*_libraries(), *(path.absolute() for path in readable)])
    packed = archive.pack(folder)
    with tempfile.TemporaryFile() as left:
        if sandbox == BUBBLEWRAP:
            with _filter() as allowed:
                words = _bubblewrap(inside, shown, limits, variables, allowed)
                # The first process in there keeps the environment that it was started with: it gets next to none.
                ended = watch(words, limits, packed, left, env={}, pass_fds=allowed)
        else:
            name = f"sandbox-{os.getpid()}-{next(_COUNTER)}"
            try:
                ended = watch(_container(sandbox, name, inside, shown, limits, variables), limits, packed, left)
            finally:
                # Ending the command does not end a container; where it has ended by itself this does nothing.
                subprocess.run([sandbox, "kill", name], capture_output=True)
        return ended if ended.status == "disk" else _take_out(left, folder, limits, ended)


# ---------------------------------------------------------------------------------------------------------------------
# What runs inside

_WRAPPER = f"""
tar -xf - && exec </dev/null && "$@" >&2
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
"""Take the files in, run the command, end whatever it left running, hand the files out.

It runs with the same rights as the command. So the command can stop it and, where the kernel has no Yama, write into
it. That can lose or forge only the command's own files, and those are not trusted. `tar` leaves out what does not fit
into an archive of this form, such as a name that is too long, and prints which."""


def _inside(command: Sequence[str], limits: Limits) -> list[str]:
    """The command in its wrapper, under limits that the kernel keeps."""
    memory = limits.memory * MIB
    return [
        # These bound all that runs with the command's rights: the command could take it over.
        "prlimit",
        f"--cpu={limits.cpu}:{limits.cpu + 1}",
        f"--data={memory}",
        # Address space is reserved far beyond what is used: this only bounds what no other limit sees.
        f"--as={4 * memory + 8 * 2**30}",
        # The wrapper has to be able to go on where the command has used up all of its processes.
        f"--nproc={limits.processes + SPARE}",
        f"--nofile={limits.files}",
        f"--fsize={limits.disk * MIB}",
        # Not 0: to a program that takes core dumps from a pipe, the kernel hands none only where this is 1.
        "--core=1",
        "--",
        *("sh", "-c", _WRAPPER, "sh"),
        *("timeout", "--signal=KILL", f"{limits.wall:g}"),
        # Where memory runs out in spite of all, the kernel ends this first.
        *("choom", "-n", "1000", "--"),
        *("prlimit", f"--nproc={limits.processes}", "--"),
        *command,
    ]


@contextlib.contextmanager
def _filter() -> Iterator[tuple[int, ...]]:
    """The filter of system calls in a pipe that bubblewrap can read it from; none where there is none."""
    program = syscalls.program()
    if not program:
        yield ()
        return
    source, target = os.pipe()
    try:
        os.write(target, program)
        os.close(target)
        yield (source,)
    finally:
        os.close(source)


def _environment() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return one | {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@cache
def _libraries() -> tuple[Path, ...]:
    """Folders of Python and its packages; the system's own come with /usr."""
    paths = [sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))]
    if site.ENABLE_USER_SITE:
        paths.append(site.getusersitepackages())
    return tuple(path for path in map(Path, paths) if path.exists())


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Paths that lie in no other of them, nor in /usr."""
    kept = [Path("/usr")]
    for path in sorted(paths):
        if not any(path.is_relative_to(parent) for parent in kept):
            kept.append(path)
    return kept[1:]


def keep_private(private: Iterable[Path], readable: Iterable[Path] = ()) -> None:
    """Refuse where a program could read a private place.

    Parameters
    ----------
    private : iterable of Path
        Files and folders; a relative path is looked for in every folder that a program can read.
    readable : iterable of Path
        What programs may read besides Python's environment and the system's libraries.

    Raises
    ------
    NoSandboxError
        One of the places exists and lies in what a program can read.
    """
    for shown, place in itertools.product((Path("/usr"), *_libraries(), *readable), tuple(private)):
        found = shown / place
        if found.exists() and found.resolve().is_relative_to(shown.resolve()):
            raise NoSandboxError(
                f"a program in the sandbox can read {shown}, and that holds {found}, which is private: make Python's "
                "environment in a folder of its own, such as .venv, or move what is private"
            )


_COUNTER = itertools.count()

_SYSTEM = ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
_SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime")


def _bubblewrap(
    inside: Sequence[str],
    readable: Iterable[Path],
    limits: Limits,
    variables: Mapping[str, str],
    allowed: Sequence[int],
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
    for place, most in zip(SYSTEMS, (size, size, small), strict=True):
        words += ["--perms", "1777", "--size", most, "--tmpfs", place]
    for path in readable:
        for parent in reversed(path.parents[:-1]):
            words += ["--perms", "0755", "--dir", str(parent)]
        words += ["--ro-bind", str(path), str(path)]
    # Zeros from a device that cannot be mapped: what is mapped from the other is memory that counts for no process.
    words += ["--dev-bind", "/dev/full", "/dev/zero"]
    # The root and /dev are file systems in memory as well, and without a size.
    words += ["--dir", MARK, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", PLACE]
    # The last to be set: what makes a sandbox makes calls that the filter forbids.
    alone = ["--unshare-user", "--disable-userns", *(word for fd in allowed for word in ("--seccomp", str(fd)))]
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
    processes = limits.processes + SPARE
    words += [f"--memory={limits.memory}m", f"--memory-swap={limits.memory}m", f"--pids-limit={processes}"]
    most = {"nofile": limits.files, "nproc": processes, "core": 1}
    words += [f"--ulimit={limit}={bound}:{bound}" for limit, bound in most.items()]
    words += [f"--tmpfs={place}:rw,size={size},mode=1777" for place in ("/tmp", PLACE)]
    words += [f"--tmpfs={MARK}:ro,size=4096", "--shm-size=16m"]
    words += [f"--env={key}={value}" for key, value in variables.items()]
    for path in dict.fromkeys([Path("/usr"), *map(Path, _SYSTEM), *map(Path, _SETTINGS), *readable]):
        if path.exists():
            words.append(f"--volume={path}:{path}:ro")
    return [*words, IMAGE, *inside]


def _run_bare(command: Sequence[str], folder: Path, limits: Limits, variables: Mapping[str, str]) -> Ended:
    """No isolation: a session of its own and the limits of single processes, for programs that one trusts."""
    words = list(command)
    if shutil.which("prlimit"):
        bounds = [f"--cpu={limits.cpu}:{limits.cpu + 1}", f"--data={limits.memory * MIB}", f"--nofile={limits.files}"]
        words = ["prlimit", *bounds, f"--fsize={limits.disk * MIB}", "--core=1", "--", *words]
    home = {"HOME": str(folder), "PWD": str(folder)}
    return watch(words, limits, cwd=folder, env={**variables, **home})


# ---------------------------------------------------------------------------------------------------------------------
# Files out


def _take_out(source: IO[bytes], folder: Path, limits: Limits, ended: Ended) -> Ended:
    """Put what is in an archive that came out in place of what is in a folder, all or nothing."""
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
