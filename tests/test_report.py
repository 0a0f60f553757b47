"""Report: estimates of every kind, what a run cannot give, and names that come once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from ncpress import verdicts
from ncutil.evidence import claims, stats
from ncutil.evidence.outputs import CLAIM_MIME, SCALAR_MIME
from ncutil.evidence.report import NOT_AVAILABLE, Estimate, Report

RUNS = np.random.default_rng(0).normal(2.5, 0.1, size=30)
ORDER = {"ordered": "increasing"}


@pytest.fixture(autouse=True)
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A notebook's shell, without a history file."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


def bundles(captured: Any, mime: str) -> list[Any]:
    return [output.data[mime] for output in captured.outputs if mime in output.data]


def texts(captured: Any) -> dict[str, str]:
    """The texts that prose can show, by name."""
    glued = [output for output in captured.outputs if "scrapbook" in (output.metadata or {})]
    return {output.metadata["scrapbook"]["name"]: next(iter(output.data.values())).strip("'\"") for output in glued}


def spread(rows: np.ndarray) -> float:
    return float(rows.max() - rows.min())


# --- estimates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "statistic", "expected"),
    [
        (RUNS, None, Estimate(float(RUNS.mean()), stats.bootstrap(RUNS, seed=3))),
        (RUNS > 2.5, None, Estimate(float((RUNS > 2.5).mean()), stats.wilson((RUNS > 2.5).sum(), 30))),
        (RUNS, np.median, Estimate(float(np.median(RUNS)), stats.bootstrap(RUNS, np.median, seed=3))),
        (7, None, Estimate(7.0)),
        (Estimate(1.0, (0.5, 2.0)), None, Estimate(1.0, (0.5, 2.0))),
    ],
    ids=["mean", "rate", "statistic", "number", "own interval"],
)
def test_estimate_by_kind_of_values(values: Any, statistic: Any, expected: Estimate) -> None:
    assert Report(3).estimate(values, statistic) == expected


def test_estimate_takes_as_many_draws_as_asked() -> None:
    expected = stats.bootstrap(RUNS, np.median, seed=0, draws=50)
    assert Report(0).estimate(RUNS, np.median, draws=50).interval == expected


@pytest.mark.parametrize(
    ("values", "statistic", "reason"),
    [
        ([2.5], None, "at least two runs; got 1"),
        ([], None, "at least two runs; got 0"),
        (np.array([], bool), None, "a rate needs"),
        ([1.0, np.nan], None, "1 of 2 values are not finite"),
        ([[1.0]], np.median, "at least two runs; got 1"),
        ([1.0, 2.0], lambda rows: np.nan, "NaN on every resample"),
        (np.arange(200.0), lambda rows: len(np.unique(rows)), "resamples all lie to one side"),
        (np.nan, None, "not a finite number"),
        (Estimate(1.0, (np.nan, np.nan)), None, "not a finite number"),
    ],
    ids=["one run", "none", "no case", "nan", "statistic", "undefined", "outside", "number", "own interval"],
)
def test_estimate_that_the_values_cannot_give(values: Any, statistic: Any, reason: str) -> None:
    found = Report(0).estimate(values, statistic)
    assert reason in found.missing
    assert found.side(0) == NOT_AVAILABLE


def test_estimate_of_one_run_keeps_the_mean_for_a_figure() -> None:
    found = Report(0).estimate([2.5])
    assert found.value == 2.5
    assert np.isnan(found.ends).all()


def test_estimate_lets_a_broken_statistic_fail() -> None:
    with pytest.raises(ValueError, match="shape"):
        Report(0).estimate(RUNS, lambda rows: rows + np.ones(7))


# --- publish and judge ---------------------------------------------------------------------------------------------


def test_publish_gives_text_record_and_claim() -> None:
    report = Report(0)
    with capture_output() as captured:
        found = report.publish("s-3", RUNS, claim="ncnet-exceeds-2", digits=1)
    assert found.interval is not None
    low, high = found.interval
    assert bundles(captured, SCALAR_MIME) == [{"name": "s-3", "value": found.value, "interval": [low, high]}]
    assert bundles(captured, CLAIM_MIME) == [
        {"id": "ncnet-exceeds-2", "estimate": found.value, "interval": [low, high]}
    ]
    assert texts(captured) == {"s-3": f"{found.value:.1f} [{low:.1f}, {high:.1f}]"}
    assert report.verdicts == {"ncnet-exceeds-2": "reproduced"}


def test_publish_of_a_number_has_no_interval_and_is_exact() -> None:
    with capture_output() as captured:
        Report(0).publish("most", 2, claim="chsh-bound")
    assert bundles(captured, SCALAR_MIME) == [{"name": "most", "value": 2.0, "interval": None}]
    assert bundles(captured, CLAIM_MIME) == [{"id": "chsh-bound", "estimate": 2.0, "interval": [2.0, 2.0]}]


def test_judge_of_an_order() -> None:
    report = Report(0)
    with capture_output() as captured:
        steps = [report.publish(f"s-{n}", RUNS + n) for n in (1, 2, 3)]
        report.judge("ncnet-rise", steps)
    (record,) = bundles(captured, CLAIM_MIME)
    assert record["estimate"] == [step.value for step in steps]
    assert record["interval"] == [list(step.ends) for step in steps]
    assert report.verdicts == {"ncnet-rise": "reproduced"}


def test_publish_of_what_a_run_cannot_give_says_so_and_records_nothing() -> None:
    report = Report(0)
    with capture_output() as captured:
        report.publish("s-3", [2.5], claim="ncnet-exceeds-2")
        report.judge("ncnet-rise", [Estimate(1.0, (0.9, 1.1)), report.estimate([])])
    assert not bundles(captured, SCALAR_MIME)
    assert not bundles(captured, CLAIM_MIME)
    assert NOT_AVAILABLE in texts(captured)["s-3"]
    assert any("ncnet-rise" in text and NOT_AVAILABLE in text for text in bundles(captured, "text/plain"))
    assert report.verdicts == {"ncnet-exceeds-2": NOT_AVAILABLE, "ncnet-rise": NOT_AVAILABLE}


def test_name_or_claim_that_comes_twice_is_an_error() -> None:
    report = Report(0)
    with capture_output():
        report.publish("s-3", RUNS, claim="ncnet-exceeds-2")
        report.say("runs", "30")
        for again in (
            lambda: report.publish("s-3", RUNS),
            lambda: report.publish("s-3", []),
            lambda: report.publish("runs", 30),
            lambda: report.say("s-3", "words"),
            lambda: report.publish("other", RUNS, claim="ncnet-exceeds-2"),
        ):
            with pytest.raises(ValueError, match="comes twice"):
                again()
        Report(0).publish("s-3", RUNS, claim="ncnet-exceeds-2")


def test_publish_and_judge_take_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"id": "s", "source": "P1", "place": "Figure 1", "statement": "S rises."}
    ways = {"mean": {"quantity": "S", "holds_if": {"above": 2}}, "order": {"quantity": "S", "holds_if": ORDER}}
    monkeypatch.setattr(claims, "load", lambda: verdicts.parse([{**entry, "readings": ways}]))
    report = Report(0)
    with capture_output() as captured:
        found = report.publish("s-3", RUNS, claim="s:mean")
        report.judge("s:order", [found, report.estimate(RUNS + 1)])
    assert [data["id"] for data in bundles(captured, CLAIM_MIME)] == ["s:mean", "s:order"]
    assert report.verdicts == {"s:mean": "reproduced", "s:order": "reproduced"}


def test_judge_refuses_an_unknown_claim_without_a_number() -> None:
    with capture_output(), pytest.raises(ValueError, match="unknown claim 'ncnet-peek'"):
        Report(0).publish("s-3", [], claim="ncnet-peek")


# --- sentences -----------------------------------------------------------------------------------------------------


def test_say_chooses_the_sentence_of_the_outcome() -> None:
    sentences = {"above": "It is above.", "below": "It is below.", "open": "It is open."}
    report = Report(0)
    with capture_output() as captured:
        report.say("up", sentences, by=report.estimate(RUNS).side(2))
        report.say("down", sentences, by=report.estimate(RUNS).side(3))
        report.say("at", sentences, by=report.estimate(RUNS).side(float(RUNS.mean())))
        report.say("none", sentences, by=report.estimate([]).side(2))
        report.say("plain", "30")
    shown = texts(captured)
    assert [shown["up"], shown["down"], shown["at"]] == [*sentences.values()]
    assert shown["none"] not in sentences.values()
    assert shown["plain"] == "30"


def test_say_chooses_by_the_verdict_of_a_claim() -> None:
    report = Report(0)
    with capture_output() as captured:
        report.publish("s-3", RUNS, claim="ncnet-exceeds-2")
        report.say("so", {"reproduced": "Yes.", "undecided": "Open."}, by=report.verdicts["ncnet-exceeds-2"])
    assert texts(captured)["so"] == "Yes."


def test_say_refuses_an_outcome_without_a_sentence() -> None:
    with pytest.raises(ValueError, match="no sentence for 'open', only for 'above', 'below'"):
        Report(0).say("up", {"above": "Yes.", "below": "No."}, by="open")


def test_published_estimate_as_last_value_of_a_cell_shows_nothing(shell: InteractiveShell) -> None:
    shell.user_ns |= {"r": Report(seed=3), "runs": RUNS}
    with capture_output() as captured:
        done = shell.run_cell('r.publish("mean", runs)')
    assert done.result.value == RUNS.mean()
    assert "Estimate" not in captured.stdout
    assert not [output for output in captured.outputs if "Estimate" in output.data.get("text/plain", "")]
