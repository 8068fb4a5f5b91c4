"""`stylenat attention`: the numbers and pictures of all head groups, in a folder.

Legend: N styles, L blocks, S style_dim.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stylenat.files import replacing
from stylenat.latents.ablation import lost_without
from stylenat.latents.attention_maps import (
    HeadSummary,
    Place,
    Weights,
    attention_weights,
    left_out,
    mean_of,
    summaries,
)
from stylenat.latents.attention_pictures import bias_sheet, query_sheet
from stylenat.latents.blocks import all_blocks
from stylenat.latents.loaded import LoadedModel
from stylenat.progress import progress_bar
from stylenat.sampling import Styles, save_sheet

COLUMNS = (
    "level", "block", "group", "looks at, pixels", "equal weights", "entropy", "at most",
    "on itself", "spread of the bias", "change without it", "coarse",
)  # fmt: skip


@dataclass(frozen=True)
class GroupReport:
    """A head group: its heads' summaries, the standard deviation of its bias tables (0.02 before
    training), and what images lose without it: the root mean square change of pixels, 0 to 255, and
    the share of the squared change that is coarse."""

    place: Place
    heads: list[HeadSummary]
    bias_std: float
    change: float
    coarse_share: float

    def line(self) -> tuple[str, ...]:
        """The row of the table, means over the heads."""
        place, heads = self.place, self.heads

        def mean(name: str) -> float:
            return sum(getattr(head, name) for head in heads) / len(heads)

        kind = f"{place.heads} heads, "
        kind += f"dilation {place.dilation}" if place.kernel_size else "global"
        return (
            f"{place.resolution}x{place.resolution}",
            str(place.block),
            kind,
            f"{mean('distance'):.1f}",
            f"{mean('uniform_distance'):.1f}",
            f"{mean('entropy'):.2f}",
            f"{mean('uniform_entropy'):.2f}",
            f"{mean('on_itself'):.1%}",
            f"{self.bias_std:.2f}",
            f"{self.change:.1f}",
            f"{self.coarse_share:.0%}",
        )


def check_place(at: tuple[int, int], side: int) -> None:
    """Raises ValueError unless the pixel is in the image."""
    if not (0 <= at[0] < side and 0 <= at[1] < side):
        raise ValueError(f"--at must be x,y inside the image, {side}x{side}: {at[0]},{at[1]}")


def write_report(
    model: LoadedModel, styles: Styles, outdir: Path, *, at: tuple[int, int] | None
) -> list[GroupReport]:
    """Write attention.json, attention.md and the pictures of each head group to `outdir`.

    Numbers are means over all styles; pictures show the first style, and the query at pixel `at`,
    the middle if None. Raises ValueError for a pixel outside the image, and for a model all of
    whose levels have windows.
    """
    generator = model.generator
    side = generator.resolution
    at = (side // 2, side // 2) if at is None else at
    check_place(at, side)
    outdir.mkdir(parents=True, exist_ok=True)
    parts: dict[Place, list[tuple[int, list[HeadSummary], float, float]]] = {}
    with progress_bar("Images", len(styles)) as advance:
        for _, ws_BLS in styles.batches(range(len(styles)), batch=model.settings.batch):
            is_first = not parts
            for found in attention_weights(generator, ws_BLS):
                lost = lost_without(generator, ws_BLS, found.place)
                part = (len(ws_BLS), summaries(found, side), *lost)
                parts.setdefault(found.place, []).append(part)
                if is_first:
                    _draw(model, found, next(model.images(ws_BLS[:1]))[0], at, outdir)
            advance(len(ws_BLS))
    if not parts:
        raise ValueError(f"{model.name} has no attention to show: its levels all have windows")
    reports = [_joined(place, of_place, _bias(model, place)) for place, of_place in parts.items()]
    _write_text(outdir / "attention.md", table(reports))
    _write_text(outdir / "attention.json", json.dumps(_data(model, styles, reports), indent=1))
    return reports


def _draw(
    model: LoadedModel, found: Weights, image_HW3: Tensor, at: tuple[int, int], outdir: Path
) -> None:
    """The two pictures of a head group."""
    place = found.place
    name = f"level{place.resolution:04d}_block{place.block:02d}_group{place.group}"
    save_sheet(query_sheet(found, image_HW3, at), outdir / f"{name}.png")
    save_sheet(bias_sheet(_bias(model, place)), outdir / f"{name}_bias.png")


def _joined(
    place: Place, parts: list[tuple[int, list[HeadSummary], float, float]], rpb: Tensor
) -> GroupReport:
    """A group's report out of those of batches."""
    counts, heads, squares, coarse_squares = zip(*parts, strict=True)
    square, coarse = (
        sum(count * part for count, part in zip(counts, of_batches, strict=True)) / sum(counts)
        for of_batches in (squares, coarse_squares)
    )
    return GroupReport(
        place,
        [mean_of(head, counts) for head in zip(*heads, strict=True)],
        bias_std=float(rpb.std()),
        change=square**0.5,
        coarse_share=coarse / square if square else 0.0,
    )


def table(reports: list[GroupReport]) -> str:
    """The groups as a table in Markdown."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(report.line() for report in reports)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _bias(model: LoadedModel, place: Place) -> Tensor:
    rpb = all_blocks(model.generator)[place.block].attention.rpb
    return (rpb[place.group] if place.kernel_size else rpb).detach()


def _data(model: LoadedModel, styles: Styles, reports: list[GroupReport]) -> dict[str, Any]:
    return {
        "model_sha256": model.sha256,
        "styles": [styles.name(index) for index in range(len(styles))],
        "truncation_psi": model.settings.trunc,
        "levels_left_out": left_out(model.generator),
        "groups": [
            {
                "place": report.place.label,
                "bias_std": report.bias_std,
                "change": report.change,
                "coarse_share": report.coarse_share,
                "heads": [head.as_dict() for head in report.heads],
            }
            for report in reports
        ],
    }


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
