"""The page without a server: the same controls, computed by ONNX Runtime in the browser."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from stylenat.cli import main
from stylenat.explorer import Gallery, runtime, write_static
from stylenat.explorer.runtime import FILES, cached, runtime_files
from stylenat.latents import Settings, mixed
from stylenat.sampling import generate, latents, load_model, render, seed_ws

for package in ("onnx", "onnxscript"):
    pytest.importorskip(package, reason=f"{package} is not installed (the extra `export`)")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(models, with_classes, tmp_path_factory) -> Path:
    """A static page of all models, with ONNX Runtime Web if it is here, else without."""
    given = os.environ.get("STYLENAT_ORT")
    is_here = given or all((cached() / name).is_file() for name in FILES)
    if not is_here:
        pytest.skip(
            "ONNX Runtime Web is not here: `stylenat explore --static` fetches it once, or "
            "STYLENAT_ORT names its tarball"
        )
    folder = tmp_path_factory.mktemp("site")
    gallery = Gallery([*models, with_classes], Settings(), snapshots=False)
    write_static(gallery, folder, ort=Path(given) if given else None)
    return folder


@pytest.fixture(scope="module")
def site(folder) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_seeds_truncation_and_mixing_show_the_images_of_sample(open_page, site, generators):
    page = open_page(site)
    for seed in (0, 12345, 2**32 - 1):
        page.set("seed", seed)
        (pixels,) = generate(generators[0], [seed])
        page.shows(pixels[0])
    page.set("seed", 3)
    page.set("psi", 0.5)
    page.set("cutoff", 2)
    page.set("donor", 8)
    page.page.click("[data-blocks=coarse]")
    ws = seed_ws(generators[0], [3, 8], truncation_psi=0.5, truncation_cutoff=2)
    page.shows(render(generators[0], mixed(ws[0], ws[1], [0, 1])[None])[0])
    page.page.select_option("#model", "1")
    ws = seed_ws(generators[1], [3, 8], truncation_psi=0.5, truncation_cutoff=2)
    page.shows(render(generators[1], mixed(ws[0], ws[1], [0, 1])[None])[0])
    assert "in your browser" in page.page.inner_text("#note")


def test_the_page_says_what_it_lacks_without_a_server(open_page, site):
    page = open_page(site)
    note = page.page.inner_text("#note")
    for what in ("snapshots of a run", "attention", "your own pictures"):
        assert what in note
    assert page.page.is_hidden("#picture-box")
    assert page.page.is_hidden("#attention-box")
    page.page.evaluate("""() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(["x"], "a.png"));
        const event = new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer});
        document.body.dispatchEvent(event);
    }""")
    page.page.wait_for_selector("#error:not([hidden])")
    assert "no server that could look for the style" in page.page.inner_text("#error")


def test_no_file_of_the_page_names_a_folder_of_this_machine(folder, models):
    texts = [path for path in folder.rglob("*") if path.suffix in (".json", ".html", ".js")]
    assert any(path.name == "explorer.json" for path in texts)
    for path in texts:
        assert str(models[0].parent) not in path.read_text(), path
    about = json.loads((folder / "explorer.json").read_text())
    assert [model["word"] for model in about["models"]][:2] == [path.name for path in models[:2]]


def test_two_models_stand_side_by_side_and_dragging_moves_both(open_page, site, generators):
    page = open_page(f"{site}#x=1&beside=1")
    for pane in (0, 1):
        (pixels,) = generate(generators[pane], [1])
        page.shows(pixels[0], pane)
    page.page.focus("#image1")
    page.page.keyboard.press("ArrowRight")
    for pane in (0, 1):
        (pixels,) = generate(generators[pane], [2])
        page.shows(pixels[0], pane)


def test_classes_are_those_of_sample(open_page, site, with_classes):
    generator = load_model(with_classes)
    page = open_page(f"{site}#model=2&x=3&psi=0.5&label=2")
    ws = seed_ws(generator, [3], [2], truncation_psi=0.5)
    page.shows(render(generator, ws)[0])


def test_nothing_is_asked_of_other_machines(browser, site):
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site)
    page.wait_for_selector("#image0[data-drawn]", timeout=120_000)
    page.close()
    assert len(asked) > 5
    assert all(url.startswith((site, "data:", "blob:")) for url in asked), asked


@pytest.mark.parametrize("scheme", ["torch", "stylegan"])
@pytest.mark.parametrize("length", [7, 16, 20, 64])
def test_latents_of_javascript_are_those_of_python(browser, site, scheme, length):
    page = browser.new_page()
    page.goto(site)
    seeds = [0, 1, 42, 2**31, 2**32 - 1]
    values = page.evaluate(
        """async ([seeds, length, scheme]) => {
            const {latent} = await import("./page/latents.js");
            return seeds.map(seed => Array.from(latent(seed, length, scheme)));
        }""",
        [seeds, length, scheme],
    )
    page.close()
    expected = latents(seeds, length, scheme=scheme)
    torch.testing.assert_close(torch.tensor(values), expected, atol=2e-6, rtol=2e-6)


def test_a_missing_file_is_said_on_the_page(open_page, browser, folder, tmp_path):
    broken = tmp_path / "site"
    shutil.copytree(folder, broken)
    (broken / "models/0/synthesis.onnx").unlink()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(broken)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    page.wait_for_selector("#error:not([hidden])", timeout=120_000)
    said = page.inner_text("#error")
    page.close()
    server.shutdown()
    assert "models/0/synthesis.onnx did not load: the host answered 404" in said


# ONNX Runtime Web itself


def tarball(path: Path, **contents: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def small(monkeypatch) -> dict[str, bytes]:
    """Two files that stand for ONNX Runtime Web."""
    held = {"a.mjs": b"a", "b.wasm": b"b"}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in held.items()}
    monkeypatch.setattr(runtime, "FILES", hashes)
    return held


def test_the_files_are_read_from_a_tarball_or_a_folder(small, tmp_path):
    assert runtime_files(tarball(tmp_path / "ort.tgz", **small)) == small
    (tmp_path / "package/dist").mkdir(parents=True)
    for name, data in small.items():
        (tmp_path / "package/dist" / name).write_bytes(data)
    assert runtime_files(tmp_path) == small


def test_a_file_that_was_changed_or_is_missing_is_refused(small, tmp_path):
    changed = tarball(tmp_path / "ort.tgz", **{**small, "a.mjs": b"A"})
    with pytest.raises(ValueError, match=r"a.mjs of .*ort.tgz is not that of onnxruntime-web@1"):
        runtime_files(changed)
    with pytest.raises(ValueError, match=r"lacks b.wasm .*`npm pack onnxruntime-web@1.30.0`"):
        runtime_files(tarball(tmp_path / "less.tgz", **{"a.mjs": b"a"}))
    (tmp_path / "no.tgz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"no.tgz is no tarball of npm"):
        runtime_files(tmp_path / "no.tgz")


def test_without_npm_the_command_says_what_to_get(models, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    out = tmp_path / "site"
    result = CliRunner().invoke(main, ["explore", str(models[0]), "--static", str(out)])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "npm is not installed: run `npm pack onnxruntime-web@1.30.0`" in line
    assert not out.exists()


def test_npm_is_asked_once_and_its_files_are_kept(small, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_CACHE", str(tmp_path / "cache"))
    npm = tmp_path / "npm"
    archive = tarball(tmp_path / "ort.tgz", **small)
    npm.write_text(f'#!/bin/sh\necho run >> "{tmp_path}/log"\ncp "{archive}" "$5"\n')
    npm.chmod(0o755)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: str(npm))
    assert runtime_files(None) == runtime_files(None) == small
    assert (tmp_path / "log").read_text() == "run\n"


def test_npm_s_failure_is_one_sentence(small, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLENAT_CACHE", str(tmp_path / "cache"))
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: str(npm))
    with pytest.raises(ValueError, match=r"failed: no network; give its tarball with --ort"):
        runtime_files(None)


# The command


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--fp16"], "--ort and --fp16 are for --static DIR"),
        (["--static", "site", "--port", "80"], "--port and --open are for the server"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options, sentence):
    result = CliRunner().invoke(main, ["explore", "model.safetensors", *options])
    assert result.exit_code == 2
    assert sentence in result.output


def test_a_model_that_is_not_there_is_refused_at_the_start(models, tmp_path):
    missing = tmp_path / "missing.safetensors"
    result = CliRunner().invoke(main, ["explore", str(models[0]), str(missing)])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {missing}: {os.strerror(errno.ENOENT)}\n"


def test_a_run_folder_shows_its_snapshots_in_the_server_alone(models, tmp_path):
    run = tmp_path / "run"
    (run / "snapshots").mkdir(parents=True)
    (run / "config.yaml").touch()
    for nimg in (2000, 10_000):
        shutil.copy(models[0], run / f"snapshots/{nimg:09d}.safetensors")
    gallery = Gallery([run], Settings())
    names = [model["name"] for model in gallery.about()["models"]]
    assert names == ["run", "2 kimg", "10 kimg"]
    assert len(Gallery([run], Settings(), snapshots=False).files) == 1
    assert json.dumps(gallery.facts(1)) == json.dumps(gallery.facts(2))
