"""The scores of a card: a table for people, and the same as the Hub keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stylenat.metrics.scores import title_of
from stylenat.publishing.about import About
from stylenat.publishing.facts import Measured
from stylenat.text import printable

TASK = "unconditional-image-generation"
UNKNOWN = "not recorded"
BAR = r"\|"  # in a cell of a table


def score_table(about: About) -> Iterator[str]:
    if not about.measured:
        yield "None are recorded. `stylenat fid` measures them."
        return
    of_classes = any(found.of_class is not None for found in about.measured)
    head = ("class",) if of_classes else ()
    columns = (*head, "score", "value", "images", "seeds", "psi", "against", "measured by")
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for found in about.measured:
        for name, value in found.scores.items():
            if (titled := title_of(name)) is not None:
                row = (code(found.of_class or "all"),) if of_classes else ()
                cells = (*row, titled[0], f"{value:.6g}", *_protocol(found, name))
                yield f"| {' | '.join(cells)} |"
    yield ""
    yield "Scores compare only if all of this is equal. `scores.json` holds the whole protocol."
    yield (
        "More is better for precision, recall, density, coverage and IS, less for all others. SWD "
        "and CMMD are times 1000."
    )


def _protocol(found: Measured, name: str) -> tuple[str, str, str, str, str]:
    """Images, seeds, psi, reference and network of a score, as the columns have them."""
    images, reference = (_section(found, name) for name in ("images", "reference"))
    if "file" in reference:
        against = code(str(reference["file"]))
    elif "num" in reference:
        fingerprint = str(reference.get("fingerprint", UNKNOWN))[:12]
        against = f"{reference['num']:,} of {reference.get('of', 0):,} images, `{fingerprint}`"
    else:
        against = UNKNOWN
    network = "patches, no network" if name == "swd" else _network(found, name)
    count = f"{images['num']:,}" if "num" in images else UNKNOWN
    psi = f"{images['truncation_psi']:g}" if "truncation_psi" in images else UNKNOWN
    return count, str(images.get("seeds", UNKNOWN)), psi, against, network


def _network(found: Measured, name: str) -> str:
    """The feature network of a score. Earlier protocols held one network, not one per space."""
    networks = _section(found, "features")
    if "network_sha256" in networks or "mode" in networks:
        networks = {"inception": networks}
    kind, _, space = name.partition("_")
    space = space or {"cmmd": "clip", "is": "inception_classes"}.get(kind, "inception")
    features = networks.get(space)
    if not isinstance(features, dict):
        return space if kind == "ppl" and space != "inception" else UNKNOWN
    published = "" if features.get("network_is_published") else ", not the published network"
    return f"{features.get('mode', space)}{published}"


def code(text: str) -> str:
    """A text as it is, in a cell of a table."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', BAR)}`"


def _section(found: Measured, name: str) -> dict[str, Any]:
    section = found.protocol.get(name)
    return section if isinstance(section, dict) else {}


def eval_results(about: About) -> Iterator[Any]:
    """The same for the Hub, which keeps one result for each data set and metric."""
    from huggingface_hub import EvalResult

    path = about.training and about.training.config.data.path
    for found in about.measured:
        images, reference = (_section(found, name) for name in ("images", "reference"))
        fingerprint = reference.get("fingerprint") or reference.get("sha256")
        unnamed = f"images of fingerprint {str(fingerprint)[:12]}"
        for name, value in found.scores.items():
            if (titled := title_of(name)) is None:
                continue
            count = f", {images['num']:,} images" if "num" in images else ""
            of_class = "" if found.of_class is None else f", class {found.of_class}"
            yield EvalResult(
                task_type=TASK,
                dataset_type="custom",
                dataset_name=printable(path or reference.get("file") or unnamed),
                dataset_revision=fingerprint,
                metric_type=name,
                metric_name=f"{titled[0]}{count}{of_class}",
                metric_value=value,
                metric_args=dict(found.protocol),
            )
