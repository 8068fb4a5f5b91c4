"""The sections of a report: each takes the runs, and gives HTML under one heading for all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stylenat.config import to_dict
from stylenat.config.privacy import without_folders
from stylenat.config.yaml_file import yaml_text
from stylenat.metrics import Scores
from stylenat.reporting.curves import direction, metric_names
from stylenat.reporting.differences import differing, nearest_shipped
from stylenat.reporting.facts import Entry, RunFacts
from stylenat.reporting.markup import Markup, fold, joined, number, plain, table, tag
from stylenat.reporting.overview import UNKNOWN, kimg
from stylenat.reporting.pictures import MOST_SIDE, Picture, Pictures
from stylenat.text import listed, shell_word

SMALL_SIDE = 700  # pixels; a smaller grid is shown enlarged, pixel by pixel


def of_each(runs: Sequence[RunFacts], section: Callable[[RunFacts], object]) -> Markup:
    """A part for each run, under its name if there are several."""
    several = len(runs) > 1
    return joined(
        part for run in runs for part in (tag("h3", run.name) if several else None, section(run))
    )


def samples(run: RunFacts, pictures: Pictures) -> Markup:
    """The grids with a slider, and the grid of real images beside them."""
    columns, rows = run.config.train.sample_grid
    notes = [f"Images of the same {columns} x {rows} seeds by the average generator."]
    if len(pictures.shown) < pictures.count - len(pictures.unreadable):
        notes.append(
            f"{len(pictures.shown)} of {pictures.count} grids are shown, evenly spaced, to keep "
            "this page small."
        )
    if any(picture.is_scaled for picture in pictures.shown):
        notes.append(f"They are scaled down to {MOST_SIDE} pixels.")
    if pictures.unreadable:
        notes.append(f"These files could not be read: {listed(pictures.unreadable)}.")
    if not pictures.shown:
        return tag("p", " ".join(["The run has no sample grids yet.", *notes[1:]]))
    last = len(pictures.shown) - 1
    slider = tag(
        "label",
        "After ",
        tag("output"),
        tag("input", type="range", min=0, max=last, value=last, step=1),
        class_="slider",
    )
    kind = "strip slides" if last else "strip"  # one grid needs no slider
    strip = tag("div", *map(_grid, pictures.shown), class_=kind)
    reals = None if pictures.reals is None else tag("div", _grid(pictures.reals))
    pair = tag("div", strip, reals, class_="pair")
    return tag("div", tag("p", " ".join(notes)), slider if last else None, pair, class_="samples")


def _grid(picture: Picture) -> Markup:
    caption = "Real images" if picture.nimg is None else f"After {kimg(picture.nimg)}"
    image = tag(
        "img",
        src=picture.uri,
        alt=f"Grid: {caption}",
        width=picture.width,
        height=picture.height,
        class_="small" if picture.width < SMALL_SIDE else None,
    )
    named = None if picture.nimg is None else kimg(picture.nimg)
    return tag("figure", image, tag("figcaption", caption), class_="grid", data_kimg=named)


def scores(run: RunFacts) -> Markup:
    """A row for each measurement, and the protocols."""
    if not run.scores:
        return tag("p", "Nothing was measured. ", tag("code", "metrics.names=[fid]"), " measures.")
    names = metric_names([run])
    head = ["kimg", *(joined([_breakable(name), _hint(name)]) for name in names)]
    rows = []
    for entry in run.scores:
        at = number(entry["nimg"] / 1000)
        first = tag("span", f"{at} (best)", class_="best") if entry is run.best else at
        rows.append([first, *(number(entry["metrics"].get(name, "")) for name in names)])
    protocols = [tag("h4", "How they were measured"), *_protocols(run)]
    return joined([table(head, rows, class_="numbers"), *protocols])


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break after an underscore."""
    pieces = name.split("_")
    rest = (joined(["_", tag("wbr"), piece]) for piece in pieces[1:])
    return joined([pieces[0], *rest])


def _hint(name: str) -> Markup | None:
    better = direction(name)
    return tag("span", better, class_="hint") if better else None


def _protocols(run: RunFacts) -> Iterator[Markup]:
    """Each protocol that was in use, with the first measurement that it holds for."""
    before = None
    for entry in run.scores:
        protocol = entry.get("protocol")
        if protocol == before or not isinstance(protocol, dict):
            continue
        before = protocol
        public = run.privacy.hide_in(protocol)
        sentence = _summary(entry["metrics"], public)
        yield tag("p", f"From {kimg(entry['nimg'])} on: {sentence}")
        cautions = public.get("cautions")
        for caution in cautions if isinstance(cautions, list) else ():
            yield tag("p", f"Caution: {caution}")
        yield fold("The whole protocol", tag("pre", json_text(public)))


def _summary(values: dict[str, Any], protocol: Entry) -> str:
    try:
        return Scores(values, protocol).summary()
    except (KeyError, TypeError, AttributeError):  # of another version
        return "see the protocol"


def configuration(runs: Sequence[RunFacts]) -> Markup:
    """What is special about the configuration, and all of it."""
    parts: list[object] = []
    if len(runs) > 1:
        rows = [(key, *map(plain, values)) for key, *values in differing([r.config for r in runs])]
        parts.append(tag("p", f"{_differing(len(rows))} between the runs."))
        if rows:
            parts.append(table(["key", *(run.name for run in runs)], rows))
    parts.append(of_each(runs, _one_configuration))
    return joined(parts)


def _one_configuration(run: RunFacts) -> Markup:
    whole = tag("pre", yaml_text(to_dict(without_folders(run.config))))
    nearest = nearest_shipped(run.config)
    if nearest is None:
        note = "It is like none of the configurations that come with StyleNAT."
        return joined([tag("p", note), fold("The whole configuration", whole)])
    note = f"{nearest.name} is the nearest configuration that comes with StyleNAT: "
    note += f"{_differing(len(nearest.keys))}."
    rows = [(key, *map(plain, values)) for key, *values in nearest.keys]
    differences = table(["key", nearest.name, "this run"], rows) if rows else None
    return joined([tag("p", note), differences, fold("The whole configuration", whole)])


def _differing(count: int) -> str:
    return "1 key differs" if count == 1 else f"{count} keys differ"


def starts(run: RunFacts) -> Markup:
    """Data, machine and software of the last start; earlier ones are folded."""
    if not run.starts:
        return tag("p", "The run has no starts.jsonl: data and machine were not recorded.")
    *earlier, last = (run.privacy.hide_in(entry) for entry in run.starts)
    rows = [row for key, value in last.items() for row in _rows(key, value)]
    parts: list[object] = [table(["", "last start"], rows)]
    if earlier:
        text = "\n".join(json.dumps(entry) for entry in earlier)
        parts.append(fold(f"Earlier starts ({len(earlier)})", tag("pre", text)))
    return joined(parts)


def json_text(data: Any) -> str:
    """Plain data as JSON on several lines."""
    return json.dumps(data, indent=2, ensure_ascii=False)


def _rows(key: str, value: object) -> Iterator[tuple[str, str]]:
    """One row, or for data and GPU one for each of their values."""
    if isinstance(value, dict):
        yield from ((f"{key}: {name}", plain(inner)) for name, inner in value.items())
    else:
        yield key, plain(value)


def faults(run: RunFacts) -> Markup:
    """What the run survived: counts, and the last lines."""
    is_recorded = bool(run.starts)
    count = f"{len(run.starts)}"
    if is_recorded and run.starts[0]["nimg"]:
        count += f" since {kimg(run.starts[0]['nimg'])}; earlier ones were not recorded"
    skipped = [_fault(run, entry) for entry in run.faults[-10:]]
    rows = [
        ("starts", count if is_recorded else UNKNOWN),
        ("steps that were skipped, since something was not finite", len(run.faults)),
        ("images that could not be read", run.log.replaced_images if is_recorded else UNKNOWN),
        ("warnings in log.txt", run.log.warnings if is_recorded else UNKNOWN),
    ]
    parts: list[object] = [table(["", "how many"], rows)]
    if run.log.last:
        parts += [tag("h4", "The last warnings"), tag("pre", "\n".join(run.log.last))]
    if skipped:
        parts += [tag("h4", "The last skipped steps"), tag("pre", "\n".join(skipped))]
    return joined(parts)


def _fault(run: RunFacts, entry: Entry) -> str:
    names = entry.get("not_finite")
    names = ", ".join(map(str, names)) if isinstance(names, list) else "something"
    text = f"{entry.get('time')}  step {entry.get('step')}, {kimg(entry['nimg'])}: {names}"
    return run.privacy.hide(text)


def truncation_command(run: RunFacts) -> str:
    """What measures the truncation curve of a run, to be typed beside its folder."""
    return f"stylenat report {shell_word(run.name)} --truncation 0.4:1:4"
