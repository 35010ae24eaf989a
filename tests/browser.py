"""Debian's Chromium under playwright: opens a page, watches it, and measures what a reader gets to see."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

PHONE = {"viewport": {"width": 380, "height": 800}}
SMALLEST = {"viewport": {"width": 320, "height": 640}}  # what WCAG 2.2, 1.4.10 asks a page to fit into
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PAPER = {"viewport": {"width": 690, "height": 1000}}  # CSS pixels between the margins of A4 and letter
DARK = {"color_scheme": "dark"}
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Colours as #rrggbb: what a text or mark looks like, and what lies below it. Opacity is blended in.
_COLOURS = r"""
const numbers = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
const hex = (rgb) => "#" + rgb.map((v) => Math.round(v).toString(16).padStart(2, "0")).join("");
const blend = (colour, opacity, below) => {
  const [r, g, b, alpha = 1] = numbers(colour);
  const a = alpha * opacity;
  return [r, g, b].map((v, i) => a * v + (1 - a) * below[i]);
};
function inherited(outermost, change) {  // of an element and all that contain it, each computed once
  const known = new Map([[null, outermost]]);
  const value = (element) => {
    if (known.has(element)) return known.get(element);
    const found = change(getComputedStyle(element), value(element.parentElement));
    known.set(element, found);
    return found;
  };
  return value;
}
const backdrop = inherited([255, 255, 255], (style, below) => blend(style.backgroundColor, 1, below));
const opacity = inherited(1, (style, product) => product * style.opacity);
const drawn = (svg, shapes) => [...svg.querySelectorAll(shapes)].filter((e) => !e.closest("defs, clipPath"));
"""
_TEXTS = r"""() => {
const found = [];
function add(text, colour, opacity, below) {
  found.push([hex(blend(colour, opacity, below)), hex(below), text.trim().slice(0, 40)]);
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const parent = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || parent.closest("svg, script") || !parent.checkVisibility()) continue;
  add(walker.currentNode.data, getComputedStyle(parent).color, 1, backdrop(parent));
}
for (const svg of document.querySelectorAll("svg.figure")) {
  const shapes = drawn(svg, "path, rect, circle, polygon").map((e) => [e, getComputedStyle(e)])
    .filter(([, style]) => style.fill !== "none").map(([e, style]) => [e, style, e.getBoundingClientRect()]);
  for (const text of drawn(svg, "text")) {
    const box = text.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    let below = backdrop(svg);
    for (const [shape, fill, area] of text.closest(".halo") ? [] : shapes) {
      const before = shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING;
      if (!before || x < area.left || x > area.right || y < area.top || y > area.bottom) continue;
      const point = new DOMPoint(x, y).matrixTransform(shape.getScreenCTM().inverse());
      if (shape.isPointInFill(point)) below = blend(fill.fill, opacity(shape) * fill.fillOpacity, below);
    }
    const style = getComputedStyle(text);
    add(text.textContent, style.fill, opacity(text) * style.fillOpacity, below);
  }
}
return found; }"""
_MARKS = r"""() => {
const found = [];
for (const svg of document.querySelectorAll("svg.figure, svg.key")) {
  const name = svg.querySelector("title")?.textContent ?? "key";
  for (const mark of drawn(svg, "path, line, use, circle")) {
    if (document.querySelector(mark.getAttribute("href") || null)?.matches("g")) continue;  // seen there
    const style = getComputedStyle(mark);
    const whole = opacity(mark) === 1;
    if (style.stroke !== "none" && whole && style.strokeOpacity === "1" && !mark.closest(".grid"))
      found.push([hex(blend(style.stroke, 1, [0, 0, 0])), hex(backdrop(svg)), name]);
    if (mark.tagName === "use" && style.fill !== "none" && whole && style.fillOpacity === "1")
      found.push([hex(blend(style.fill, 1, [0, 0, 0])), hex(backdrop(svg)), name]);
  }
}
return found; }"""
_OUTSIDE = r"""() => {
const width = document.documentElement.clientWidth;
const out = (e) => e.getBoundingClientRect().right > width + 1 || e.getBoundingClientRect().left < -1;
const every = [...document.querySelectorAll("main *:not(.scroll *, pre *, svg *)")];
const loose = every.filter((e) => out(e) && e.checkVisibility());
const scrolls = document.documentElement.scrollWidth > width ? ["the page scrolls sideways"] : [];
return scrolls.concat(loose.map((e) => `${e.tagName} ${e.textContent.trim().slice(0, 40)}`)); }"""
_CUT = r"""() => [...document.querySelectorAll(".scroll, pre")]
  .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.getAttribute("aria-label"))"""


def chromium() -> str | None:
    """Where Chromium is; playwright's own browsers would have to be downloaded."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def opened(browser: Browser, file: Path, *, silent: bool = True, **options: Any) -> Iterator[Page]:
    """A page in a window of its own. Leaving it fails if the page said or asked for anything.

    Args:
        silent: no console message, script error, violation of its policy, or request but for itself.
        options: of playwright's ``new_context``, such as ``color_scheme``.
    """
    context = browser.new_context(**{**DESKTOP, **options})
    context.set_default_timeout(60_000)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    try:
        yield page
        assert not silent or heard == []
    finally:
        context.close()


def violations(page: Page, *, contrast: bool) -> list[str]:
    """What axe finds wrong; ``contrast``: its slowest rule too. Size of targets is beyond axe's default."""
    rules = {"target-size": {"enabled": True}, "color-contrast": {"enabled": contrast}}
    found = Axe().run(page, options={"resultTypes": ["violations"], "rules": rules}).response["violations"]
    return [f"{one['id']}: {node['html'][:150]}" for one in found for node in one["nodes"]]


def texts(page: Page) -> list[tuple[str, str, str]]:
    """Every text that shows, also in figures: its colour, the colour below, and how it begins."""
    return [tuple(one) for one in page.evaluate(f"() => {{ {_COLOURS} return ({_TEXTS})(); }}")]


def marks(page: Page) -> list[tuple[str, str, str]]:
    """Every opaque line and marker of a figure: its colour, the colour below, and the figure's title."""
    return [tuple(one) for one in page.evaluate(f"() => {{ {_COLOURS} return ({_MARKS})(); }}")]


def outside(page: Page) -> list[str]:
    """What leaves the window on a side, but for what a box of its own scrolls."""
    return list(page.evaluate(_OUTSIDE))


def cut(page: Page) -> list[str]:
    """The boxes that have to be scrolled sideways to be read."""
    return list(page.evaluate(_CUT))
