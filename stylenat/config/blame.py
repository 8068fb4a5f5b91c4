"""Whose fault a refused configuration is: the file's, an override's, or that of both together."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

from stylenat.config.presets import Layer
from stylenat.text import shortened

# The two smallest networks. What is refused on top of them as well has nothing to do with the file.
NEUTRAL: dict[str, Any] = {
    "model": {
        "generator": {
            "levels": [
                {"resolution": side, "channels": 8, "heads": 1, "attention": "global"}
                for side in (4, 8)
            ]
        },
        "discriminator": {"levels": [{"resolution": 4, "channels": 8}]},
    }
}

Build = Callable[[Any, Sequence[str]], object]


def origin(layers: Sequence[Layer], overrides: Sequence[str], sentence: str, build: Build) -> str:
    """What the sentence has to name: the file, the overrides that it depends on, or both.

    `layers` are the file and its bases, as `read_layers` gives them. `build` makes the
    configuration of plain data and overrides, or raises ValueError. `sentence` is what it raises of
    all of them.
    """
    path, data = layers[-1]

    def refusal(base: Any, some: Sequence[str]) -> str | None:
        try:
            build(copy.deepcopy(base), some)
        except ValueError as error:
            return str(error)
        return None

    alone = refusal(data, ())
    if alone == sentence:
        # The lowest file that is refused so: those on top of it have not mended it.
        for layer in reversed(layers):
            if refusal(layer.data, ()) != sentence:
                break
            path = layer.name
        return path
    single = next(([one] for one in overrides if refusal(data, [one]) == sentence), None)
    needed = single or _fewest(overrides, lambda some: refusal(data, some) == sentence)
    # An override that mends a fault of the file uncovers the next one, which is no fault of its.
    if alone is not None and not any(_concerns(override, sentence) for override in needed):
        return path
    named = " with ".join(shortened(override) for override in needed)
    if refusal(NEUTRAL, needed) == sentence or (len(needed) == 1 and _ends(sentence, needed[0])):
        return named
    return f"{named} on top of {path}"


def _fewest(overrides: Sequence[str], fails: Callable[[Sequence[str]], bool]) -> list[str]:
    """Those without any of which it would not fail."""
    needed = list(overrides)
    for index in reversed(range(len(needed))):
        fewer = needed[:index] + needed[index + 1 :]
        if fails(fewer):
            needed = fewer
    return needed


def _concerns(override: str, sentence: str) -> bool:
    """Whether the sentence begins with the override's key, or with one above or below it."""
    key = override.partition("=")[0]
    found = re.match(r"[\w.\[\]]+", sentence)
    return found is not None and (key.startswith(found[0]) or found[0].startswith(key))


def _ends(sentence: str, override: str) -> bool:
    """Whether the sentence ends with the override's value, and so speaks of no other one."""
    key, _, value = override.partition("=")
    parent = key.rpartition(".")[0]
    return (
        sentence.startswith(parent)
        and re.search(rf"(: |got ){re.escape(value)}$", sentence) is not None
    )
