"""What tests of the unfused pair share: a loop written plainly from the rules, and random calls."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.neighborhood import neighborhood_av, neighborhood_qk

PLAIN = ("attn", "out", "dquery", "dkey", "dvalue")
TOKENS = ("dadditional_keys", "dadditional_values")


@dataclass(frozen=True)
class Call:
    """Sizes and windows of one call of the pair; `extra` counts additional tokens."""

    space: tuple[int, ...]
    kernel_size: int | tuple[int, ...]
    dilation: int | tuple[int, ...] = 1
    is_causal: bool | tuple[bool, ...] = False
    rpb: bool = False
    extra: int = 0
    batch: int = 1
    heads: int = 2
    head_dim: int = 3
    value_dim: int = 2

    def __str__(self) -> str:
        name = f"{'x'.join(map(str, self.space))}-k{self.kernel_size}-d{self.dilation}"
        causal = "" if self.is_causal is False else f"-causal{self.is_causal}"
        tokens = f"-e{self.extra}" if self.extra else ""
        return f"{name}-D{self.head_dim}{causal}{'-rpb' if self.rpb else ''}{tokens}"

    def each_axis(self, value: object) -> tuple:
        return value if isinstance(value, tuple) else (value,) * len(self.space)

    @property
    def window(self) -> dict[str, object]:
        return {
            "kernel_size": self.kernel_size,
            "dilation": self.dilation,
            "is_causal": self.is_causal,
        }


@dataclass(frozen=True)
class Tensors:
    query: Tensor
    key: Tensor
    value: Tensor
    rpb: Tensor | None
    additional_keys: Tensor | None
    additional_values: Tensor | None

    def present(self) -> list[Tensor]:
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return [tensor for tensor in fields if tensor is not None]

    def map(self, change) -> Tensors:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Tensors(**{name: None if x is None else change(x) for name, x in fields.items()})


def draw(call: Call, dtype: torch.dtype = torch.float64) -> Tensors:
    """Random tensors, exact in `dtype`. Additional keys are a view of stride 0 over the batch."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype)

    maps = (call.batch, call.heads, *call.space)
    sides = [2 * size - 1 for size in call.each_axis(call.kernel_size)]
    keys = randn(1, call.heads, call.extra, call.head_dim).expand(call.batch, -1, -1, -1)
    return Tensors(
        randn(*maps, call.head_dim),
        randn(*maps, call.head_dim),
        randn(*maps, call.value_dim),
        randn(call.heads, *sides) if call.rpb else None,
        keys if call.extra else None,
        randn(call.batch, call.heads, call.extra, call.value_dim) if call.extra else None,
    )


def attend(call: Call, x: Tensors, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """The logits and the output of qk, softmax and av."""
    attn = neighborhood_qk(
        x.query,
        x.key,
        **call.window,
        rpb=x.rpb,
        additional_keys=x.additional_keys,
        backend=backend,
    )
    out = neighborhood_av(
        attn.softmax(-1),
        x.value,
        **call.window,
        additional_values=x.additional_values,
        backend=backend,
    )
    return attn, out


def run(
    call: Call, x: Tensors, dout: Tensor, backend: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Logits, output and every gradient in `dtype`, as float64."""
    leaves = x.map(lambda tensor: tensor.to(dtype).detach().requires_grad_())
    attn, out = attend(call, leaves, backend)
    grads = torch.autograd.grad(out, leaves.present(), dout.to(dtype))
    names = (*PLAIN, *["drpb"] * call.rpb, *TOKENS * bool(call.extra))
    values = dict(zip(names, (attn, out, *grads), strict=True))
    return {name: value.detach().double() for name, value in values.items()}


def errors(
    call: Call, backend: str, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, tuple[float, float]]:
    """For logits, output and gradients: the error, and what the reference's own allows.

    Root mean squares may be twice the reference's. The largest error of a small map is the largest
    of few, and differs by chance: four times. Both may be two units in the last place of a
    value of the same kind, which is what rounding it, and the sum it comes from, may cost.
    """
    x = draw(call, dtype).map(lambda tensor: tensor.to(device))
    dout = torch.randn(x.value.shape).to(device, dtype)
    exact = run(call, x, dout, "reference", torch.float64)
    got, plain = run(call, x, dout, backend, dtype), run(call, x, dout, "reference", dtype)
    result = {}
    for name, truth in exact.items():
        is_there = truth.isfinite()
        assert torch.equal(got[name].isfinite(), is_there), name
        error, own = ((value[name] - truth)[is_there].abs() for value in (got, plain))
        units = 2 * torch.finfo(dtype).eps
        allowed = max(2 * rms(own), units * rms(truth[is_there]))
        result[f"{name}, root mean square"] = (rms(error), allowed)
        allowed = max(4 * own.max().item(), units * truth[is_there].abs().max().item())
        result[f"{name}, largest"] = (error.max().item(), allowed)
    return result


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


# A loop over batch, heads, pixels and places, written from the rules and from nothing of ours.


def keys_of(
    pixel: int, length: int, kernel_size: int, dilation: int, is_causal: bool
) -> list[tuple[int, int] | None]:
    """Along one axis, for each place in a pixel's window: the key, and how many positions off."""
    group = [other for other in range(length) if other % dilation == pixel % dilation]
    position = group.index(pixel)
    if is_causal:
        seen = [p for p in range(position - kernel_size + 1, position + 1) if p >= 0]
    else:
        start = max(0, min(position - kernel_size // 2, len(group) - kernel_size))
        seen = list(range(start, start + kernel_size))
    places: list[tuple[int, int] | None] = [(group[p], p - position) for p in seen]
    return places + [None] * (kernel_size - len(places))


def loop(call: Call, x: Tensors, attn: Tensor) -> tuple[Tensor, Tensor]:
    """What qk gives for `x`, and what av gives for the weights `attn`."""
    logits = torch.empty_like(attn)
    out = torch.zeros_like(x.value)
    axes = (call.kernel_size, call.dilation, call.is_causal)
    kernel, dilation, causal = (call.each_axis(value) for value in axes)
    for b, h in itertools.product(range(call.batch), range(call.heads)):
        for pixel in itertools.product(*map(range, call.space)):
            windows = map(keys_of, pixel, call.space, kernel, dilation, causal)
            where = (b, h, *pixel)
            for place, keys in enumerate(itertools.product(*windows)):
                if any(key is None for key in keys):
                    logits[(*where, place)] = -torch.inf
                    continue
                at = (b, h, *(key[0] for key in keys))
                logit = x.query[where] @ x.key[at]
                if x.rpb is not None:
                    offset = (key[1] + size - 1 for key, size in zip(keys, kernel, strict=True))
                    logit = logit + x.rpb[(h, *offset)]
                logits[(*where, place)] = logit
                out[where] += attn[(*where, place)] * x.value[at]
            for token in range(call.extra):
                place = token - call.extra
                logits[(*where, place)] = x.query[where] @ x.additional_keys[b, h, token]
                out[where] += attn[(*where, place)] * x.additional_values[b, h, token]
    return logits, out
