"""The page in a browser: to be read on a phone, in the dark, on paper, by keyboard and by screen reader.

Needs Chromium, which no Python package brings; without it these tests are skipped.
"""

from __future__ import annotations

import io
import itertools
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser as chrome
import pypdf
import pytest
from browser import DARK, DESKTOP, PAPER, PHONE, SMALLEST, opened
from made_pages import SWEEPS
from playwright.sync_api import Browser, Page, sync_playwright

from seqbench.report import theme
from seqbench.report.frame import read_sweep
from seqbench.report.page import write_page

LOOKS: dict[str, dict[str, Any]] = {"light": {}, "dark": DARK, "phone": PHONE}
READABLE, VISIBLE = 4.5, 3.0  # WCAG 2.2: contrast of text (1.4.3) and of marks and outlines (1.4.11)
CLICK_ALL = """() => [...document.querySelectorAll("th button")].flatMap((button) => [1, 2].map(() => {
  button.click();
  const [head, table] = [button.closest("th"), button.closest("table")];
  const cells = [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex]);
  const others = table.querySelectorAll("[aria-sort]").length;
  const keys = cells.map((cell) => cell.dataset.key ?? cell.textContent.trim());
  return [table.id, button.textContent, head.getAttribute("aria-sort"), others, keys];
}))"""
FOCUS = """() => {
  const [it, style] = [document.activeElement, getComputedStyle(document.activeElement)];
  const place = [...document.querySelectorAll("*")].indexOf(it);
  return [it.tagName, style.outlineStyle, parseFloat(style.outlineWidth), style.outlineColor, place];
}"""
BOXES = """() => [...document.querySelectorAll("main *")]
  .filter((e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX))
  .map((e) => [e.tabIndex, e.getAttribute("role"), e.getAttribute("aria-label") ?? "", e.tagName])"""
MOVING = """() => [...document.querySelectorAll("*")].map((e) => [e.tagName, getComputedStyle(e)])
  .map(([tag, s]) => [tag, s.transitionDuration, s.animationName, s.scrollBehavior].join(" "))
  .filter((said) => !said.endsWith(" 0s none auto"))"""
LEVELS = "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((e) => Number(e.tagName[1]))"
ATTACK = """
<script>document.title = "broken"</script>
<img src="https://example.invalid/x.png" onerror="document.title = 'broken'">
<style>h1 { display: none }</style><p id="inline" style="display: none">still here</p>
<link rel="stylesheet" href="https://example.invalid/x.css"><iframe src="https://example.invalid/"></iframe>
<form action="https://example.invalid/"><input type="submit" id="send"></form><base href="https://example.invalid/">
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chrome.chromium()
    if program is None:
        pytest.skip("no Chromium to drive: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=sandbox)
        yield running
        running.close()


@pytest.fixture(scope="module")
def page_of(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a sweep's page by the name of the sweep; made once."""
    folder = tmp_path_factory.mktemp("pages")

    def file(name: str) -> Path:
        place = folder / f"{name}.html"
        if not place.exists():
            write_page(read_sweep(SWEEPS[name](folder / name)), place)
        return place

    return file


Pages = Callable[[str], Path]


def open_details(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(browser: Browser, page_of: Pages, look: str):
    with opened(browser, page_of("full"), **LOOKS[look]) as page:
        open_details(page)
        assert chrome.violations(page, contrast=True) == []


@pytest.mark.parametrize("name", [name for name in SWEEPS if name not in ("full", "60 models")])
def test_axe_finds_nothing_on_an_unusual_page_either(browser: Browser, page_of: Pages, name: str):
    with opened(browser, page_of(name)) as page:
        open_details(page)
        assert chrome.violations(page, contrast=False) == []


@pytest.mark.parametrize("name", ["full", "12 models", "all failed", "hostile names"])
def test_every_text_and_mark_stands_out_in_the_light_and_in_the_dark(
    browser: Browser, page_of: Pages, name: str
):
    pages = set()
    for look in ("light", "dark"):
        with opened(browser, page_of(name), **LOOKS[look]) as page:
            open_details(page)
            texts, marks = chrome.texts(page), chrome.marks(page)
        pages |= {below for _, below, _ in texts}
        assert [text for text in texts if theme.contrast(*text[:2]) < READABLE] == []
        assert [mark for mark in marks if theme.contrast(*mark[:2]) < VISIBLE] == []
        assert len(texts) > 30
        assert marks or name == "all failed"
    assert {theme.LIGHT_PAGE, theme.DARK_PAGE} < pages


@pytest.mark.parametrize("name", SWEEPS)
def test_a_phone_never_scrolls_the_page_sideways(browser: Browser, page_of: Pages, name: str):
    with opened(browser, page_of(name), **PHONE) as page:
        open_details(page)
        assert chrome.outside(page) == []
        page.set_viewport_size(SMALLEST["viewport"])
        assert chrome.outside(page) == []
        captions = page.evaluate(
            "[...document.querySelectorAll('caption span')].map((e) => e.getBoundingClientRect().right)"
        )
        assert max(captions, default=0) <= 320


@pytest.mark.parametrize("name", ["full", "12 models", "60 models"])
def test_no_table_is_cut_on_a_desktop_or_on_paper(browser: Browser, page_of: Pages, name: str):
    with opened(browser, page_of(name), **DESKTOP) as page:
        open_details(page)
        assert chrome.cut(page) == []
        page.emulate_media(media="print")
        page.set_viewport_size(PAPER["viewport"])
        wide = "[...document.querySelectorAll('table, pre, svg')].map((e) => e.getBoundingClientRect().right)"
        assert max(page.evaluate(wide)) <= PAPER["viewport"]["width"]  # or Chromium shrinks every page


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def in_order(keys: list[str]) -> bool:
    """Numbers by size, before all texts."""
    numbers = [value for key in keys if (value := number(key)) is not None]
    return numbers == sorted(numbers) and all(number(key) is None for key in keys[len(numbers) :])


def test_keys_sort_and_say_so(browser: Browser, page_of: Pages):
    steps = "[...document.querySelectorAll('#outcomes1 tbody tr')].map((row) => row.innerText)"
    with opened(browser, page_of("12 models")) as page:
        open_details(page)
        head = page.locator("#outcomes1 th", has_text="steps to solve")
        button = head.locator("button")
        column = head.evaluate("(head) => head.cellIndex")
        for _ in range(500):
            page.keyboard.press("Tab")
            if button.evaluate("(button) => button === document.activeElement"):
                break
        shown = []
        for key, said in (("Enter", "ascending"), ("Space", "descending")):
            page.keyboard.press(key)
            assert head.get_attribute("aria-sort") == said
            rows = [row.split("\t")[column] for row in page.evaluate(steps)]
            shown.append([value for value in rows if value])
            assert button.evaluate("(button) => button === document.activeElement")
        assert shown[0] == [str(step) for step in range(9, 21)]  # and not 10, 11, ..., 9
        assert shown[1] == shown[0][::-1]
        assert page.locator("#outcomes1 [aria-sort]").count() == 1


@pytest.mark.parametrize("name", ["full", "hostile names"])
def test_every_column_of_every_table_sorts(browser: Browser, page_of: Pages, name: str):
    with opened(browser, page_of(name)) as page:
        before = page.locator("main").inner_text()
        clicked = page.evaluate(CLICK_ALL)
        assert sorted(page.locator("main").inner_text()) == sorted(before)
    assert len(clicked) > 100
    for table, title, said, others, keys in clicked:
        assert others == 1
        assert in_order(keys if said == "ascending" else keys[::-1]), (table, title, said, keys)
    assert [said for _, _, said, _, _ in clicked] == ["ascending", "descending"] * (len(clicked) // 2)


@pytest.mark.parametrize("look", ["light", "dark"])
def test_the_tab_key_reaches_everything_in_order_and_shows_where_it_is(
    browser: Browser, page_of: Pages, look: str
):
    background = theme.DARK_PAGE if look == "dark" else theme.LIGHT_PAGE
    with opened(browser, page_of("12 models"), **LOOKS[look]) as page:
        wanted = page.locator("th button, summary, a[href], .scroll, pre")
        wanted_count = sum(one.is_visible() for one in wanted.all())
        places = []
        while len(places) <= wanted_count:
            page.keyboard.press("Tab")
            tag, style, width, colour, place = page.evaluate(FOCUS)
            if tag == "BODY":
                break
            red, green, blue = (int(part) for part in colour.strip("rgb()").split(","))
            assert style != "none", tag
            assert width >= 2, tag
            assert theme.contrast(f"#{red:02x}{green:02x}{blue:02x}", background) >= VISIBLE
            places.append(place)
        assert len(places) == wanted_count
        assert places == sorted(set(places))


@pytest.mark.parametrize("name", ["full", "hostile names"])
def test_every_box_that_scrolls_can_be_reached_and_has_a_name(browser: Browser, page_of: Pages, name: str):
    with opened(browser, page_of(name)) as page:
        boxes = page.evaluate(BOXES)
        levels = page.evaluate(LEVELS)
    assert len(boxes) > 10
    assert [box for box in boxes if box[:2] != [0, "region"] or not box[2].strip()] == []
    assert len({box[2] for box in boxes}) == len(boxes)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("name", ["full", "hostile names"])
def test_without_javascript_everything_is_there_and_nothing_is_dead(
    browser: Browser, page_of: Pages, name: str
):
    with opened(browser, page_of(name)) as page:
        assert page.locator("th button").count() > 20
        with_script = page.locator("main").inner_text()
    with opened(browser, page_of(name), java_script_enabled=False) as page:
        assert page.locator("main").inner_text() == with_script
        assert page.locator("button, input, select, [onclick], [role=button]").count() == 0
        for summary in page.locator("summary").all():
            hidden = summary.locator("xpath=following-sibling::*[1]")
            assert not hidden.is_visible()
            summary.click()
            assert hidden.is_visible()
        pointed = (
            "[...document.querySelectorAll('*')].filter((e) => getComputedStyle(e).cursor === 'pointer')"
        )
        assert set(page.evaluate(f"{pointed}.map((e) => e.closest('a, summary')?.tagName)")) == {
            "A",
            "SUMMARY",
        }


def test_the_page_is_small_and_its_script_quick(browser: Browser, page_of: Pages):
    assert page_of("full").stat().st_size < 500_000
    with opened(browser, page_of("60 models")) as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})  # CPU time, on a busy machine too
        page.reload()
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["ScriptDuration"] < 0.05
    assert metrics["LayoutCount"] < 10


def test_nothing_moves_for_those_who_want_that(browser: Browser, page_of: Pages):
    with opened(browser, page_of("full"), reduced_motion="reduce") as page:
        assert page.evaluate(MOVING) == []
        assert page.evaluate("document.getAnimations().length") == 0


def joined(text: str) -> str:
    """Without white space and ligatures, which differ on paper."""
    return "".join(unicodedata.normalize("NFKC", text).split())


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_paper_has_what_is_folded_away_on_the_screen(browser: Browser, page_of: Pages, script: bool):
    with opened(browser, page_of("full"), java_script_enabled=script) as page:
        folded = page.locator("details :is(td, dd)").all_text_contents()
        assert len(folded) > 50
        assert not any(one.is_visible() for one in page.locator("details td").all()[:20])
        printed = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4")))
        assert page.locator("details[open]").count() == 0
    text = joined("".join(sheet.extract_text() for sheet in printed.pages))
    assert [cell for cell in folded if joined(cell) not in text] == []
    for words in ("a chip", "How to repeat this", "it broke"):
        assert joined(words) in text


def test_the_head_of_a_table_is_printed_on_each_of_its_sheets(browser: Browser, page_of: Pages):
    with opened(browser, page_of("60 models")) as page:
        printed = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4")))
    sheets = [" ".join(sheet.extract_text().split()) for sheet in printed.pages]
    rows = [sheet for sheet in sheets if "[0.21, 1.00]" in sheet]  # Wilson's interval of one run in one
    assert len(rows) > 1
    assert all("(Wilson)" in sheet for sheet in rows)


def test_the_policy_stops_what_is_not_ours(browser: Browser, page_of: Pages, tmp_path: Path):
    page_text = page_of("one model, one seed").read_text(encoding="utf-8")
    attacked = tmp_path / "attacked.html"
    attacked.write_text(page_text.replace("</main>", ATTACK + "</main>"), encoding="utf-8")
    with opened(browser, attacked, silent=False) as page:
        heard: list[str] = []
        failed: list[str] = []
        answered: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        page.on("requestfailed", lambda request: failed.append(str(request.failure)))
        page.on("response", lambda response: answered.append(response.url))
        page.reload()
        page.evaluate("document.getElementById('send').form.requestSubmit()")
        page.evaluate("fetch('https://example.invalid/').catch(() => 0)")
        assert page.title() != "broken"
        assert page.locator("h1").is_visible()
        assert page.locator("#inline").is_visible()
        assert page.evaluate("document.baseURI") == attacked.as_uri()
    assert answered == [attacked.as_uri()]
    assert len(failed) >= 2
    assert set(failed) == {"csp"}
    for directive in ("script", "style", "img", "form-action", "base-uri", "connect"):
        assert any(directive in line for line in heard), (directive, heard)
