"""A matplotlib figure as an SVG that can stand inside a page: no styles, no shared ids, no fixed colours."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from seqbench.report.theme import GRID, INK, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE = re.compile(r"(?:^|url\()#([\w-]+)")
_DEFINED = ("defs", "clipPath")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_DROPPED = ("metadata", "style", "title")
_KEPT = {
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "opacity", "text-anchor", "font-size",
}  # fmt: skip


def inline(figure: Figure, key: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` element.

    Args:
        key: prefix of every id; unique on the page.
        title, description: what a screen reader says.
    """
    buffer = io.BytesIO()
    with drawing():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # What is parsed is matplotlib's own output of a moment ago, not a file.
    root = ET.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        parent.tag = _local(parent.tag)
        for child in [child for child in parent if _local(child.tag) in _DROPPED]:
            parent.remove(child)
    used = {
        match for element in root.iter() for v in element.attrib.values() for match in _REFERENCE.findall(v)
    }
    shared = {id(part) for element in root.iter() if element.tag in _DEFINED for part in element.iter()}
    for element in root.iter():
        _clean(element, key, used)
        _tighten(element)
        if element.tag in ("path", "use") and id(element) not in shared:
            element.attrib.setdefault("fill", "currentColor")  # matplotlib leaves black fills out
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": box,
            "role": "img",
            "aria-labelledby": f"{key}-title {key}-desc",
            "stroke-linejoin": "round",
            "class": "figure",
        }
    )
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(tag, {"id": f"{key}-{tag}"})
        element.text = text
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _clean(element: ET.Element, key: str, used: set[str]) -> None:
    """Move styles to attributes, prefix ids and references, shorten numbers, free the colours."""
    attributes = {_local(name): value for name, value in element.attrib.items()}
    attributes |= _styles(attributes.pop("style", ""))
    referenced = attributes.get("href", "")
    if referenced.startswith("#"):
        attributes["href"] = f"#{key}-{referenced[1:]}"
    name = attributes.pop("id", "")
    if name == "halo":
        attributes["class"] = name
    elif name in used:
        attributes["id"] = f"{key}-{name}"
    for name, value in attributes.items():
        if value.startswith("url(#"):
            attributes[name] = f"url(#{key}-{value[5:]}"
        elif name in ("d", "points", "x", "y", "transform", "width", "height"):
            attributes[name] = _NUMBER.sub(_shorter, value)
        elif name in ("fill", "stroke") and value == INK:
            attributes[name] = "currentColor"
    if attributes.get("stroke") == GRID:
        del attributes["stroke"]
        attributes["class"] = "grid"
    if element.tag == "text" and "fill" not in attributes:
        attributes["fill"] = "currentColor"
    element.attrib.clear()
    element.attrib.update(attributes)


def _tighten(element: ET.Element) -> None:
    """Drop the white space between elements, but none inside a text."""
    if element.tag not in ("text", "tspan") and not (element.text or "").strip():
        element.text = None
    if not (element.tail or "").strip():
        element.tail = None


def _shorter(match: re.Match[str]) -> str:
    return f"{float(match.group()):.2f}".rstrip("0").rstrip(".")


def _styles(text: str) -> dict[str, str]:
    """A style attribute as presentation attributes; the page's policy allows no inline styles."""
    found: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            size = re.search(r"[\d.]+px", value)
            found |= {"font-size": size.group()} if size else {}
            found |= {"font-weight": "bold"} if "bold" in value else {}
        elif name in _KEPT:
            found[name] = value
    return found
