"""All scores of a model that need no download, over the truncation: a JSON file and a table.

`python -m tools.score_table MODEL --data faces:20000 --out scores.json`
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from stylenat.data import open_images
from stylenat.files import replacing, sha256_of
from stylenat.machine import environment
from stylenat.metrics import Evaluator
from stylenat.sampling import load_model, model_file

METRICS = (
    *(f"{metric}_effnet_lite0" for metric in ("fd", "kd", "pr", "dc", "mind")),
    "ppl_effnet_lite0",
    "swd",
)
FEW = ("ppl_effnet_lite0",)  # measured on fewer images, since each takes two in float64
FEW_IMAGES = 500


@click.command()
@click.argument("model")
@click.option("--data", required=True, help="The images to compare with.")
@click.option("--num", default=2000, show_default=True, help="How many images of either kind.")
@click.option("--psi", default="0.4,0.6,0.7,0.8,0.9,1", show_default=True, help="Truncations.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
def score_table(model: str, data: str, num: int, psi: str, out: Path) -> None:
    """Measure MODEL at each truncation, and real images against other real ones."""
    generator = load_model(model)
    images = open_images(data, resolution=generator.resolution)
    comparing = [name for name in METRICS if name not in FEW]
    evaluator = Evaluator(comparing, images, num=num)
    others = open_images(data, resolution=generator.resolution, seed=1)
    scores = evaluator.score_images(others)
    rows = [{"of": "other real images", **scores.values}]
    alone = Evaluator(FEW, None, num=min(num, FEW_IMAGES))
    for value in map(float, psi.split(",")):
        scores = evaluator(generator, truncation_psi=value)
        values = {**scores.values, **alone(generator, truncation_psi=value).values}
        rows.append({"of": f"psi {value:g}", **values})
        click.echo(json.dumps(rows[-1]))
    file = model_file(model)
    protocol = {name: part for name, part in scores.protocol.items() if name != "images"}
    content = {
        "model": file.name,
        "model_sha256": sha256_of(file),
        "num": num,
        "num_of": {name: min(num, FEW_IMAGES) for name in FEW},
        "machine": environment(torch.device("cpu")),
        "protocol": protocol,
        "rows": rows,
    }
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    click.echo(table(rows))


def table(rows: list[dict[str, object]]) -> str:
    """The rows as a table in Markdown, by the names of the last one."""
    names = [name for name in rows[-1] if not name.startswith("swd_")]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        cells = (row.get(name, "") for name in names)
        lines.append(
            "| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in cells) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    score_table()
