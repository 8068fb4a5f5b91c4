"""The folder that is uploaded: the model, its configuration, a grid, scores, directions, a page.

Nothing in it tells of the machine: no folders, no names of users or hosts.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from stylenat.config import save_config, to_dict
from stylenat.config.yaml_file import write_yaml
from stylenat.explorer import Gallery, write_static
from stylenat.extras import require
from stylenat.files import check_can_fill, replacing
from stylenat.hub import FILE, HubModel, name_of
from stylenat.latents import LoadedModel, Settings, save_directions
from stylenat.marks import READ_BYTES, is_marked
from stylenat.metrics.scoring import run_of
from stylenat.publishing.about import About
from stylenat.publishing.card import card
from stylenat.publishing.facts import Measured, Training, read_scores, training_of
from stylenat.publishing.grid import write_grid
from stylenat.publishing.private import refuse_private
from stylenat.text import shell_word, shown

CARD, CONFIG, SCORES, DIRECTIONS, PAGE = (
    "README.md", "config.yaml", "scores.json", "directions.json", "explorer",
)  # fmt: skip
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
METADATA = {"stylenat_format", "stylenat_version", "kind", "config"}


@dataclass(frozen=True)
class Publication:
    """What is to be uploaded, and what the uploader says of it.

    `place`: the repository, and a branch of it. `license`: an identifier that the Hub knows, such
    as mit. `scores`: files of `stylenat fid --out`. `static`: with a page that runs the model in a
    browser; `ort` as in `stylenat explore`. `settings`: the snapshot, the device and the batch, and
    the psi of the sample grid. Raises ValueError for a licence that can be none, and if a package
    is absent.
    """

    model: str | Path
    place: HubModel
    license: str
    data_note: str | None = None
    scores: Sequence[Path] = ()
    directions: Path | None = None
    static: bool = False
    ort: Path | None = None
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "license", self.license.lower())  # SPDX has MIT, the Hub mit
        if LICENSE.fullmatch(self.license) is None:
            raise ValueError(
                "--license must be an identifier as the Hub has it, such as mit, apache-2.0, "
                f"cc-by-nc-4.0 or other: {shown(self.license)}"
            )
        if self.ort is not None and not self.static:
            raise ValueError("--ort is for the page of --static: give both, or neither")
        require("stylenat push", "huggingface-hub", extra="hub")
        if self.static:
            require("the page of --static", "onnx", "onnxscript", extra="export")


def write_folder(publication: Publication, folder: Path) -> list[Path]:
    """Write all that is uploaded into an empty folder; returns the files, sorted.

    Raises OSError and ValueError for a model, scores or directions that cannot be read or belong to
    another model, for a folder with files in it, and if a file would tell of this machine.
    """
    check_can_fill(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} must be an empty folder, or a new one: it holds files")
    model = LoadedModel(publication.model, publication.settings)
    version = _checked_version(model.file)
    run = run_of(str(model.file)) if name_of(model.file) is None else None
    training = None if run is None else training_of(run, model.file)
    measured = _measured(publication, model, training)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.file, folder / FILE)
    _write_config(model, training, folder / CONFIG)
    _write_scores(model, measured, folder / SCORES)
    directions = _write_directions(publication, model, folder)
    if publication.static:
        page = _Shown(publication, folder)
        write_static(page, folder / PAGE, ort=publication.ort)
    settings = publication.settings
    psi = 1.0 if settings.trunc is None else settings.trunc
    about = About(
        place=publication.place,
        license=publication.license,
        data_note=publication.data_note and " ".join(publication.data_note.split()),
        config=model.generator.config,
        sha256=model.sha256,
        parameters=sum(parameter.numel() for parameter in model.generator.parameters()),
        dtype=_dtype(model.file),
        version=version,
        copied_from=name_of(model.file),
        training=training,
        measured=measured,
        grid=write_grid(model.generator, folder, psi=psi, batch=settings.batch),
        directions=directions,
        has_page=publication.static,
    )
    _write_text(folder / CARD, card(about))
    refuse_private(folder, [model.file.parent])
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _checked_version(file: Path) -> str:
    """The StyleNAT that wrote a file. Raises ValueError unless its metadata is ours alone."""
    if file.suffix != ".safetensors":
        raise ValueError(
            f"{file} is no export, and only safetensors files are uploaded: give a run or a "
            "snapshot, or convert a published .pt with `stylenat convert`"
        )
    with safe_open(file, framework="pt") as opened:
        metadata: dict[str, str] = opened.metadata() or {}
    if odd := sorted(set(metadata) - METADATA):
        raise ValueError(
            f"{file} has metadata that StyleNAT did not write, and that everybody could read: "
            f"{shown(odd)}; load the model, and save it again with stylenat.save_generator"
        )
    return metadata.get("stylenat_version", "of an unknown version")


def _dtype(file: Path) -> str:
    """The types of a file's weights, as safetensors names them."""
    with safe_open(file, framework="pt") as opened:
        kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    return ", ".join(sorted(kind for kind in kinds if "F" in kind))


def _measured(
    publication: Publication, model: LoadedModel, training: Training | None
) -> tuple[Measured, ...]:
    """The run's own scores and those of files, each once."""
    kept = [*(training.measured if training else ())]
    for path in publication.scores:
        kept += [found for found in read_scores(path, model.sha256) if found not in kept]
    return tuple(kept)


# The files


def _write_config(model: LoadedModel, training: Training | None, path: Path) -> None:
    """The run's configuration, or what the model's file knows: the generator's."""
    if training is not None:
        save_config(training.config, path)
    else:
        write_yaml({"model": {"generator": to_dict(model.generator.config)}}, path)


def _write_scores(model: LoadedModel, measured: Sequence[Measured], path: Path) -> None:
    if measured:
        found = [each.to_dict() for each in measured]
        data = {"model": FILE, "model_sha256": model.sha256, "measured": found}
        _write_text(path, json.dumps(data, indent=2) + "\n")


def _write_directions(
    publication: Publication, model: LoadedModel, folder: Path
) -> tuple[tuple[str, str | None], ...]:
    """The directions, and those of their pictures that lie beside their file."""
    given = publication.directions
    if given is None:
        return ()
    found = model.load_directions(given)
    save_directions(found, folder / DIRECTIONS)
    named: list[tuple[str, str | None]] = []
    for direction in found.directions:
        source = given.with_suffix(f".{direction.name}.png")
        strip = Path(DIRECTIONS).with_suffix(f".{direction.name}.png").name
        is_there = source.is_file() and is_marked(source.read_bytes()[:READ_BYTES])
        if is_there:
            shutil.copyfile(source, folder / strip)
        named.append((direction.name, strip if is_there else None))
    return tuple(named)


class _Shown(Gallery):
    """The page's model, under the name that it will have, which its commands can use anywhere."""

    def __init__(self, publication: Publication, folder: Path) -> None:
        self.place = publication.place
        super().__init__(
            [folder / FILE],
            Settings(device=publication.settings.device),
            directions=folder / DIRECTIONS if publication.directions is not None else None,
            snapshots=False,
        )

    def about(self) -> dict[str, Any]:
        name = str(self.place)
        word = None if self.directions_file is None else DIRECTIONS
        models = [{"name": name, "word": shell_word(name)}]
        return {**super().about(), "models": models, "directions_word": word}


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
