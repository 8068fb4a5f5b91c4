"""Config dataclasses from plain data (dicts, lists, scalars) and back, with strict types.

A field is a key; its type and its class's `__post_init__` are the rules.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from stylenat.text import listed, shown

T = TypeVar("T")

TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
INTEGERS = range(-(2**63), 2**63)  # those that PyTorch and NumPy can hold


def to_dict(config: Any) -> Any:
    """A config dataclass as dicts, lists and scalars: what YAML and JSON hold."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, tuple):
        return [to_dict(item) for item in config]
    return config


def from_dict(kind: type[T], data: object, key: str = "") -> T:
    """The config dataclass `kind` from plain data; the inverse of `to_dict`.

    Types are strict, as in JSON: true is no integer, "256" is no number, but 4 is a number.
    Raises ValueError, one sentence that names the dotted key (below `key`), the rule and the value.
    """
    try:
        result: T = _build(kind, data, key)
    except _UnknownKey as error:
        raise ValueError(unknown_key(str(error), kind, key)) from None
    return result


def _build(kind: Any, value: object, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build_section(kind, value, key)
    if get_origin(kind) in (Union, types.UnionType):
        kind = _member_for(kind, value)
        if dataclasses.is_dataclass(kind) or get_origin(kind) is tuple:
            return _build(kind, value, key)
    if isinstance(value, list) and get_args(kind)[1:] == (...,):
        item_kind = get_args(kind)[0]
        return tuple(_build(item_kind, item, f"{key}[{i}]") for i, item in enumerate(value))
    return _scalar(kind, value, key)


def _scalar(kind: Any, given: object, key: str) -> Any:
    value = given.decode("utf-8", "surrogateescape") if isinstance(given, bytes) else given
    if isinstance(value, str):
        # JSON could not carry a file name whose bytes are no UTF-8.
        fits = any(
            value in get_args(k) if get_origin(k) is Literal else k is str for k in _union(kind)
        )
        result = value
    else:
        try:
            adapter = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
            result = adapter.validate_json(json.dumps(value), strict=True)
            fits = True
        except (ValueError, TypeError):  # pydantic's, and json's for what JSON has no word for
            fits = False
    if not fits:
        raise ValueError(f"{key} must be {_describe(kind)}: {shown(given)}")
    numbers = result if isinstance(result, tuple) else (result,)
    if any(isinstance(n, int) and n not in INTEGERS for n in numbers):
        raise ValueError(f"{key} must be below 2**63, and not below -2**63: {shown(value)}")
    return result


def _build_section(kind: Any, value: object, key: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{key or 'the file'} must be {_describe(kind)}: {shown(value)}")
    hints = get_type_hints(kind)
    for name in value:
        if name not in hints:
            raise _UnknownKey(join(key, str(name)))
    arguments = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            child = join(key, field.name)
            arguments[field.name] = _build(hints[field.name], value[field.name], child)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{join(key, field.name)} is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        sentence = str(error)
        if key:
            # "batch must be at least 1" of `train` is a sentence about train.batch.
            sentence = f"{key}{'.' if sentence.split()[0] in hints else ': '}{sentence}"
        raise ValueError(sentence) from error


def _member_for(union: Any, value: object) -> Any:
    """The member of a union that this value can only mean, by its shape; else all the scalars."""
    members = get_args(union)
    if isinstance(value, dict):
        fitting = [m for m in members if dataclasses.is_dataclass(m)]
    elif isinstance(value, list):
        fitting = [m for m in members if get_origin(m) is tuple]
    else:
        fitting = []
    return fitting[0] if len(fitting) == 1 else union


def _describe(kind: Any) -> str:
    """The rule of a type, in words: `must be ...`."""
    origin, members = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        names = ", ".join(field.name for field in dataclasses.fields(kind))
        return f"a section with the keys {names}"
    if origin is Literal:
        return " or ".join(map(str, members))
    if origin is tuple:
        count = "" if members[1:] == (...,) else f"{len(members)} entries, "
        return f"a list ({count}each {_describe(members[0])})"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_describe, members))
    return "null" if kind is type(None) else TYPE_NAMES.get(kind, str(kind))


# Dotted keys


def holds_text(kind: Any, key: str) -> tuple[bool, bool]:
    """Whether the value of a dotted key of `kind` can only be text, and whether it may be null."""
    kinds = _kinds_of(kind, key)
    null = type(None) in kinds
    texts = [k for k in kinds if k is not type(None)]
    return bool(texts) and all(map(_is_text, texts)), null


def _kinds_of(kind: Any, key: str) -> list[Any]:
    """The types that the value of a dotted key may have."""
    kinds = _union(kind)
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", key):
        if index:
            items = [get_args(k) for k in kinds if get_origin(k) is tuple]
            found = [args[0 if args[1:] == (...,) else int(index) % len(args)] for args in items]
        else:
            sections = [get_type_hints(k) for k in kinds if dataclasses.is_dataclass(k)]
            found = [hints[name] for hints in sections if name in hints]
        kinds = [member for k in found for member in _union(k)]
    return kinds


def _union(kind: Any) -> list[Any]:
    return list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]


def _is_text(kind: Any) -> bool:
    return kind is str or (
        get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind))
    )


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


class _UnknownKey(Exception):
    """The dotted key that no field answers to."""


def unknown_key(wrong: str, kind: Any, root: str = "") -> str:
    """A sentence with the nearest key: one beside it, else one of that name, else any."""
    keys = list(all_keys(kind, root))
    parent, _, name = wrong.rpartition(".")
    beside = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == first_entries(parent)]
    anywhere = {k.rpartition(".")[2]: k for k in reversed(keys)}
    if near := difflib.get_close_matches(name, beside, n=1):
        right = join(parent, near[0])
    elif near := difflib.get_close_matches(name, anywhere, n=1):
        right = anywhere[near[0]]
    else:
        right = difflib.get_close_matches(wrong, keys, n=1, cutoff=0)[0]
    return f"unknown key {listed([wrong])}; did you mean {right}?"


def first_entries(key: str) -> str:
    """With every index 0, as `all_keys` writes it."""
    return re.sub(r"\[\d+\]", "[0]", key)


def all_keys(kind: Any, key: str = "") -> Iterator[str]:
    """Every dotted key below a type; of a list, its first entry."""
    if dataclasses.is_dataclass(kind):
        for name, hint in get_type_hints(kind).items():
            yield join(key, name)
            yield from all_keys(hint, join(key, name))
    elif get_origin(kind) is tuple:
        yield f"{key}[0]"
        yield from all_keys(get_args(kind)[0], f"{key}[0]")
    else:
        for member in get_args(kind):
            yield from all_keys(member, key)
