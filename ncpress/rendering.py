"""Render the staged pages with Jupyter Book, check what came out, and put it in place only if all is well."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ncpress.project import PressError, Project
from ncutil.ground import staleness
from ncutil.ground.files import digest, replacing, write_json


def render(project: Project, staged: Path, whole: bool = False) -> bool:
    """Make `_build/html` from a staged folder; False if it was up to date.

    Sphinx reads only the pages that changed. It reads all of them if `whole` is true; if the last rendering found a
    fault, because the faults of pages that it does not read would be lost; and if a template, a style sheet, an
    extension or the wheel changed, which Sphinx does not notice. A site that fails a check stays under `_build/render`
    to look at, and the last good one stays in place.
    """
    html, stamp = project.build / "html", project.build / "html" / ".built.json"
    tools = _tools()
    fingerprint = _fingerprint(staged, tools)
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")).get("fingerprint") == fingerprint:
        return False
    site, output = project.build / "site", project.build / "render"
    sound = output / ".sound"
    changed = _synchronise(staged, site)
    unseen = any({"_ext", "_static", "_templates"} & {*name.parts} or name.suffix == ".whl" for name in changed)
    if whole or unseen or not sound.is_file() or sound.read_text(encoding="utf-8") != tools:
        shutil.rmtree(output, ignore_errors=True)
    sound.unlink(missing_ok=True)
    _jupyter_book(site, output)
    made = output / "_build" / "html"
    faults = check_pages(made, project.pages)
    if faults:
        raise PressError("the rendered site is not in order:\n" + "\n".join(faults))
    new, old = project.build / "html.new", project.build / "html.old"
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, new)
    write_json(new / ".built.json", {"fingerprint": fingerprint})
    if html.exists():
        html.rename(old)
    new.rename(html)
    shutil.rmtree(old, ignore_errors=True)
    sound.write_text(tools, encoding="utf-8")
    return True


def _synchronise(source: Path, target: Path) -> list[Path]:
    """Make a folder equal to another; returns what was new. Equal files are left alone: Sphinx goes by their times."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    changed = []
    for path in [path for path in target.rglob("*") if path.is_file()]:
        if path.relative_to(target) not in wanted:
            path.unlink()
    for name in wanted:
        if not (target / name).is_file() or (target / name).read_bytes() != (source / name).read_bytes():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
            changed.append(name)
    return changed


def _tools() -> str:
    """Hash of what makes HTML of the staged pages: the packages, and our code that runs inside them."""
    packages = [f"{name} {metadata.version(name)}" for name in ("jupyter-book", "sphinx", "myst-nb")]
    ours = staleness.reach(["ncpress.outputs"], ("ncpress", "ncutil"))
    return digest(*packages, *(path.read_bytes() for path in ours.values()))


def _fingerprint(staged: Path, tools: str) -> str:
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    parts = [part for path in files for part in (str(path.relative_to(staged)), path.read_bytes())]
    return digest(tools, *parts)


def print_pdf(project: Project) -> Path:
    """Print the rendered book to `_build/book.pdf`, as one page of HTML in a headless Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    if chromium is None:
        raise PressError(f"a PDF needs a Chromium or Chrome on the PATH (looked for {', '.join(names)})")
    output, target = project.build / "single", project.build / "book.pdf"
    shutil.rmtree(output, ignore_errors=True)
    _jupyter_book(project.build / "site", output, "singlehtml")
    page = (output / "_build" / "singlehtml" / "index.html").as_uri()
    # Chromium refuses its sandbox to root; the page is our own. The time is virtual: it lets MathJax finish.
    safety = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    flags = ["--headless", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=60000"]
    with replacing(target) as partial:
        command = [chromium, *flags, *safety, f"--print-to-pdf={partial}", page]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode or not partial.is_file():
            raise PressError(f"Chromium could not print the book: {done.stderr.strip()[-300:]}")
    shutil.rmtree(output)
    return target


def _jupyter_book(site: Path, output: Path, builder: str = "html") -> None:
    # Importing ncpress first saves a third of the time that a change of prose takes; its __init__ says why.
    program = [sys.executable, "-c", "import ncpress; from jupyter_book.cli.main import main; main()"]
    command = [*program, "build", ".", "--path-output", str(output), "--builder", builder, "-W", "-n", "--keep-going"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True)
    if done.returncode:
        marks = ("WARNING", "ERROR", "Error", "error:")
        said = (done.stdout + done.stderr).splitlines()
        told = [line.replace(f"{site}/", "") for line in said if any(mark in line for mark in marks)]
        raise PressError("Jupyter Book found faults:\n" + "\n".join(dict.fromkeys(told or said[-20:])))


def check_pages(site: Path, pages: list[str]) -> list[str]:
    """What is wrong with a rendered site: pages of the contents that are missing, pictures without alt text."""
    faults = [f"{page}.html is missing" for page in pages if not (site / f"{page}.html").is_file()]
    for path in sorted(site.rglob("*.html")):
        for image in re.findall(r"<img\b[^>]*>", path.read_text(encoding="utf-8")):
            alt = re.search(r'\balt="([^"]*)"', image)
            if alt is None or not alt[1].strip() or "_images/" in alt[1]:
                faults.append(f"{path.relative_to(site)}: no alt text in {image[:200]}")
    return faults
