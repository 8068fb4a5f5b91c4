"""`train.init_from`: the networks of a new run begin with the tensors of a model that there is.

`matching` finds out which tensor goes where.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylenat.config import RunConfig, load_config, shipped_configs
from stylenat.export import load_discriminator
from stylenat.files import naming, user_path
from stylenat.hub import is_hub_name, pull
from stylenat.layout import RunPaths
from stylenat.legacy import convert_all
from stylenat.models import Discriminator, Generator
from stylenat.sampling import load_generator, model_name
from stylenat.text import shortened
from stylenat.training.checkpoint import newest_checkpoint
from stylenat.training.matching import VECTORS, WEIGHT, Match, Network, match, shown_name
from stylenat.training.state import NETWORKS, TrainingState
from stylenat.untrusted import ZIP_MAGIC

# What the released files of the first format leave out, above all dilations. No tensor depends on
# it, but a network cannot be built without it.
PUBLISHED = ("ffhq256", "ffhq1024", "church256")

# The files of a folder that holds a model.
FILE_G, FILE_D = "model.safetensors", "discriminator.safetensors"


@dataclass(frozen=True)
class Model:
    """What `train.init_from` names: a file and its networks by the names of a training state.

    `file_d` is the file of D, if that is another one.
    """

    file: Path
    networks: Mapping[str, Network]
    file_d: Path | None = None

    @property
    def name(self) -> str:
        """The file's path, or `hf:user/name@commit`."""
        return model_name(self.file)


@dataclass(frozen=True)
class Transfer:
    """A model and what a run's networks take from it, ready to be applied."""

    model: Model
    matches: Mapping[str, Match]
    report: tuple[str, ...]

    @torch.no_grad()
    def apply(self, state: TrainingState) -> None:
        """Copy all that matches into the state's networks, whatever their device is."""
        for name, found in self.matches.items():
            own = getattr(state, name).state_dict()
            given = self.model.networks[name].state_dict()
            for target, source in found.copied.items():
                own[target].copy_(given[source])
                for vector in VECTORS if target.endswith(WEIGHT) else ():
                    key, source_key = (n.removesuffix(WEIGHT) + vector for n in (target, source))
                    own[key].copy_(given[source_key])
            for target, source in found.widened.items():
                _widen(own[target], given[source])


def plan_transfer(config: RunConfig) -> Transfer | None:
    """What a new run takes from the model that it begins with; None if it begins with none.

    Raises OSError if the model cannot be read, and ValueError, one sentence that names the file, if
    it holds no generator or none of whose weights one fits the run's, and if a frozen mapping
    network would have to learn classes.
    """
    if config.train.init_from is None:
        return None
    model = read_model(config.train.init_from, config)
    with torch.device("meta"):
        G = Generator(config.model.generator)
        D = Discriminator(config.model.discriminator)
    targets: dict[str, Network] = {"G": G, "D": D, "G_ema": G}
    matches = {name: match(targets[name], model.networks[name]) for name in model.networks}
    if not any(name.endswith("weight") for name in matches["G"].copied):
        raise ValueError(
            f"{model.name}: no weight of its generator has the name and shape of one in "
            "model.generator, so that nothing could be learned from it; give train.init_from a "
            "model of the same widths, or change model.generator"
        )
    if config.train.freeze_mapping and matches["G"].widened:
        raise ValueError(
            f"{model.name} has no classes, and with train.freeze_mapping its mapping network would "
            "never learn those of model.classes: leave one of the two out"
        )
    return Transfer(model, matches, tuple(_report(config, model, matches)))


def _widen(own_OI: Tensor, given_OI: Tensor) -> None:
    """Fill a weight of an equalised layer so that only the inputs that the other has count.

    The layer divides by the root of its inputs' number, which is made up for.
    """
    inputs, of_given = own_OI.shape[1], given_OI.shape[1]
    own_OI.zero_()
    own_OI[:, :of_given] = given_OI * math.sqrt(inputs / of_given)


# Reading


def read_model(path: str | Path, config: RunConfig) -> Model:
    """The networks in whatever holds some, on the CPU. Raises as `plan_transfer` says.

    Of a run, the newest training state; of another folder, `model.safetensors`, and D from
    `discriminator.safetensors` if it is there. Where a file holds one generator, it is G and the
    average.
    """
    if is_hub_name(path):
        file = pull(path, beside=(FILE_D,))
        return _of_generator(file, file.parent)
    path = user_path(path)
    file = _file_of(path)
    with naming(file), file.open("rb") as opened:
        is_zip = opened.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if not is_zip or file.suffix == ".safetensors":
        # It also finds the sentence for what is no model.
        return _of_generator(file, path)
    shipped = shipped_configs()
    configs = [config, None, *(load_config(shipped[name]) for name in PUBLISHED)]
    held = convert_all(file, configs=configs)
    networks: dict[str, Network | None] = {
        "G": held.get("g"),
        "D": held.get("d"),
        "G_ema": held.get("g_ema"),
    }
    networks["G"] = networks["G"] or networks["G_ema"]
    networks["G_ema"] = networks["G_ema"] or networks["G"]
    if networks["G"] is None:
        raise ValueError(f"{file} holds no generator: only {', '.join(held)}")
    return _model(file, networks, None)


def _of_generator(file: Path, folder: Path) -> Model:
    """A file's generator, and the discriminator if `folder` is one that holds it."""
    generator = load_generator(file)
    networks: dict[str, Network | None] = {"G": generator, "G_ema": generator}
    file_d = folder / FILE_D if (folder / FILE_D).exists() else None
    if file_d is not None:
        networks["D"] = load_discriminator(file_d)
    return _model(file, networks, file_d)


def _model(file: Path, networks: Mapping[str, Network | None], file_d: Path | None) -> Model:
    held = {name: found for name in NETWORKS if (found := networks.get(name)) is not None}
    return Model(file, held, file_d)


def _file_of(path: Path) -> Path:
    """The file of the generator: `path` itself, or one of the folder that it is."""
    if not path.is_dir():
        return path
    run = RunPaths(path)
    if not run.config.is_file():
        if (path / FILE_G).exists():
            return path / FILE_G
        raise ValueError(
            f"{path} is a folder, but no run and no model: it holds neither config.yaml nor "
            f"{FILE_G}; give train.init_from a folder that does, or a file"
        )
    newest = newest_checkpoint(run.checkpoints)
    if newest is None:
        raise ValueError(
            f"{path} is a run without a training state: give train.init_from one of its "
            "snapshots, if it has some"
        )
    return newest


# Reporting


def _report(config: RunConfig, model: Model, matches: Mapping[str, Match]) -> Iterator[str]:
    counts = ", ".join(
        f"{len(matches[name].copied)} of {matches[name].count} tensors of {name}"
        for name in NETWORKS
        if name in matches
    )
    if "D" not in matches:
        whence = "; it holds no D, which starts anew"
    else:
        whence = f"; D is from {model.file_d}" if model.file_d else ""
    yield f"{model.name}: {counts}{whence}"
    for name, found in matches.items():
        if name == "G_ema" and found == matches["G"]:
            continue
        whose = "G and G_ema" if name == "G" and found == matches.get("G_ema") else name
        own = {shown_name(key) for key in found.copied} | {*found.new, *found.widened}
        own |= {entry.partition(" ")[0] for entry in found.of_another_shape}
        given = {shown_name(key) for key in found.copied.values()}
        given |= {*found.left_over, *found.widened.values()}
        given |= {entry.partition(" ")[0] for entry in found.of_another_shape}
        for reason, entries in (
            ("new, as drawn from train.seed", _folded(found.new, own)),
            ("left over in the model", _folded(found.left_over, given)),
            ("of another shape, and so new", list(found.of_another_shape)),
            ("copied for z, 0 for the class", list(found.widened)),
        ):
            if entries:
                yield f"{whose}, {reason}: {', '.join(entries)}"
    yield from _other_settings(config, model)


def _folded(names: Collection[str], every: Collection[str]) -> list[str]:
    """The names, those of a module with no other tensors as one entry: `levels.6 (34 tensors)`."""
    others = set(every) - set(names)
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        modules = (".".join(parts[:length]) for length in range(1, len(parts)))
        whole = (
            module for module in modules if not any(o.startswith(f"{module}.") for o in others)
        )
        entry = next(whole, name)
        counts[entry] = counts.get(entry, 0) + 1
    return [f"{name} ({n} tensors)" if n > 1 else name for name, n in counts.items()]


def _other_settings(config: RunConfig, model: Model) -> Iterator[str]:
    """Settings that no tensor tells, but that change what the copied tensors make."""
    G = model.networks["G"]
    assert isinstance(G, Generator)
    here, there = config.model.generator, G.config
    pairs: list[tuple[str, object, object]] = [
        (name, getattr(there, name), getattr(here, name))
        for name in ("pixel_space", "mapping_lr_multiplier", "qk_scale")
    ]
    if there.classes:
        pairs.append(("class_names", there.class_names, here.class_names))
    for index, (old, new) in enumerate(zip(there.levels, here.levels, strict=False)):
        pairs.append((f"levels[{index}].heads", old.heads, new.heads))
        pairs.append((f"levels[{index}].attention", old.attention, new.attention))
    other = [
        f"{name} ({shortened(str(old))} there, {shortened(str(new))} here)"
        for name, old, new in pairs
        if old != new
    ]
    if other:
        yield f"settings of model.generator that the model was not trained with: {', '.join(other)}"
