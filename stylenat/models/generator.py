"""The StyleNAT generator (arXiv 2211.05770): mapping network and synthesis network.

Legend: B batch, H height, W width, C channels, S style_dim, R the level's side, L blocks,
N classes.

Tokens stay [B, H, W, C] from the constant input to the RGB outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ops.checks import check_number, check_whole
from ops.resample import upsample2d
from stylenat.models import pixels
from stylenat.models.classes import check_labels
from stylenat.models.inputs import check_input
from stylenat.models.layers import (
    MLP,
    AdaptiveInstanceNorm,
    ToRGB,
    Upsample,
)
from stylenat.models.levels import GeneratorConfig, LevelConfig
from stylenat.models.mapping import MappingNetwork

W_AVG_LATENTS = 10_000
FEWEST_W_AVG_LATENTS = 1_000  # for each class, however many classes share the 10,000


class Generator(nn.Module):
    """Latents z [B, z_dim], standard normal -> images [B, 3, R, R] in `config.pixel_space`.

    With `config.classes`, each image also needs a label, the number of its class.

    `w_avg` [S] is the mean of w, which truncation needs; with classes it is [N, S], the mean of
    each class. `w_avg_samples` says from how many w it was taken; if that is 0, it is unknown.
    """

    w_avg: Tensor
    w_avg_samples: Tensor
    # Whether w_avg is known, kept on the host: asking a GPU would stall its stream.
    _knows_w_avg = False

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping_network = MappingNetwork(config)
        self.const = nn.Parameter(torch.randn(4, 4, config.levels[0].channels))
        above = [level.channels for level in config.levels[1:]]
        self.levels = nn.ModuleList(
            Level(config, level, out_channels)
            for level, out_channels in zip(config.levels, [*above, None], strict=True)
        )
        of_classes = (config.classes,) if config.classes else ()
        self.register_buffer("w_avg", torch.zeros(*of_classes, config.style_dim))
        self.register_buffer("w_avg_samples", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_post_hook(_ask_for_w_avg_again)

    @property
    def z_dim(self) -> int:
        return self.config.z_dim

    @property
    def num_ws(self) -> int:
        return self.config.num_ws

    @property
    def resolution(self) -> int:
        return self.config.resolution

    def forward(
        self,
        z: Tensor,
        labels_B: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Images [B, 3, R, R] of latents [B, z_dim] (and labels, int64 [B]), one w for all blocks.

        ws are truncated by `truncate`, towards the mean of the image's class if there are classes.
        Raises ValueError for another shape of z, and as `mapping` and `truncate` do.
        """
        ws_BLS = self.mapping(z, labels_B)[:, None].expand(-1, self.num_ws, -1)
        ws_BLS = self.truncate(
            ws_BLS, labels_B, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff
        )
        return self.synthesis(ws_BLS)

    def truncate(
        self,
        ws_BLS: Tensor,
        labels_B: Tensor | None = None,
        *,
        truncation_psi: float,
        truncation_cutoff: int | None = None,
        center: Tensor | None = None,
    ) -> Tensor:
        """ws [B, num_ws, S] of which the first `truncation_cutoff` (all if None) are truncated.

        They become `center + psi * (w - center)` (StyleGAN, arXiv 1812.04948, appendix B). `center`
        broadcasts with [B, cutoff, S]. If it is None, it is w_avg: that of the labels' classes; of
        a generator with classes and without labels, the mean over all classes. If w_avg is unknown,
        every such call estimates it; `store_w_avg` does that once. Raises ValueError for a psi that
        is no finite number, and a cutoff outside 0..num_ws.
        """
        check_number("truncation_psi", truncation_psi)
        if truncation_cutoff is not None:
            check_whole("truncation_cutoff", truncation_cutoff)
        if not math.isfinite(truncation_psi):
            raise ValueError(f"truncation_psi must be finite: {truncation_psi}")
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        if not 0 <= cutoff <= self.num_ws:
            raise ValueError(
                f"truncation_cutoff must be between 0 and num_ws, {self.num_ws}: {cutoff}"
            )
        if truncation_psi == 1 or cutoff == 0:
            return ws_BLS
        center = self._mean_w(labels_B) if center is None else center
        center = center.to(ws_BLS.dtype)
        truncated_BLS = center + truncation_psi * (ws_BLS[:, :cutoff] - center)
        return torch.cat([truncated_BLS, ws_BLS[:, cutoff:]], dim=1)

    def _mean_w(self, labels_B: Tensor | None) -> Tensor:
        """w_avg [S]; with labels that of each image's class, [B, 1, S]."""
        w_avg = self._known_or_estimated_w_avg()
        if labels_B is not None:
            return w_avg[labels_B][:, None]
        return w_avg.mean(dim=0) if self.config.classes else w_avg

    def mapping(self, z: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """w [B, S] of latents [B, z_dim], and of labels [B] if the generator has classes.

        Raises ValueError for another shape, a dtype or device that is not the generator's, labels
        that are missing or out of range, and labels for a generator without classes.
        """
        check_input("z", z, next(self.mapping_network.parameters()), "generator")
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z must be [B, z_dim] = [B, {self.z_dim}]: {tuple(z.shape)}")
        check_labels(labels_B, z, classes=self.config.classes, network="generator")
        return self.mapping_network(z, labels_B)

    def synthesis(self, ws_BLS: Tensor) -> Tensor:
        """Images [B, 3, R, R] of one w per block: ws [B, num_ws, S], level by level from 4x4.

        Images are at least float32, under autocast too. Raises ValueError for another shape,
        and a dtype or device that is not the generator's.
        """
        x_BHWC, image_B3HW, parts = self._start(ws_BLS), None, self._split(ws_BLS)
        for level, level_ws_BLS in zip(self.levels, parts, strict=True):
            x_BHWC, image_B3HW = level(x_BHWC, level_ws_BLS, image_B3HW)
        assert image_B3HW is not None
        return image_B3HW

    def synthesis_by_level(self, ws_BLS: Tensor) -> Iterator[Tensor]:
        """The image after each level, computed when it is asked for; the last is `synthesis`'s.

        Raises ValueError as `synthesis` does.
        """
        x_BHWC, image_B3HW, parts = self._start(ws_BLS), None, self._split(ws_BLS)
        for level, level_ws_BLS in zip(self.levels, parts, strict=True):
            x_BHWC, image_B3HW = level(x_BHWC, level_ws_BLS, image_B3HW)
            yield image_B3HW

    def _start(self, ws_BLS: Tensor) -> Tensor:
        """The constant [B, 4, 4, C] for these ws, which are checked."""
        check_input("ws", ws_BLS, self.const, "generator")
        style_dim = self.config.style_dim
        if ws_BLS.ndim != 3 or ws_BLS.shape[1:] != (self.num_ws, style_dim):
            raise ValueError(
                f"ws must be [B, num_ws, style_dim] = [B, {self.num_ws}, {style_dim}]: "
                f"{tuple(ws_BLS.shape)}"
            )
        # Not len(): torch.export would take its answer, a plain int, for the only batch size.
        return self.const.expand(ws_BLS.shape[0], -1, -1, -1)

    def _split(self, ws_BLS: Tensor) -> tuple[Tensor, ...]:
        """The ws of each level."""
        return ws_BLS.split([level.blocks for level in self.config.levels], dim=1)

    @torch.no_grad()
    def estimate_w_avg(self) -> Tensor:
        """The mean w [S] of 10,000 latents, the same ones in every call and on every device.

        With classes, the mean of each one, [N, S], of as many latents as `_w_avg_latents` says.
        """
        z = self.fixed_latents(self._w_avg_latents)
        if not self.config.classes:
            return self.mapping(z).mean(dim=0)
        label = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        of_classes = range(self.config.classes)
        return torch.stack([self.mapping(z, label + index).mean(dim=0) for index in of_classes])

    def fixed_latents(self, count: int) -> Tensor:
        """Latents [count, z_dim] for statistics of w, the same in every call, on every device."""
        z = torch.randn(
            count,
            self.z_dim,
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float32,
            device="cpu",
        )
        return z.to(self.const)

    @property
    def _w_avg_latents(self) -> int:
        """10,000, shared by the classes if there are some, but at least 1,000 for each of them."""
        return max(FEWEST_W_AVG_LATENTS, W_AVG_LATENTS // max(1, self.config.classes))

    @torch.no_grad()
    def store_w_avg(self) -> None:
        """Set w_avg to the estimate, so that truncation need not repeat it."""
        self.w_avg.copy_(self.estimate_w_avg())
        self.w_avg_samples.fill_(self._w_avg_latents)
        self._knows_w_avg = not self.w_avg.is_meta

    def _known_or_estimated_w_avg(self) -> Tensor:
        if not self._knows_w_avg:  # a meta tensor has no value to ask for
            self._knows_w_avg = not self.w_avg_samples.is_meta and int(self.w_avg_samples) > 0
        return self.w_avg if self._knows_w_avg else self.estimate_w_avg()

    def to_uint8(self, image_B3HW: Tensor) -> Tensor:
        """The generator's images [B, 3, H, W] -> uint8 pixels [B, H, W, 3]."""
        return pixels.to_uint8(image_B3HW, self.config.pixel_space)

    def from_uint8(self, pixels_BHW3: Tensor) -> Tensor:
        """uint8 pixels [B, H, W, 3] -> float32 images [B, 3, H, W], as the generator makes them."""
        return pixels.from_uint8(pixels_BHW3, self.config.pixel_space)

    def extra_repr(self) -> str:
        classes = f", classes={self.config.classes}" if self.config.classes else ""
        return f"resolution={self.resolution}, num_ws={self.num_ws}{classes}"


def _ask_for_w_avg_again(generator: Generator, incompatible_keys: object) -> None:
    generator._knows_w_avg = False


class Level(nn.Module):
    """The blocks of one resolution, the step up to the next, and the RGB output after it.

    x [B, R, R, C], ws [B, L, S], the image so far [B, 3, R, R] (None at 4x4) -> x [B, 2R, 2R, C']
    and image [B, 3, 2R, 2R]. The last level (`out_channels` None) stays at R.
    """

    def __init__(
        self, config: GeneratorConfig, level: LevelConfig, out_channels: int | None
    ) -> None:
        super().__init__()
        self.checkpointing = config.activation_checkpointing
        self.blocks = nn.ModuleList(Block(config, level) for _ in range(level.blocks))
        self.upsample = None if out_channels is None else Upsample(level.channels, out_channels)
        self.to_rgb = ToRGB(level.channels if out_channels is None else out_channels)

    def forward(
        self, x_BHWC: Tensor, ws_BLS: Tensor, image_B3HW: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        for block, w_BS in zip(self.blocks, ws_BLS.unbind(1), strict=True):
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x_BHWC = checkpoint(
                    block, x_BHWC, w_BS, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x_BHWC = block(x_BHWC, w_BS)
        if self.upsample is not None:
            x_BHWC = self.upsample(x_BHWC)
            image_B3HW = None if image_B3HW is None else upsample2d(image_B3HW)
        rgb_B3HW = self.to_rgb(x_BHWC)
        return x_BHWC, rgb_B3HW if image_B3HW is None else image_B3HW + rgb_B3HW


class Block(nn.Module):
    """AdaIN, attention, add; AdaIN, MLP, add: x [B, R, R, C], w [B, S] -> [B, R, R, C]."""

    def __init__(self, config: GeneratorConfig, level: LevelConfig) -> None:
        super().__init__()
        self.norm1 = AdaptiveInstanceNorm(level.channels, config.style_dim)
        self.attention = level.kind.build(
            level.channels,
            level.heads,
            level.resolution,
            qkv_bias=config.qkv_bias,
            qk_scale=config.qk_scale,
            backend=config.attention_backend,
        )
        self.norm2 = AdaptiveInstanceNorm(level.channels, config.style_dim)
        self.mlp = MLP(level.channels, int(level.channels * config.mlp_ratio))

    def forward(self, x_BHWC: Tensor, w_BS: Tensor) -> Tensor:
        x_BHWC = self.attention(self.norm1(x_BHWC, w_BS), residual=x_BHWC)
        return self.mlp(self.norm2(x_BHWC, w_BS), residual=x_BHWC)
