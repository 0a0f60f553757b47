"""Files that are there whole or not at all, short hashes of what is in them, locks, and the number of cores.

Everything that this book keeps goes through `write` or `replacing`: a process that is killed leaves the old file or
none.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import get_ident
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another path to write to, which takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: some writers go by it.
    part = path.with_name(f".{os.getpid()}-{get_ident()}-{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, so that a reader sees the old one or the whole new one."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON, one entry a line, as `write` does."""
    write(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def digest(*parts: bytes | str) -> str:
    """Short hash of a sequence of texts; where one ends and the next begins counts."""
    total = sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]


def checksum(path: Path) -> str:
    """Hash of a file's content, or of the paths and contents of every file below a folder; OSError if it is missing."""
    if path.is_file():
        return digest(path.read_bytes())
    if not path.is_dir():
        raise FileNotFoundError(f"no such file or folder: {path}")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest(*(part for file in files for part in (file.relative_to(path).as_posix(), file.read_bytes())))


@contextmanager
def lock(path: Path, wait: float = -1, busy: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file while the block runs; it is free again when its holder ends, however it ends.

    `wait` is the time to wait for it, in seconds; less than 0 waits as long as it takes. `busy` is called once if
    another process holds it now. Raises TimeoutError after the wait.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path)
    try:
        held.acquire(timeout=0)
    except Timeout:
        busy()
        try:
            held.acquire(timeout=wait)
        except Timeout:
            raise TimeoutError(f"another process holds {path}") from None
    try:
        yield
    finally:
        held.release()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
