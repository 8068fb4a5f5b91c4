"""NAT and DiNAT beside the same networks without attention, and with attention in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.neighborhood import HeadGroup
from ops.neighborhood.window import window_indices
from stylenat.backbones import NAT, blocks, variant
from stylenat.benchmarks.ceilings import measure_ceilings
from stylenat.benchmarks.report import Report
from stylenat.benchmarks.timing import Timing, measure, peak_memory_mb, reset_peak_memory
from stylenat.benchmarks.work import attention_replaced, give_back_values
from stylenat.compat.functional import na2d_av, na2d_qk
from stylenat.precision import without_tf32

COLUMNS = (
    "network",
    "attention",
    "pass",
    "batch",
    "images_per_second",
    "seconds",
    "least",
    "most",
    "of_no_attention",
    "memory_mb",
)
NAMES = ("dinat_mini", "nat_tiny")
TAKEN_OUT = "taken out"


def gather_and_einsum(
    q_BHWND: Tensor,
    k_BHWND: Tensor,
    v_BHWND: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor],
    *,
    scale: float | None = None,
) -> Tensor:
    """What one writes without a kernel: gather the keys and values of every query, then einsum."""
    (group,), (table,) = groups, rpb
    height, width, _, head_dim = q_BHWND.shape[1:]
    scale = head_dim**-0.5 if scale is None else scale
    device = q_BHWND.device
    rows_HK, bias_rows_HK = window_indices(height, group.kernel_size, group.dilation, device)
    columns_WK, bias_columns_WK = window_indices(width, group.kernel_size, group.dilation, device)
    at = (slice(None), rows_HK[:, None, :, None], columns_WK[None, :, None, :])
    keys, values = k_BHWND[at], v_BHWND[at]  # [B, H, W, rows, columns, N, D]
    bias = table[:, bias_rows_HK[:, None, :, None], bias_columns_WK[None, :, None, :]]
    logits = torch.einsum("bhwnd,bhwijnd->bnhwij", q_BHWND * scale, keys) + bias
    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    return torch.einsum("bnhwij,bhwijnd->bhwnd", weights, values)


def through_old_natten(
    q_BHWND: Tensor,
    k_BHWND: Tensor,
    v_BHWND: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor],
    *,
    scale: float | None = None,
) -> Tensor:
    """The calls of code for old NATTEN, such as Hugging Face's Dinat: qk, softmax, av."""
    (group,), (table,) = groups, rpb
    scale = q_BHWND.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (x.permute(0, 3, 1, 2, 4) for x in (q_BHWND * scale, k_BHWND, v_BHWND))
    weights = na2d_qk(q, k, group.kernel_size, group.dilation, rpb=table).softmax(-1)
    out_BNHWD: Tensor = na2d_av(weights, v, group.kernel_size, group.dilation)
    return out_BNHWD.permute(0, 2, 3, 1, 4)


# How attention is computed; each is timed in the same process, one after the other.
ATTENTIONS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "ours": nullcontext,
    TAKEN_OUT: lambda: attention_replaced(blocks, give_back_values),
    "stylenat.compat": lambda: attention_replaced(blocks, through_old_natten),
    "gather and einsum": lambda: attention_replaced(blocks, gather_and_einsum),
}


def bench_backbones(
    *, device: torch.device, batches: Sequence[int], repeats: int, names: Sequence[str] = NAMES
) -> Report:
    """Networks with fresh weights on images of their size, float32 without TF32.

    A pass is inference, or a training step: forward with drop path, cross-entropy, backward and
    AdamW. `of_no_attention` is the time over that of the same network whose attention gives back
    its values, in the same run.
    """
    report = Report(
        "backbones",
        "NAT and DiNAT at 224x224, float32",
        COLUMNS,
        measure_ceilings(device),
        device,
    )
    with without_tf32(), report.until_interrupted():
        for name in names:
            for batch in sorted(batches):
                for what, make in (("inference", _inference), ("training step", _training_step)):
                    torch.manual_seed(0)
                    _bench(report, name, batch, what, make(name, batch, device), repeats)
    return report


def _bench(
    report: Report, name: str, batch: int, what: str, run: Callable[[], object], repeats: int
) -> None:
    """A row for each attention, against the one without."""
    timings: dict[str, Timing] = {}
    memories: dict[str, float | None] = {}
    for attention, change in ATTENTIONS.items():
        reset_peak_memory(report.device)
        try:
            with change():
                timings[attention] = measure(run, repeats=repeats, device=report.device)
        except torch.OutOfMemoryError:
            report.notes.append(f"{name}, batch {batch}, {attention}: does not fit the memory.")
        memories[attention] = peak_memory_mb(report.device)
    least = timings.get(TAKEN_OUT)
    for attention, seconds in timings.items():
        report.add(
            network=name,
            attention=attention,
            **{"pass": what},
            batch=batch,
            images_per_second=batch / seconds.median,
            seconds=seconds.median,
            least=seconds.least,
            most=seconds.most,
            of_no_attention=None if least is None else seconds.median / least.median,
            memory_mb=memories[attention],
        )


def _network_and_images(name: str, batch: int, device: torch.device) -> tuple[NAT, Tensor]:
    network = NAT(variant(name)).to(device)
    side = network.config.images.size
    return network, torch.randn(batch, 3, side, side, device=device)


def _inference(name: str, batch: int, device: torch.device) -> Callable[[], object]:
    network, images_B3HW = _network_and_images(name, batch, device)
    network.eval().requires_grad_(False)
    return torch.inference_mode()(lambda: network(images_B3HW))


def _training_step(name: str, batch: int, device: torch.device) -> Callable[[], object]:
    network, images_B3HW = _network_and_images(name, batch, device)
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-4)
    classes_B = torch.zeros(batch, dtype=torch.int64, device=device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images_B3HW), classes_B).backward()
        optimizer.step()

    return step
