"""NAT, DiNAT and DiNAT_s by timm's conventions. Importing this registers them with timm.

`timm.create_model("dinat_mini", checkpoint_path=..., features_only=True)` works from then on, and
so do timm's transforms, validation and training scripts. timm is an optional dependency.

Legend: B batch, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import Tensor, nn

from stylenat.backbones.config import NATConfig
from stylenat.backbones.names import of_backbone, official_names
from stylenat.backbones.network import NAT
from stylenat.backbones.variants import VARIANTS

CLASSIFIERS = tuple(name for name, config in VARIANTS.items() if config.num_classes)


class TimmNAT(NAT):
    """A classifier with the methods that timm asks of its models.

    `load_state_dict` takes official names and Hugging Face's as well as our own, which is how
    `checkpoint_path` reads published files.
    """

    output_fmt = "NHWC"

    def __init__(
        self,
        config: NATConfig,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
    ) -> None:
        rate = config.drop_path if drop_path_rate is None else drop_path_rate
        config = replace(config, num_classes=num_classes, drop_path=rate)
        super().__init__(config, in_channels=in_chans)
        _check_pool(global_pool)
        self.global_pool, self.drop_rate = global_pool, drop_rate
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = config.levels[-1].channels
        self.feature_info = [
            {
                "num_chs": level.channels,
                "reduction": config.first_stride * 2**index,
                "module": f"levels.{index}",
            }
            for index, level in enumerate(config.levels)
        ]
        self.pruned: tuple[str, ...] = ()  # how the names of removed tensors begin

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images_B3HW))

    def forward_features(self, images_B3HW: Tensor) -> Tensor:
        """The last level's tokens, normalised: [B, H, W, C]."""
        return self.norm(self.tokens(images_B3HW))

    def forward_head(self, x_BHWC: Tensor, pre_logits: bool = False) -> Tensor:
        x = x_BHWC.mean((1, 2)) if self.global_pool == "avg" else x_BHWC
        x = F.dropout(x, self.drop_rate, self.training)
        return self.head(x) if self.num_classes and not pre_logits else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of these levels before their downsampling; `norm` normalises the last level's.

        As with timm's other pyramids, maps are not normalised otherwise; `features` does that.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC: {output_fmt}")
        wanted, last_wanted = feature_take_indices(len(self.levels), indices)
        last, found = len(self.levels) - 1, []
        for index, x_BHWC in enumerate(self.maps(x)):
            if index in wanted:
                level = self.norm(x_BHWC) if norm and index == last else x_BHWC
                is_first = output_fmt == "NCHW"
                found.append(level.permute(0, 3, 1, 2).contiguous() if is_first else level)
            if index == last_wanted and (stop_early or intermediates_only):
                break
        if intermediates_only:
            return found
        return (self.norm(x_BHWC) if index == last else x_BHWC), found

    def prune_intermediate_layers(
        self,
        indices: int | list[int] | None = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove what the maps of these levels do not need."""
        wanted, last_wanted = feature_take_indices(len(self.levels), indices)
        self.pruned = tuple(f"levels.{i}." for i in range(last_wanted + 1, len(self.levels)))
        self.levels = self.levels[: last_wanted + 1]
        if prune_norm:
            self.add_module("norm", nn.Identity())
            self.pruned = (*self.pruned, "norm.")
        if prune_head:
            self.reset_classifier(0)
            self.pruned = (*self.pruned, "head.")
        return wanted

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As torch's; official and Hugging Face's names too. Ignores what pruning has removed."""
        tensors = official_names(of_backbone(state_dict))
        if self.pruned:
            tensors = {n: x for n, x in tensors.items() if not n.startswith(self.pruned)}
        return super().load_state_dict(tensors, strict, assign)

    def get_classifier(self) -> nn.Module:
        return self.head if self.num_classes else nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head for other classes; none for 0."""
        if global_pool is not None:
            _check_pool(global_pool)
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.config = replace(self.config, num_classes=num_classes, labels=())
        if "head" in self._modules:
            del self.head
        if num_classes:
            weight = self.patch_embed.norm.weight
            self.head = nn.Linear(self.num_features, num_classes).to(weight)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.activation_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """The tables of the bias, as in the official training."""
        return {name for name, _ in self.named_parameters() if name.endswith(".rpb")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong to the stem, and to which level or block."""
        blocks = [
            (r"^levels\.(\d+)\.downsample", (1000,)),  # behind all blocks of its level
            (r"^levels\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (1000,)),
        ]
        return {"stem": r"^patch_embed", "blocks": r"^levels\.(\d+)" if coarse else blocks}


class TimmFeatures(FeatureGetterNet):
    """What `features_only=True` gives; it reads the files that `TimmNAT` reads."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        if any(name.startswith("model.patch_embed.") for name in state_dict):
            state_dict = {name.removeprefix("model."): x for name, x in state_dict.items()}
        return self.model.load_state_dict(state_dict, strict, assign)


def _check_pool(global_pool: str) -> None:
    if global_pool not in ("avg", ""):
        raise ValueError(f"global_pool must be avg, or empty for none: {global_pool}")


def _timm_config(config: NATConfig) -> dict[str, Any]:
    """What timm's data pipeline asks for."""
    images, last_stride = config.images, config.first_stride * 2 ** (len(config.levels) - 1)
    return {
        "num_classes": config.num_classes,
        "input_size": (3, images.size, images.size),
        "pool_size": (-(-images.size // last_stride),) * 2,
        "crop_pct": images.crop_pct,
        "interpolation": "bicubic",
        "mean": images.mean,
        "std": images.std,
        "fixed_input_size": False,
        "first_conv": "patch_embed.proj.0" if config.shell == "nat" else "patch_embed.proj",
        "classifier": "head",
        "license": "mit",
    }


default_cfgs = generate_default_cfgs({name: _timm_config(VARIANTS[name]) for name in CLASSIFIERS})


def _entry(name: str) -> Callable[..., nn.Module]:
    """timm's entry for a variant: a function of its name."""

    levels = tuple(range(len(VARIANTS[name].levels)))

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        network: nn.Module = build_model_with_cfg(
            TimmNAT,
            name,
            pretrained,
            feature_cfg={"out_indices": levels, "feature_cls": TimmFeatures},
            config=VARIANTS[name],
            **kwargs,
        )
        return network

    create.__name__ = create.__qualname__ = name
    return create


for _name in CLASSIFIERS:
    register_model(_entry(_name))
