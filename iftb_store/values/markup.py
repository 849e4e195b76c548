"""Builds HTML: text is escaped unless it is `Markup`, so that a symbol or a message from outside is never read as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

#: A child of an element: text, which is escaped, or markup, which is not; None: nothing.
Child = str | None


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, *children: Child, **attributes: str | None) -> Markup:
    """Return an element.

    Args:
        name: the name, e.g. ``td``.
        *children: the children; text is escaped.
        **attributes: the attributes; a trailing underscore is removed (``class_``), another one becomes a hyphen
            (``aria_label``), and None leaves the attribute out.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value is not None
    )
    return Markup(f"<{name}{words}>{join(children)}</{name}>")


def join(children: Iterable[Child], between: str = "") -> Markup:
    """Return children one after the other; text is escaped."""
    return Markup(between.join(_render(child) for child in children if child is not None))


def table(
    titles: Sequence[Child], rows: Iterable[Sequence[Child]], *, caption: str | None = None, numbers: bool = True
) -> Markup:
    """Return a table whose first column has the headers of the rows.

    Args:
        titles: the titles of the columns.
        rows: the cells of each row.
        caption: the caption.
        numbers: whether all columns but the first hold numbers, which are aligned on the right.
    """
    kind = "n" if numbers else None

    def cell(child: Child) -> Child:
        return child if is_cell(child) else element("td", child, class_=kind)

    heads = [element("th", title, scope="col", class_=kind if place else None) for place, title in enumerate(titles)]
    body = [element("tr", element("th", first, scope="row"), *map(cell, cells)) for first, *cells in rows]
    return element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", element("tr", *heads)),
        element("tbody", *body),
    )


def is_cell(child: Child) -> bool:
    """Return whether a child is a table cell already."""
    return isinstance(child, Markup) and child.startswith("<td")


def _render(child: str) -> str:
    return child if isinstance(child, Markup) else escape(child)
