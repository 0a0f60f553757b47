"""Comparing runs: claim by claim, number by number, with what can explain a difference."""

import copy
import json
from pathlib import Path

import pytest
from conftest import cli, press

from ncpress.comparison import compare, explanation, read_results
from ncpress.project import PressError

RESULT = {
    "format": 1,
    "chapter": "02-beta",
    "profile": "book",
    "parameters": {"runs": 40, "seed": 1},
    "seed": 1,
    "commit": "abc",
    "modified": False,
    "versions": {"python": "3.11", "numpy": "2.4"},
    "processor": "p",
    "system": "Linux x86_64",
    "started": "2026-01-01T00:00:00+00:00",
    "seconds": 1.0,
    "claims": {"mean": {"estimate": 3.0, "interval": [2.9, 3.1], "verdict": "reproduced"}},
    "scalars": {"bound": {"value": 2.0, "interval": None}},
}


def changed(**fields: object) -> dict:
    result = copy.deepcopy(RESULT)
    for path, value in fields.items():
        *parents, last = path.split("__")
        node = result
        for name in parents:
            node = node[name]
        node[last] = value
    return result


def remarks(ours: dict) -> dict[str, tuple[bool, str]]:
    return {item.name: (item.agrees, item.remark) for item in compare(ours, RESULT)}


def test_the_same_run_is_identical() -> None:
    assert remarks(RESULT) == {"mean": (True, "identical"), "bound": (True, "identical")}


def test_rounding_is_not_a_difference() -> None:
    agrees, remark = remarks(changed(scalars__bound__value=2.0 + 1e-8))["bound"]
    assert agrees
    assert remark.startswith("same to rounding")


def test_overlapping_intervals_agree_and_separate_ones_do_not() -> None:
    near = changed(claims__mean__estimate=3.05, claims__mean__interval=[2.95, 3.15], versions__numpy="2.5")
    agrees, remark = remarks(near)["mean"]
    assert agrees
    assert "intervals overlap; versions (numpy) differ" in remark
    far = changed(claims__mean__estimate=3.5, claims__mean__interval=[3.4, 3.6])
    agrees, remark = remarks(far)["mean"]
    assert not agrees
    assert "intervals apart; same code, parameters, versions and processor: nothing explains it" in remark


def test_a_changed_verdict_never_agrees() -> None:
    agrees, remark = remarks(changed(claims__mean__verdict="undecided"))["mean"]
    assert not agrees
    assert remark.startswith("verdict changed")


def test_what_only_one_side_has_is_said() -> None:
    assert remarks(changed(scalars={}))["bound"] == (False, "only in the second")
    assert remarks(changed(scalars__other={"value": 1.0, "interval": None}))["other"] == (False, "only in the first")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parameters__runs": 80}, "parameters differ (runs)"),
        ({"profile": "smoke"}, "parameters differ"),
        ({"processor": "q"}, "processor differ"),
        ({"commit": "def"}, "the code may differ"),
        ({"modified": True}, "the code may differ"),
    ],
)
def test_explanations(fields: dict, words: str) -> None:
    for overlap in (True, False):
        assert words in explanation(changed(**fields), RESULT, overlap)


def test_explanation_by_rounding_only_where_intervals_overlap() -> None:
    other = changed(versions__numpy="2.5")
    assert explanation(other, RESULT, True) != explanation(other, RESULT, False)
    far = changed(versions__numpy="2.5", claims__mean__estimate=3.5, claims__mean__interval=[3.4, 3.6])
    agrees, remark = remarks(far)["mean"]
    assert not agrees
    assert "within" not in remark


def test_command_line_compares_with_the_published_run(built: Path) -> None:
    done = press(built, "compare")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "02-beta: 1 of 1 agree" in done.stdout
    path = built / "book/results/02-beta.json"
    published = json.loads(path.read_text())
    published["claims"]["beta-mean"] |= {"verdict": "undecided", "estimate": 2.9, "interval": [2.8, 2.95]}
    path.write_text(json.dumps(published))
    done = press(built, "compare")
    assert done.exit_code == 1
    assert "! beta-mean" in done.stdout
    assert "verdict changed" in done.stdout
    assert press(built, "compare", "--accept").exit_code == 0
    assert press(built, "compare").exit_code == 0


def test_readings_run_from_chapter_to_ledger_and_comparison(clone: Path) -> None:
    path = clone / "book/claims.yml"
    old = "  quantity: mean\n  holds_if: {above: 2.9}\n"
    new = """  readings:
    high: {quantity: mean, holds_if: {above: 2.9}, condition: this seed}
    low: {quantity: mean, holds_if: {below: 2.9}}
"""
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    chapter = clone / "notebooks/02-beta.md"
    line = 'claims.record("beta-mean", frame.x.mean(), stats.bootstrap(frame.x, seed=seed))'
    both = [line.replace("beta-mean", f"beta-mean:{name}") for name in ("high", "low")]
    chapter.write_text(chapter.read_text().replace(line, "\n".join(both)))
    done = cli(clone, "build")
    assert done.returncode == 0, done.stderr
    page, ledger = ((clone / f"_build/html/{name}.html").read_text() for name in ("notebooks/02-beta", "book/claims"))
    for name in ("high", "low"):
        assert f'id="claim-beta-mean:{name}"' in page
        assert f'href="../notebooks/02-beta.html#claim-beta-mean:{name}"' in ledger
    assert ledger.count("The mean is high.") == 1
    assert "this seed" in ledger
    assert "this seed" in page
    counts = cli(clone, "claims").stdout.splitlines()[-1]
    assert counts == "2 reproduced, 1 contradicted, 0 undecided, 1 not attempted, 1 out of reach"
    assert cli(clone, "compare", "--accept").returncode == 0
    published = json.loads((clone / "book/results/02-beta.json").read_text())
    assert list(published["claims"]) == ["beta-mean:high", "beta-mean:low"]
    published["claims"]["beta-mean:low"]["verdict"] = "undecided"
    (clone / "book/results/02-beta.json").write_text(json.dumps(published))
    assert "! beta-mean:low" in cli(clone, "compare").stdout
    assert "beta-mean:low: contradicted, published undecided" in cli(clone, "build", "--check").stderr


def test_other_profiles_compare_but_are_not_published(built: Path) -> None:
    assert cli(built, "run", "02-beta", "--profile", "smoke").returncode == 0
    done = press(built, "compare", f"{built}/_build/runs/smoke")
    assert "parameters differ (runs)" in done.stdout
    done = press(built, "compare", f"{built}/_build/runs/smoke", "--accept")
    assert done.exit_code == 1
    assert "only runs of the book profile are published" in done.stderr


def test_claims_prints_the_ledger(built: Path) -> None:
    done = press(built, "claims")
    assert done.exit_code == 0
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if "-" in line}
    assert lines["alpha-two"].startswith("reproduced")
    assert "2 reproduced, 0 contradicted, 0 undecided, 1 not attempted, 1 out of reach" in done.stdout
    done = press(built, "claims", "--profile", "smoke")
    assert "0 reproduced" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such folder of runs or results"),
        ({}, "no runs and no results in"),
        ({"01-x.json": "{"}, "is not a result file"),
        ({"01-x.json": '{"format": 99}'}, "has format 99, this version reads 1"),
        ({"01-x/run.json": '{"format": 99}'}, "is not a finished run of this version"),
    ],
)
def test_unusable_folders_are_named(tmp_path: Path, content: dict[str, str] | None, message: str) -> None:
    folder = tmp_path / "runs"
    for name, text in (content or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if content == {}:
        folder.mkdir()
    with pytest.raises(PressError, match=message):
        read_results(folder)
