"""Directions that labels give: how w differs with one label while the other labels stay.

Two ridge regressions (Hoerl and Kennard 1970), on the mean w of the chosen blocks. That of w on all
labels at once has one row for each label: its direction. That of the labels on w tells how well w
knows a label; it is fitted to four fifths of the styles and judged by the rest, five times.

Legend: N styles, L blocks, S style_dim, K labels.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat.files import naming, user_path
from stylenat.latents.directions import check_names
from stylenat.sampling import NamedWs
from stylenat.text import listed, shown

MOST_BYTES = 16 << 20  # of a table
MOST_LABELS = 100
FEWEST = 10  # styles with a label
FOLDS = 5
# Of the mean diagonal of what is inverted. Labels are few and hardly depend on each other; w has as
# many dimensions as there may be styles.
LABEL_RIDGE, W_RIDGE = 0.01, 1.0


@dataclass(frozen=True)
class Labelled:
    """Styles, ws [N, L, S], and what their images show: values [N, K], NaN where it is unknown."""

    names: tuple[str, ...]  # of the labels
    ws: Tensor
    values: Tensor


def read_labels(path: str | Path, styles: NamedWs) -> Labelled:
    """The labels of styles, out of a CSV table with a column `name` and one for each label.

    An empty cell is unknown. Rows of names that no style has are left out. Raises OSError for a
    file that cannot be read, and ValueError, one sentence that names it, for a table that is none,
    for a style without a row, and for a label that fewer than 10 styles have, or all alike.
    """
    path = user_path(path)
    header, rows = _table(path)
    missing = [name for name in styles.names if name not in rows]
    if missing:
        raise ValueError(f"{path} must have a row for every style, and lacks {listed(missing)}")
    values_NK = torch.tensor([rows[name] for name in styles.names], dtype=torch.float64)
    for name, column in zip(header, values_NK.T, strict=True):
        known = column[~column.isnan()]
        if len(known) < FEWEST or not known.min() < known.max():
            raise ValueError(
                f"{path}: at least {FEWEST} styles must have the label {name}, and not all the "
                f"same: {len(known)} have it; give more styles, or leave the column out"
            )
    return Labelled(header, styles.ws, values_NK)


def _table(path: Path) -> tuple[tuple[str, ...], dict[str, list[float]]]:
    """The labels of a table, and its rows by name."""
    with naming(path):
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(
                f"{path} must be at most {MOST_BYTES:,} bytes, as tables are: {size:,}"
            )
        raw = path.read_bytes()
    try:
        lines = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV table in UTF-8: {error}") from error
    header = lines[0] if lines else []
    if header[:1] != ["name"] or not 2 <= len(header) <= MOST_LABELS + 1:
        raise ValueError(
            f"the first line of {path} must be name and 1 to {MOST_LABELS} labels, such as "
            f"name,glasses,hair: {shown(header)}"
        )
    try:
        check_names(header[1:])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rows: dict[str, list[float]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header) or line[0] in rows:
            raise ValueError(
                f"{path}, line {number}, must have {len(header)} cells and a name of its own: "
                f"{shown(line)}"
            )
        rows[line[0]] = [_number(path, number, text) for text in line[1:]]
    return tuple(header[1:]), rows


def _number(path: Path, line: int, text: str) -> float:
    if not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not abs(value) < 1e9:
        raise ValueError(f"{path}, line {line}: a label must be a number or empty: {shown(text)}")
    return value


def fitted(labelled: Labelled, blocks: Sequence[int]) -> tuple[Tensor, dict[str, Any]]:
    """Unit vectors [S, K] along which w differs with each label, and how well w tells it.

    Raises ValueError for a label with which w does not differ.
    """
    w_NS = labelled.ws[:, list(blocks)].double().mean(1)
    w_NS = w_NS - w_NS.mean(0)
    values_NK = labelled.values
    means_K = values_NK.nanmean(0)
    centered_NK = (values_NK - means_K).nan_to_num()  # an unknown label counts as the mean one
    labels_NK = centered_NK / centered_NK.square().mean(0).sqrt()
    vectors_KS = _ridge(labels_NK, w_NS, LABEL_RIDGE)
    lengths_K = vectors_KS.norm(dim=1)
    for name, length in zip(labelled.names, lengths_K.tolist(), strict=True):
        if not 0 < length < math.inf:
            raise ValueError(f"w does not differ with the label {name}: leave its column out")
    told = {
        name: _told(w_NS, column) for name, column in zip(labelled.names, values_NK.T, strict=True)
    }
    return (vectors_KS / lengths_K[:, None]).T, {"styles": len(w_NS), "told": told}


def _ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """The matrix B for which x B is most like y, at a price for the squares of B."""
    products = x.mT @ x
    price = ridge * products.diagonal().mean()
    return torch.linalg.solve(products + price * torch.eye(len(products)).to(x), x.mT @ y)


def _told(w_NS: Tensor, values_N: Tensor) -> dict[str, float]:
    """How well w tells a label of styles that it was not fitted to.

    Of a label that is 0 or 1: the share that is told right (`right`), and the share that always
    saying the more frequent one would tell right (`chance`). Of another: the share of its variance
    that is told (`r2`); below 0 the mean would tell more.
    """
    known = ~values_N.isnan()
    w_NS, values_N = w_NS[known], values_N[known]
    order = torch.randperm(len(values_N), generator=torch.Generator().manual_seed(0))
    said_N = torch.empty_like(values_N)
    for fold in range(FOLDS):
        out = torch.zeros(len(order), dtype=torch.bool)
        out[order[fold::FOLDS]] = True
        mean_S, mean = w_NS[~out].mean(0), values_N[~out].mean()
        B = _ridge(w_NS[~out] - mean_S, values_N[~out] - mean, W_RIDGE)
        said_N[out] = (w_NS[out] - mean_S) @ B + mean
    if bool(((values_N == 0) | (values_N == 1)).all()):
        right = float(((said_N > 0.5) == (values_N > 0.5)).double().mean())
        share = float(values_N.mean())
        return {"right": right, "chance": max(share, 1 - share)}
    errors = (said_N - values_N).square().mean() / values_N.var(correction=0)
    return {"r2": 1 - float(errors)}


def remarks_of_labels(about: dict[str, Any]) -> list[str]:
    """What a user should know of directions that were fitted, a sentence for each label."""
    sentences = []
    for name, told in about["told"].items():
        if "r2" in told:
            sentences.append(f"{name}: w tells {told['r2']:.0%} of its variance")
        else:
            sentences.append(
                f"{name}: w tells {told['right']:.0%} right, and the more frequent answer "
                f"{told['chance']:.0%}"
            )
    return [f"from {about['styles']} styles; what w tells is of styles that were held out",
            *sentences]  # fmt: skip
