"""Break one line at a time in a copy of the clone: the test that is named beside it must fail.

    python tests/mutations.py           # all of them
    python tests/mutations.py files     # those whose file or test contains a word

Exit status 1 if a broken line goes unseen, a line to break is not there, or a test fails without any break.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from conftest import clone_environment, copy_project


class Mutation(NamedTuple):
    """In `file`, `old` becomes `new`; `test` is what must fail, as pytest names it."""

    file: str
    old: str
    new: str
    test: str


MUTATIONS = [
    Mutation(
        "ncutil/ground/staleness.py",
        "return digest(ast.dump(parsed))",
        "return digest(source)",
        "ncutil/ground/staleness.py::ncutil.ground.staleness.tree",
    ),
    Mutation(
        "ncutil/ground/staleness.py",
        '"versions": versions(*sources, *reached.values()),',
        '"versions": {},',
        "tests/test_ground.py::test_key_sees_a_new_version_of_numpy",
    ),
    Mutation(
        "ncutil/ground/staleness.py",
        '"data": {_place(path, root): checksum(path) for path in data},',
        '"data": {path.name: checksum(path) for path in data},',
        "tests/test_ground.py::test_key_tells_data_of_one_name_apart",
    ),
    Mutation(
        "ncutil/ground/files.py",
        'part = path.with_name(f".{os.getpid()}-{get_ident()}-{path.name}")',
        "part = path",
        "tests/test_ground.py::test_replacing_keeps_the_old_file_on_an_error",
    ),
    Mutation(
        "ncutil/ground/files.py",
        "from hashlib import sha256",
        "from hashlib import sha256\n\nimport ncutil.evidence.stats",
        "tests/test_repository.py::test_rooms_import_only_what_they_may",
    ),
]


def fails(clone: Path, test: str) -> bool:
    """Whether a test fails in a clone; a test that is not there, or cannot be collected, is an error."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=clone, env=clone_environment(clone), capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{test} does not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def outcome(clone: Path, mutation: Mutation) -> str:
    """What came of one mutation; the file is as before when this returns."""
    path = clone / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        return "LINE NOT FOUND"
    if fails(clone, mutation.test):
        return "TEST FAILS ANYWAY"
    path.write_text(text.replace(mutation.old, mutation.new))
    seen = fails(clone, mutation.test)
    path.write_text(text)
    return "seen" if seen else "NOT SEEN"


def main(word: str = "") -> int:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        clone = copy_project(Path(folder) / "clone")
        subprocess.run(["git", "init", "-q", "."], cwd=clone, check=True)
        for mutation in MUTATIONS:
            if word in mutation.file or word in mutation.test:
                found.append(outcome(clone, mutation))
                print(f"{found[-1]}: {mutation.file}: {mutation.old} ({mutation.test})", flush=True)
    return int(found.count("seen") < len(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
