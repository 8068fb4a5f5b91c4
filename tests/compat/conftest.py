"""`natten` of a level inside this process, taken out again; and which operations a call used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from torch import Tensor

from stylenat import compat
from stylenat.compat import calls, context, levels, package, source
from stylenat.compat.autotuner import AutotunerContext
from tests.compat.waiting import attend, draw, logits


def loaded() -> dict[str, ModuleType]:
    return {n: module for n, module in sys.modules.items() if n.split(".")[0] == "natten"}


def take_out() -> None:
    for name in loaded():
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, package.Finder)]
    levels.set_current(levels.settings(levels.DEFAULT, None, True))
    context.NattenContext.reset()
    AutotunerContext.reset()


@pytest.fixture
def no_natten() -> Iterator[None]:
    """A process that has imported no natten, whatever other tests did."""
    others = loaded()
    take_out()
    yield
    take_out()
    sys.modules.update(others)


@pytest.fixture
def natten(no_natten: None) -> Callable[..., ModuleType]:
    """natten(level, **options): the drop-in of that level."""

    def at(level: str = levels.DEFAULT, **options: bool) -> ModuleType:
        take_out()
        compat.install(level, **options)
        return importlib.import_module("natten")

    return at


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that calls come down to: `fused`, `qk` and `av`, in their order."""
    names: list[str] = []

    def watch(owner: ModuleType, name: str, word: str) -> None:
        original = getattr(owner, name)

        def call(*args: object, **kwargs: object) -> object:
            names.append(word)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for owner in (source, calls):
        watch(owner, "neighborhood_attention_2d", "fused")
        watch(owner, "neighborhood_qk", "qk")
    watch(calls, "neighborhood_av", "av")
    return names


@pytest.fixture
def expected(used: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, weights and output, without waiting."""
    q, k, v, rpb = draw()
    plain = logits(q, k, rpb).clone()
    assert type(plain) is Tensor
    weights = plain.softmax(-1)
    out = attend(weights, v)
    used.clear()
    return plain, weights, out
