"""Films: walks through w, and the files that hold them."""

from __future__ import annotations

import gc
import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from stylenat.latents import LoadedModel, Settings
from stylenat.latents.film import deal_keyframes, film_change, film_frames, walk
from stylenat.latents.video import check_film, parse_fps, save_film
from tests.latents.test_directions import directions_of


def frames_of(count, alive=None):
    """Frames whose colors tell their number; `alive` collects how many there are at a time."""
    refs = []
    for number in range(count):
        frame = torch.empty(8, 16, 3, dtype=torch.uint8)
        frame[:] = torch.tensor([number * 20, 255 - number * 20, 128], dtype=torch.uint8)
        if alive is not None:
            refs.append(weakref.ref(frame))
            gc.collect()
            alive.append(sum(ref() is not None for ref in refs))
        yield frame
        del frame


def decoded(path):
    """Every frame's mean color, and the times at which frames end, in ms."""
    colors, ends = [], [0.0]
    with Image.open(path) as film:
        for number in range(film.n_frames):
            film.seek(number)
            colors.append(np.asarray(film.convert("RGB")).mean((0, 1)))
            ends.append(ends[-1] + film.info["duration"])
    return np.array(colors), ends[1:]


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_a_film_holds_all_frames_in_order_and_does_not_drift(suffix, tmp_path):
    path = tmp_path / f"film{suffix}"
    save_film(frames_of(10), path, count=10, fps=parse_fps("29.97"), quality=95)
    colors, ends = decoded(path)
    expected = [[20 * number, 255 - 20 * number, 128] for number in range(10)]
    assert np.abs(colors - expected).max() < 12
    assert ends == pytest.approx([1000 * (n + 1) / 29.97 for n in range(10)], abs=0.51)


def test_an_mp4_holds_all_frames_at_its_rate(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    save_film(frames_of(10), path, count=10, fps=parse_fps("30000/1001"), quality=90)
    with av.open(str(path)) as film:
        assert film.streams.video[0].average_rate == Fraction(30000, 1001)
        colors = [f.to_ndarray(format="rgb24").mean((0, 1)) for f in film.decode(video=0)]
    expected = [[20 * number, 255 - 20 * number, 128] for number in range(10)]
    assert np.abs(np.array(colors) - expected).max() < 16


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".mp4"])
def test_no_more_than_two_frames_are_held_at_a_time(suffix, tmp_path):
    if suffix == ".mp4":
        pytest.importorskip("av")
    alive = []
    frames = frames_of(12, alive)
    save_film(frames, tmp_path / f"film{suffix}", count=12, fps=Fraction(10), quality=50)
    assert len(alive) == 12
    assert max(alive) <= 2


def test_a_film_of_one_frame_is_a_picture(tmp_path):
    for suffix in (".webp", ".avif"):
        path = tmp_path / f"film{suffix}"
        save_film(frames_of(1), path, count=1, fps=Fraction(10), quality=50)
        with Image.open(path) as film:
            assert (film.size, film.n_frames) == ((16, 8), 1)


def test_a_failed_film_leaves_nothing(tmp_path):
    def failing():
        yield from frames_of(2)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        save_film(failing(), tmp_path / "film.webp", count=5, fps=Fraction(10), quality=50)
    assert not list(tmp_path.iterdir())


def test_the_walk_meets_its_keyframes_and_closes_smoothly():
    keyframes = torch.randn(3, 2, 4)
    at = walk(keyframes, 200)
    for number in range(3):
        torch.testing.assert_close(at(200 * number), keyframes[number])
    torch.testing.assert_close(at(600), keyframes[0])
    steps = torch.stack([at(n + 1) - at(n) for n in range(599, 602)])
    turns = (steps[1:] - steps[:-1]).norm(dim=(1, 2)) / steps.norm(dim=(1, 2)).mean()
    assert turns.max() < 0.1  # a straight walk has turns of about 1 at its keyframes
    assert torch.equal(walk(keyframes[:1], 20)(7), keyframes[0])


def test_cells_of_the_grid_walk_through_their_own_keyframes(model):
    loaded = LoadedModel(model, Settings(batch=3))
    ws = loaded.styles("0-3").all(batch=4).ws
    frames = list(film_frames(loaded, ws, grid=(2, 1), frames=4))
    assert len(frames) == 8
    (images,) = LoadedModel(model).images(ws)
    for frame, left, right in ((0, 0, 2), (4, 1, 3)):
        expected = torch.cat([images[left], images[right]], dim=1).int()
        assert (frames[frame].int() - expected).abs().max() <= 1
    with pytest.raises(ValueError, match=r"4 keyframes for 3x1 cells; give a multiple of 3"):
        deal_keyframes(4, 3, 1)


def test_frames_can_be_mixed_and_edited():
    directions = directions_of()
    ws, donor = torch.randn(2, 3, 8), torch.randn(1, 3, 8)
    change = film_change(donor, [2], [directions.edit("b:-1..3")])
    start, middle = change(ws, 0.0), change(ws, 0.5)
    direction = directions.file.directions[1]
    move = direction.sigma * direction.vector
    torch.testing.assert_close(start[:, 2], (donor[:, 2] - move).expand(2, -1))
    assert torch.equal(start[:, 1], ws[:, 1])
    torch.testing.assert_close(start[:, 0], ws[:, 0] - move)
    torch.testing.assert_close(middle[:, 0], ws[:, 0] + 3 * move)
    torch.testing.assert_close(change(ws, 1.0), start)
    assert film_change(None, (), ()) is None


def test_the_command_writes_a_film_of_seeds_ws_mixing_and_edits(run, model, tmp_path):
    out, directions = tmp_path / "walk.webp", tmp_path / "d.json"
    assert run("sample", model, "--seeds=5", "--save-w", "--outdir", tmp_path).exit_code == 0
    assert run("directions", model, "--count=2", "--out", directions).exit_code == 0
    result = run(
        "film", model, "--seeds=0-2", "--ws", tmp_path / "ws.safetensors", "--grid=2x1",
        "--frames=3", "--fps=12", "--mix=9", "--blocks=2", "--directions", directions,
        "--set=1:-2..2", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: 6 frames, 0.5 s, ")
    with Image.open(out) as film:
        assert (film.size, film.n_frames) == ((32, 16), 6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--out=walk.gif"], "a film must end in .webp, .avif, .mp4: walk.gif"),
        (["--out=no/walk.webp"], "No such file"),
        (["--fps=0"], "--fps must be a number above 0, at most 1000, such as 30: 0"),
        (["--fps=x"], "--fps must be a number above 0"),
        (["--fps=1/0"], "--fps must be a number above 0"),
        (["--fps=nan"], "--fps must be a number above 0"),
        (["--grid=2x1"], "3 keyframes for 2x1 cells"),
        (["--grid=0x1"], "3 keyframes for 0x1 cells"),
        (["--mix=3"], "--mix and --blocks belong together: --blocks is missing"),
        (["--set=1:2"], "--directions and --set belong together: --directions is missing"),
        (["--mix=3,4", "--blocks=1"], "--mix must be one seed, or a file of one style: 2"),
        (["--mix=3", "--blocks=7"], "blocks must run upwards from 0 to 2: 7"),
    ],
)
def test_bad_values_are_one_sentence(options, sentence, run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("film", model, "--seeds=0-2", "--frames=2", "--out=walk.webp", *options)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert sentence in line
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_without_pyav_a_sentence_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("stylenat.extras.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"needs av, which is not installed.*stylenat\[film\]', or name it .webp"
    ):
        check_film(tmp_path / "film.mp4")
    check_film(tmp_path / "film.webp")
    assert not list(tmp_path.iterdir())
