"""HTML that is escaped by construction: whatever is not `Markup` is shown as text."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable
from typing import Any

VOID = ("img", "input", "meta", "link", "wbr")


class Markup(str):
    """HTML that `tag` made, or a file of this package."""

    __slots__ = ()


def escaped(content: object) -> Markup:
    """Markup as it is; anything else as text that is shown as it stands."""
    if isinstance(content, Markup):
        return content
    return Markup(html.escape(str(content)))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element. `class_` stands for class, `aria_label` for aria-label; None and False leave an
    attribute out, True gives it no value."""
    pairs = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            pairs.append(f" {key}")
        elif value is not None and value is not False:
            pairs.append(f' {key}="{escaped(value)}"')
    start = f"<{name}{''.join(pairs)}>"
    if name in VOID:
        assert not content
        return Markup(start)
    return Markup(f"{start}{joined(content)}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Several pieces, one after the other; None is nothing."""
    return Markup("".join(escaped(part) for part in parts if part is not None))


def table(head: Iterable[object], rows: Iterable[Iterable[object]], **attributes: object) -> Markup:
    """A table in a box of its own that scrolls, with a row of headings and one on the left."""
    titles = tag("tr", *(tag("th", title, scope="col") for title in head))
    lines = []
    for first, *others in rows:
        lines.append(
            tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in others))
        )
    inner = tag("table", tag("thead", titles), tag("tbody", *lines), **attributes)
    return tag("div", inner, class_="scroll", tabindex="0")


def fold(summary: object, *content: object, is_open: bool = False) -> Markup:
    """Something that the reader unfolds."""
    return tag("details", tag("summary", summary), *content, open=is_open)


def plain(value: object) -> str:
    """A value of a configuration or protocol, on one line, as YAML writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return number(value)


def number(value: object) -> str:
    """A number for people, with four digits; other values as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) >= 10_000 and abs(value) < 1e15:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def data_block(data: Any, name: str) -> Markup:
    """JSON for a script. `<` is written as an escape, so that no text can end the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{escaped(name)}">{text}</script>')
