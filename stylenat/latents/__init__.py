"""What people do with a trained generator: files of ws, style mixing, films, directions, edits.

`LoadedModel("model.safetensors").styles("0-3")` gives the ws that everything here works on.
"""

from stylenat.latents.blocks import blocks_text, parse_blocks
from stylenat.latents.loaded import LoadedModel, Settings
from stylenat.latents.mixing import mixed, mixing_sheet
from stylenat.latents.modes import find_centers
from stylenat.latents.sweep import parse_sweep, sweep_sheet
from stylenat.latents.ws_file import load_ws, save_ws

__all__ = [
    "LoadedModel",
    "Settings",
    "blocks_text",
    "find_centers",
    "load_ws",
    "mixed",
    "mixing_sheet",
    "parse_blocks",
    "parse_sweep",
    "save_ws",
    "sweep_sheet",
]
