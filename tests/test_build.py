"""Building the book: what a page shows, what can be taken home, and every way a build must fail."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from bs4 import BeautifulSoup
from conftest import cli, clone_environment, find_chromium, inside, press
from test_run import edit, record

from ncpress import comparison, rendering
from ncpress.pages import run_box

pytestmark = pytest.mark.xdist_group("build")


def html(clone: Path, page: str) -> str:
    return (clone / "_build" / "html" / f"{page}.html").read_text(encoding="utf-8")


def text_of(clone: Path, page: str) -> str:
    return " ".join(BeautifulSoup(html(clone, page), "html.parser").get_text(" ").split())


def machine_paths(clone: Path, *others: Path) -> list[str]:
    """Lines of the built site, downloads included, that name the clone, the environment, the home folder or others."""
    folders = (f"{clone}", sys.prefix, f"{Path.home()}/", *map(str, others))
    site = clone / "_build" / "html"
    return [
        f"{path.relative_to(site)}: {line[:200]}"
        for path in site.rglob("*")
        if path.suffix in {".html", ".js", ".ipynb", ".md", ".csv", ".json", ".txt"} and "_static" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(folder in line for folder in folders)
    ]


def failing(clone: Path, *words: str) -> str:
    """What a build that must fail says; the last good site has to be there still."""
    before = html(clone, "index")
    done = cli(clone, "build", *words)
    assert done.returncode == 1, done.stdout
    assert html(clone, "index") == before
    return done.stderr


def refused(clone: Path, *words: str) -> str:
    """The same, of a build that fails before it runs or renders anything."""
    before = html(clone, "index")
    done = press(clone, "build", *words)
    assert done.exit_code == 1, done.stdout
    assert html(clone, "index") == before
    return done.stderr


def test_page_shows_the_run(built: Path) -> None:
    ran = record(built, "02-beta")
    page = text_of(built, "notebooks/02-beta")
    for shown in (
        "book profile, seed 1",
        ran["commit"][:12],
        ran["processor"],
        "runs = 40",
        f"numpy {ran['versions']['numpy']}",
        f"{ran['seconds']:.1f} s",
        ran["started"][:10],
    ):
        assert shown in page
    assert "modified" not in page
    assert "departs" not in page


def test_page_shows_verdict_number_and_data(built: Path) -> None:
    beta, alpha = html(built, "notebooks/02-beta"), text_of(built, "notebooks/01-alpha")
    assert 'id="claim-beta-mean"' in beta
    assert "reproduced Claim. The mean is high." in text_of(built, "notebooks/02-beta")
    assert "The bound is 2.00" in alpha
    assert "vnd.ncutil" not in beta
    for link in re.findall(r'href="(\.\./downloads/[^"]+)"', beta):
        assert (built / "_build/html/notebooks" / link).resolve().is_file()
    assert '../downloads/02-beta/data/wobble.csv" download' in beta


def test_claims_page_and_crosswalk_are_made_from_the_runs(built: Path) -> None:
    claims, crosswalk = html(built, "book/claims"), text_of(built, "book/crosswalk")
    assert 'href="../notebooks/02-beta.html#claim-beta-mean"' in claims
    assert "Its chapter is still to come." in claims
    assert "It needs a data set that is not public." in claims
    assert "Theorem 1 Two is two. reproduced Chapter 1: The number" in crosswalk
    assert "reproduced 2" in text_of(built, "index")


def test_build_renders_again_only_what_is_needed(built: Path) -> None:
    """Nothing; then prose alone, without a run; then what Sphinx does not notice: a style sheet, and our own plugin."""
    first = record(built, "02-beta")
    stamp = (built / "_build/html/index.html").stat().st_mtime_ns
    done = cli(built, "build")
    assert "nothing to do" in done.stdout
    assert (built / "_build/html/index.html").stat().st_mtime_ns == stamp
    edit(built / "notebooks/02-beta.md", "quixotic", "perfectly new")
    done = cli(built, "build", "--check")
    assert done.returncode == 0, done.stderr
    assert "perfectly new" in text_of(built, "notebooks/02-beta")
    assert record(built, "02-beta") == first
    with (built / "book/_static/companion.css").open("a") as sheet:
        sheet.write(".fresh { color: red; }\n")
    assert cli(built, "build").returncode == 0
    assert ".fresh" in (built / "_build/html/_static/companion.css").read_text()
    edit(built / "ncpress/outputs.py", '"Claim."', '"Assertion."')
    assert cli(built, "build").returncode == 0
    assert "Assertion. The mean is high." in text_of(built, "notebooks/02-beta")


def test_changed_run_is_visible_and_not_held_to_the_published_one(built: Path) -> None:
    """And the address of the site, where one is given, stands in the notebooks to take home."""
    edit(built / "book/claims.yml", "above: 2.9", "above: 3.1")
    done = cli(built, "build", "--check", "-p", "runs=12", NCUTIL_SITE_URL="https://example.org/book/")
    assert done.returncode == 0, done.stderr
    page = text_of(built, "notebooks/02-beta")
    assert "book profile, with changed parameters" in page
    assert "runs = 12 (book: 40 )" in page
    code = BeautifulSoup(html(built, "notebooks/02-beta"), "html.parser").find("pre")
    assert code is not None
    assert code.get_text().startswith("runs = 12")
    assert "changed parameters" not in text_of(built, "notebooks/01-alpha")
    text = (built / "_build/html/downloads/01-alpha/01-alpha.md").read_text()
    assert '%pip install --quiet "https://example.org/book/downloads/ncutil-' in text


def test_modified_files_are_said() -> None:
    ran = {
        "parameters": {},
        "defaults": {},
        "versions": {},
        "chapter": "x",
        "profile": "book",
        "tables": [],
        "commit": "0" * 40,
        "modified": True,
        "processor": "p",
        "system": "s",
        "seconds": 1.0,
        "started": "2026-01-01T00:00:00+00:00",
        "seed": 0,
    }
    assert "`000000000000`, modified" in run_box(ran, "w.whl", [])
    assert "not in a repository" in run_box({**ran, "commit": None, "modified": None}, "w.whl", [])


def test_three_forms_to_take_home(built: Path) -> None:
    folder = built / "_build/html/downloads"
    executed = nbformat.read(folder / "02-beta/02-beta-executed.ipynb", as_version=4)
    bare = nbformat.read(folder / "02-beta/02-beta.ipynb", as_version=4)
    assert any(cell.get("outputs") for cell in executed.cells)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in bare.cells)
    assert [cell.source for cell in executed.cells] == [cell.source for cell in bare.cells]
    text = (folder / "02-beta/02-beta.md").read_text()
    assert "format_name: myst" in text
    (wheel,) = folder.glob("*.whl")
    for first in (executed.cells[0].source, bare.cells[0].source, text):
        assert "pip install" in first
        assert wheel.name in first
    alpha = nbformat.read(folder / "01-alpha/01-alpha.ipynb", as_version=4)
    at = next(number for number, cell in enumerate(alpha.cells) if "{exercise}" in cell.source)
    assert alpha.cells[at + 1].source == "# Your solution: Think"
    assert "{solution}" in alpha.cells[at + 2].source
    assert "{solution}" not in alpha.cells[at].source


def test_downloaded_notebook_runs_outside_the_clone(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = built / "_build/html/downloads", tmp_path / "outside"
    outside.mkdir()
    (wheel,) = folder.glob("*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True)
    monkeypatch.setenv("PYTHONPATH", str(target))
    for name in ("01-alpha", "02-beta"):
        notebook = outside / f"{name}.ipynb"
        notebook.write_bytes((folder / name / f"{name}.ipynb").read_bytes())
        ran = papermill.execute_notebook(notebook, outside / "out.ipynb", cwd=outside, progress_bar=False)
        assert "ncutil" not in os.listdir(outside)
        assert ran.cells[0].outputs == []
        said = [out.get("data", {}).get("text/plain", "") for cell in ran.cells for out in cell.get("outputs", [])]
        assert any("reproduced" in line for line in said)
    where = subprocess.run(
        [sys.executable, "-c", "import ncutil; print(ncutil.__file__)"], cwd=outside, capture_output=True, text=True
    )
    assert str(target) in where.stdout


def test_a_failing_cell_fails_the_build(built: Path) -> None:
    edit(built / "notebooks/02-beta.md", "time.sleep(pause)", "time.sleep(pause)\n1 / 0")
    assert "02-beta failed in cell 3: ZeroDivisionError" in failing(built)


def test_a_warning_fails_the_build(built: Path) -> None:
    edit(built / "notebooks/02-beta.md", "quixotic", "{ref}`no-such-label`")
    told = failing(built)
    assert "notebooks/02-beta.ipynb" in told
    assert "no-such-label" in told
    # The fault is found again, not forgotten with the page already read.
    assert "no-such-label" in failing(built)


def test_a_missing_page_fails_the_build(built: Path) -> None:
    edit(built / "_toc.yml", "  - file: book/crosswalk", "  - file: book/nowhere")
    assert "_toc.yml names pages that do not exist: book/nowhere" in refused(built)


@pytest.mark.parametrize("alt", ["", "  image:\n    alt: ''\n"])
def test_a_missing_alt_text_fails_the_build(built: Path, alt: str) -> None:
    edit(built / "notebooks/02-beta.md", "  image:\n    alt: A line that wobbles about three.\n", alt)
    assert "02-beta, cell 4: the figure has no alt text" in refused(built)


def test_a_missing_alt_text_in_prose_fails_the_build(built: Path) -> None:
    with (built / "index.md").open("a") as file:
        file.write("\n![](book/_static/favicon.svg)\n")
    assert "index.html: " in failing(built)


def test_a_drifted_verdict_fails_under_check_and_warns_without(built: Path) -> None:
    edit(built / "book/claims.yml", "above: 2.9", "above: 3.1")
    told = failing(built, "--check")
    assert "02-beta departs from the published run: beta-mean: contradicted, published reproduced" in told
    done = cli(built, "build")
    assert done.returncode == 0, done.stderr
    assert "beta-mean: contradicted, published reproduced" in done.stderr
    assert "This run departs from the published one" in text_of(built, "notebooks/02-beta")
    page = BeautifulSoup(html(built, "notebooks/02-beta"), "html.parser")
    assert page.select_one("#claim-beta-mean .verdict-contradicted")
    assert "contradicted 1" in text_of(built, "index")


def test_smoke_runs_are_not_held_to_the_published_ones(built: Path) -> None:
    edit(built / "book/claims.yml", "above: 2.9", "above: 3.1")
    ran = record(built, "02-beta")
    with inside(built) as project:
        assert comparison.drift(project, {"02-beta": ran}).keys() == {"02-beta"}
        assert comparison.drift(project, {"02-beta": ran | {"profile": "smoke"}}) == {}


def test_what_cannot_be_generated_is_named(built: Path) -> None:
    edit(built / "book/claims.md", "generated: claims", "generated: nothing")
    assert "claims.md: nothing generates 'nothing'" in refused(built)
    edit(built / "notebooks/01-alpha.md", 'claims.record("alpha-two"', 'claims.record("beta-mean"')
    assert "01-alpha records claim 'beta-mean', which" in failing(built)


def test_broken_contents_and_settings_get_one_line(built: Path) -> None:
    (built / "_toc.yml").write_text("root: [")
    assert "_toc.yml, line 1: not valid YAML" in refused(built)


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_pdf_is_printed(built: Path) -> None:
    done = cli(built, "build", "--pdf")
    assert done.returncode == 0, done.stderr
    pdf = (built / "_build/book.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3


def test_pdf_without_a_browser_says_what_is_missing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering.shutil, "which", lambda name: None)
    assert "a PDF needs a Chromium or Chrome on the PATH" in refused(built, "--pdf")


def test_page_names_its_viewport_once(built: Path) -> None:
    for page in ("index", "notebooks/02-beta", "search", "genindex"):
        assert html(built, page).count('name="viewport"') == 1


def test_site_holds_no_path_of_the_machine(built: Path) -> None:
    warning = "import os, sys\n\nprint('no IProgress', os.getcwd(), sys.prefix, file=sys.stderr)\n"
    edit(built / "notebooks/01-alpha.md", "from ncutil.bell import chsh\n", f"{warning}from ncutil.bell import chsh\n")
    assert cli(built, "build").returncode == 0
    assert machine_paths(built) == []


def test_killed_build_leaves_the_last_site_whole(built: Path) -> None:
    before = html(built, "notebooks/02-beta")
    edit(built / "notebooks/02-beta.md", "quixotic", "half-done")
    process = subprocess.Popen(
        [sys.executable, "-m", "ncpress", "build"],
        cwd=built,
        env=clone_environment(built),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while (built / "_build/render/.sound").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert html(built, "notebooks/02-beta") == before
    done = cli(built, "build")
    assert done.returncode == 0, done.stderr
    assert "half-done" in html(built, "notebooks/02-beta")
    assert not list((built / "_build").glob("staging-*"))


def test_plain_jupyter_book_builds_too(built: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*program, "build", ".", "--path-output", str(tmp_path / "out"), "-W", "-n", "--keep-going"]
    done = subprocess.run(command, cwd=built, env=clone_environment(built), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "out/_build/html"
    assert "No run is recorded here" in (site / "book/claims.html").read_text()
    alpha, beta = (
        BeautifulSoup((site / f"notebooks/{name}.html").read_text(), "html.parser") for name in ("01-alpha", "02-beta")
    )
    (box,) = beta.select("#claim-beta-mean.verdict")
    assert box.select_one(".verdict-reproduced")
    (link,) = beta.select(".figure-data a[download]")
    table = (site / "notebooks" / str(link["href"])).resolve()
    assert table == site / "downloads/02-beta/data/wobble.csv"
    assert len(table.read_text().splitlines()) == 41
    assert "The bound is 2.00" in alpha.get_text()
    # A number is shown only where prose names it.
    assert not alpha.select(".cell_output .text_plain")


def test_what_was_published_is_small_and_complete(built: Path) -> None:
    path = built / "book/results/02-beta.json"
    result = json.loads(path.read_text())
    assert path.stat().st_size < 10_000
    assert result["claims"]["beta-mean"]["verdict"] == "reproduced"
    assert "key" not in result
