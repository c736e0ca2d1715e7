"""Elements of a page: whatever text they are given is escaped when the tree is written."""

from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element

from polyak.errors import printable, visible

RAW = {"script", "style"}  # whose text HTML does not escape: only constants of ours


def h(tag: str, *children: Any, **attributes: Any) -> Element:
    """An element; children are elements, texts, lists of these, or None. `class_` is class, `data_x` is data-x."""
    element = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            name = name.rstrip("_").replace("_", "-")
            element.set(name, visible(str(value)))
    last: Element | None = None
    for child in flat(children):
        if isinstance(child, Element):
            element.append(child)
            last = child
            continue
        text = str(child) if tag in RAW else visible(str(child))
        if last is None:
            element.text = (element.text or "") + text
        else:
            last.tail = (last.tail or "") + text
    return element


def flat(children: Iterable[Any]) -> Iterable[Any]:
    """What is in lists, without None."""
    for child in children:
        if isinstance(child, list | tuple):
            yield from flat(child)
        elif child is not None:
            yield child


def row(*cells: Any, cell: str = "td", **attributes: Any) -> Element:
    """A row of a table."""
    return h("tr", [h(cell, each) for each in cells], **attributes)


def scrolled(*parts: Any, class_: str | None = None) -> Element:
    """A table that moves sideways by itself where it is too wide."""
    return h("div", h("table", parts, class_=class_), class_="scroll", tabindex="0")


def breakable(name: str) -> list[Any]:
    """The name of a setting, that may go on in another line after a dot."""
    first, *rest = printable(name, 80).split(".")
    return [first, [[".", h("wbr"), each] for each in rest]]


def folded(summary: str, *children: Any) -> Element:
    """What opens when its line is touched."""
    return h("details", h("summary", summary), children)
