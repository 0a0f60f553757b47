"""A folder as a tar archive, and an archive that is not trusted as a folder: regular files and folders, nothing else.

`tarfile` writes the archive that goes in; the program in the sandbox reads it, and a mistake there costs that program
alone. The program can forge every byte of the archive that comes out. A reader of all of tar's dialects believes what
such an archive says of itself: a name of gigabytes, a file of minus one byte, heads within heads. So the few lines
below read it. They know the oldest dialect (POSIX ustar: heads of 512 bytes, each followed by the contents of a file in
blocks of 512) and refuse the rest.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BLOCK = 512
DEPTH = 16
"""Folders within folders that are taken out."""

FILES, FOLDER, WITHOUT_CONTENTS = b"\0" + b"0", b"5", b"12346"
"""Kinds of entries; the last are links, devices and pipes, of which there is only a head."""


class TooMuchError(ValueError):
    """An archive holds more than may be taken out."""


def pack(folder: Path) -> bytes:
    """The regular files and folders below a folder, as everybody's and readable; links are left out."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isreg() or entry.isdir()):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o777 if entry.isdir() else 0o666
        return entry

    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name, filter=plain)
    return target.getvalue()


def unpack(source: IO[bytes], folder: Path, size: int, entries: int) -> None:
    """Write the regular files and folders of an archive into an empty folder that nobody else can reach.

    Parameters
    ----------
    source : archive in the form of POSIX ustar, at its beginning
    folder : empty and out of everybody else's reach; after an error, some of the files are in it
    size : bytes that all files together may have
    entries : files, folders and links that there may be

    Raises
    ------
    TooMuchError
        There is more in it, or folders lie deeper than `DEPTH`.
    ValueError, OSError
        It is not such an archive, not a whole one, or holds what cannot be written.
    """
    for number, (name, kind, length) in enumerate(_heads(source)):
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        size -= length
        if number > entries or size < 0 or len(parts) > DEPTH + 1:
            raise TooMuchError("there is too much in it")
        if name.startswith(b"/") or b".." in parts:
            raise ValueError(f"{name!a} is no name below the folder")
        path = os.path.join(os.fsencode(folder), *parts)
        if kind in FOLDER and parts:
            os.mkdir(path)
        elif kind in FILES:
            _write(path, source, length)


def _heads(source: IO[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
    """Name, kind and length of every entry; the caller reads the contents of one before it asks for the next."""
    while any(head := _exactly(source, BLOCK)):
        if head[257:262] != b"ustar":
            raise ValueError("it is not an archive")
        name, prefix = (head[place].partition(b"\0")[0] for place in (slice(0, 100), slice(345, 500)))
        kind, digits = head[156:157], head[124:136].strip(b" \0")
        if kind not in FILES + FOLDER + WITHOUT_CONTENTS:
            raise ValueError(f"it has an entry of the kind {kind!a}")
        if not digits.isdigit() or (int(digits, 8) and kind not in FILES):
            raise ValueError(f"it has an entry of {digits!a} bytes")
        yield (b"/".join((prefix, name)) if prefix else name), kind, int(digits, 8)


def _write(path: bytes, source: IO[bytes], length: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        for start in range(0, length, 2**20):
            file.write(_exactly(source, min(2**20, length - start)))
    _exactly(source, -length % BLOCK)


def _exactly(source: IO[bytes], length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise ValueError("it ends too early")
    return data
