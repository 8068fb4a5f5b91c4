"""`stylenat fid`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylenat.choices import METRICS_IN_WORDS, MODES
from stylenat.cli.options import (
    COMPILE,
    DEVICE,
    DTYPE,
    READ_BATCH,
    RESIZE,
    SEED,
    SNAPSHOT,
    TRUNC,
    TRUST,
    WORKERS,
    ModelName,
    UserPath,
    check_outputs,
)

if TYPE_CHECKING:
    from stylenat.metrics import Protocol, Scores


@click.command()
@click.argument("model", type=ModelName())
@click.option(
    "--data",
    metavar="DATA",
    help="The images to compare with: a folder, a zip, ...  [default: the run's own]",
)
@click.option(
    "--metrics",
    metavar="LIST",
    help=f"Which scores to measure, separated by commas. There are {METRICS_IN_WORDS}.  "
    "[default: the run's, or fid]",
)
@click.option(
    "-n",  # torchrun takes --num for the start of an option of its own
    "--num",
    type=int,
    metavar="N",
    help="How many images of either kind to compare.  [default: the run's, or 50000]",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="The feature network and how images are scaled for it.  [default: the run's, or "
    "legacy_pytorch]",
)
@click.option(
    "--weights",
    type=UserPath(),
    metavar="FILE",
    help="A file with the weights of the feature network, if the scores need only one.",
)
@TRUST
@click.option(
    "--reference",
    type=UserPath(),
    metavar="NPZ",
    help="A file with mu and sigma to compare with in place of --data; for fid and fd_... alone.",
)
@RESIZE
@click.option(
    "--per-class",
    is_flag=True,
    help="Measure each class of the model by itself, against the images of that class.",
)
@TRUNC
@SEED
@READ_BATCH
@WORKERS
@DEVICE
@DTYPE
@COMPILE
@SNAPSHOT
@click.option(
    "--rank",
    type=UserPath(),
    metavar="PNG",
    help="Also write a sheet of the first 64 images, from the most real to the least.",
)
@click.option(
    "--out",
    type=UserPath(),
    metavar="JSON",
    help="Write scores and protocol to this file.",
)
def fid(
    model: str,
    *,
    trust: bool,
    per_class: bool,
    trunc: float,
    seed: int,
    batch: int,
    workers: int,
    device: str,
    dtype_name: str,
    compiled: bool,
    snapshot: str,
    rank: Path | None,
    out: Path | None,
    **given: Any,
) -> None:
    """Measure FID and other scores of MODEL: an export, a run folder, a published .pt, images, or
    hf:USER/NAME[@REVISION] on the Hub.

    A run is compared with the data that it was trained on, by its own settings, unless others are
    given.
    Under torchrun, all processes share the work. The scores do not depend on their number.
    """
    from stylenat.distributed import is_main, pick_device, process_group
    from stylenat.hub import is_hub_name
    from stylenat.memory import keep_freed_memory
    from stylenat.metrics import protocol_of
    from stylenat.sampling import DTYPES, is_model, model_file

    check_outputs(rank, out, inputs=(model, *map(given.get, ("data", "weights", "reference"))))
    keep_freed_memory()
    if is_hub_name(model):  # once: a branch may move while the scores are measured
        model = str(model_file(model))
    chosen = pick_device(device)
    if given["metrics"] is not None:
        given["metrics"] = [name.strip() for name in given["metrics"].split(",") if name.strip()]
    protocol = protocol_of(model, **given)
    with process_group(chosen):
        settings: dict[str, Any] = {
            "device": chosen,
            "snapshot": snapshot,
            "trust_weights": trust,
            "truncation_psi": trunc,
            "seed": seed,
            "batch": batch,
            "workers": workers,
            "dtype": DTYPES[dtype_name],
            "compiled": compiled,
            "tell": click.echo if is_main() else lambda _: None,
        }
        content, lines, cautions = _measured(model, protocol, per_class=per_class, **settings)
        lines += [] if rank is None else _ranked(model, protocol, rank, **settings)
        if is_main():
            file = model_file(model, which=snapshot) if is_model(model) else None
            click.echo("\n".join(lines))
            for caution in cautions:
                click.echo(f"caution: {caution}", err=True)
            _write(content, model, file, out)


def _ranked(
    model: str, protocol: Protocol, path: Path, *, dtype: Any, compiled: bool, **settings: Any
) -> list[str]:
    """Write the sheet of `--rank`, whose images are made in float32 and without compilation."""
    from stylenat.metrics.nearest import write_realism_sheet

    return write_realism_sheet(model, protocol, path, **settings)


def _measured(
    model: str, protocol: Protocol, *, per_class: bool, **settings: Any
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Scores and their protocols, as JSON holds them, and as lines to print; then cautions."""
    from stylenat.metrics import score, score_classes

    if per_class:
        of_classes = score_classes(model, protocol, **settings)
        content = {name: scores.to_dict() for name, scores in of_classes.items()}
        cautions = {caution for scores in of_classes.values() for caution in scores.cautions}
        return {"classes": content}, _table(of_classes), sorted(cautions)
    scores = score(model, protocol, **settings)
    width = max(map(len, scores.values)) + 2
    lines = [f"{name:<{max(width, 12)}}{value:.6g}" for name, value in scores.values.items()]
    return scores.to_dict(), [*lines, scores.summary()], scores.cautions


def _table(of_classes: Mapping[str, Scores]) -> list[str]:
    """A line of scores for each class, and one of their means."""
    from stylenat.text import shortened

    names = {name: shortened(name) for name in of_classes}
    width = max(map(len, ("class", *names.values()))) + 2
    metrics = list(next(iter(of_classes.values())).values)
    lines = ["class".ljust(width) + "".join(f"{metric:>12}" for metric in metrics)]
    for name, scores in of_classes.items():
        numbers = "".join(f"{scores[metric]:>12.6g}" for metric in metrics)
        lines.append(names[name].ljust(width) + numbers)
    means = (sum(s[metric] for s in of_classes.values()) / len(of_classes) for metric in metrics)
    lines.append("mean".ljust(width) + "".join(f"{mean:>12.6g}" for mean in means))
    lines += [f"{names[name]}: {scores.summary()}" for name, scores in of_classes.items()]
    return lines


def _write(content: Mapping[str, Any], name: str, file: Path | None, out: Path | None) -> None:
    """Write scores and protocols to `out` if given; `file` holds the model's weights."""
    from stylenat.files import replacing, sha256_of
    from stylenat.hub import name_of

    if out is None:
        return
    subject = {"images": Path(name).name}
    if file is not None:
        subject = {"model": name_of(file) or file.name, "model_sha256": sha256_of(file)}
    with replacing(out) as temporary:
        temporary.write_text(json.dumps({**subject, **content}, indent=2) + "\n")
    click.echo(f"Written to {out}")
