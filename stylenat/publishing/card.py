"""A model's card, README.md: facts alone, and what is not known is said to be not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stylenat.hub import FILE, is_hub_name, parse_name
from stylenat.models import GeneratorConfig, LevelConfig
from stylenat.models.levels import Windows
from stylenat.publishing.about import About
from stylenat.publishing.facts import Training
from stylenat.publishing.grid import FILE as GRID
from stylenat.publishing.score_table import TASK, UNKNOWN, code, eval_results, score_table

TAGS = ("stylenat", TASK, "gan", "neighborhood-attention")


def card(about: About) -> str:
    """The text of README.md. Raises ValueError if huggingface_hub refuses the front matter."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        license=about.license,
        library_name="stylenat",
        pipeline_tag=TASK,
        tags=list(TAGS),
        base_model=_base_model(about),
        model_name=about.title,
        eval_results=[*eval_results(about)] or None,
    )
    if data.eval_results is None:
        data.pop("model_name")  # it would stand there without the results that it is for
    parts = [
        _beginning(about),
        _use(about),
        _purpose(),
        "\n".join(["## How it was trained", "", *_training(about)]),
        "\n".join(["## Scores", "", *score_table(about)]),
        "\n".join(["## The generator", "", *_generator(about.config)]),
        *_extras(about),
        _licence(about),
    ]
    body = "\n\n".join(part.strip() for part in parts)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def _base_model(about: About) -> str | None:
    if about.copied_from is not None:
        return parse_name(about.copied_from).repository
    begun = about.training and about.training.config.train.init_from
    return parse_name(begun).repository if begun and is_hub_name(begun) else None


# What stands above the scores


def _beginning(about: About) -> str:
    side = about.config.resolution
    classes = about.config.classes
    of_classes = f" of {classes} classes" if classes else ""
    copied = f"\n\nThis file is a copy of `{about.copied_from}`." if about.copied_from else ""
    rows = f"a row for each of {_classes_shown(about)}" if classes else "none was chosen by hand"
    return f"""# {about.title}

This generator makes images of {side}x{side} pixels{of_classes}. {_kind(about.config)}{copied}

![{about.grid.count} images]({GRID})

Images of the seeds {about.grid.seeds} at truncation psi {about.grid.psi:g}; {rows}. They were made
with {about.grid.hardware}, float32, PyTorch {about.grid.torch}."""


def _kind(config: GeneratorConfig) -> str:
    if any(isinstance(level.attention, Windows) for level in config.levels):
        return (
            "It is a style-based GAN\nwhose attention heads look at windows of the image, as in "
            "StyleSwin\n([arXiv 2112.10762](https://arxiv.org/abs/2112.10762))."
        )
    return (
        "It is a StyleNAT\n([arXiv 2211.05770](https://arxiv.org/abs/2211.05770)): a style-based "
        "GAN whose attention\nheads look at the pixels around each pixel, some of them at every "
        "n-th pixel of a larger area."
    )


def _classes_shown(about: About) -> str:
    """`all 3 classes`, or `the first 8 of 40 classes`."""
    shown, classes = about.grid.rows, about.config.classes
    return f"all {classes} classes" if shown == classes else f"the first {shown} of {classes}"


def _use(about: About) -> str:
    side = about.config.resolution
    label = ", labels" if about.config.classes else ""
    labels = "    labels = torch.zeros(4, dtype=torch.int64)  # the class of each image\n"
    return f"""## Use it

Install StyleNAT with its extra `hub`. Then, in a shell:

```
stylenat sample {about.place} --seeds 0-15{" --class all" if label else ""} --outdir out
```

or in Python:

```python
import stylenat
import torch

generator = stylenat.load_generator("{about.place}")
with torch.no_grad():
    z = torch.randn(4, generator.z_dim)
{labels if label else ""}    pixels = generator.to_uint8(generator(z{label}))
```

`pixels` is [4, {side}, {side}, 3], from 0 to 255."""


def _purpose() -> str:
    return """## What it is for

It is for making images, and for studying how such a generator works. An image shows nothing that
exists: it is no evidence of anything. The images have the gaps and the bias of those that the
generator was trained on. How alike they are to single training images is not recorded here."""


def _training(about: About) -> Iterator[str]:
    training = about.training
    if training is None:
        yield "No training run came with this file, so the following is not recorded: the images,"
        yield "their number, how long it was trained, on what hardware, and by which recipe."
        return
    yield "| what | value |"
    yield "|---|---|"
    for name, value in _training_rows(training):
        yield f"| {name} | {UNKNOWN if value is None else value} |"
    yield ""
    yield "`config.yaml` holds all settings of the run. Folders are left out of its paths."


def _training_rows(training: Training) -> Iterator[tuple[str, object]]:
    config = training.config
    data, train = config.data, config.train
    yield "images", data.path and code(data.path)
    yield "number of images", None if training.images is None else f"{training.images:,}"
    yield "their fingerprint", training.fingerprint and f"`{training.fingerprint}`"
    yield "mirrored at random", "yes" if data.mirror else "no"
    nimg = training.nimg
    yield "trained on", None if nimg is None else f"{nimg / 1000:,g} kimg (thousands of images)"
    yield "snapshot", training.choice
    yield "time", None if training.seconds is None else _duration(training.seconds)
    yield "hardware (processes x device)", training.hardware
    yield "precision", train.precision
    yield "batch", train.batch
    yield "begun with", code(train.init_from) if train.init_from else "random weights"
    yield "augmentation", train.augment
    yield "loss", f"{train.loss}, R1 {train.r1_gamma:g}, R2 {train.r2_gamma:g}"
    yield "seed", train.seed


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


# What stands below


def _generator(config: GeneratorConfig) -> Iterator[str]:
    yield f"z has {config.z_dim} numbers and w has {config.style_dim}. The mapping network has"
    yield f"{config.mapping_layers} layers. Each of the {config.num_ws} blocks takes its own w."
    yield ""
    yield "| level | channels | blocks | heads |"
    yield "|---|---|---|---|"
    for level in config.levels:
        side = f"{level.resolution}x{level.resolution}"
        yield f"| {side} | {level.channels} | {level.blocks} | {_attention(level)} |"


def _attention(level: LevelConfig) -> str:
    attention = level.attention
    if attention == "global":
        return f"{level.heads} see the whole map"
    if isinstance(attention, Windows):
        side = f"{attention.window_size}x{attention.window_size}"
        return f"{level.heads} in windows of {side}"
    return ", ".join(
        f"{group.heads} of kernel {group.kernel_size}"
        + (f", dilation {group.dilation}" if group.dilation > 1 else "")
        for group in attention
    )


def _extras(about: About) -> Iterator[str]:
    if about.directions:
        yield "\n".join(["## Directions", "", *_directions(about.directions)])
    if about.has_page:
        yield f"""## A page to walk through it

The folder `explorer` is a page that runs the generator in a browser, without a server:

```
hf download {about.place.repository}{_revision(about)} --include "explorer/*" --local-dir page
python -m http.server --directory page/explorer 8000
```"""


def _revision(about: About) -> str:
    return "" if about.place.revision is None else f" --revision {about.place.revision}"


def _directions(directions: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    yield "`directions.json` holds directions of w that change the images, for `stylenat edit` and"
    yield "`stylenat film`. Their names are the uploader's. In each picture, every row is a seed."
    for name, strip in directions:
        yield ""
        yield f"- {name}" + (f"\n\n  ![{name}]({strip})" if strip else "")


def _licence(about: About) -> str:
    note = "Whoever uploaded the model did not say where its training images come from."
    if about.data_note is not None:
        note = f"Of the training images, the uploader says:\n\n> {about.data_note}"
    return f"""## Licence, and where the images come from

The licence of the model is `{about.license}`. {note}

`{FILE}` has SHA-256 `{about.sha256}`, {about.parameters / 1e6:.3f} million parameters of
type {about.dtype}, and was written by StyleNAT {about.version}."""
