"""Draws faces, and writes what each one shows into a table: pictures with known labels.

    python scripts/labelled_faces.py FOLDER COUNT

FOLDER gets COUNT pictures of 64x64, face-0000.png and so on, and labels.csv. Every second face
wears glasses, so that half of them do. No face is one of those that configs/faces*.yaml train on.
`stylenat directions --method fit` reads the table.
"""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path

from PIL import Image

from stylenat.data import draw_face
from stylenat.data._face_parts import mix
from stylenat.data.faces import what_is_drawn

SERIES = 1  # of faces; training draws those of series 0
RESOLUTION = 64
LUMA = (0.299, 0.587, 0.114)  # of R, G and B in the lightness of a color


def lightness(color: tuple[float, float, float]) -> float:
    """From 0, black, to 1, white."""
    return sum(share * value for share, value in zip(LUMA, color, strict=True)) / 255


def labels_of(index: int) -> dict[str, float | None]:
    """What the face of this number shows: 0 or 1 for no or yes, or a number; None if unknown."""
    face = what_is_drawn(index, seed=SERIES)
    is_bald = face.hairstyle.volume == 0
    red, green, blue = mix(*face.background, 0.5)
    return {
        "glasses": int(face.glasses is not None),
        "hair": None if is_bald else round(lightness(face.hair), 3),
        "skin": round(lightness(face.skin), 3),
        "beard": int(face.beard != "none"),
        "long_hair": int(face.hairstyle.length > 0),
        "smile": round(face.smile, 4),
        "background_red": round(red / 255, 3),
        "background_green": round(green / 255, 3),
        "background_blue": round(blue / 255, 3),
    }


def chosen(count: int) -> list[int]:
    """The numbers of the first faces, every second one with glasses."""
    with_glasses = (index for index in itertools.count() if labels_of(index)["glasses"])
    without = (index for index in itertools.count() if not labels_of(index)["glasses"])
    return [next(with_glasses if place % 2 else without) for place in range(count)]


def write(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["name", *labels_of(0)], lineterminator="\n")
        table.writeheader()
        for place, index in enumerate(chosen(count)):
            name = f"face-{place:04d}"
            Image.fromarray(draw_face(index, RESOLUTION, seed=SERIES)).save(folder / f"{name}.png")
            table.writerow({"name": name, **labels_of(index)})


def main() -> None:
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit("Usage: python scripts/labelled_faces.py FOLDER COUNT")
    try:
        write(Path(sys.argv[1]), int(sys.argv[2]))
    except OSError as error:
        sys.exit(f"labelled_faces: {error}")


if __name__ == "__main__":
    main()
