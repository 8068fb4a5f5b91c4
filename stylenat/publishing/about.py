"""All that a card tells of a model."""

from __future__ import annotations

from dataclasses import dataclass

from stylenat.hub import HubModel
from stylenat.models import GeneratorConfig
from stylenat.publishing.facts import Measured, Training
from stylenat.publishing.grid import Grid


@dataclass(frozen=True)
class About:
    """What is known of a model, and what its uploader says of it: `license` and `data_note`.

    `place` is where it will be. `copied_from`: its name on the Hub if it is from there. `version`
    is that of the StyleNAT that wrote the file, `dtype` that of its tensors, as safetensors names
    it. `directions`: their names, and the files of their pictures if there are some.
    """

    place: HubModel
    license: str
    data_note: str | None
    config: GeneratorConfig
    sha256: str
    parameters: int
    dtype: str
    version: str
    copied_from: str | None
    training: Training | None
    measured: tuple[Measured, ...]
    grid: Grid
    directions: tuple[tuple[str, str | None], ...]
    has_page: bool

    @property
    def title(self) -> str:
        """The repository's name, without its owner."""
        return self.place.repository.split("/")[1]
