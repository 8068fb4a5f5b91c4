"""How fast images are prepared, and how fast training reads them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from stylenat.benchmarks.ceilings import measure_ceilings
from stylenat.benchmarks.report import Report
from stylenat.benchmarks.timing import measure
from stylenat.data import open_images, training_batches
from stylenat.data.pool import available_processors
from stylenat.data.prepare import Settings, prepare

# (side, drawn faces in the zip, batches per run)
SHAPES = ((64, 2000, 32), (256, 400, 8))
BATCH = 32
WORKERS = (0, 2)


def bench_data(*, repeats: int) -> Report:
    """Images per second of drawing faces into a zip, once, and of reading batches from that zip.

    Preparing includes the start of its processes; reading is timed once its processes run.
    """
    report = Report(
        "data",
        f"Data: drawn faces to a zip, and training batches of {BATCH} from it",
        ("what", "resolution", "workers", "images_per_second", "least", "most"),
        measure_ceilings(),
    )
    with tempfile.TemporaryDirectory() as folder:
        for side, images, batches in SHAPES:
            path = Path(folder, f"faces{side}.zip")
            _bench_prepare(report, path, side, images)
            for workers in WORKERS:
                _bench_loader(report, path, side, workers, batches, repeats)
    return report


def _bench_prepare(report: Report, path: Path, side: int, images: int) -> None:
    start = time.perf_counter()
    prepare(f"faces:{images}", path, Settings(side))
    speed = images / (time.perf_counter() - start)
    report.add(
        what="prepare",
        resolution=side,
        workers=available_processors(),
        images_per_second=speed,
        least=speed,
        most=speed,
    )
    report.notes.append(f"prepare at {side}x{side}: {60 * speed:,.0f} images a minute.")


def _bench_loader(
    report: Report, path: Path, side: int, workers: int, batches: int, repeats: int
) -> None:
    source = open_images(str(path), resolution=side)
    stream = training_batches(source, seed=0, batch=BATCH, workers=workers)

    def run() -> None:
        for _ in range(batches):
            next(stream)

    seconds = measure(run, repeats=repeats)
    stream.close()
    report.add(
        what="read",
        resolution=side,
        workers=workers,
        images_per_second=BATCH * batches / seconds.median,
        least=BATCH * batches / seconds.most,
        most=BATCH * batches / seconds.least,
    )
