"""The page: sections in their order, in a template, with its style and script inside."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from stylenat import __version__
from stylenat.files import check_can_write, replacing
from stylenat.reporting import sections
from stylenat.reporting.charts import Chart, Curve, draw
from stylenat.reporting.curves import charts_of
from stylenat.reporting.facts import RunFacts, read_run
from stylenat.reporting.markup import Markup, data_block, escaped, fold, joined, number, table, tag
from stylenat.reporting.overview import overview
from stylenat.reporting.pictures import MOST_BYTES, MOST_GRIDS, read_pictures
from stylenat.reporting.truncation import NAMES, Truncation, read_truncation
from stylenat.training.run_folder import timestamp

MARK = b"<!-- StyleNAT report -->"  # by which a report is known; the template holds it
MARK_WITHIN = 100  # bytes of the file's start


def check_report(out: Path) -> None:
    """Raises ValueError if `out` is a file that is no report, and OSError if it can't be
    written."""
    check_can_write(out)
    if out.exists():
        with out.open("rb") as file:
            if MARK not in file.read(MARK_WITHIN):
                raise ValueError(
                    f"{out} is there, and is no report of StyleNAT: choose another --out"
                )


def write_report(runs: Sequence[Path], out: Path) -> int:
    """Write one page about these runs; returns its size in bytes. The runs' files only are read.

    Raises ValueError and OSError as `check_report`, `read_run` and `read_truncation` do.
    """
    check_report(out)
    page = page_of(runs).encode("utf-8", "replace")
    with replacing(out) as temporary:
        temporary.write_bytes(page)
    return len(page)


def page_of(paths: Sequence[Path]) -> str:
    """The whole page, as text."""
    runs = _with_names_of_their_own([read_run(path) for path in paths])
    data: dict[str, Any] = {}
    parts = [
        ("Overview", overview(runs)),
        ("Samples", sections.of_each(runs, lambda run: _samples(run, len(runs)))),
        ("Curves", _curves(charts_of(runs), data)),
        ("Scores", sections.of_each(runs, sections.scores)),
        ("Truncation", sections.of_each(runs, lambda run: _truncation(run, data))),
        ("Configuration", sections.configuration(runs)),
        ("Data and machine", sections.of_each(runs, sections.starts)),
        ("Faults", sections.of_each(runs, sections.faults)),
    ]
    title = f"Training run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} training runs"
    return _filled(title, parts, data)


def _with_names_of_their_own(runs: list[RunFacts]) -> list[RunFacts]:
    """Runs whose folders have one name are numbered, so that they can be told apart."""
    seen: Counter[str] = Counter()
    shared = {name for name, count in Counter(run.name for run in runs).items() if count > 1}
    named = []
    for run in runs:
        seen[run.name] += 1
        name = f"{run.name} ({seen[run.name]})" if run.name in shared else run.name
        named.append(replace(run, name=name))
    return named


def _filled(title: str, parts: Sequence[tuple[str, Markup]], data: dict[str, Any]) -> str:
    folder = files("stylenat.reporting") / "page"
    texts = {kind: (folder / f"report.{kind}").read_text("utf-8") for kind in ("html", "css", "js")}
    ids = {heading: heading.lower().replace(" ", "-") for heading, _ in parts}
    links = (tag("a", heading, href=f"#{ids[heading]}") for heading in ids)
    body = (
        tag("section", tag("h2", heading, id=ids[heading]), content) for heading, content in parts
    )
    return Template(texts["html"]).substitute(
        policy=escaped(_policy(texts["css"], texts["js"])),
        title=escaped(title),
        subtitle=escaped(f"Written by stylenat report {__version__}, {timestamp()}"),
        contents=tag("nav", *links, aria_label="Sections"),
        body=joined(body),
        data=data_block(data, "charts"),
        style=texts["css"],
        script=texts["js"],
    )


def _policy(style: str, script: str) -> str:
    """What a browser may do with the page: run its own script, and fetch nothing."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


def _samples(run: RunFacts, count: int) -> Markup:
    """Several runs share what one page may hold."""
    most, most_bytes = max(2, MOST_GRIDS // count), MOST_BYTES // count
    return sections.samples(run, read_pictures(run.paths, most=most, most_bytes=most_bytes))


def _curves(charts: Sequence[Chart], data: dict[str, Any]) -> Markup:
    """Draws charts, and adds what the script needs to `data`."""
    if not charts:
        return tag("p", "stats.jsonl has no statistics yet.")
    figures = []
    for chart in charts:
        name = f"chart{len(data)}"
        figure, data[name] = draw(chart, name)
        figures.append(figure)
    hint = "Point at a chart, or focus it and use the arrow keys, to read values."
    return joined([tag("p", hint, class_="about"), tag("div", *figures, class_="charts")])


def _truncation(run: RunFacts, data: dict[str, Any]) -> Markup:
    found = read_truncation(run.paths)
    if found is None:
        note = "Not measured yet. This measures it, and writes this page again:"
        return joined([tag("p", note), tag("pre", sections.truncation_command(run))])
    rows = [
        [number(point["psi"]), *(number(point[name]) for name in NAMES)] for point in found.points
    ]
    images = found.protocol.get("images")
    num = images.get("num") if isinstance(images, dict) else "?"
    now = "" if found.is_current else ", which is no longer the best snapshot"
    note = f"{num} images of {found.model}{now}, compared by features of {found.space}."
    whole = tag("pre", sections.json_text(run.privacy.hide_in(found.protocol)))
    return joined(
        [
            tag("p", run.privacy.hide(note)),
            _curves([_trade_off(found, *NAMES[:2]), _trade_off(found, *NAMES[2:])], data),
            table(["psi", *NAMES], rows, class_="numbers"),
            fold("The whole protocol", whole),
        ]
    )


def _trade_off(found: Truncation, quality: str, variety: str) -> Chart:
    points = [(point[variety], point[quality]) for point in found.points]
    names = [f"psi {number(point['psi'])}" for point in found.points]
    about = (
        f"{quality.capitalize()}: how real the images are. {variety.capitalize()}: how much of the "
        "data's variety they have."
    )
    title = f"{quality} against {variety}"
    return Chart(title, about, variety, quality, [Curve(quality, points, names)])
