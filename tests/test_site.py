"""The built book in a browser: nothing fails, nothing leaves the page, and everyone can read it."""

from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from conftest import PROJECT, find_chromium
from playwright.sync_api import Browser, Page, sync_playwright
from test_build import machine_paths

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.xdist_group("book"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

PAGES = PROJECT.pages
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A page with a record of what it printed and what it asked for."""

    def __init__(self, browser: Browser, base: str, width: int = 1200) -> None:
        self.base = base
        # With less motion asked for, nothing fades in, so that a look at colours meets none half-way.
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="light", reduced_motion="reduce"
        )
        # A page that never comes fails all the same; one that comes late, from a busy machine, does not.
        self.context.set_default_timeout(120_000)
        self.page: Page = self.context.new_page()
        self.console: list[str] = []
        self.requests: list[str] = []
        self.failed: list[str] = []
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))
        self.page.on("response", lambda answer: answer.status >= 400 and self.failed.append(answer.url))

    def open(self, name: str) -> Page:
        self.page.goto(f"{self.base}{name}.html", wait_until="load")
        if self.page.evaluate("!!window.MathJax"):
            self.page.evaluate("MathJax.startup.promise.then(() => true)")
        return self.page

    def outside(self) -> list[str]:
        return [url for url in self.requests if not url.startswith((self.base, "data:", "blob:"))]


@pytest.fixture(params=["http", "file"])
def visit(request: pytest.FixtureRequest, browser: Browser, site_url: str, book: Path) -> Iterator[Visit]:
    base = site_url if request.param == "http" else f"file://{book / '_build' / 'html'}/"
    seen = Visit(browser, base)
    yield seen
    seen.context.close()


def grave_faults(page: Page, options: str = "") -> list[str]:
    """What axe finds on a page with everything unfolded, as serious or critical."""
    page.evaluate("for (const closed of document.querySelectorAll('details')) closed.open = true")
    if not page.evaluate("!!window.axe"):
        page.add_script_tag(path=AXE)
    found = page.evaluate(f"axe.run({{preload: false, resultTypes: ['violations'], {options}}})")
    return [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def colour_code_alike(page: Page, name: str) -> None:
    """Tokens of code are thousands a page and coloured alike everywhere: one chapter's are looked at."""
    if name != CHAPTERS[0]:
        page.evaluate("for (const code of document.querySelectorAll('pre')) code.textContent = code.textContent")


def open_a_solution(page: Page) -> None:
    solution = page.locator(".solution.dropdown, .solution details").first
    assert solution.count() == 1
    before = solution.bounding_box()
    solution.locator("button, summary").first.click()
    page.wait_for_timeout(300)
    after = solution.bounding_box()
    assert before is not None
    assert after is not None
    assert after["height"] > before["height"]


def download_all_forms(page: Page) -> None:
    for label in ("executed notebook", "notebook without outputs", "text", "ncutil (wheel)"):
        with page.expect_download() as download:
            page.get_by_role("link", name=label, exact=True).click()
        assert Path(download.value.path()).stat().st_size > 1000
    # Axe shall look at colours as they are where nobody points.
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")


@pytest.mark.parametrize("name", PAGES)
def test_page_is_quiet_and_keeps_to_itself(visit: Visit, name: str) -> None:
    """From a server also: a chapter's solutions open and its files arrive, and all can read it, in light and dark."""
    page = visit.open(name)
    page.wait_for_timeout(300)
    assert visit.console == []
    assert visit.failed == []
    assert visit.outside() == []
    formulas = page.locator("span.math, div.math")
    rendered = page.locator("span.math mjx-container, div.math mjx-container")
    assert rendered.count() >= formulas.count()
    assert page.locator("mjx-merror").count() == 0
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    if visit.base.startswith("file:"):
        return
    if name in CHAPTERS:
        open_a_solution(page)
        download_all_forms(page)
    colour_code_alike(page, name)
    assert grave_faults(page) == []
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert grave_faults(page, "runOnly: ['color-contrast', 'link-in-text-block']") == []


@pytest.mark.parametrize("name", PAGES)
def test_narrow_page_stays_in_its_width_and_is_accessible(browser: Browser, site_url: str, name: str) -> None:
    seen = Visit(browser, site_url, width=390)
    page = seen.open(name)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    if name in CHAPTERS:
        move_a_figure(page)
    colour_code_alike(page, name)
    assert grave_faults(page) == []
    seen.context.close()


def move_a_figure(page: Page) -> None:
    """A figure keeps its size on a narrow screen and moves in its own box."""
    pictures = page.locator(".cell_output figure > a > img")
    assert pictures.count() == page.locator(".cell_output figure").count() > 0
    assert pictures.evaluate_all("all => Math.min(...all.map(i => i.width))") >= 480
    link = page.locator(".cell_output figure > a").first
    link.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(500)
    assert link.evaluate("a => a.parentElement.scrollLeft") > 0
    assert link.evaluate("a => a.href") == link.locator("img").evaluate("i => i.src")


def test_book_holds_no_path_of_the_machine(book: Path) -> None:
    # Nor of any folder of these tests: its chapters may have run in another clone.
    assert machine_paths(book, book.parents[1]) == []


def test_sidebar_works_on_a_narrow_screen(browser: Browser, site_url: str) -> None:
    seen = Visit(browser, site_url, width=390)
    page = seen.open("index")
    link = page.locator(".bd-sidebar-primary a.reference.internal", has_text="Claims and verdicts").first
    assert not link.is_visible() or not link.evaluate("e => e.getBoundingClientRect().x >= 0")
    page.locator("button.primary-toggle").first.click()
    link.click()
    page.wait_for_url("**/book/claims.html")
    assert page.locator("article h1").inner_text().startswith("Claims and verdicts")
    seen.context.close()


def test_search_finds_a_word(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.base}search.html?q=contextuality")
    page.locator("#search-results li").first.wait_for(timeout=20_000)
    titles = page.locator("#search-results li").all_inner_texts()
    assert any("CHSH" in title or "NCnet" in title for title in titles)
    assert visit.outside() == []


def test_dark_mode_can_be_chosen(browser: Browser, site_url: str) -> None:
    seen = Visit(browser, site_url)
    page = seen.open("index")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    for _ in range(3):
        page.locator("button.theme-switch-button").first.click()
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    assert page.evaluate(background) != light
    assert seen.console == []
    seen.context.close()
