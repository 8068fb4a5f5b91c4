"""Seeds -> images: from a trained generator, in Python or into a folder.

`generate(load_model("model.safetensors"), parse_seeds("0-63"))` yields batches of uint8 pixels.
"""

from stylenat.precision import DTYPES
from stylenat.sampling.blending import blend
from stylenat.sampling.compiled import compile_synthesis
from stylenat.sampling.files import check_sheet, default_sheet, write_images, write_samples
from stylenat.sampling.images import (
    contact_sheet,
    generate,
    render,
    render_by_level,
    save_png,
    save_sheet,
)
from stylenat.sampling.models import is_model, load_generator, load_model, model_file, model_name
from stylenat.sampling.seeds import (
    SEED_LIMIT,
    check_seeds,
    chosen_classes,
    latents,
    parse_seeds,
)
from stylenat.sampling.styles import NamedWs, Styles, seed_ws

__all__ = [
    "DTYPES",
    "SEED_LIMIT",
    "NamedWs",
    "Styles",
    "blend",
    "check_seeds",
    "check_sheet",
    "chosen_classes",
    "compile_synthesis",
    "contact_sheet",
    "default_sheet",
    "generate",
    "is_model",
    "latents",
    "load_generator",
    "load_model",
    "model_file",
    "model_name",
    "parse_seeds",
    "render",
    "render_by_level",
    "save_png",
    "save_sheet",
    "seed_ws",
    "write_images",
    "write_samples",
]
