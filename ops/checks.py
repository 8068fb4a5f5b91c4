"""Checks of the types of arguments: one sentence if a value is something else."""

from __future__ import annotations

from numbers import Integral, Real

from torch import Tensor


def kind(value: object) -> str:
    """The name of a value's type, for a sentence."""
    module, name = type(value).__module__, type(value).__qualname__
    return name if module == "builtins" else f"{module}.{name}"


def check_tensor(name: str, value: object) -> None:
    """Raises ValueError, naming the way out, unless the value is a tensor."""
    if not isinstance(value, Tensor):
        help_ = f"; torch.from_numpy({name}) makes one" if kind(value) == "numpy.ndarray" else ""
        raise ValueError(f"{name} must be a torch.Tensor, not {kind(value)}{help_}")


def check_whole(name: str, value: object) -> None:
    """Raises ValueError unless the value is an int or numpy's; True and False are not."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise ValueError(f"{name} must be a whole number: {value!r}")


def check_number(name: str, value: object) -> None:
    """Raises ValueError unless the value is an int, a float or numpy's; tensors are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise ValueError(f"{name} must be a number: {value!r}")


def keep_whole(config: object, *names: str) -> None:
    """Raises ValueError unless these fields of a frozen dataclass are whole numbers. Turns numpy's
    into int, since JSON and YAML would not take them."""
    for name in names:
        value = getattr(config, name)
        check_whole(name, value)
        object.__setattr__(config, name, int(value))
