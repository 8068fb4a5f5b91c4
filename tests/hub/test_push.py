"""`stylenat push`: what is uploaded, what it tells, and what it never tells."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import stylenat
from stylenat.config import load_config, load_run_config
from stylenat.config.privacy import last_part, without_folders
from stylenat.export import save_generator
from stylenat.files import sha256_of
from stylenat.sampling import latents, load_model
from tests.hub.conftest import Run, exported
from tests.sampling.tiny import CLASS_NAMES, generator_of_classes, tiny_generator
from tests.training.tiny import stylenat as command
from tests.training.tiny import write_tiny

huggingface_hub = pytest.importorskip(
    "huggingface_hub", reason="huggingface-hub is not installed (the extra `hub`)"
)
DATA = "faces of nobody.zip"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of 40 images, measured three times, whose data lie in a folder of somebody's."""
    home = tmp_path_factory.mktemp("home of secret-ann")
    write_tiny(home)
    scores = ("metrics.names=[swd]", "metrics.num=16", "metrics.every_kimg=0.016")
    data = f"data.path={home / DATA}"
    for line in (
        ("prepare", "faces:64", home / DATA, "--resolution=16"),
        ("train", home / "tiny.yaml", "--run-dir", home / "run", data, *scores),
    ):
        done = command(*line)
        assert done.returncode == 0, done.stderr
    return home / "run"


def dry(run: Run, folder: Path, *arguments: object) -> Path:
    """The folder that would be uploaded."""
    result = run("push", *arguments, "--license=mit", "--dry-run", folder)
    assert result.exit_code == 0, result.output
    assert "Nothing was uploaded" in result.stdout
    return folder


def refusal(result) -> str:
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    return line


# Upload


def test_a_push_makes_the_repository_and_a_pull_gives_the_same_images(hub, file, run, log_in):
    log_in("hf_ann")
    result = run("push", file, "ann/faces", "--license=mit")
    assert result.exit_code == 0, result.output
    first, address, after = result.stdout.splitlines()
    assert first.endswith(" kB: README.md, config.yaml, model.safetensors, samples.png")
    assert first.startswith("4 files, ")
    commit = hub.repositories["ann/faces"].names["main"]
    assert address == f"{hub.endpoint}/ann/faces/commit/{commit}"
    assert after == "Next: stylenat sample hf:ann/faces --seeds 0-15 --outdir DIR"
    assert not hub.repositories["ann/faces"].private
    z = latents(range(3), 8)
    with torch.no_grad():
        pulled = stylenat.load_generator("hf:ann/faces")
        assert torch.equal(pulled(z), tiny_generator()(z))
        assert torch.equal(pulled.w_avg, tiny_generator().w_avg)


def test_a_second_push_replaces_what_the_first_one_left(hub, file, run, log_in, tmp_path):
    log_in("hf_ann")
    scores = scores_file(tmp_path, file)
    assert run("push", file, "ann/x", "--license=mit", "--scores", scores).exit_code == 0
    repository = hub.repositories["ann/x"]
    assert "scores.json" in repository.files()
    repository.commit({**repository.files(), "notes.md": b"own", "directions.old.png": b"old"})
    assert run("push", exported(tmp_path, 1), "ann/x", "--license=mit").exit_code == 0
    names = ["README.md", "config.yaml", "model.safetensors", "notes.md", "samples.png"]
    assert sorted(repository.files()) == names
    assert torch.equal(load_model("hf:ann/x").w_avg, tiny_generator(1).w_avg)


def test_the_other_way_to_upload_commits_the_same_files(hub, file, run, log_in, monkeypatch):
    """With hf_xet, huggingface_hub uploads in batches. This Hub has no store for large files."""
    pytest.importorskip("hf_xet", reason="hf_xet is not installed")
    from huggingface_hub import constants

    log_in("hf_ann")
    hub.kept_apart = (".none",)
    for name, is_off in (("ann/a", True), ("ann/b", False)):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", is_off)
        assert run("push", file, name, "--license=mit").exit_code == 0
    a, b = (hub.repositories[name].files() for name in ("ann/a", "ann/b"))
    assert a.keys() == b.keys()
    assert all(a[name] == b[name] for name in a if name != "README.md")


def test_a_branch_is_made_and_main_stays(hub, file, run, log_in):
    log_in("hf_ann")
    before = hub.add("ann/faces", {"model.safetensors": b"older"})
    result = run("push", file, "ann/faces", "--license=mit", "--revision=better")
    assert result.exit_code == 0, result.output
    assert before.files() == {"model.safetensors": b"older"}
    assert before.files("better")["model.safetensors"] == file.read_bytes()
    assert "stylenat sample hf:ann/faces@better" in before.files("better")["README.md"].decode()
    assert "Next: stylenat sample hf:ann/faces@better" in result.stdout


def test_private_makes_a_private_repository_and_never_writes_to_a_public_one(
    hub, file, run, log_in
):
    log_in("hf_ann")
    assert run("push", file, "ann/secret", "--license=mit", "--private").exit_code == 0
    assert hub.repositories["ann/secret"].private
    assert run("push", file, "ann/secret", "--license=mit", "--private").exit_code == 0
    public = hub.add("ann/open", {})
    said = refusal(run("push", file, "ann/open", "--license=mit", "--private"))
    assert "is public already" in said
    assert public.files() == {}


def test_the_token_goes_to_the_endpoint_alone_and_into_no_file(hub, file, run, log_in):
    log_in("hf_ann")
    assert run("push", file, "ann/faces", "--license=mit").exit_code == 0
    stored = [call for call in hub.calls if call.path.startswith("/large/")]
    assert {call.host for call in stored} == {"localhost"}
    assert {call.token for call in stored} == {None}
    assert {call.host for call in hub.calls if call.token == "hf_ann"} == {"127.0.0.1"}
    files = hub.repositories["ann/faces"].files()
    assert not any(b"hf_ann" in data for data in files.values())


# What is refused


@pytest.mark.parametrize(
    ("token", "repository", "sentence"),
    [
        (None, "ann/faces", "can only be written to by whoever is logged in: log in with `hf auth"),
        ("hf_wrong", "ann/faces", "your login is not accepted; log in with `hf auth login` again"),
        ("hf_ben", "ann/faces", "your login may not write there; check USER/NAME"),
    ],
)
def test_a_login_that_does_not_do_is_one_sentence(
    token, repository, sentence, hub, file, run, log_in
):
    if token is not None:
        log_in(token)
    said = refusal(run("push", file, repository, "--license=mit"))
    assert said.startswith("Error: hf:ann/faces")
    assert sentence in said
    assert hub.repositories == {}


def test_the_login_is_tried_before_a_model_is_read(hub, run, log_in, tmp_path):
    log_in("hf_wrong")
    said = refusal(run("push", tmp_path / "none.safetensors", "ann/faces", "--license=mit"))
    assert "your login is not accepted" in said


def test_a_hub_that_is_down_is_one_sentence(hub, file, run, log_in):
    log_in("hf_ann")
    hub.status = 503
    said = refusal(run("push", file, "ann/faces", "--license=mit"))
    assert f"{hub.endpoint} answers 503 (the Hub is being mended): give the same command" in said


@pytest.mark.parametrize("path", ["/api/whoami-v2", "/api/validate-yaml", "/api/repos/create"])
def test_a_hub_that_does_not_answer_is_not_waited_for_without_end(
    path, hub, file, run, log_in, monkeypatch
):
    from huggingface_hub.utils import get_session

    log_in("hf_ann")
    hub.silent_at = path
    before = get_session().timeout
    monkeypatch.setattr("stylenat.publishing.upload.SILENT_SECONDS", 0.5)
    said = refusal(run("push", file, "ann/faces", "--license=mit"))
    assert f"{hub.endpoint} can't be reached" in said
    assert said.endswith("give the same command again later")
    assert get_session().timeout == before


def test_the_licence_is_never_left_out_or_guessed(hub, file, run, tmp_path):
    result = run("push", file, "ann/faces", "--dry-run", tmp_path / "out")
    assert result.exit_code == 2
    assert "Missing option '--license'" in result.stderr
    for license_id in ("MIT License", "", "../mit"):
        said = refusal(run("push", file, "ann/faces", "--license", license_id))
        assert "--license must be an identifier as the Hub has it" in said
    assert hub.calls == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("faces",), "faces: a repository on the Hub must be named USER/NAME"),
        (("../faces",), "must be named USER/NAME"),
        (("ann/faces", "--revision=a..b"), "--revision must be a branch to write to"),
        (("ann/faces", f"--revision={'0' * 40}"), "and not a commit"),
        (("ann/faces", "--ort=x"), "--ort is for the page of --static"),
    ],
)
def test_values_are_refused_before_a_model_is_read(options, sentence, hub, run, tmp_path):
    result = run("push", tmp_path / "none.safetensors", *options, "--license=mit")
    assert sentence in refusal(result)
    assert hub.calls == []


def test_only_exports_are_uploaded(hub, trained, run, tmp_path):
    (checkpoint, *_) = sorted((trained / "checkpoints").glob("*.pt"))
    out = ("--license=mit", "--dry-run", tmp_path / "out")
    assert "only safetensors files are uploaded" in refusal(run("push", checkpoint, "a/b", *out))
    assert not (tmp_path / "out").exists()


def test_metadata_of_others_is_not_spread(hub, file, run, tmp_path):
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    odd = tmp_path / "odd.safetensors"
    save_file(load_file(file), odd, {**metadata, "trained_by": "ann at home"})
    said = refusal(run("push", odd, "a/b", "--license=mit", "--dry-run", tmp_path / "out"))
    assert "has metadata that StyleNAT did not write" in said


def test_a_folder_with_files_is_not_written_to(hub, file, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    said = refusal(run("push", file, "a/b", "--license=mit", "--dry-run", tmp_path / "out"))
    assert "must be an empty folder, or a new one: it holds files" in said


def test_a_card_that_the_hub_refuses_makes_no_repository(hub, file, run, log_in):
    log_in("hf_ann")
    said = refusal(run("push", file, "ann/faces", "--license=my-own"))
    assert said == "Error: the Hub refuses the card: license must be one of mit"
    assert hub.repositories == {}


# The card and the files


def scores_file(folder: Path, model: Path, **changes: object) -> Path:
    """What `stylenat fid --out` writes."""
    data = {
        "model": model.name,
        "model_sha256": sha256_of(model),
        "scores": {"fid": 12.5, "precision": 0.5, "recall": 0.25, "swd_16": 3.0},
        "protocol": {
            "images": {"num": 50_000, "seeds": "0-49999", "truncation_psi": 0.9},
            "reference": {"num": 50_000, "of": 70_000, "fingerprint": "ab" * 32},
            "features": {"mode": "legacy_pytorch", "network_is_published": True},
        },
    }
    path = folder / "scores of fid.json"
    path.write_text(json.dumps({**data, **changes}))
    return path


def test_a_card_of_a_file_alone_says_what_is_not_known(hub, file, run, tmp_path):
    folder = dry(run, tmp_path / "out", file, "ann/faces")
    names = ["README.md", "config.yaml", "model.safetensors", "samples.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == {
        "library_name": "stylenat",
        "license": "mit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["stylenat", "unconditional-image-generation", "gan", "neighborhood-attention"],
    }
    for sentence in (
        "No training run came with this file, so the following is not recorded",
        "None are recorded. `stylenat fid` measures them.",
        "did not say where its training images come from",
        "Images of the seeds 0 to 31 at truncation psi 1; none was chosen by hand.",
        f"has SHA-256 `{sha256_of(file)}`",
    ):
        assert sentence in card.text
    assert hub.calls == []


def test_scores_in_several_spaces_name_the_network_of_each(hub, file, run, tmp_path):
    features = {
        "inception": {"mode": "clean", "network_is_published": True},
        "dinov2": {"network_is_published": False},
    }
    protocol = {"images": {"num": 10}, "reference": {"num": 10, "of": 10}, "features": features}
    scores = {"fid": 1.0, "fd_dinov2": 2.0, "precision_dinov2": 0.5, "swd": 3.0, "swd_16": 4.0}
    written = scores_file(tmp_path, file, scores=scores, protocol=protocol)
    card = (
        dry(run, tmp_path / "out", file, "ann/faces", "--scores", written) / "README.md"
    ).read_text()
    for title, network in (
        ("FID | 1 ", "clean"),
        ("FD (dinov2) | 2 ", "dinov2, not the published network"),
        ("Precision (dinov2) | 0.5 ", "dinov2, not the published network"),
        ("SWD | 3 ", "patches, no network"),
    ):
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {title}")]
        assert row.endswith(f"| {network} |")
    assert "swd_16" not in card.split("## Scores")[1]


def test_scores_of_a_file_stand_with_their_protocol(hub, file, run, tmp_path):
    scores = scores_file(tmp_path, file)
    folder = dry(run, tmp_path / "out", file, "ann/faces", "--scores", scores)
    row = "| FID | 12.5 | 50,000 | 0-49999 | 0.9 | 50,000 of 70,000 images, `abababababab` | leg"
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert row in card.text
    assert "swd_16" not in card.text
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        ("fid", 12.5),
        ("precision", 0.5),
        ("recall", 0.25),
    ]
    protocol = json.loads(scores.read_text())["protocol"]
    assert all(r.metric_args == protocol for r in card.data.eval_results)
    written = json.loads((folder / "scores.json").read_text())
    assert written["model_sha256"] == sha256_of(file)
    assert written["measured"][0]["protocol"] == protocol


def test_scores_of_classes_name_the_class(hub, run, tmp_path):
    model = tmp_path / "classes.safetensors"
    save_generator(generator_of_classes(), model)
    measured = {name: {"scores": {"fid": 2.0}, "protocol": {}} for name in CLASS_NAMES}
    scores = scores_file(tmp_path, model, classes=measured)
    folder = dry(run, tmp_path / "out", model, "ann/three", "--scores", scores)
    card = (folder / "README.md").read_text()
    assert "| `great owl` | FID | 2 | not recorded |" in card
    assert "a row for each of all 3 classes" in card
    assert "stylenat sample hf:ann/three --seeds 0-15 --class all --outdir out" in card
    assert "labels = torch.zeros(4, dtype=torch.int64)" in card


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_sha256": "0" * 64}, "has scores of another model, of SHA-256"),
        ({"model_sha256": None}, "has scores of another model"),
        ({"scores": {}}, "must hold scores and their protocol"),
        ({"protocol": "unknown"}, "must hold scores and their protocol"),
        ({"scores": {"fid": "3"}}, "'fid' must be a finite number: '3'"),
        ({"scores": {"fid": float("nan")}}, "'fid' must be a finite number: nan"),
        ({"classes": []}, "must hold scores by class"),
    ],
)
def test_scores_that_are_none_are_refused(changes, sentence, hub, file, run, tmp_path):
    scores = scores_file(tmp_path, file, **changes)
    given = ("--scores", scores, "--dry-run", tmp_path / "out")
    assert sentence in refusal(run("push", file, "a/b", "--license=mit", *given))


def test_a_run_tells_how_it_was_trained_and_measured(hub, trained, run, tmp_path):
    folder = dry(run, tmp_path / "out", trained, "ann/faces", "--data-note", "drawn\nby  StyleNAT")
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    entries = [json.loads(line) for line in (trained / "stats.jsonl").read_text().splitlines()]
    best = min((entry for entry in entries if "rank" in entry), key=lambda entry: entry["rank"])
    seconds = [e["seconds"] for e in entries if "seconds" in e and e["nimg"] <= best["nimg"]]
    for row in (
        f"| images | `{DATA}` |",
        "| number of images | 64 |",
        f"| their fingerprint | `{best['protocol']['reference']['fingerprint']}` |",
        f"| trained on | {best['nimg'] / 1000:g} kimg (thousands of images) |",
        "| snapshot | the best of 3 that were measured, by their first score |",
        f"| time | {seconds[-1]:.1f} s |",
        "| hardware (processes x device) | 1 x cpu |",
        "| seed | 0 |",
        f"| SWD | {best['metrics']['swd']:.6g} | 16 | 0-15 | 1 | 16 of 64 images,",
        "> drawn by StyleNAT",
    ):
        assert row in card.text, row
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_name) == (best["metrics"]["swd"], DATA)
    assert (folder / "model.safetensors").read_bytes() == (
        trained / "snapshots" / "best.safetensors"
    ).read_bytes()
    expected = without_folders(load_run_config(trained / "config.yaml"))
    assert load_config(folder / "config.yaml") == expected
    assert expected.data.path == DATA


def test_a_snapshot_has_its_own_scores(hub, trained, run, tmp_path):
    (last, *_) = sorted((trained / "snapshots").glob("0*.safetensors"), reverse=True)
    folder = dry(run, tmp_path / "out", last, "ann/faces")
    card = (folder / "README.md").read_text()
    assert f"| trained on | {int(last.stem) / 1000:g} kimg" in card
    assert "| snapshot | one of those that the run kept |" in card
    entries = [json.loads(line) for line in (trained / "stats.jsonl").read_text().splitlines()]
    (own,) = [e for e in entries if e["nimg"] == int(last.stem) and "metrics" in e]
    (row,) = [line for line in card.splitlines() if line.startswith("| SWD |")]
    assert row.startswith(f"| SWD | {own['metrics']['swd']:.6g} |")


def test_the_best_snapshot_is_known_without_its_numbered_copy(hub, trained, run, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for snapshot in (tmp_path / "run" / "snapshots").glob("0*.safetensors"):
        snapshot.unlink()
    with_it, without = (
        (dry(run, tmp_path / name, model, "ann/faces") / "README.md").read_text()
        for name, model in (("a", trained), ("b", tmp_path / "run"))
    )
    assert with_it == without


def test_what_a_run_lost_is_not_recorded(hub, trained, run, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "stats.jsonl").unlink()
    (tmp_path / "run" / "log.txt").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir()
    for snapshot in (tmp_path / "run" / "snapshots").glob("0*.safetensors"):
        snapshot.unlink()
    card = (dry(run, tmp_path / "out", tmp_path / "run", "a/b") / "README.md").read_text()
    for name in ("number of images", "their fingerprint", "trained on", "time", "hardware (proces"):
        (line,) = [line for line in card.splitlines() if line.startswith(f"| {name}")]
        assert line.endswith("| not recorded |"), line
    assert "None are recorded." in card


def test_directions_come_with_the_pictures_that_there_are(hub, file, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run(
        "directions", file, "--count=2", "--names=one,two", "--strip-seeds=0", "--out=d.json"
    )
    assert made.exit_code == 0, made.output
    (tmp_path / "d.two.png").write_bytes(b"not a picture of ours")
    folder = dry(run, tmp_path / "out", file, "ann/faces", "--directions=d.json")
    assert (folder / "directions.one.png").read_bytes() == (tmp_path / "d.one.png").read_bytes()
    assert not (folder / "directions.two.png").exists()
    card = (folder / "README.md").read_text()
    assert "- one\n\n  ![one](directions.one.png)" in card
    assert "- two" in card
    assert "](directions.two.png)" not in card
    edit = ("--directions", folder / "directions.json", "--set=two:1", "--seeds=0", "--out=e.png")
    assert run("edit", folder / "model.safetensors", *edit).exit_code == 0
    other = exported(tmp_path, 1)
    given = ("--license=mit", "--directions=d.json", "--dry-run", tmp_path / "no")
    assert "was made with another model" in refusal(run("push", other, "a/b", *given))


def test_a_copy_says_whence_it_came(hub, file, run, tmp_path):
    first = hub.add("ben/first", {"model.safetensors": file.read_bytes()})
    folder = dry(run, tmp_path / "out", "hf:ben/first", "ann/copy")
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert f"a copy of `hf:ben/first@{first.names['main']}`" in card.text
    assert card.data.base_model == "ben/first"


@pytest.mark.slow
def test_the_page_is_named_as_it_will_be(hub, file, run, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (the extra `export`)")
    from stylenat.explorer import static

    monkeypatch.setattr(static, "runtime_files", lambda _: dict.fromkeys(static.FILES, b""))
    monkeypatch.chdir(tmp_path)
    assert run("directions", file, "--count=1", "--strip-seeds=0", "--out=d.json").exit_code == 0
    options = ("--static", "--directions=d.json")
    folder = dry(run, tmp_path / "out", file, "ann/faces", *options)
    about = json.loads((folder / "explorer" / "explorer.json").read_text())
    assert about["models"] == [{"name": "hf:ann/faces", "word": "hf:ann/faces"}]
    assert about["directions_word"] == "directions.json"
    assert len(about["directions"]) == 1
    assert 'hf download ann/faces --include "explorer/*"' in (folder / "README.md").read_text()


# Nothing private


def test_no_file_tells_of_the_machine(hub, trained, run, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "host-of-secret-ann")
    monkeypatch.setenv("HOME", str(trained.parent))
    monkeypatch.setenv("USER", "secret-ann")
    folder = dry(run, tmp_path / "out", trained, "ben/faces")
    for path in folder.rglob("*"):
        held = path.read_bytes() if path.is_file() else b""
        for private in (b"secret-ann", str(trained.parent).encode(), socket.gethostname().encode()):
            assert private not in held, path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/ann/faces.zip", "faces.zip"),
        ("~/pictures/faces/", "faces"),
        ("../../ann/faces.zip", "faces.zip"),
        ("faces:100", "faces:100"),
        (r"C:\Users\ann\faces.zip", "faces.zip"),
        ("..", None),
        ("~", None),
        ("hf:ann/faces", "hf:ann/faces"),
        ("/", None),
        (".", None),
    ],
)
def test_of_a_path_the_last_part_stays(path, expected):
    assert last_part(path) == expected


def test_a_note_that_names_the_home_is_refused(hub, file, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    note = f"from {tmp_path / 'ann'}/faces.zip"
    given = ("--license=mit", "--data-note", note, "--dry-run", tmp_path / "out")
    said = refusal(run("push", file, "a/b", *given))
    assert f"README.md would tell everybody of the folder {tmp_path / 'ann'}/" in said


def test_an_address_may_look_like_a_folder(hub, file, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/data")
    dry(run, tmp_path / "a", file, "a/b", "--data-note", "https://example.org/data/faces.zip")
    monkeypatch.setenv("HOME", "/")
    dry(run, tmp_path / "b", file, "a/b", "--data-note", "https://example.org/data/faces.zip")
