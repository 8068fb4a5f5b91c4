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

from pydantic import ConfigDict, TypeAdapter, ValidationError

from stylenat.config.words import listed, shown

T = TypeVar("T")

TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


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
    try:
        adapter = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
        return adapter.validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError) as error:
        raise ValueError(f"{key} must be {_describe(kind)}: {shown(value)}") from error


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
        raise ValueError(f"{key}: {error}" if key else str(error)) from error


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
