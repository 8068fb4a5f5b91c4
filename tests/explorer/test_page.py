"""The page in a browser, with the server's engine: every control changes the image as it should."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import torch
from torch import Tensor

from stylenat.cli import main
from stylenat.latents import mixed
from stylenat.sampling import generate, render, seed_ws


def image(generator, seed: int, **options) -> Tensor:
    (pixels,) = generate(generator, [seed], **options)
    return pixels[0]


def image_of(generator, ws_LS: Tensor) -> Tensor:
    return render(generator, ws_LS[None])[0]


def test_a_seed_shows_the_image_of_sample(open_page, address, generators):
    page = open_page(address)
    page.shows(image(generators[0], 0))
    page.set("seed", 7)
    page.shows(image(generators[0], 7))
    page.page.click("#next")
    page.shows(image(generators[0], 8))
    page.page.click("#previous")
    page.shows(image(generators[0], 7))


def test_truncation_and_its_cutoff_are_those_of_sample(open_page, address, generators):
    page = open_page(address)
    page.set("psi", 0.5)
    page.shows(image(generators[0], 0, truncation_psi=0.5))
    page.set("cutoff", 1)
    page.shows(image(generators[0], 0, truncation_psi=0.5, truncation_cutoff=1))
    assert "--trunc 0.5 --trunc-cutoff 1" in page.page.inner_text("#command")


def test_mixed_blocks_take_the_second_seed(open_page, address, generators):
    page = open_page(address)
    page.set("donor", 5)
    page.page.click("[data-blocks=middle]")  # 16x16
    ws = seed_ws(generators[0], [0, 5])
    page.shows(image_of(generators[0], mixed(ws[0], ws[1], [2])))
    page.page.click("#blocks input >> nth=0")
    page.shows(image_of(generators[0], mixed(ws[0], ws[1], [0, 2])))
    assert "mix" in page.page.inner_text("#command")
    assert "--rows 0 --cols 5 --blocks 0,2" in page.page.inner_text("#command")


def test_between_seeds_w_is_mixed(open_page, address, generators):
    page = open_page(address)
    page.set("fraction", 0.25)
    page.set("y", 0.5)
    ws = seed_ws(generators[0], [0, 1, 100, 101])
    weights = torch.tensor([0.75, 0.25, 0.75, 0.25])[:, None, None] / 2
    page.shows(image_of(generators[0], (weights * ws).sum(0)))


def test_keys_and_drags_on_the_image_move_on_the_plane(open_page, address, generators):
    page = open_page(address)
    page.page.focus("#image0")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        page.page.keyboard.press(key)
    page.shows(image(generators[0], 101))
    page.page.keyboard.press("Shift+ArrowRight")
    assert float(page.page.input_value("#fraction")) == 0.05
    box = page.page.locator("#image0").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(*middle)
    page.page.mouse.down()
    page.page.mouse.move(middle[0] - 0.475 * box["width"], middle[1], steps=4)
    page.page.mouse.up()
    page.shows(image(generators[0], 102), within=6)  # a pixel of the screen moves w a little


def test_the_address_holds_the_whole_state(open_page, address, generators):
    page = open_page(f"{address}#x=3&psi=0.5&cutoff=2&donor=4&blocks=1&model=1&beside=0")
    ws = seed_ws(generators[1], [3, 4], truncation_psi=0.5, truncation_cutoff=2)
    page.shows(image_of(generators[1], mixed(ws[0], ws[1], [1])))
    ws = seed_ws(generators[0], [3, 4], truncation_psi=0.5, truncation_cutoff=2)
    page.shows(image_of(generators[0], mixed(ws[0], ws[1], [1])), pane=1)
    page.set("psi", 0.25)
    page.page.wait_for_url("**psi=0.25**")
    again = open_page(page.page.url)
    ws = seed_ws(generators[1], [3, 4], truncation_psi=0.25, truncation_cutoff=2)
    again.shows(image_of(generators[1], mixed(ws[0], ws[1], [1])))


def test_two_models_stand_side_by_side_on_the_same_seed(open_page, address, generators):
    page = open_page(address)
    page.page.select_option("#beside", "1")
    page.shows(image(generators[1], 0), pane=1)
    page.set("seed", 4)
    page.shows(image(generators[0], 4))
    page.shows(image(generators[1], 4), pane=1)
    page.set("scrub", 1)
    page.shows(image(generators[1], 4))


def test_a_ws_file_of_the_page_gives_the_image_to_sample(open_page, address, models, tmp_path):
    from click.testing import CliRunner
    from PIL import Image

    page = open_page(f"{address}#x=2.5&psi=0.7")
    assert "save its ws file first" in page.page.inner_text("#command")
    with page.page.expect_download() as download:
        page.page.click("#save-w")
    file = tmp_path / "explorer.safetensors"
    download.value.save_as(file)
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
    with page.page.expect_download() as download:
        page.page.click("#png")
    download.value.save_as(tmp_path / "page.png")
    pixels = [Image.open(tmp_path / name).convert("RGB") for name in ("explorer.png", "page.png")]
    first, second = (torch.tensor(np.asarray(picture)).int() for picture in pixels)
    assert (first - second).abs().max() <= 1


def test_a_walk_moves_and_stops(open_page, address):
    page = open_page(address)
    page.page.click("#walk")
    page.until("Number(document.getElementById('fraction').value) > 0.1")
    page.page.click("#walk")
    assert page.page.get_attribute("#walk", "aria-pressed") == "false"


def test_keyframes_make_a_film_that_plays_and_is_recorded(open_page, address, generators):
    page = open_page(f"{address}#x=1")
    page.page.click("#add-keyframe")
    page.set("seed", 2)
    page.page.click("#add-keyframe")
    assert page.page.locator("#keyframes [role=listitem]").count() == 2
    page.shows(image(generators[0], 2))
    drawn = "Number(document.getElementById('image0').dataset.drawn)"
    before = page.page.evaluate(drawn)
    page.set("seconds", 0.3)
    page.page.click("#play")
    page.until(f"{drawn} > {before + 5}")
    page.page.click("#play")
    with page.page.expect_download(timeout=60_000) as download:
        page.page.click("#record")
    assert download.value.suggested_filename == "stylenat.webm"
    page.page.wait_for_url("**film=1_0*2_0**")


def test_the_page_fits_a_phone_and_follows_dark_mode(open_page, address):
    page = open_page(
        address, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True
    )
    width = page.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    dark = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, dark.removeprefix("rgb(").removesuffix(")").split(","))) < 64


def test_every_control_has_a_name_and_can_be_reached_by_keys(open_page, address):
    page = open_page(address)
    names = page.page.evaluate(
        """() => Array.from(document.querySelectorAll("input, button, select, canvas"))
            .filter(e => e.checkVisibility())
            .map(e => [e.id, e.labels?.[0]?.innerText || e.ariaLabel || e.innerText, e.tabIndex])"""
    )
    assert [row for row in names if not row[1].strip() or row[2] != 0] == []


def test_an_address_without_its_token_says_so(browser, address):
    page = browser.new_page()
    response = page.goto(address.partition("?")[0])
    assert response.status == 403
    assert "lacks its token" in page.inner_text("body")
    page.close()


def test_when_the_server_has_ended_the_page_says_so(open_page, models):
    from tests.explorer.conftest import start

    process, address = start(models[0])
    page = open_page(address)
    process.terminate()
    process.wait(60)
    page.page.wait_for_selector("#error:not([hidden])")
    assert "The explorer has ended" in page.page.inner_text("#error")
    page.faults.clear()


def test_directions_are_sliders_that_edit_as_the_command_does(
    open_page, models, generators, tmp_path
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
    page = open_page(address)
    page.set("direction0", -2)
    ws = edited(seed_ws(generators[0], [0]), [Edit(hair, -2, -2)], 0)
    page.shows(image_of(generators[0], ws[0]))
    command = page.page.inner_text("#command")
    assert "--set hair:-2" in command
    page.page.click("#zero")
    page.shows(image(generators[0], 0))
    page.page.goto("about:blank")
    process.terminate()
    process.wait(60)


def test_attention_is_laid_over_the_image_and_kept_in_the_address(open_page, address):
    page = open_page(address)
    assert page.page.is_hidden("#overlay")
    page.page.check("#attention")
    page.page.wait_for_selector("#overlay[data-drawn]")
    page.page.select_option("#place", "2")
    box = page.page.locator("#image0").bounding_box()
    page.page.click("#image0", position={"x": 0.26 * box["width"], "y": 0.51 * box["height"]})
    page.page.wait_for_url("**attention=2_0.51_0.26**")
    red = """() => {
        const overlay = document.getElementById("overlay");
        const {data} = overlay.getContext("2d").getImageData(0, 0, overlay.width, overlay.height);
        return [overlay.width, Array.from(data).filter((v, i) => i % 4 === 3 && v > 0).length];
    }"""
    for _ in range(100):
        if page.page.evaluate(red) == [16, 9]:  # 3x3 keys on a map of 16x16
            break
        page.page.wait_for_timeout(100)
    assert page.page.evaluate(red) == [16, 9]
    page.page.uncheck("#attention")
    page.page.wait_for_selector("#overlay", state="hidden")


def test_classes_are_chosen_by_name_and_truncated_to_their_own_mean(open_page, with_classes):
    from stylenat.sampling import load_model
    from tests.explorer.conftest import start

    generator = load_model(with_classes)
    process, address = start(with_classes)
    page = open_page(f"{address}#x=3&psi=0.5")
    page.shows(image_of(generator, seed_ws(generator, [3], [0], truncation_psi=0.5)[0]))
    page.page.select_option("#label", label="a dog")
    expected = image_of(generator, seed_ws(generator, [3], [1], truncation_psi=0.5)[0])
    page.shows(expected)
    command = page.page.inner_text("#command")
    assert "--seeds 3 --trunc 0.5 --class 'a dog'" in command
    page.page.wait_for_url("**label=1**")
    page.page.goto("about:blank")
    process.terminate()
    process.wait(60)


def test_what_ails_one_model_stays_in_view_while_the_other_is_drawn(open_page, models, tmp_path):
    from tests.explorer.conftest import start

    run = tmp_path / "run"
    (run / "snapshots").mkdir(parents=True)
    (run / "config.yaml").touch()
    for nimg in (1000, 2000):
        shutil.copy(models[0], run / f"snapshots/{nimg:09d}.safetensors")
    process, address = start(run)
    (run / "snapshots/000001000.safetensors").unlink()
    page = open_page(f"{address}#beside=1")
    page.page.wait_for_selector("#error:not([hidden])")
    page.set("seed", 5)
    page.until("Number(document.getElementById('image0').dataset.drawn) > 1")
    assert os.strerror(errno.ENOENT) in page.page.inner_text("#error")
    page.page.select_option("#beside", "2")
    page.page.wait_for_selector("#error", state="hidden")
    page.page.goto("about:blank")
    process.terminate()
    process.wait(60)
