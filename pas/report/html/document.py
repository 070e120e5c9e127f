"""Pages as trees of elements: whatever text comes from a file is text there, and can't become anything else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

HERE = Path(__file__).parent
UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no page can hold: control characters and halves of characters."""


def node(tag: str, *children: str | Element, **attributes: str) -> Element:
    """An element around text and other elements. Attributes that are words of Python end with an underscore, which is dropped; others stand
    for hyphens: `node("td", "12", class_="number", data_sort="12")`.
    """
    made = Element(tag, {name.rstrip("_").replace("_", "-"): legible(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + legible(child)
        else:
            made.text = (made.text or "") + legible(child)
    return made


def legible(text: str) -> str:
    """Text with a question mark in place of what no page can hold."""
    return UNFIT.sub("\ufffd", text)


def document(title: str, body: Sequence[Element], *, script: bool = False) -> str:
    """A whole page. Its policy lets a browser load nothing, and run nothing but the script for sorting tables, if it is wanted."""
    code = (HERE / "sort.js").read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'" + (f"; script-src 'sha256-{digest}'" if script else "")
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", http_equiv="Content-Security-Policy", content=policy),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("title", title),
        node("style", (HERE / "style.css").read_text(encoding="utf-8")),
    )
    page = node("html", head, node("body", node("main", *body), *([node("script", code)] if script else [])), lang="en")
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def section(title: str, *children: Element) -> Element:
    """A heading of the second level and what belongs to it."""
    return node("section", node("h2", title), *children)


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Element]], **attributes: str) -> Element:
    """A table of cells, which scrolls sideways by itself where it is too wide."""
    head = node("thead", node("tr", *(node("th", name, scope="col") if name else node("td") for name in header)))
    made = node("table", node("caption", node("span", caption)), head, node("tbody", *(node("tr", *row) for row in rows)), **attributes)
    return node("div", made, class_="wide", tabindex="0", role="region", aria_label=caption)


def row(name: str | Element, *values: str) -> list[Element]:
    """The cells of a row: its name, and numbers as text."""
    return [node("th", name, scope="row"), *(node("td", value) for value in values)]
