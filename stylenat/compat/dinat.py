"""Dinat of Hugging Face transformers from 4.54 on, mended: the forward of its attention.

Shapes: B batch, H height, W width, C channels, N heads, K keys of a query.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from stylenat.compat import calls, deferred
from stylenat.compat.package import installed


def _forward(
    self: Any, hidden_states: Tensor, output_attentions: bool | None = False, **unused: Any
) -> tuple[Tensor, ...]:
    """`[B, H, W, C]` to `[B, H, W, C]` and, if asked for, the weights `[B, N, H, W, K]`."""
    heads = (self.num_attention_heads, self.attention_head_size)
    q, k, v = (
        project(hidden_states).unflatten(-1, heads).movedim(-2, 1)
        for project in (self.query, self.key, self.value)
    )
    window = (self.kernel_size, self.dilation)
    scores = calls.qk(2, q * self.attention_head_size**-0.5, k, *window, False, self.rpb)
    weights = self.dropout(scores.softmax(-1))
    context = calls.av(2, weights, v, *window).movedim(1, -2).flatten(-2)
    return (context, deferred.looked_at(weights)) if output_attentions else (context,)


def patch() -> None:
    """See `stylenat.compat.patch_transformers`."""
    if installed() is None:
        raise RuntimeError(
            "transformers builds Dinat only where it finds a natten: call "
            "stylenat.compat.install() before transformers is imported"
        )
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise RuntimeError(f"there is no transformers to patch: {error}") from error
    version = transformers.__version__
    try:
        dinat = importlib.import_module("transformers.models.dinat.modeling_dinat")
        config = importlib.import_module("transformers.models.dinat.configuration_dinat")
    except ModuleNotFoundError as error:
        raise RuntimeError(f"transformers {version} has no Dinat: {error}") from error
    if not importlib.import_module("transformers.utils").is_natten_available():
        raise RuntimeError(
            f"transformers {version} was imported before natten was there: call "
            "stylenat.compat.install() before it"
        )
    attention = dinat.NeighborhoodAttention
    if attention.forward is _forward:
        return
    if _is_right(attention, config.DinatConfig()):
        raise RuntimeError(
            f"Dinat of transformers {version} needs no patch: its own attention gives the right "
            "result"
        )
    attention.forward = _forward


def _is_right(attention: Any, config: Any) -> bool:
    """Whether the attention runs as it is, with our result, on a map that is not square."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = attention(config, dim=8, num_heads=2, kernel_size=3, dilation=1).cpu().float()
        module.eval()
        module.rpb.normal_()
        x = torch.randn(1, 3, 5, 8)
        try:
            out = module(x)[0]
        except (ValueError, RuntimeError):
            return False
        expected = _forward(module, x)[0]
        return out.shape == expected.shape and torch.allclose(out, expected, atol=1e-5)
