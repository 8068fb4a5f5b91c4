"""Config dataclasses from plain data (dicts, lists, scalars) and back, with strict types.

A field is a key; its type and its class's `__post_init__` are the rules. Pydantic applies them; the
sentences are ours.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import types
from collections.abc import Iterator, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

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
    text = json.dumps([_for_json(data, key)])
    try:
        (result,) = _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ValueError(_sentence(error, kind, data, key)) from error
    return result


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # Pydantic takes a config for a tuple, and hands it on to the dataclasses within.
    return TypeAdapter(tuple[kind], config=ConfigDict(extra="forbid", allow_inf_nan=False))


# Text whose bytes are no UTF-8, such as a file's name may be, cannot stand in JSON. It goes there
# under this key, as hexadecimal digits, and only fields that are a PathText take it.
BYTES = "\0bytes"


def _decoded(value: object) -> object:
    if isinstance(value, dict) and set(value) == {BYTES}:
        return bytes.fromhex(value[BYTES]).decode("utf-8", "surrogateescape")
    return value


PathText = Annotated[str, BeforeValidator(_decoded)]


def _for_json(value: object, key: str) -> object:
    """What JSON can hold of plain data. Raises ValueError for what no field could take."""
    if isinstance(value, dict):
        return {str(name): _for_json(item, join(key, str(name))) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(item, f"{key}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {BYTES: value.hex()}
    if isinstance(value, int) and value not in INTEGERS:
        raise ValueError(f"{key} must be below 2**63, and not below -2**63: {shown(value)}")
    if value is None or isinstance(value, int | float):
        return value
    raise ValueError(
        f"{key} must be text, a number, true, false, null, a list or a section: {shown(value)}"
    )


# The sentence of a refusal

UNKNOWN_KEY = "unexpected_keyword_argument"  # as pydantic calls it


def _sentence(error: ValidationError, kind: Any, data: object, root: str) -> str:
    """The first fault: of all unknown keys the first, otherwise of all faults the first."""
    faults = error.errors(include_url=False, include_input=False)
    for fault in sorted(faults, key=lambda fault: fault["type"] != UNKNOWN_KEY):
        steps = fault["loc"][1:]
        if steps and steps[-1] == BYTES:  # text in place of a section
            fault["type"], steps = "dataclass_type", steps[:-1]
        if fault["type"] == "missing" and isinstance(steps[-1], int):
            steps = steps[:-1]  # An entry that a list of fixed length lacks is the list's fault.
        place = _place(kind, data, steps, root)
        if place is not None:
            return _said_of(fault, place, kind, root)
    raise error


def _said_of(fault: ErrorDetails, place: _Place, kind: Any, root: str) -> str:
    key = place.key
    if fault["type"] == UNKNOWN_KEY:
        return unknown_key(key, kind, root)
    if isinstance(place.value, str | bytes) and str in _union(place.kind):
        return f"{key} must be text in UTF-8: {shown(place.value)}"
    if fault["type"] == "missing" and place.value is None:
        return f"{key} is missing"
    if fault["type"] != "value_error":
        return f"{key or 'the file'} must be {_describe(place.kind)}: {shown(place.value)}"
    sentence = str(fault["ctx"]["error"])
    if not key:
        return sentence
    # "batch must be at least 1" of `train` is a sentence about train.batch.
    (section,) = filter(dataclasses.is_dataclass, _union(place.kind))
    return f"{key}{'.' if sentence.split()[0] in get_type_hints(section) else ': '}{sentence}"


class _Place(NamedTuple):
    kind: Any
    value: Any
    key: str


def _place(kind: Any, value: Any, steps: Sequence[int | str], key: str) -> _Place | None:
    """Where pydantic's steps lead; None inside a member of a union that was not meant.

    Pydantic tries every member of a union, and names the member in its steps. The value's shape
    says which one was meant. If it says none, the place is the union itself.
    """
    for step in steps:
        members = [member for member in _union(kind) if member is not type(None)]
        if len(members) > 1:
            meant = _meant(members, value)
            if meant is None:
                break
            if not str(step).startswith(meant.__name__):
                return None
            kind = meant
        elif isinstance(step, int):
            items = get_args(members[0])
            kind, value, key = items[0 if ... in items else step], value[step], f"{key}[{step}]"
        else:
            kind, value = get_type_hints(members[0]).get(step), value.get(step)
            key = join(key, step)
    return _Place(kind, value, key)


def _meant(members: Sequence[Any], value: object) -> Any:
    """The only member that a section or a list can mean; None for a scalar, and if several fit."""
    if isinstance(value, dict):
        fitting = [m for m in members if dataclasses.is_dataclass(m)]
    else:
        fitting = [m for m in members if isinstance(value, list) and get_origin(m) is tuple]
    return fitting[0] if len(fitting) == 1 else None


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
