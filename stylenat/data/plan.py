"""How the images of a training step are dealt: to the ranks, and on each rank to its passes."""

from __future__ import annotations

from dataclasses import dataclass

from stylenat.distributed import Items, share_of


@dataclass(frozen=True)
class BatchPlan:
    """`batch` images per step of all ranks, and at most `batch_gpu` per pass of one rank.

    With None, a rank takes its whole share in one pass. D compares the images of a pass in groups
    of `stddev_group`, or in one group if they are fewer. Raises ValueError, by the names of the
    configuration, unless ranks, passes and groups divide what they share.
    """

    batch: int
    batch_gpu: int | None = None
    stddev_group: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.world_size:
            raise ValueError(
                f"train.batch must be a multiple of the ranks: {self.batch} images, "
                f"{self.world_size}"
            )
        if self.per_rank % self.per_pass:
            raise ValueError(
                f"train.batch_gpu must divide a rank's share of train.batch: {self.batch_gpu} "
                f"against {self.per_rank} images"
            )
        group = min(self.per_pass, self.stddev_group)
        if self.per_pass % group:
            raise ValueError(
                "the images that a rank sees at once must be a multiple of "
                f"model.discriminator.stddev_group: {self.per_pass} against {group}; change "
                "train.batch or train.batch_gpu"
            )

    @property
    def per_rank(self) -> int:
        return self.batch // self.world_size

    @property
    def per_pass(self) -> int:
        return self.per_rank if self.batch_gpu is None else min(self.batch_gpu, self.per_rank)

    @property
    def passes(self) -> int:
        return self.per_rank // self.per_pass

    def own_share(self, items: Items) -> Items:
        """What this rank takes of a step's items."""
        return share_of(items, self.rank, self.world_size)
