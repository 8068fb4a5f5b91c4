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
from stylenat.models.classes import check_labels
from stylenat.sampling.seeds import check_seeds, latents


@torch.no_grad()
def seed_ws(
    generator: Generator,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    *,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    centers: Tensor | None = None,
    scheme: str = "torch",
) -> Tensor:
    """ws [B, num_ws, S] of seeds, truncated; everything that starts from seeds comes through here.

    A generator with classes also needs `labels`, the number of the class for each seed. Raises
    ValueError as `latents`, `Generator.mapping` and `Generator.truncate` do.
    """
    z = latents(seeds, generator.z_dim, scheme=scheme)
    labels_B = None if labels is None else torch.tensor(labels)
    check_labels(labels_B, z, classes=generator.config.classes, network="generator")
    z = z.to(generator.const)
    labels_B = None if labels_B is None else labels_B.to(z.device)
    ws_BLS = generator.mapping(z, labels_B)[:, None].expand(-1, generator.num_ws, -1)
    return truncated(
        generator,
        ws_BLS,
        labels_B,
        truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff,
        centers=centers,
    )


@torch.no_grad()
def truncated(
    generator: Generator,
    ws_BLS: Tensor,
    labels_B: Tensor | None = None,
    *,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    centers: Tensor | None = None,
) -> Tensor:
    """ws [B, num_ws, S] after truncation towards the nearest of the centers [K, S].

    Without centers it goes towards the mean of w, that of the labels' classes if there are labels.
    Raises ValueError as `Generator.truncate` does.
    """
    nearest = None if centers is None else nearest_centers(ws_BLS[:, :truncation_cutoff], centers)
    return generator.truncate(
        ws_BLS,
        labels_B,
        truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff,
        center=nearest,
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

    With `classes`, which a generator with classes needs, every seed is drawn in each of these,
    class by class. `truncation` holds what `truncated` takes. Raises ValueError for a seed that the
    scheme does not take, and if two styles have one name, unless they are one seed.
    """

    def __init__(
        self,
        generator: Generator,
        seeds: Sequence[int] = (),
        classes: Sequence[int] | None = None,
        *,
        given: NamedWs | None = None,
        scheme: str = "torch",
        **truncation: Any,
    ) -> None:
        check_seeds(seeds, scheme)
        self.generator = generator
        self.seeds = seeds
        self.classes = classes
        self.given = given
        self.scheme = scheme
        self.truncation = truncation
        self._refuse_equal_names()

    def __len__(self) -> int:
        return self.drawn + (0 if self.given is None else len(self.given.names))

    @property
    def drawn(self) -> int:
        """How many styles are of seeds; those that are given follow them."""
        return len(self.seeds) * (1 if self.classes is None else len(self.classes))

    def seed_and_class(self, index: int) -> tuple[int, int | None]:
        """The seed of one of the first styles, and its class if there are classes."""
        if self.classes is None:
            return self.seeds[index], None
        place, column = divmod(index, len(self.seeds))
        return self.seeds[column], self.classes[place]

    def name(self, index: int) -> str:
        """`seed0007` or `class2-seed0007` for a seed; a given style has its own name."""
        if index < self.drawn:
            seed, label = self.seed_and_class(index)
            return f"seed{seed:04d}" if label is None else f"class{label}-seed{seed:04d}"
        assert self.given is not None
        return self.given.names[index - self.drawn]

    def batches(
        self, indices: Sequence[int], *, batch: int, **changes: Any
    ) -> Iterator[tuple[list[str], Tensor]]:
        """Names and ws [b, num_ws, S] of the styles at these places, `batch` of them at a time.

        `changes` are of the truncation, for these styles.
        """
        truncation = {**self.truncation, **changes}
        for start in range(0, len(indices), batch):
            places = indices[start : start + batch]
            drawn = [self.seed_and_class(i) for i in places if i < self.drawn]
            rows = [i - self.drawn for i in places if i >= self.drawn]
            parts = []
            if drawn:
                seeds, found = zip(*drawn, strict=True)
                labels = None if self.classes is None else found
                ws_BLS = seed_ws(self.generator, seeds, labels, scheme=self.scheme, **truncation)
                parts.append(ws_BLS)
            if rows:
                assert self.given is not None
                ws_BLS = self.given.ws[rows].to(self.generator.const)
                parts.append(truncated(self.generator, ws_BLS, **truncation))
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
        seen = {self.name(index) for index in range(self.drawn)}
        for name in self.given.names:
            if name in seen:
                raise ValueError(f"two styles have the name {name}: leave one of them out")
            seen.add(name)
