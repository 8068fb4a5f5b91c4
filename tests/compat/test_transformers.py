"""Hugging Face's Dinat on the drop-in, whichever transformers there are.

STYLENAT_TEST_TRANSFORMERS lists folders, each with one transformers and what it needs:
`pip install --target FOLDER transformers==4.53.3`. Of interest: 4.53.3 (works by itself), 4.57.1
and 5.24.0 (need `patch_transformers`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "STYLENAT_TEST_TRANSFORMERS"
FOLDERS = [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]

PROGRAM = """
import json, sys, torch
from stylenat import compat
from stylenat.compat import calls, source

fused = 0
attend = source.Source.attend
def counted(self, value):
    global fused
    fused += 1
    return attend(self, value)
source.Source.attend = counted

compat.install("0.17", deferred=sys.argv[1] == "deferred")
import transformers
try:
    compat.patch_transformers()
    compat.patch_transformers()  # once more: nothing happens
    patched = True
except RuntimeError as error:
    patched = str(error)
from transformers import DinatConfig, DinatForImageClassification

torch.manual_seed(0)
config = DinatConfig(depths=[2, 2, 2, 2], dilations=[[1, 8], [1, 4], [1, 2], [1, 1]])
model = DinatForImageClassification(config).eval()
generator = torch.Generator().manual_seed(1)
with torch.no_grad():
    for name, parameter in sorted(model.named_parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
images = [torch.randn(1, 3, *size, generator=generator) for size in ((224, 224), (160, 200))]
with torch.no_grad():
    logits = [model(image).logits[0].tolist() for image in images]
    attentions = model(images[1], output_attentions=True).attentions
shapes = [list(x.shape) for x in attentions]
sums = [x.sum(-1).mean().item() for x in attentions]
loss = model(images[1], labels=torch.tensor([1])).loss
loss.backward()
gradient = model.dinat.encoder.levels[0].layers[1].attention.self.rpb.grad.flatten().tolist()
print(json.dumps([transformers.__version__, patched, fused, logits, shapes, sums, gradient]))
"""


def results(folder: str, how: str) -> list:
    path = os.pathsep.join([str(ROOT), folder])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not FOLDERS, reason=f"{VARIABLE} names no folder with a transformers in it")
def test_dinat_is_the_same_in_every_version_fused_or_not():
    first = None
    for folder in FOLDERS:
        for how in ("deferred", "at once"):
            version, patched, fused, *values = results(folder, how)
            needs = tuple(map(int, version.split(".")[:2])) >= (4, 54)
            assert patched is True if needs else "needs no patch" in patched
            assert (fused > 0) == (how == "deferred")
            first = first or values
            logits, shapes, sums, gradient = values
            assert shapes == first[1]
            assert sums == pytest.approx([1.0] * len(sums), abs=1e-5)
            for got, expected in zip(logits, first[0], strict=True):
                assert got == pytest.approx(expected, abs=1e-4, rel=1e-4), version
            scale = max(map(abs, first[3]))
            assert gradient == pytest.approx(first[3], abs=1e-4 * scale), version


def test_a_patch_without_the_drop_in_is_refused(no_natten):
    from stylenat import compat

    with pytest.raises(RuntimeError, match=r"stylenat\.compat\.install\(\) before transformers"):
        compat.patch_transformers()
