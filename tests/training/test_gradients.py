"""Gradients are averaged over the ranks in buckets, which are sent while the backward pass goes on.

Most tests stand in for the other ranks: a mean over ranks that is this rank's own gradient.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from stylenat.training import gradients as module_of_gradients
from stylenat.training.gradients import Gradients
from tests.training.averaging import Uneven
from tests.training.tiny import ROOT, environment

SIZES = [1, 1000, 2**20]
X_43 = torch.linspace(-1, 1, 12).view(4, 3)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is sent, in its order, as if there were two ranks."""
    tensors: list[Tensor] = []

    class OwnMean:
        def __init__(self, tensor: Tensor) -> None:
            tensors.append(tensor)

        def wait(self) -> None:
            pass

    monkeypatch.setattr(module_of_gradients, "world_size", lambda: 2)
    monkeypatch.setattr(module_of_gradients, "Mean", OwnMean)
    return tensors


def on_one_rank(monkeypatch: pytest.MonkeyPatch, passes: int = 1) -> list[Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(module_of_gradients, "world_size", lambda: 1)
        return gradients_of(Uneven(), passes=passes, bucket_bytes=1)


def gradients_of(module: Uneven, *, passes: int, bucket_bytes: int) -> list[Tensor]:
    with Gradients(module.trained(), passes=passes, bucket_bytes=bucket_bytes) as gradients:
        for index in range(passes):
            gradients.add_of(module(X_43 + index).square().sum())
        gradients.average(torch.zeros(()))
        return [p.grad.clone() for p in module.trained() if p.grad is not None]


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("bucket_bytes", SIZES)
def test_gradients_pass_through_buckets_unchanged(sent, monkeypatch, bucket_bytes, passes):
    """Those of frozen parts are left out, and of what the loss does not reach they are 0."""
    expected = on_one_rank(monkeypatch, passes)
    assert not sent
    found = gradients_of(Uneven(), passes=passes, bucket_bytes=bucket_bytes)
    assert len(found) == len(expected) == 7
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert any(not gradient.any() for gradient in found)
    assert len(sent) == {1: 7, 1000: 5, 2**20: 1}[bucket_bytes]
    assert len({tensor.data_ptr() for tensor in sent}) == len(sent)


def test_buckets_are_sent_while_the_pass_goes_on(sent):
    """When the pass is at the first layer, the gradients of the last one are on their way."""
    module = Uneven()
    del module.unreached
    x = X_43.clone().requires_grad_(True)
    sent_before_the_first_layer = []
    with Gradients(module.trained(), bucket_bytes=1) as gradients:
        first = module.layers[0](x)
        first.register_hook(lambda _: sent_before_the_first_layer.append(len(sent)))
        y = first.tanh()
        for layer in module.layers[1:]:
            y = layer(y).tanh()
        gradients.add_of(y.sum())
        assert sent_before_the_first_layer == [4]
        assert len(sent) == 5  # all but the last bucket, which takes the loss along
        gradients.average(torch.zeros(()))
    assert len(sent) == 6


def test_nothing_is_sent_before_the_last_pass(sent):
    module = Uneven()
    del module.unreached
    with Gradients(module.trained(), passes=2, bucket_bytes=1) as gradients:
        gradients.add_of(module(X_43).sum())
        assert not sent
        gradients.add_of(module(X_43).sum())
        assert sent


def test_buckets_keep_their_order_whatever_a_loss_reaches(sent):
    """Other ranks send the same ones: the last parameter's first, though it has no gradient."""
    module = Uneven()
    with Gradients(module.trained(), bucket_bytes=1) as gradients:
        gradients.add_of(module(X_43).sum())
        assert not sent
        gradients.average(torch.zeros(()))
    shapes = [p.numel() for p in reversed(Uneven().trained())]
    room = [-(-numel // 32) * 32 + 1 for numel in shapes]  # a multiple of 32, and one number more
    assert [tensor.numel() for tensor in sent] == room


def test_gradients_are_kept_once(sent):
    """They are views of what is sent."""
    module = Uneven()
    with Gradients(module.trained(), bucket_bytes=1000) as gradients:
        gradients.add_of(module(X_43).sum())
        gradients.average(torch.zeros(()))
        stored = {
            p.grad.untyped_storage().data_ptr() for p in module.trained() if p.grad is not None
        }
        assert stored == {tensor.untyped_storage().data_ptr() for tensor in sent}


def test_hooks_and_gradients_are_gone_after_the_block(sent):
    module = Uneven()
    for _ in range(2):
        gradients_of(module, passes=1, bucket_bytes=1)
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in module.parameters())


def test_one_rank_has_neither_buckets_nor_hooks():
    module = Uneven()
    with Gradients(module.trained()) as gradients:
        gradients.add_of(module(X_43).sum())
        assert not gradients.buckets
        assert not any(p._post_accumulate_grad_hooks for p in module.parameters())
        assert module.unreached.weight.grad is None
        gradients.average(torch.zeros(()))
        assert module.unreached.weight.grad is not None


def test_the_second_derivative_of_a_penalty_moves_each_gradient_once(sent):
    """As R1 does, the pass goes through the gradient of another pass, which sends nothing."""
    module = Uneven()
    with Gradients(module.trained(), bucket_bytes=1000) as gradients:
        x = X_43.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
        assert not sent
        gradients.add_of(slope.square().sum())
        gradients.average(torch.zeros(()))
        found = [p.grad.clone() for p in module.trained() if p.grad is not None]
    module.requires_grad_(True)
    x = X_43.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    for ours, parameter in zip(found, module.trained(), strict=True):
        assert torch.equal(
            ours, torch.zeros_like(ours) if parameter.grad is None else parameter.grad
        )


@pytest.mark.slow
def test_two_ranks_have_the_bits_of_one_plain_average():
    """With buckets of four sizes, over one pass and three; and a loss that is infinite on one."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.training.averaging"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
