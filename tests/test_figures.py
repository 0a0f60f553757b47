"""The figure family: told apart without colour, bounds drawn the same way everywhere, data handed over whole."""

import base64
import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.colors import to_hex, to_rgb
from traitlets.config import Config

from ncutil.evidence import figures
from ncutil.evidence.outputs import TABLE_MIME


@pytest.fixture(autouse=True)
def canvas() -> Iterator[None]:
    """Drawing without a screen, and without a trace afterwards."""
    backend = mpl.get_backend()
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A notebook's shell, without a history file."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


def luminance(colour: str) -> float:
    """Relative luminance of a colour, 0 black to 1 white, as contrast rules define it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_series_differ_in_more_than_colour() -> None:
    for family in (figures.PALETTE, figures.MARKERS, figures.DASHES):
        assert len(set(family)) == len(figures.PALETTE) == 6
    greys = sorted(luminance(colour) for colour in figures.PALETTE[:3])
    # Contrast of neighbours, white paper included, so that a black and white print tells three series apart.
    assert all((b + 0.05) / (a + 0.05) > 1.5 for a, b in pairwise([*greys, 1.0]))


def test_style_sets_the_house_style() -> None:
    figures.style()
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert [to_hex(colour) for colour in cycle] == list(figures.PALETTE)
    assert mpl.rcParams["axes.grid"]
    assert mpl.rcParams["figure.constrained_layout.use"]
    assert mpl.rcParams["figure.facecolor"] == "white"


@pytest.mark.parametrize(("quantum", "dashes"), [(False, "--"), (True, "-.")])
def test_bound(quantum: bool, dashes: str) -> None:
    _, ax = plt.subplots()
    ax.set_ylim(0, 3)
    figures.bound(ax, 2.0, "local", quantum=quantum)
    (line,), (text,) = ax.lines, ax.texts
    assert line.get_linestyle() == dashes
    assert set(np.asarray(line.get_ydata(), float)) == {2.0}
    assert text.get_text() == "local"
    # The name stands inside the axes, above the line and at its right end.
    ax.figure.draw_without_rendering()
    box, (right, height) = text.get_window_extent(), ax.transAxes.transform((1, 2 / 3))
    assert box.x1 <= right
    assert height < box.y0 < height + 20


def test_publish_hands_the_data_over(shell: InteractiveShell) -> None:
    frame = pd.DataFrame({"width": [2, 3], "s": [1.5, 2 * np.sqrt(2)], "task": ["and, or", "xor"]}, index=[7, 9])
    with capture_output() as captured:
        figures.publish("s-by-width", frame)
    (output,) = [output for output in captured.outputs if TABLE_MIME in output.data]
    assert output.data["text/plain"] == "s-by-width: 2 rows of width, s, task"
    assert output.data[TABLE_MIME]["name"] == "s-by-width"
    back = pd.read_csv(io.StringIO(output.data[TABLE_MIME]["csv"]))
    pd.testing.assert_frame_equal(back, frame.reset_index(drop=True), rtol=1e-7)


def test_publish_shows_the_current_figure_with_its_data(shell: InteractiveShell) -> None:
    """Picture and data are one output, so that neither can end up beside another's; the figure is closed then."""
    _, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1])
    with capture_output() as captured:
        figures.publish("line", pd.DataFrame({"s": [0, 1]}))
    (output,) = captured.outputs
    assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
    assert output.data[TABLE_MIME]["name"] == "line"
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", ["", "-", "a b", "a/b", "../a", "a.csv", "a_b", "a\n"])
def test_publish_refuses_a_name_that_is_no_file_name(name: str, shell: InteractiveShell) -> None:
    with capture_output() as captured, pytest.raises(ValueError, match="letters, digits and hyphens; got"):
        figures.publish(name, pd.DataFrame({"s": [1]}))
    assert not captured.outputs


@given(st.text(alphabet='/\\. _:*?"<>|\0', min_size=1, max_size=8), st.sampled_from(["", "a"]))
def test_publish_refuses_every_separator(bad: str, good: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        figures.publish(good + bad + good, pd.DataFrame({"s": [1]}))


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"s": []}), pd.DataFrame(index=[0, 1])])
def test_publish_refuses_an_empty_frame(frame: pd.DataFrame, shell: InteractiveShell) -> None:
    with capture_output() as captured, pytest.raises(ValueError, match="figure 'empty' has no data"):
        figures.publish("empty", frame)
    assert not captured.outputs
