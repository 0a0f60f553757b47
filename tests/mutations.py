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
    Mutation(
        "ncutil/evidence/claims.py",
        "meets, fails = low > value, high <= value",
        "meets, fails = low > value, high < value",
        "tests/test_claims.py::test_verdict_of_one_estimate",
    ),
    Mutation(
        "ncutil/evidence/stats.py",
        "np.nanquantile(estimates, [tail, 1 - tail])",
        "np.nanquantile(estimates, [0.025, 0.975])",
        "tests/test_stats.py::test_bootstrap_covers_the_mean_of_few_runs",
    ),
    Mutation(
        "ncutil/training/_kernel.py",
        "return unit * (self.bits + 1) + bit",
        "return unit * (self.bits + 1) + self.bits - bit",
        "tests/test_ensembles.py::test_train_equals_reference",
    ),
    Mutation(
        "ncutil/lora/adapters.py",
        "(ALPHA_EXPONENTS[alpha_rule] - 1)",
        "ALPHA_EXPONENTS[alpha_rule]",
        "tests/test_lora.py::test_peft_trains_the_same_replica",
    ),
    Mutation(
        "ncpress/markup.py",
        're.compile(f"([{re.escape(string.punctuation)}])")',
        're.compile("([*])")',
        "tests/test_markup.py::test_literal_shows_what_was_given",
    ),
    Mutation(
        "ncpress/parameters.py",
        "if not wanted.least <= number <= wanted.largest:",
        "if not wanted.least - 1 <= number <= wanted.largest:",
        "tests/test_parameters.py::test_check_refuses_what_does_not_fit",
    ),
    Mutation(
        "ncclass/marks.py",
        "if who in recorded and _digest(new) == written:",
        "if False:",
        "tests/test_classroom.py::test_import_takes_two_copies_of_the_table_one_after_the_other",
    ),
    Mutation(
        "ncclass/sandbox/isolation.py",
        '"--unshare-net", ',
        "",
        "tests/test_sandbox.py::TestSight::test_no_network",
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
