"""Figures as elements of a page: in the page's colours, which change with a dark screen."""

from __future__ import annotations

import io
import re
from xml.etree.ElementTree import Element, fromstring

from matplotlib import rc_context
from matplotlib.figure import Figure

from pas.report.curves import STAGES
from pas.report.figures import COLOURS, GRID, INK, SPINE
from pas.report.html.document import legible

VARIABLES = {INK: "--ink", SPINE: "--line", GRID: "--grid", STAGES["dense"][1]: "--dense"}
VARIABLES |= {colour: f"--colour-{number}" for number, colour in enumerate(COLOURS)}
ANY = re.compile("|".join(VARIABLES))
FONT = re.compile(r"font-family: [^;]*; ?")


def inline(figure: Figure, name: str, alt: str) -> Element:
    """A figure to be put into a page, which has no other of this `name`; `alt` tells what it shows to who doesn't see it."""
    text = io.StringIO()
    # the names of its parts are digests, salted so that those of one page differ, and are the same each time
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = fromstring(legible(text.getvalue()))
    _plain(root)
    shown = {"class": "figure", "viewBox": root.attrib["viewBox"], "role": "img", "aria-label": legible(alt)}
    root.attrib.clear()
    root.attrib.update(shown)
    return root


def _plain(element: Element) -> None:
    """In the page's colours and fonts, without name spaces, which it doesn't know, and without metadata, styles and names of groups."""
    element.tag = element.tag.rpartition("}")[2]
    for name, value in list(element.attrib.items()):
        del element.attrib[name]
        short = name.rpartition("}")[2]
        if not (element.tag == "g" and short == "id"):
            element.attrib[short] = _styled(value) if short == "style" else value
    element.tail = None
    if element.text is not None and not element.text.strip():
        element.text = None
    for child in list(element):
        if child.tag.rpartition("}")[2] in ("metadata", "style"):
            element.remove(child)
        else:
            _plain(child)


def _styled(style: str) -> str:
    return ANY.sub(lambda found: f"var({VARIABLES[found[0]]})", FONT.sub("", style))
