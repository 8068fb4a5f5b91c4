"""Seeds, and ws that are given -> the ws that the synthesis network takes.

Legend: B batch, N styles, L blocks, S style_dim, K centers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylenat.models import Generator
from stylenat.sampling.seeds import check_seeds, latents


@torch.no_grad()
def seed_ws(
    generator: Generator,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    centers: Tensor | None = None,
    scheme: str = "torch",
) -> Tensor:
    """ws [B, num_ws, S] of seeds, truncated; everything that starts from seeds comes through here.

    Raises ValueError as `latents` and `Generator.truncate` do.
    """
    z = latents(seeds, generator.z_dim, scheme=scheme).to(generator.const)
    ws_BLS = generator.mapping(z)[:, None].expand(-1, generator.num_ws, -1)
    return truncated(
        generator,
        ws_BLS,
        truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff,
        centers=centers,
    )


@torch.no_grad()
def truncated(
    generator: Generator,
    ws_BLS: Tensor,
    *,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    centers: Tensor | None = None,
) -> Tensor:
    """ws [B, num_ws, S] after truncation towards the nearest of the centers [K, S].

    Without centers it goes towards the mean of w. Raises ValueError as `Generator.truncate` does.
    """
    nearest = None if centers is None else nearest_centers(ws_BLS[:, :truncation_cutoff], centers)
    return generator.truncate(
        ws_BLS, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff, center=nearest
    )


def nearest_centers(ws_BLS: Tensor, centers_KS: Tensor) -> Tensor:
    """For each w of [B, L, S], the center that is nearest to it: [B, L, S]."""
    centers_KS = centers_KS.to(ws_BLS)
    return centers_KS[torch.cdist(ws_BLS.flatten(0, 1), centers_KS).argmin(1)].view_as(ws_BLS)


@dataclass(frozen=True)
class NamedWs:
    """ws [N, num_ws, S] and the name of each."""

    names: tuple[str, ...]
    ws: Tensor

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.ws)


class Styles:
    """The ws of seeds, followed by ws that are given; each is made when it is asked for.

    `truncation` holds what `truncated` takes. Raises ValueError for a seed that the scheme does not
    take, and if two styles have one name, unless they are one seed.
    """

    def __init__(
        self,
        generator: Generator,
        seeds: Sequence[int] = (),
        *,
        given: NamedWs | None = None,
        scheme: str = "torch",
        **truncation: Any,
    ) -> None:
        check_seeds(seeds, scheme)
        self.generator = generator
        self.seeds = seeds
        self.given = given
        self.scheme = scheme
        self.truncation = truncation
        self._refuse_equal_names()

    def __len__(self) -> int:
        return len(self.seeds) + (0 if self.given is None else len(self.given.names))

    def name(self, index: int) -> str:
        """`seed0007` for a seed; a given style has its own name."""
        if index < len(self.seeds):
            return f"seed{self.seeds[index]:04d}"
        assert self.given is not None
        return self.given.names[index - len(self.seeds)]

    def batches(self, indices: Sequence[int], *, batch: int) -> Iterator[tuple[list[str], Tensor]]:
        """Names and ws [b, num_ws, S] of the styles at these places, `batch` of them at a time."""
        for start in range(0, len(indices), batch):
            places = indices[start : start + batch]
            seeds = [self.seeds[i] for i in places if i < len(self.seeds)]
            rows = [i - len(self.seeds) for i in places if i >= len(self.seeds)]
            parts = []
            if seeds:
                parts.append(seed_ws(self.generator, seeds, scheme=self.scheme, **self.truncation))
            if rows:
                assert self.given is not None
                ws_BLS = self.given.ws[rows].to(self.generator.const)
                parts.append(truncated(self.generator, ws_BLS, **self.truncation))
            yield [self.name(i) for i in places], torch.cat(parts)

    def all(self, *, batch: int) -> NamedWs:
        """All styles at once, on the CPU: names, and ws [N, num_ws, S]."""
        names, ws = [], []
        for some_names, ws_BLS in self.batches(range(len(self)), batch=batch):
            names += some_names
            ws.append(ws_BLS.cpu())
        return NamedWs(tuple(names), torch.cat(ws))

    def _refuse_equal_names(self) -> None:
        if self.given is None:
            return
        seen = {f"seed{seed:04d}" for seed in self.seeds}
        for name in self.given.names:
            if name in seen:
                raise ValueError(f"two styles have the name {name}: leave one of them out")
            seen.add(name)
