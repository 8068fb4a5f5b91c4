"""How a step's images are dealt to ranks and passes."""

from __future__ import annotations

import pytest
import torch

from stylenat.data.plan import BatchPlan
from stylenat.distributed import interleaved, share_of


def test_ranks_and_passes_take_every_image_once_and_equally_many():
    plans = [BatchPlan(24, batch_gpu=4, rank=rank, world_size=3) for rank in range(3)]
    assert {(plan.per_rank, plan.per_pass, plan.passes) for plan in plans} == {(8, 4, 2)}
    passes = [
        share_of(plan.own_share(range(100, 124)), index, plan.passes)
        for plan in plans
        for index in range(plan.passes)
    ]
    assert {len(images) for images in passes} == {4}
    assert sorted(image for images in passes for image in images) == list(range(100, 124))


def test_a_rank_with_fewer_images_than_batch_gpu_takes_one_pass():
    plan = BatchPlan(8, batch_gpu=32, world_size=2)
    assert (plan.per_pass, plan.passes) == (4, 1)


@pytest.mark.parametrize("count", [1, 6, 7])
def test_shares_of_unequal_length_come_back_in_order(count):
    items = torch.arange(count * 2).view(count, 2)
    shares = [share_of(items, rank, 3) for rank in range(3)]
    assert torch.equal(interleaved(shares), items)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"world_size": 3}, "multiple of the ranks: 8 images, 3"),
        ({"batch_gpu": 3}, "must divide a rank's share of train.batch: 3 against 8 images"),
        ({"stddev_group": 3}, "stddev_group: 8 against 3"),
    ],
)
def test_what_does_not_divide_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        BatchPlan(8, **settings)
