"""YAML files and overrides as plain data. What a value means, the config dataclasses say."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import yaml

from stylenat.config.plain import all_keys, first_entries, holds_text, join, unknown_key
from stylenat.files import replacing
from stylenat.text import shortened, shown

MAX_CHARACTERS = 100_000
MAX_DEPTH = 50  # of lists and sections in each other
OVERRIDE_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[\d+\])*")


def read_yaml(path: Path) -> dict[Any, Any]:
    """The keys and values of a YAML file, plain. Raises OSError, and ValueError for other text."""
    with path.open(encoding="utf-8") as file:
        try:
            text = file.read(MAX_CHARACTERS + 1)
        except UnicodeDecodeError as error:
            raise ValueError("not YAML: the file is not UTF-8 text") from error
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"not a configuration: over {MAX_CHARACTERS:,} characters")
    data = _parse_yaml(text)
    if data is None:
        raise ValueError("the file is empty")
    if not isinstance(data, dict):
        raise ValueError(f"the file must hold keys and values, not {type(data).__name__}")
    return data


def _parse_yaml(text: str) -> Any:
    """Plain data; the names of keys are text."""
    try:
        _refuse_structure(text)
        return _Loader(text).get_single_data()
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        # Of a number such as `!!int x`, Python's own errors come through.
        raise ValueError(f"not YAML that can be used here: {_problem(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but 1e-3 is a number, a date is text, and no key may be there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in found:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key)} is there twice", key_node.start_mark
                )
            found[key] = self.construct_object(value_node, deep=deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


class _Refused(Exception):
    """A sentence about what YAML allows and we do not."""


def _refuse_structure(text: str) -> None:
    """Raises _Refused, before anything is built of the text. The parser itself never recurses."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        # An alias can stand for a large value, and aliases of aliases for one past any memory.
        if isinstance(event, yaml.AliasEvent):
            raise _Refused("YAML aliases (*name) are not supported: write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _Refused("not a configuration: nested too deeply")


def _problem(error: Exception) -> str:
    """What a YAML reader found, on one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    if isinstance(error, yaml.YAMLError):
        return str(error).partition("\n")[0]
    return "a value does not fit its tag, or a number has too many digits"


def apply_override(data: Any, override: str, kind: Any) -> None:
    """Set one value in plain data for the dataclass `kind`: `a.b[2].c=VALUE`.

    If the key's value can only be text, VALUE is that text to its last character; `null` means None
    if the value may be None. Any other VALUE is YAML. Raises ValueError for what is no override of
    a key of `kind`, and UnfitOverride if the data do not reach so far.
    """
    key, equals, text = override.partition("=")
    if not equals or not OVERRIDE_KEY.fullmatch(key):
        raise ValueError(
            "an override must read KEY=VALUE, such as model.generator.style_dim=256: "
            f"{shown(override)}"
        )
    named = shortened(override)
    if first_entries(key) not in all_keys(kind):
        raise ValueError(f"{named}: {unknown_key(key, kind)}")
    is_text, may_be_null = holds_text(kind, key)
    value: object = text
    if is_text and may_be_null and text == "null":
        value = None
    elif not is_text:
        try:
            value = _parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"{named}: {error}") from error
    _set(data, key, value)


class UnfitOverride(ValueError):
    """An override of an entry or a section that is not there: the file holds something else."""


def _set(data: Any, key: str, value: object) -> None:
    steps: list[Any] = [
        int(index) if index else name for name, index in re.findall(r"(\w+)|\[(\d+)\]", key)
    ]
    done = ""
    for step, next_step in zip(steps, [*steps[1:], None], strict=True):
        is_index = isinstance(step, int)
        if not isinstance(data, list if is_index else dict):
            raise UnfitOverride(f"{done} is no {'list' if is_index else 'section'}: {shown(data)}")
        if is_index and step >= len(data):
            raise UnfitOverride(f"{done} has {len(data)} entries, from [0] on")
        if next_step is None:
            data[step] = value
        elif isinstance(data, dict) and data.get(step) is None:
            data[step] = {}
        data, done = data[step], f"{done}[{step}]" if is_index else join(done, step)


def write_yaml(data: dict[str, Any], path: str | Path) -> None:
    """Write plain data so that `read_yaml` gives them back; the file is replaced atomically."""
    text = yaml_text(data)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def yaml_text(data: dict[str, Any]) -> str:
    """Plain data as YAML, in their own order."""
    # A line may go on for one entry beyond the width.
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=80)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes every string but plain words, which no YAML reader takes for anything else.

    A file name whose bytes are no UTF-8 is written as these bytes.
    """


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    content = text.encode("utf-8", "surrogateescape")
    if content != text.encode("utf-8", "replace"):
        encoded = base64.b64encode(content).decode()
        return dumper.represent_scalar("tag:yaml.org,2002:binary", encoded, style='"')
    style = None if text.isascii() and text.isidentifier() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)
