"""A picture of one's own on the page: what is found for it is what `stylenat project` finds."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat.cli import main
from stylenat.data import draw_face
from stylenat.explorer.projecting import available_loss
from stylenat.latents import LoadedModel, load_ws
from stylenat.latents.pictures import read_picture
from stylenat.latents.projection import Projection, ProjectionSettings, project
from stylenat.sampling import generate, render, seed_ws

STEPS = 30
DROP = """([text, name]) => {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer});
    document.body.dispatchEvent(event);
  }
}"""


def png(index: int = 5) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_face(index, 64)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the server of these tests runs, so that sums are rounded alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def found_in_python(model, space: str, steps: int = STEPS) -> Projection:
    loaded = LoadedModel(model)
    picture = read_picture(png(), loaded.generator.resolution)
    return project(loaded, picture[None], ProjectionSettings(space, available_loss(), steps))


def drop(page, data: bytes, name: str = "a face!.png") -> None:
    page.page.evaluate(DROP, [base64.b64encode(data).decode(), name])


def until_found(page) -> None:
    page.page.wait_for_selector("#picture-save", timeout=120_000)
    page.until("document.getElementById('picture-bar').hidden")


def test_a_dropped_picture_is_found_as_project_finds_it(
    open_page, address, models, generators, one_thread
):
    page = open_page(address)
    page.set("picture-steps", STEPS)
    page.page.select_option("#picture-space", "w+")
    drop(page, png())
    until_found(page)
    found = found_in_python(models[0], "w+")
    page.shows(found.images[0])
    (quality,) = found.qualities
    assert page.page.inner_text("#picture-status").startswith(
        f"PSNR {quality.psnr:.1f} dB, distance {quality.distance:.2f}, w at "
        f"{quality.sigmas:.2f} sigma."
    )
    assert quality.is_far == ("Far from what" in page.page.inner_text("#picture-status"))

    # Truncation and mixing start from it as they do from a seed.
    page.set("psi", 0.5)
    truncated = generators[0].truncate(found.ws, truncation_psi=0.5)
    page.shows(render(generators[0], truncated)[0])
    page.set("psi", 1)
    page.set("donor", 5)
    page.page.click("[data-blocks=middle]")
    mixed = found.ws.clone()
    mixed[:, 2] = seed_ws(generators[0], [5])[:, 2]
    page.shows(render(generators[0], mixed)[0])

    # The way back: a seed leaves it, its button brings it back.
    page.page.click("[data-blocks=none]")
    page.set("seed", 7)
    (pixels,) = generate(generators[0], [7])
    page.shows(pixels[0])
    page.page.click("#pictures button")
    page.shows(found.images[0])


def test_progress_moves_and_one_w_for_all_blocks_is_a_choice(
    open_page, address, models, one_thread
):
    page = open_page(address)
    page.set("picture-steps", 200)
    page.page.select_option("#picture-space", "w")
    drop(page, png())
    values = set()
    while page.page.is_visible("#picture-bar") or not values:
        values.add(page.page.evaluate("document.getElementById('picture-bar').value"))
    until_found(page)
    assert len(values) > 3
    page.shows(found_in_python(models[0], "w", 200).images[0])


def test_stop_keeps_what_was_found_so_far(open_page, address):
    page = open_page(address)
    page.set("picture-steps", 2000)
    page.page.set_input_files("#picture-file", {"name": "b.png", "mimeType": "", "buffer": png()})
    page.until("document.getElementById('picture-bar').value > 20")
    page.set("seed", 3)  # images are still made meanwhile
    drawn = "Number(document.getElementById('image0').dataset.drawn)"
    page.until(f"{drawn} > 1")
    assert page.page.is_visible("#picture-bar")
    page.page.click("#picture-stop")
    until_found(page)
    said = page.page.inner_text("#picture-status")
    assert said.startswith("Stopped. PSNR ")
    assert "of 2000; nothing else was measured" in said
    page.page.wait_for_url("**picture=not-in-this-address**")


def test_a_newer_picture_ends_the_search_for_an_older_one(open_page, address, models, one_thread):
    page = open_page(address)
    page.set("picture-steps", 2000)
    drop(page, png(9), "first.png")
    page.until("document.getElementById('picture-bar').value > 5")
    page.set("picture-steps", STEPS)
    drop(page, png(), "second.png")
    until_found(page)
    page.shows(found_in_python(models[0], "w+").images[0])
    assert page.page.inner_text("#pictures") == "second"


def test_its_ws_file_gives_the_image_to_sample(open_page, address, models, tmp_path, one_thread):
    page = open_page(f"{address}#psi=0.7")  # which the file of the picture does not hold
    page.set("picture-steps", STEPS)
    drop(page, png(), "../my face.png")
    until_found(page)
    with page.page.expect_download() as download:
        page.page.click("#picture-save")
    assert download.value.suggested_filename == "my-face.safetensors"
    file = tmp_path / "my-face.safetensors"
    download.value.save_as(file)
    found = found_in_python(models[0], "w+")
    loaded = LoadedModel(models[0])
    styles = load_ws(file, model_sha256=loaded.sha256, num_ws=3, style_dim=8)
    assert styles.names == ("my-face",)
    assert torch.equal(styles.ws, found.ws)
    line = [
        "sample",
        str(models[0]),
        "--ws",
        str(file),
        "--grid",
        "none",
        "--outdir",
        str(tmp_path),
    ]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    pixels = torch.tensor(np.asarray(Image.open(tmp_path / "my-face.png").convert("RGB")))
    assert torch.equal(pixels, found.images[0])


def test_a_picture_is_a_keyframe_of_a_film_and_directions_move_it(
    open_page, models, generators, tmp_path, one_thread
):
    from stylenat.files import sha256_of
    from stylenat.latents import Directions, Edit, edited, save_directions
    from stylenat.latents.directions import Direction
    from tests.explorer.conftest import start

    vector = torch.zeros(8)
    vector[3] = 1
    hair = Direction("hair", vector, 1.5, (0, 2))
    file = tmp_path / "directions.json"
    save_directions(Directions("hand", sha256_of(models[0]), 3, (hair,)), file)
    process, address = start(models[0], "--directions", file)
    page = open_page(f"{address}#x=1")
    page.page.click("#add-keyframe")
    page.set("picture-steps", STEPS)
    drop(page, png())
    until_found(page)
    page.page.click("#add-keyframe")
    assert page.page.inner_text("#keyframes").split() == ["1,", "0", "×", "a-face", "×"]
    page.set("direction0", -2)
    ws = edited(found_in_python(models[0], "w+").ws, [Edit(hair, -2, -2)], 0)
    page.shows(render(generators[0], ws)[0])
    page.page.click("#zero")
    page.page.click("#play")
    drawn = "Number(document.getElementById('image0').dataset.drawn)"
    before = page.page.evaluate(drawn)
    page.until(f"{drawn} > {before + 5}")
    page.page.click("#play")
    assert page.page.is_hidden("#error")
    assert page.page.locator("#film-command:visible").count() == 0  # no command knows the picture
    page.page.goto("about:blank")
    process.terminate()
    process.wait(60)


def test_a_film_goes_through_the_ws_of_a_picture(open_page, address):
    page = open_page(address)
    at = """async t => {
        const {filmW} = await import("./page/styles.js");
        const [place, ws] = [new Float32Array([1, 2]), new Float32Array([5, 6, 7, 8])];
        const keyframes = [[1, 0], {picture: 0}];
        return Array.from(await filmW(keyframes, t, async () => place, () => ws, 2));
    }"""
    assert page.page.evaluate(at, 0) == [1, 2, 1, 2]
    assert page.page.evaluate(at, 1) == [5, 6, 7, 8]
    assert page.page.evaluate(at, 0.5) == [3, 4, 4, 5]


def test_an_address_of_a_picture_says_that_it_does_not_hold_it(open_page, address, generators):
    page = open_page(f"{address}#x=3&picture=not-in-this-address")
    (pixels,) = generate(generators[0], [3])
    page.shows(pixels[0])
    assert "does not hold the picture" in page.page.inner_text("#picture-note")
    page.page.click("#next")
    page.until("document.getElementById('picture-note').textContent === ''")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"not a picture", "The picture is no image of a known format"),
        (png()[:-300], "The picture is damaged"),
        (bytes(20_000_001), "A picture must not have more than 20 MB"),
    ],
    ids=["text", "cut short", "huge"],
)
def test_what_is_no_picture_is_a_sentence_and_the_next_one_is_found(
    open_page, address, data, sentence
):
    page = open_page(address)
    page.set("picture-steps", 5)
    drop(page, data)
    page.page.wait_for_selector("#error:not([hidden])")
    assert sentence in page.page.inner_text("#error")
    drop(page, png())
    until_found(page)
    assert page.page.is_hidden("#error")


def test_a_search_by_pixels_alone_is_told(open_page, address):
    page = open_page(address)
    pixels = base64.b64encode(bytes(16 * 16 * 3)).decode()
    ws = base64.b64encode(bytes(3 * 8 * 4)).decode()
    found = {"psnr": 9, "distance": 0.5, "sigmas": 3, "is_far": True, "pixels": pixels, "ws": ws}
    answer = [{"begun": {"pixels": pixels, "loss": "pixels"}}, {"found": found}]
    body = "".join(json.dumps(line) + "\n" for line in answer)
    page.page.route("**/project?*", lambda route: route.fulfill(body=body))
    drop(page, png())
    until_found(page)
    said = page.page.inner_text("#picture-status")
    assert "w at 3.00 sigma. Far from what the model makes: this is not the picture." in said
    assert "Only pixels were compared, which blurs" in said


def test_the_file_button_and_what_follows_are_reached_by_keys(open_page, address):
    page = open_page(address)
    page.set("picture-steps", 5)
    page.page.focus("#speed")
    for place in ("picture-file", "picture-space", "picture-steps"):
        page.page.keyboard.press("Tab")
        assert page.page.evaluate("document.activeElement.id") == place
    page.page.set_input_files("#picture-file", {"name": "c.png", "mimeType": "", "buffer": png()})
    until_found(page)
    for place in ("picture-again", "picture-save", ""):
        page.page.keyboard.press("Tab")
        assert page.page.evaluate("document.activeElement.id") == place
    assert page.page.evaluate("document.activeElement.textContent") == "c"
    page.page.focus("#picture-again")
    page.page.keyboard.press("Enter")
    page.until("document.querySelectorAll('#pictures button').length === 2")


def test_with_classes_the_search_starts_from_the_chosen_class(open_page, with_classes, one_thread):
    from dataclasses import replace

    from tests.explorer.conftest import start

    process, address = start(with_classes)
    page = open_page(address)
    page.page.select_option("#label", label="a dog")
    page.set("picture-steps", 3)
    drop(page, png())
    until_found(page)
    loaded = LoadedModel(with_classes)
    loaded = LoadedModel(with_classes, replace(loaded.settings, chosen_class="a dog"))
    picture = read_picture(png(), 16)
    found = project(loaded, picture[None], ProjectionSettings("w+", available_loss(), 3))
    page.shows(found.images[0])
    page.page.goto("about:blank")
    process.terminate()
    process.wait(60)
