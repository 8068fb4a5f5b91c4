"""`stylenat report`: what the page says, what it leaves out, and how the command fails."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from stylenat.cli import main
from stylenat.layout import RunPaths
from stylenat.reporting.document import page_of, write_report
from stylenat.reporting.facts import read_run
from stylenat.reporting.markup import VOID, data_block
from stylenat.reporting.pictures import read_pictures


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


class Elements(HTMLParser):
    """What a browser would find in a page: elements with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def of(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]


def append(path: Path, *entries: object) -> None:
    with path.open("a") as file:
        for entry in entries:
            file.write((entry if isinstance(entry, str) else json.dumps(entry)) + "\n")


# what the page says


def test_the_page_tells_what_the_run_wrote(run):
    result = report(run)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{run}/report.html: ")
    page = Elements((run / "report.html").read_text())
    scores = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    best = min((entry for entry in scores if "rank" in entry), key=lambda entry: entry["rank"])
    assert f"swd {best['metrics']['swd']:.4g} at {best['nimg'] / 1000:g} kimg" in page.text
    start = json.loads((run / "starts.jsonl").read_text())
    for words in (
        "Training run tiny-run",
        "finished",
        "0.04 kimg of 0.04 kimg",
        "faces:64: 48 images to train on, 16 held out",
        start["data"]["fingerprint"],
        start["processor"],
        start["torch"],
        "16 images (seeds 0-15) against 16 of 64",
        "stylenat report tiny-run --truncation 0.4:1:4",
    ):
        assert words in page.text, words
    charts = {element["aria-label"].split(":")[0] for element in page.of("svg", role="img")}
    assert {"losses", "logits at one moment", "learning rates", "speed", "memory"} <= charts
    assert any(title.startswith("SWD, swd_16") for title in charts), charts
    assert [image["alt"] for image in page.of("img")] == [
        *(f"Grid: After {kimg} kimg" for kimg in ("0", "0.016", "0.032", "0.04")),
        "Grid: Real images",
    ]


def test_a_grid_in_the_page_has_the_pixels_of_the_file(run):
    page = Elements(page_of([run]))
    (last,) = page.of("img", alt="Grid: After 0.04 kimg")
    data = base64.b64decode(last["src"].removeprefix("data:image/webp;base64,"))
    found = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = np.array(Image.open(run / "samples" / "000000040.png").convert("RGB"))
    assert np.array_equal(found, expected)


def test_a_curve_ends_at_its_last_value(run):
    page = page_of([run])
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page)[1]
    entries = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    losses = [entry["loss_d"] for entry in entries if "loss_d" in entry]
    values = [
        curve["y"] for chart in json.loads(data).values() for curve in chart["curves"]
    ]  # as texts of four digits
    assert [f"{loss:.4g}" for loss in losses] in values


def test_a_run_without_scores_samples_and_statistics_has_a_page(run):
    for path in (run / "stats.jsonl", run / "log.txt", run / "starts.jsonl"):
        path.unlink()
    shutil.rmtree(run / "samples")
    text = Elements(page_of([run])).text
    for words in (
        "stats.jsonl has no statistics yet",
        "The run has no sample grids yet",
        "Nothing was measured",
        "data and machine were not recorded",
        "0 kimg of 0.04 kimg",
        "not at its end",
    ):
        assert words in text, words


def test_a_half_written_line_and_strange_values_are_left_out(run):
    before = page_of([run])
    strange = [
        {"nimg": "many", "loss_d": 1},
        {"nimg": 41, "loss_d": "high", "loss_g": None, "r1": 10**400, "lr_g": 1e308},
        {"nimg": 10**400, "loss_d": 1},
        {"nimg": 42, "metrics": [1]},
        '{"nimg": 43, "loss_d": NaN}',
        "[1, 2]",
    ]
    append(run / "stats.jsonl", *strange, '{"nimg": 44, "los')
    charts = re.compile(r"<polyline[^>]*>")
    assert charts.findall(page_of([run])) == charts.findall(before)


def test_extreme_numbers_are_drawn(run):
    extreme = (5e-324, 1e-250, 0.0, 9e99, -9e99, 1.0)
    (run / "stats.jsonl").unlink()
    for value in extreme:
        append(run / "stats.jsonl", {"nimg": 8, "loss_d": value, "r1": abs(value), "lr_g": 5e-324})
        Elements(page_of([run]))
    assert "nan" not in "".join(re.findall(r'points="[^"]*"', page_of([run])))


def test_differences_from_the_nearest_configuration_are_told(tmp_path, run):
    from stylenat.config import load_config, save_config

    assert "like none of the configurations" in Elements(page_of([run])).text
    overrides = ["data.path=faces:9", "train.batch=8"]
    save_config(load_config("faces32", overrides), run / "config.yaml")
    page = page_of([run])
    assert "faces32 is the nearest configuration" in page
    assert "2 keys differ." in page
    assert '<th scope="row">train.batch</th><td>16</td><td>8</td>' in page


def test_what_the_run_survived_is_counted(run):
    for number in range(12):
        append(run / "log.txt", f"2026-01-01 10:00:{number:02},123 warning: number {number} failed")
    append(
        run / "log.txt",
        "2026-01-01 11:00:00,123 warning: /data/of/bob/x.png is broken; another image is shown in "
        "its place",
    )
    fault = {"time": "T", "step": 3, "nimg": 24, "not_finite": ["loss_d"]}
    append(run / "faults.jsonl", fault, {"nimg": 32})
    append(run / "starts.jsonl", {"nimg": 16})
    (run / "stopped").write_text(json.dumps({"reason": "SIGTERM", "step": 5, "nimg": 40}))
    text = Elements(page_of([run])).text
    assert re.search(
        r"starts2.*skipped.*?2images that could not be read1warnings in log.txt13", text
    )
    assert "number 3 failed" in text
    assert "number 2 failed" not in text
    assert "step 3, 0.024 kimg: loss_d" in text
    (run / "stats.jsonl").write_text('{"nimg": 8}\n')
    assert "stopped by SIGTERM at 0.04 kimg" in Elements(page_of([run])).text


# grids


def no_grids(run: Path) -> None:
    for path in (run / "samples").iterdir():
        path.unlink()


def test_grids_are_thinned_evenly_and_the_page_says_so(run):
    no_grids(run)
    for number in range(100):
        Image.new("RGB", (8, 8)).save(run / "samples" / f"{number * 1000:09}.png")
    (run / "samples" / "000007000.png").write_bytes(b"no picture")
    pictures = read_pictures(RunPaths(run), most=5)
    assert [picture.nimg for picture in pictures.shown] == [0, 24000, 49000, 74000, 99000]
    assert f"24 of {pictures.count} grids are shown" in Elements(page_of([run])).text


def test_grids_fit_into_the_bytes_that_there_are(run):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    no_grids(run)
    for number in range(10):
        Image.fromarray(noise).save(run / "samples" / f"{number:09}.png")
    one = len(read_pictures(RunPaths(run), most=1).shown[0].uri)
    pictures = read_pictures(RunPaths(run), most_bytes=5 * one)
    assert 2 <= len(pictures.shown) <= 5
    assert sum(len(picture.uri) for picture in pictures.shown) <= 5 * one


def test_an_unreadable_grid_is_named_and_a_large_one_scaled_down(run):
    (run / "samples" / "000000016.png").write_bytes(b"no picture")
    Image.new("RGB", (3200, 1600)).save(run / "samples" / "000000032.png")
    pictures = read_pictures(RunPaths(run))
    assert [(p.width, p.height) for p in pictures.shown if p.nimg == 32] == [(1600, 800)]
    text = Elements(page_of([run])).text
    assert "could not be read: 000000016.png" in text
    assert "scaled down to 1600 pixels" in text


# what it leaves out

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload=alert(3) ${body}"


def test_no_text_of_a_file_becomes_html(run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["path"] = f"images{ATTACK.replace('/', '')}"
    config["model"]["classes"], config["model"]["class_names"] = 2, [ATTACK, "b"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    start = json.loads((run / "starts.jsonl").read_text())
    start = dict.fromkeys(start, ATTACK) | {"nimg": 8, ATTACK: ATTACK}
    start["data"] = dict.fromkeys(("title", "images", "held_out", "fingerprint", ATTACK), ATTACK)
    start["gpu"] = {"name": ATTACK}
    append(run / "starts.jsonl", start, start)
    metrics = {"nimg": 44, "metrics": {ATTACK: 1.0, "swd": ATTACK}, "rank": -9.0}
    protocol = {ATTACK: ATTACK, "cautions": [ATTACK], "images": {"num": ATTACK}}
    append(run / "stats.jsonl", {**metrics, "protocol": protocol})
    append(
        run / "faults.jsonl", {"nimg": 8, "time": ATTACK, "step": ATTACK, "not_finite": [ATTACK]}
    )
    append(run / "log.txt", f"2026-01-01 10:00:00,123 warning: {ATTACK}")
    (run / "stopped").write_text(json.dumps({"reason": ATTACK, "nimg": 8}))
    point = dict.fromkeys(("psi", "precision", "recall", "density", "coverage"), 0.5)
    texts = dict.fromkeys(("model", "model_sha256", "space"), ATTACK)
    truncation = {**texts, "points": [point], "protocol": {ATTACK: ATTACK}}
    (run / "truncation.json").write_text(json.dumps(truncation))
    hostile = run.rename(tmp_path / "<img src=x onerror=alert(4)> & co")
    plain_page, page = Elements(page_of([hostile])), page_of([hostile])
    assert len(plain_page.of("script")) == 2
    assert all(image["src"].startswith("data:image/webp") for image in plain_page.of("img"))
    assert not [a for _, found in plain_page.elements for a in found if a.startswith("on")]
    assert plain_page.text.count("onerror=alert(2)") > 12  # it is shown, as text
    assert "onerror=alert(4)" in plain_page.text
    data = re.search(r'id="charts">(.*?)</script>', page)[1]
    assert json.loads(data)


def test_no_text_ends_the_block_of_data():
    block = data_block({ATTACK: [ATTACK, "<!--"]}, "name")
    assert re.findall("<[^>]*>", block) == [
        '<script type="application/json" id="name">',
        "</script>",
    ]
    assert json.loads(block.partition(">")[2].rpartition("<")[0]) == {ATTACK: [ATTACK, "<!--"]}


def test_folders_of_the_machine_are_left_out(run, tmp_path):
    home = tmp_path / "home of bob"
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["path"] = f"{home}/data sets/faces.zip"
    config["metrics"]["weights"] = "/opt/secret place/net.pt"
    config["train"]["init_from"] = "C:\\Users\\bob\\model.pt"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for text in (
        f"{home}/data sets/faces.zip: b.png is no image",
        f"{run}/faults.jsonl: no space",
        "(see /var/lib/secret/x.txt), '/etc/secret/y'",
        "C:\\Users\\bob\\z.txt",
        "~/secret/file",
    ):
        append(run / "log.txt", f"2026-01-01 10:00:00,123 warning: {text}")
    page = page_of([run])
    for word in (
        str(tmp_path),
        "home of bob",
        "data sets",
        "secret",
        "bob",
        str(Path.home()) + "/",
    ):
        assert word not in page, word
    for word in ("faces.zip", "net.pt", "model.pt", "faults.jsonl", "x.txt", "z.txt"):
        assert word in page, word


def test_only_whole_names_of_folders_are_left_out(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["path"] = "data/faces.zip"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    append(run / "log.txt", "2026-01-01 10:00:00,123 warning: data/faces.zip: metadata/x.png")
    assert "warning" not in read_run(run).log.last[-1]
    assert read_run(run).log.last[-1].endswith("faces.zip: metadata/x.png")
    assert "data/faces.zip" not in page_of([run])


def test_the_page_names_no_address_and_allows_none(run):
    page = page_of([run])
    elements = Elements(page)
    assert not re.findall(r"https?:", page)
    (policy,) = elements.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert [link["href"] for link in elements.of("link")] == ["data:,"]
    assert all(link["href"].startswith("#") for link in elements.of("a"))


# several runs


def test_several_runs_share_charts_and_show_what_differs(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "elsewhere" / "tiny-run"))
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["train"]["lr_g"] = 0.002
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    result = report(run, other)
    assert result.exit_code == 1
    assert "several runs need --out" in result.stderr
    result = report(run, other, "--out", tmp_path / "both.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "both.html").read_text()
    assert "2 training runs" in page
    assert "1 key differs between the runs." in page
    assert '<th scope="row">train.lr_g</th><td>0.001</td><td>0.002</td>' in page
    labels = [svg["aria-label"] for svg in Elements(page).of("svg", role="img")]
    assert "loss_d: tiny-run (1), tiny-run (2) over kimg" in labels
    assert not [label for label in labels if "loss_g" in label and "loss_d" in label]


# how it fails


def test_a_file_that_is_no_report_is_not_overwritten(run, tmp_path):
    precious = tmp_path / "precious.html"
    precious.write_text("<!doctype html>mine")
    result = report(run, "--out", precious)
    assert result.exit_code == 1
    assert "precious.html is there, and is no report of StyleNAT" in result.stderr
    assert precious.read_text() == "<!doctype html>mine"
    for _ in range(2):  # a report is
        assert report(run, "--out", tmp_path / "new.html").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--num", "10"], "--num belongs to --truncation"),
        (["--device", "cpu"], "--device belongs to --truncation"),
        (["--weights", "net.pt"], "--weights belongs to --truncation"),
        (["--trust"], "--trust belongs to --truncation"),
        (["--truncation", "1"], "--truncation must be FROM:TO:COUNT"),
        (["--out", "absent/x.html"], "absent: "),
    ],
)
def test_bad_options_are_one_sentence(run, arguments, sentence):
    result = report(run, *arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert sentence in line
    assert not (run / "report.html").exists()


def test_what_is_no_run_is_refused(run, tmp_path):
    for path, sentence in (
        (tmp_path / "absent", "absent: "),
        (run / "samples", "samples is no run folder: it holds no config.yaml"),
        (run / "config.yaml", "config.yaml is no run folder"),
    ):
        result = report(path)
        assert result.exit_code == 1
        assert sentence in result.stderr


def test_reading_changes_nothing_in_the_run(run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    write_report([run], tmp_path / "x.html")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
