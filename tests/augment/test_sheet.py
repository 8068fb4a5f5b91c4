"""`stylenat augment-sheet`, and the images that it shows."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stylenat import choices, marks
from stylenat.augment.ada import augment_at_percentile
from stylenat.augment.draws import SETS
from stylenat.augment.sheet import augmented_steps
from stylenat.cli import main


def run(*arguments):
    return CliRunner().invoke(main, ["augment-sheet", *map(str, arguments)])


def pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_choice_of_a_set_is_that_of_the_sets():
    assert tuple(SETS) == choices.AUGMENT_SETS


def test_steps_add_transformations_to_the_image_itself():
    x = pictures(40)
    steps = augmented_steps(x, "bgc", columns="p", seed=0)
    assert torch.equal(steps[:, 0], x)
    is_changed = (steps != x[:, None]).flatten(2).any(2)
    assert (is_changed[:, 1:] >= is_changed[:, :-1]).all()
    assert is_changed[:, -1].all()
    assert not is_changed[:, 1].all()


def test_another_seed_draws_other_transformations():
    sheets = [augmented_steps(pictures(4), "bgc", columns="p", seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(sheets[0], sheets[1])
    assert not torch.equal(sheets[0], sheets[2])


def test_steps_by_percentile_make_every_transformation():
    steps = augmented_steps(pictures(2), ["hue"], columns="percentile", seed=0)
    for tenth in (1, 5, 9):
        expected = augment_at_percentile(pictures(2), ["hue"], tenth / 10)
        assert torch.equal(steps[:, tenth], expected)


def test_the_sheet_has_a_row_for_each_image_and_is_no_image_of_a_data_set(tmp_path):
    out = tmp_path / "sheet.png"
    result = run("faces:3", out, "--resolution", 24)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{out}: 3 images of faces:3 with bgc",
        "Columns: the image, then p = 0.1, 0.2, ... 0.9",
    ]
    with Image.open(out) as sheet:
        assert sheet.size == (10 * 24, 3 * 24)
    assert marks.is_marked(out.read_bytes()[: marks.READ_BYTES])


def test_images_of_a_folder_are_scaled_and_the_first_column_shows_them(tmp_path):
    data, out = tmp_path / "data", tmp_path / "sheet.png"
    data.mkdir()
    for index, size in enumerate([(40, 30), (16, 16)]):
        Image.new("RGB", size, (200, 10, 100 * index)).save(data / f"{index}.png")
    assert run(data, out, "--resolution", 16, "--images", 1, "--set", "geom").exit_code == 0
    with Image.open(out) as sheet:
        assert np.asarray(sheet)[:, :16].reshape(-1, 3).tolist() == [[200, 10, 0]] * 256


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["faces:0", "x.png"], 1, "faces:N needs a whole number of faces"),
        (["nowhere", "x.png"], 1, "nowhere: No such file or directory"),
        (["faces:2", "x.jpg"], 1, "its name must end in .png: x.jpg"),
        (["faces:2", "no/x.png"], 1, "no: No such file or directory"),
        (["faces:2", "x.png", "--set", "bgcf", "--resolution", "16"], 1, "at least 22 pixels"),
        (["faces:2", "x.png", "--set", "all"], 2, "'all' is not one of 'blit'"),
        (["faces:2", "x.png", "--images", "0"], 2, "0 is not in the range 1<=x<=100"),
    ],
)
def test_what_cannot_be_shown_ends_in_one_sentence(
    arguments, code, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == code
    assert sentence in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_the_data_set_is_not_overwritten(tmp_path):
    (tmp_path / "data.png").mkdir()
    result = run(tmp_path / "data.png", tmp_path / "data.png")
    assert result.exit_code == 1
    assert "must be another file than" in result.stderr
