"""A matplotlib figure as an SVG that can stand inside a page: no styles, no shared ids, no fixed colours."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING

from seqbench.report.theme import GRID, INK, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE = re.compile(r"(?:^|url\()#([\w-]+)")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_LINE = re.compile(r"(?:[ML] \S+ \S+\s*)+(?:z\s*)?")
_POINTS_PER_INCH = 72  # an SVG's units, whatever the figure's resolution
_DROPPED = ("metadata", "style", "title")
_TOLERANCE = 0.1  # points; a pixel of a page this wide is about half a point
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
        _lay_out(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # What is parsed is matplotlib's own output of a moment ago, not a file.
    root = ET.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        parent.tag = _local(parent.tag)
        for child in [child for child in parent if _local(child.tag) in _DROPPED]:
            parent.remove(child)
    ids = _ids(root, key)
    for element in root.iter():
        _clean(element, ids)
        _tighten(element)
    _unwrap(root)
    _inherit(root)
    _hoist(root)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": box,
            "role": "img",
            "aria-labelledby": f"{key}-title {key}-desc",
            "stroke-linejoin": "round",
            "fill": "currentColor",
            "class": "figure",
        }
    )
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(tag, {"id": f"{key}-{tag}"})
        element.text = text
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode")


def _lay_out(figure: Figure) -> None:
    """Find the places of all parts as ``savefig`` would, which draws everything once more to do so."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    engine = figure.get_layout_engine()
    if engine is not None:
        FigureCanvasSVG(figure)
        figure.set_dpi(_POINTS_PER_INCH)
        engine.execute(figure)
        figure.set_layout_engine(None)  # "none" would make savefig draw twice


def _ids(root: ET.Element, key: str) -> dict[str, str]:
    """A short id, unique on the page, for everything that something else in the figure refers to."""
    values = (value for element in root.iter() for value in element.attrib.values())
    used = dict.fromkeys(match for value in values for match in _REFERENCE.findall(value))
    return {name: f"{key}-{number}" for number, name in enumerate(used)}


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _clean(element: ET.Element, ids: Mapping[str, str]) -> None:
    """Move styles to attributes, prefix ids and references, shorten numbers, free the colours."""
    attributes = {_local(name): value for name, value in element.attrib.items()}
    attributes |= _styles(attributes.pop("style", ""))
    referenced = attributes.get("href", "")
    if referenced.startswith("#"):
        attributes["href"] = f"#{ids[referenced[1:]]}"
    name = attributes.pop("id", "")
    if name == "halo":
        attributes["class"] = name
    elif name in ids:
        attributes["id"] = ids[name]
    for name, value in attributes.items():
        if value.startswith("url(#"):
            attributes[name] = f"url(#{ids[value[5:-1]]})"
        elif name == "d" and _LINE.fullmatch(value) and "L" in value:
            attributes[name] = _relative(value)
        elif name in ("d", "points", "x", "y", "transform", "width", "height"):
            attributes[name] = " ".join(_NUMBER.sub(_shorter, value).split())
        elif name in ("fill", "stroke") and value == INK:
            attributes[name] = "currentColor"
    if attributes.get("stroke") == GRID:
        for name in ("stroke", "clip-path", "stroke-linecap"):
            attributes.pop(name, None)
        attributes["class"] = "grid"
    _leave_out(attributes)
    element.attrib.clear()
    element.attrib.update(attributes)


def _leave_out(attributes: dict[str, str]) -> None:
    """Drop what says nothing: turns by no angle, dashes without an offset, the ink that all has."""
    if attributes.get("transform", "").startswith(("rotate(0 ", "rotate(-0 ")):
        del attributes["transform"]
    if attributes.get("stroke-dashoffset") == "0":
        del attributes["stroke-dashoffset"]
    if attributes.get("fill") == "currentColor":
        del attributes["fill"]


def _unwrap(element: ET.Element) -> None:
    """Put the children of a group that says nothing in its place."""
    children = []
    for child in element:
        _unwrap(child)
        children += list(child) if child.tag == "g" and not child.attrib else [child]
    element[:] = children


def _inherit(root: ET.Element) -> None:
    """Drop from every use of a shape what the shape says itself, for that wins."""
    shapes = {element.get("id"): element.attrib for element in root.iter() if "id" in element.attrib}
    for element in root.iter("use"):
        for name in set(shapes.get(element.get("href", "")[1:], ())) & _KEPT & set(element.attrib):
            del element.attrib[name]


def _hoist(root: ET.Element) -> None:
    """Say once, on their group, what all markers of a line have in common."""
    for group in root.iter("g"):
        if len(group) > 1 and all(child.tag == "use" for child in group):
            first = group[0].attrib
            for name in [name for name in first if name in _KEPT and name not in group.attrib]:
                if all(child.get(name) == first[name] for child in group[1:]):
                    group.set(name, first[name])
                    for child in group[1:]:
                        del child.attrib[name]
                    del first[name]


def _tighten(element: ET.Element) -> None:
    """Drop the white space between elements, but none inside a text."""
    if element.tag not in ("text", "tspan") and not (element.text or "").strip():
        element.text = None
    if not (element.tail or "").strip():
        element.tail = None


def _relative(path: str) -> str:
    """Straight lines without points that lie on them, each relative to the one before: a third of the bytes.

    What is rounded is each place, not each step, so that errors do not add up.

    >>> _relative("M 10.04 5.0  L 11.26 5.0  L 12 5.0 L 11.0 4.0  z ")
    'M10 5l2 0-1-1z'
    """
    parts: list[str] = []
    last = (0, 0)
    for piece in path.rstrip(" z").split("M")[1:]:
        points = [(float(x), float(y)) for x, y in (pair.split() for pair in piece.split("L"))]
        for number, (x, y) in enumerate(_straightened(points)):
            point = round(10 * x), round(10 * y)
            first, second = (_tenths(a - b * (number > 0)) for a, b in zip(point, last, strict=True))
            lead = "M" if number == 0 else "l" if number == 1 else " " if first[0] != "-" else ""
            parts.append(f"{lead}{first}{' ' if second[0] != '-' else ''}{second}")
            last = point
    return "".join(parts) + ("z" if path.rstrip().endswith("z") else "")


def _straightened(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line without points within :data:`_TOLERANCE` of what is left (Douglas and Peucker 1973)."""
    kept, open_ends = {0, len(points) - 1}, [(0, len(points) - 1)]
    while open_ends:
        start, end = open_ends.pop()
        if end - start > 1:
            far, off = _farthest(points, start, end)
            if off > _TOLERANCE**2:
                kept.add(far)
                open_ends += [(start, far), (far, end)]
    return [points[number] for number in sorted(kept)]


def _farthest(points: list[tuple[float, float]], start: int, end: int) -> tuple[int, float]:
    """The point farthest from the straight line between two others, and the square of its distance."""
    (left, low), (right, high) = points[start], points[end]
    across, up = right - left, high - low
    square = across * across + up * up
    far, most = start, -1.0
    for number in range(start + 1, end):
        x, y = points[number][0] - left, points[number][1] - low
        along = min(1.0, max(0.0, (x * across + y * up) / square)) if square else 0.0
        off = (x - along * across) ** 2 + (y - along * up) ** 2
        if off > most:
            far, most = number, off
    return far, most


def _tenths(value: int) -> str:
    """A number of tenths, without what may be left out.

    >>> _tenths(13), _tenths(-3), _tenths(20), _tenths(0)
    ('1.3', '-.3', '2', '0')
    """
    text = f"{value / 10:.1f}".removesuffix(".0")
    return re.sub(r"^(-?)0\.", r"\1.", text)


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
