"""A generator as graphs that run without StyleNAT: ONNX files, and programs of torch.export.

A folder holds `mapping` (z [B, z_dim] -> w [B, S]), `synthesis` (ws [B, num_ws, S] -> images) and
generator.json, which has what lies between the two: w_avg for truncation, and the sizes. B is any
number. Of a generator with N classes, `mapping` also takes label, int64 [B], and w_avg is [N, S].
(`stylenat.export` is something else: it saves weights, which need StyleNAT to run.)

Legend: B batch, S style_dim, R the image's side.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylenat import __version__
from stylenat.extras import require
from stylenat.files import replacing, sha256_of, user_path
from stylenat.models import Generator
from stylenat.models.attention import HydraAttention
from stylenat.models.pixels import quantized
from stylenat.precision import without_tf32

FORMAT = 1
# The names of a network's inputs, and of its output.
Names = tuple[list[str], str]
Write = Callable[[torch.export.ExportedProgram, Names, Path], None]
ABOUT = "generator.json"
# Weights of fewer values stay float32 in a file of float16: it would save nothing.
LEAST_HALVED = 256
# The optimiser computes what is constant and no larger. ONNX Runtime computes the rest when it
# loads a model, so that masks do not fill the file.
LARGEST_CONSTANT = 8192


def save_onnx(
    generator: Generator, folder: str | Path, *, uint8: bool = False, half: bool = False
) -> None:
    """Write mapping.onnx, synthesis.onnx and generator.json.

    `synthesis` gives images [B, 3, R, R] in the generator's pixel space; with `uint8`, pixels
    [B, R, R, 3]. With `half`, the files hold their weights in float16, for half the size; inputs,
    outputs and all arithmetic stay float32. There are no custom operators. Raises ValueError if
    the packages of the extra `export` are absent, for a generator that is not float32, and for
    weights that float16 can't hold.
    """
    require("an ONNX file", "onnx", "onnxscript", extra="export")

    def write(program: torch.export.ExportedProgram, names: Names, path: Path) -> None:
        path.write_bytes(_onnx_bytes(program, names, half=half))

    about = {"weights": "float16" if half else "float32"}
    _save(generator, folder, ".onnx", write, about, uint8=uint8)


def save_torch_export(generator: Generator, folder: str | Path, *, uint8: bool = False) -> None:
    """Write mapping.pt2, synthesis.pt2 and generator.json; `torch.export.load` reads the programs.

    They give what `save_onnx` describes, and run on the CPU unless they are moved. Raises
    ValueError for a generator that is not float32.
    """

    def write(program: torch.export.ExportedProgram, names: Names, path: Path) -> None:
        with path.open("wb") as file:  # torch goes by a path's suffix, which a temporary lacks
            torch.export.save(program, file)

    _save(generator, folder, ".pt2", write, {}, uint8=uint8)


def largest_difference(
    generator: Generator, folder: str | Path, z: Tensor, labels_B: Tensor | None = None
) -> float:
    """How far ONNX Runtime's images of latents z [B, z_dim] are from the generator's own.

    In the units of the images: of the generator's pixel space, or 0..255 if the file gives uint8.
    Raises ValueError if ONNX Runtime is absent.
    """
    require("comparing an ONNX file with PyTorch", "onnxruntime", extra="export")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()

    def run(name: str, *inputs: Tensor) -> Tensor:
        file = user_path(folder) / f"{name}.onnx"
        session = onnxruntime.InferenceSession(file, options)
        names = [given.name for given in session.get_inputs()]
        values = [x.cpu().numpy() for x in inputs]
        (result,) = session.run(None, dict(zip(names, values, strict=True)))
        return torch.from_numpy(result)

    w_BS = run("mapping", *([z] if labels_B is None else [z, labels_B]))
    image = run("synthesis", w_BS[:, None].repeat(1, generator.num_ws, 1))
    with torch.no_grad():
        on_device = labels_B if labels_B is None else labels_B.to(generator.const.device)
        own = generator(z.to(generator.const), on_device).cpu()
    if image.dtype == torch.uint8:
        own = quantized(own, generator.config.pixel_space)
    return (image.float() - own.float()).abs().max().item()


# The two networks


class _Mapping(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.network = generator.mapping_network

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z)


class _ClassMapping(_Mapping):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        return self.network(z, label)


class _Synthesis(nn.Module):
    def __init__(self, generator: Generator, *, uint8: bool) -> None:
        super().__init__()
        self.generator = generator
        self.uint8 = uint8

    def forward(self, ws: Tensor) -> Tensor:
        image_B3RR = self.generator.synthesis(ws)
        if self.uint8:
            return quantized(image_B3RR, self.generator.config.pixel_space)
        return image_B3RR


def _save(
    generator: Generator,
    folder: str | Path,
    suffix: str,
    write: Write,
    about: dict[str, Any],
    *,
    uint8: bool,
) -> None:
    if generator.const.dtype != torch.float32:
        raise ValueError(
            f"a generator to export must be float32, not {generator.const.dtype}: "
            "use generator.float()"
        )
    folder = user_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = _portable_copy(generator)
    output = "pixels" if uint8 else "images"
    files = {}
    for name, (module, inputs) in _networks(generator, uint8=uint8).items():
        path = folder / f"{name}{suffix}"
        names = (list(inputs), output if name == "synthesis" else "w")
        with replacing(path) as temporary:
            write(_program(module, inputs), names, temporary)
        files[name] = {
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
    with replacing(folder / ABOUT) as temporary:
        text = json.dumps({**_about(generator), "output": output, **about, "files": files})
        temporary.write_text(text + "\n", encoding="utf-8")


def _networks(
    generator: Generator, *, uint8: bool
) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """Both networks, and an example of each input."""
    config = generator.config
    z = {"z": torch.zeros(2, config.z_dim)}
    ws = {"ws": torch.zeros(2, config.num_ws, config.style_dim)}
    label = {"label": torch.zeros(2, dtype=torch.int64)}
    mapping = (_ClassMapping(generator), z | label) if config.classes else (_Mapping(generator), z)
    return {"mapping": mapping, "synthesis": (_Synthesis(generator, uint8=uint8), ws)}


def _portable_copy(generator: Generator) -> Generator:
    """A copy on the CPU, without gradients, whose attention is made of plain operations."""
    generator = copy.deepcopy(generator).cpu().eval().requires_grad_(False)
    if int(generator.w_avg_samples) == 0:
        generator.store_w_avg()
    for module in generator.modules():
        if isinstance(module, HydraAttention):
            module.backend = "portable"
    return generator


def _about(generator: Generator) -> dict[str, Any]:
    config = generator.config
    return {
        "format": FORMAT,
        "stylenat_version": __version__,
        "z_dim": config.z_dim,
        "style_dim": config.style_dim,
        "num_ws": config.num_ws,
        "resolution": config.resolution,
        "block_resolutions": config.block_resolutions,
        "pixel_space": {"mean": config.pixel_space.mean, "std": config.pixel_space.std},
        "classes": config.classes,
        "class_names": config.class_names,
        "w_avg": generator.w_avg.tolist(),
    }


def _program(module: nn.Module, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    with without_tf32():
        return torch.export.export(
            module,
            tuple(inputs.values()),
            dynamic_shapes={name: {0: batch} for name in inputs},
            strict=False,
        )


# ONNX


def _onnx_bytes(program: torch.export.ExportedProgram, names: Names, *, half: bool) -> bytes:
    import onnx
    from onnxscript import optimizer

    with without_tf32(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about functions of its own that PyTorch deprecates
        exported = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=names[0],
            output_names=[names[1]],
        )
    assert exported is not None
    optimizer.optimize(exported.model, output_size_limit=LARGEST_CONSTANT)
    model = exported.model_proto
    _forget_where_it_was_made(model)
    if half:
        _halve(model)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _forget_where_it_was_made(model: Any) -> None:
    """Drop the notes of the exporter, which hold paths and lines of our source."""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]


def _halve(model: Any) -> None:
    """Store the large weights as float16; a Cast makes each float32 again as the model loads."""
    import onnx
    from onnx import numpy_helper

    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < LEAST_HALVED:
            continue
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if not np.array_equal(np.isfinite(values), np.isfinite(halved)):
            raise ValueError(
                f"weights in float16 must be at most 65504: {weight.name} holds "
                f"{np.abs(values).max():g}; export it in float32"
            )
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(halved, f"{name}.float16"))
        casts.append(
            onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
