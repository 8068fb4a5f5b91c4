"""The order of a training run's images: a function of seed and position, and of nothing else."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stylenat.data import ImageSource, open_images, read_batches, training_batches
from stylenat.data.loader import training_samples
from stylenat.data.source import FacesSource
from tests.data.writers import (
    lsun_entries,
    numbered_zip,
    pixels,
    png,
    write_folder,
    write_lmdb,
    write_zip,
)


@pytest.fixture
def source(tmp_path) -> ImageSource:
    """Seven images, 8 high and 6 wide."""
    return open_images(write_zip(tmp_path / "x.zip", {f"{i}.png": png(i, 8, 6) for i in range(7)}))


def take(batches: Iterator[Tensor], count: int) -> Tensor:
    """The images of the first batches, in one tensor."""
    taken = torch.cat(list(itertools.islice(batches, count)))
    batches.close()
    return taken


def recognised(images: Tensor, count: int = 7) -> list[tuple[int, bool]]:
    """Which image each one is, and whether it is flipped."""
    known = {}
    for index in range(count):
        image = torch.from_numpy(pixels(index, 8, 6))
        known[image.numpy().tobytes()] = (index, False)
        known[image.flip(1).contiguous().numpy().tobytes()] = (index, True)
    return [known[image.numpy().tobytes()] for image in images]


def test_batches_are_uint8_of_the_images_and_their_mirror_images(source):
    batches = training_batches(source, seed=0, batch=4, workers=0)
    first = next(batches)
    assert (first.dtype, first.shape) == (torch.uint8, (4, 8, 6, 3))
    assert first.is_contiguous()
    recognised(first)


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own(source):
    seen = recognised(take(training_batches(source, seed=0, batch=3, workers=0), 14))
    epochs = [[index for index, _ in seen[start : start + 7]] for start in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6


def test_flips_depend_on_the_position_and_come_half_of_the_time(source):
    samples = training_samples(range(4000), 0, 7, mirror=True)
    flips = np.array([flipped for _, flipped in samples])
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / 4000**0.5
    images = np.array([index for index, _ in samples])
    for index in range(7):  # an image is not always flipped the same way
        assert 0.35 < flips[images == index].mean() < 0.65
    neighbours = np.corrcoef(flips[1:], flips[:-1])[0, 1]
    assert abs(neighbours) < 4 / 4000**0.5


def test_without_mirror_the_same_images_come_unflipped(source):
    options = {"seed": 3, "batch": 4, "workers": 0}
    plain = recognised(take(training_batches(source, mirror=False, **options), 5))
    mirrored = recognised(take(training_batches(source, mirror=True, **options), 5))
    assert [index for index, _ in plain] == [index for index, _ in mirrored]
    assert {flipped for _, flipped in plain} == {False}
    assert {flipped for _, flipped in mirrored} == {False, True}


def test_the_order_is_pinned():
    # Or a run could not be continued by a later version.
    samples = training_samples(range(5, 9), 1, 7, mirror=True)
    assert samples == [(2, False), (5, True), (2, False), (0, False)]
    assert training_samples([10**12], 1, 10**6, mirror=True) == [(275_388, True)]


def test_seeds_differ(source):
    first, second = (
        recognised(take(training_batches(source, seed=seed, batch=7, workers=0), 3))
        for seed in (0, 1)
    )
    assert [index for index, _ in first] != [index for index, _ in second]
    assert [flipped for _, flipped in first] != [flipped for _, flipped in second]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(source, workers):
    expected = take(training_batches(source, seed=0, batch=3, workers=0), 20)
    assert torch.equal(
        take(training_batches(source, seed=0, batch=3, workers=workers), 20), expected
    )


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_take_every_so_manyth_image_of_the_same_batch(source, world_size):
    whole = list(itertools.islice(training_batches(source, seed=0, batch=6, workers=0), 5))
    for rank in range(world_size):
        share = training_batches(
            source, seed=0, batch=6, rank=rank, world_size=world_size, workers=0
        )
        for batch, part in zip(whole, share, strict=False):
            assert torch.equal(part, batch[rank::world_size])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_continues_within_an_epoch_and_across_one(source, workers):
    whole = take(training_batches(source, seed=0, batch=3, workers=0), 9)
    for steps in (1, 2, 3, 5):  # 3 and 6 images: within the first epoch; 9 and 15 after it
        rest = training_batches(source, seed=0, batch=3, start_nimg=3 * steps, workers=workers)
        assert torch.equal(take(rest, 9 - steps), whole[3 * steps :])


def test_a_run_may_continue_with_another_batch_and_other_ranks(source):
    whole = take(training_batches(source, seed=0, batch=4, workers=0), 4)
    rest = training_batches(source, seed=0, batch=6, start_nimg=4, rank=1, world_size=2, workers=0)
    assert torch.equal(take(rest, 2), whole[4:][1::2])


def test_a_data_set_may_be_smaller_than_the_batch(source):
    small = take(training_batches(source, seed=0, batch=20, workers=0), 2)
    assert torch.equal(small, take(training_batches(source, seed=0, batch=5, workers=0), 8))
    indices = [index for index, _ in recognised(small)]
    assert sorted(indices[:7]) == sorted(indices[7:14]) == list(range(7))


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generators_are_neither_read_nor_moved(source, workers):
    def states() -> tuple:
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before = states()
    first = take(training_batches(source, seed=0, batch=4, workers=workers), 3)
    assert states() == before
    torch.manual_seed(77)
    np.random.seed(77)
    random.seed(77)
    assert torch.equal(take(training_batches(source, seed=0, batch=4, workers=workers), 3), first)


@pytest.mark.parametrize("way", ["close", "forget", "break"])
def test_workers_end_with_the_iterator(source, way):
    batches = training_batches(source, seed=0, batch=2, workers=2)
    assert multiprocessing.active_children() == []
    next(batches)
    children = multiprocessing.active_children()
    assert len(children) == 2
    if way == "close":
        batches.close()
    elif way == "break":
        for _ in batches:
            break
        del batches
    else:
        del batches
    assert multiprocessing.active_children() == []
    assert not any(child.is_alive() for child in children)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_another_size_is_one_sentence_whoever_reads_it(tmp_path, workers):
    path = write_folder(tmp_path, {"a.png": png(0), "b.png": png(1, 8, 9)})
    sized = open_images(path, resolution=8)
    with pytest.raises(ValueError, match=r"^[^\n]*b\.png must be 8x8: it is 9x8[^\n]*$"):
        take(training_batches(sized, seed=0, batch=2, workers=workers), 1)
    assert multiprocessing.active_children() == []


# Images that can't be read

BAD = (2, 5)


@pytest.fixture
def damaged(tmp_path) -> ImageSource:
    """The seven images, two of them cut short."""
    files = {f"{i}.png": png(i, 8, 6) for i in range(7)}
    files |= {f"{i}.png": files[f"{i}.png"][:60] for i in BAD}
    return open_images(write_folder(tmp_path / "damaged", files))


def with_replacements(seed: int, count: int) -> list[tuple[int, bool]]:
    """What the first positions should show, by the rule in words: the epoch's next good image."""
    expected = []
    for position in range(count):
        epoch = training_samples(range(position // 7 * 7, position // 7 * 7 + 7), seed, 7, mirror=1)
        _, flipped = epoch[position % 7]
        after = [index for index, _ in (epoch * 2)[position % 7 :]]
        expected.append((next(index for index in after if index not in BAD), flipped))
    return expected


@pytest.mark.parametrize("seed", range(3))
def test_the_next_good_image_of_the_epoch_replaces_a_bad_one(damaged, seed, caplog):
    seen = recognised(take(training_batches(damaged, seed=seed, batch=3, workers=0), 14))
    assert seen == with_replacements(seed, 42)
    told = sorted(record.getMessage() for record in caplog.records)
    assert [text.partition(" is damaged: ")[0] for text in told] == [
        f"{damaged.path}/{index}.png" for index in BAD
    ]
    assert all(text.endswith("; another image is shown in its place") for text in told)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_do_not_change_what_replaces_an_image(damaged, workers, caplog):
    expected = take(training_batches(damaged, seed=0, batch=3, workers=0), 14)
    caplog.clear()
    assert torch.equal(
        take(training_batches(damaged, seed=0, batch=3, workers=workers), 14), expected
    )
    assert len(caplog.records) == 2  # the main process tells, each image once


@pytest.mark.parametrize("world_size", [2, 3, 6])
@pytest.mark.filterwarnings("ignore:.*another image is shown:UserWarning")
def test_ranks_do_not_change_what_replaces_an_image(damaged, world_size):
    whole = list(itertools.islice(training_batches(damaged, seed=0, batch=6, workers=0), 7))
    for rank in range(world_size):
        options = {"batch": 6, "rank": rank, "world_size": world_size, "workers": 0}
        share = itertools.islice(training_batches(damaged, seed=0, **options), 7)
        for batch, part in zip(whole, share, strict=True):
            assert torch.equal(part, batch[rank::world_size])


def test_a_continued_run_sees_the_same_replacements(damaged):
    whole = take(training_batches(damaged, seed=0, batch=3, workers=0), 14)
    rest = training_batches(damaged, seed=0, batch=3, start_nimg=15, workers=0)
    assert torch.equal(take(rest, 9), whole[15:])


@pytest.mark.filterwarnings("ignore:.*2.png is damaged:UserWarning")
def test_other_ranks_than_the_first_warn(damaged, caplog):
    batches = training_batches(damaged, seed=0, batch=14, rank=1, world_size=2, workers=0)
    with pytest.warns(UserWarning, match=r"5\.png is damaged.*another image is shown"):
        take(batches, 4)
    assert not caplog.records


@pytest.mark.parametrize("workers", [0, 2])
def test_more_bad_images_than_permitted_are_one_sentence(damaged, workers):
    def first_batches(max_bad: int) -> Tensor:
        options = {"batch": 7, "max_bad": max_bad, "workers": workers}
        return take(training_batches(damaged, seed=0, **options), 3)

    first_batches(2)
    sentence = (
        rf"^2 of 7 images can't be read, and at most 1 may be replaced: {damaged.path}/\d\.png is "
        rf"damaged: [^\n]*, {damaged.path}/\d\.png is damaged[^\n]*`stylenat prepare` makes"
    )
    with pytest.raises(ValueError, match=sentence):
        first_batches(1)
    with pytest.raises(ValueError, match=rf"^{damaged.path}/\d\.png is damaged: [^\n]*$"):
        first_batches(0)
    assert multiprocessing.active_children() == []


def test_bad_images_are_counted_over_batches_but_each_of_them_once(damaged):
    take(training_batches(damaged, seed=0, batch=1, max_bad=2, workers=0), 70)
    with pytest.raises(ValueError, match="2 of 7 images"):
        take(training_batches(damaged, seed=0, batch=1, max_bad=1, workers=0), 7)


def test_a_data_set_that_went_away_is_one_sentence(tmp_path):
    """And soon, not after a look for every file."""
    path = write_folder(tmp_path / "gone", {f"{i}.png": png(i) for i in range(30)})
    source = open_images(path)
    for file in (tmp_path / "gone").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"^4 of 30 images can't be read.*No such file"):
        take(training_batches(source, seed=0, batch=2, max_bad=3, workers=0), 1)
    with pytest.raises(ValueError, match=r"^30 of 30 images can't be read"):
        take(training_batches(source, seed=0, batch=2, workers=0), 1)


def test_metrics_read_the_images_that_they_chose_or_none(damaged):
    with pytest.raises(ValueError, match=r"2\.png is damaged"):
        list(read_batches(damaged, range(7), batch=2, workers=0))


class Deadly(FacesSource):
    """Ends the process that reads it, as a lack of memory does."""

    def image(self, index: int) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().image(index)


def test_a_lost_worker_is_one_sentence():
    deadly = Deadly(3, resolution=4, seed=0)
    with pytest.raises(OSError, match=r"a process that reads images was lost.*data\.workers"):
        next(training_batches(deadly, seed=0, batch=2, workers=1))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_worker_outlives_the_signals_that_its_run_ends_by(name):
    batches = training_batches(FacesSource(3, resolution=4, seed=0), seed=0, batch=2, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, getattr(signal, name))
    for _ in range(10):
        next(batches)
    assert worker.is_alive()
    batches.close()


def hash_of_two_epochs(source: ImageSource, workers: int) -> str:
    """SHA-256 of every pixel, in order."""
    batches = training_batches(source, seed=0, batch=5, workers=workers)
    return hashlib.sha256(take(batches, 2 * len(source) // 5).numpy().tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_four_processes_forked_or_spawned_see_what_one_sees(tmp_path, method):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        for path in (
            numbered_zip(tmp_path / "x.zip", 100),
            write_lmdb(tmp_path / "lsun", lsun_entries(100)),
        ):
            opened = open_images(path, resolution=8, resize="box")
            opened.read(1)  # so this process's handles are open, and must not be shared
            expected = hash_of_two_epochs(opened, workers=0)
            assert hash_of_two_epochs(opened, workers=4) == expected, path
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch": 0}, "batch must be at least 1: 0"),
        (
            {"batch": 5, "world_size": 2},
            "must be a multiple of the ranks: 5 images, 2",
        ),
        ({"seed": -1}, "seed must be at least 0: -1"),
        ({"start_nimg": -1}, "start_nimg must be at least 0: -1"),
        ({"workers": -1}, "workers must be at least 0: -1"),
        ({"max_bad": -1}, "max_bad must be at least 0: -1"),
    ],
)
def test_values_without_meaning_are_refused_at_once(source, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        training_batches(source, **{"seed": 0, "batch": 4, **options})


# For metrics


@pytest.mark.parametrize("workers", [0, 2])
def test_chosen_images_are_read_in_their_order(source, workers):
    indices = [6, 0, 0, 3, 1]
    batches = list(read_batches(source, indices, batch=2, workers=workers))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert recognised(torch.cat(batches)) == [(index, False) for index in indices]
    assert list(read_batches(source, [], batch=2, workers=workers)) == []
    assert len(list(read_batches(source, np.arange(7), batch=100, workers=workers))) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_ends_where_the_size_changes(tmp_path, workers):
    sizes = [(8, 8), (8, 8), (8, 9), (8, 8), (9, 8), (9, 8)]
    files = {f"{i}.png": png(i, *size) for i, size in enumerate(sizes)}
    source = open_images(write_folder(tmp_path, files))
    batches = list(read_batches(source, range(6), batch=4, workers=workers))
    assert [batch.shape for batch in batches] == [
        (2, 8, 8, 3), (1, 8, 9, 3), (1, 8, 8, 3), (2, 9, 8, 3)
    ]  # fmt: skip
    images = [image.numpy() for batch in batches for image in batch]
    assert all(np.array_equal(image, source.read(i)) for i, image in enumerate(images))
    with pytest.raises(ValueError, match="batch must be at least 1: 0"):
        read_batches(source, [0], batch=0)
