"""What people do with a trained generator: files of ws, style mixing, films, directions, edits.

`LoadedModel("model.safetensors").styles("0-3")` gives the ws that everything here works on.
"""

from stylenat.latents.blocks import blocks_text, parse_blocks
from stylenat.latents.directions import Directions, Edit, edited, parse_edit, save_directions
from stylenat.latents.loaded import LoadedModel, Settings, seeds_or_file, wanted_seeds
from stylenat.latents.mixing import mixed, mixing_sheet
from stylenat.latents.modes import find_centers
from stylenat.latents.sweep import parse_sweep, sweep_sheet
from stylenat.latents.ws_file import load_ws, save_ws

__all__ = [
    "Directions",
    "Edit",
    "LoadedModel",
    "Settings",
    "blocks_text",
    "edited",
    "find_centers",
    "load_ws",
    "mixed",
    "mixing_sheet",
    "parse_blocks",
    "parse_edit",
    "parse_sweep",
    "save_directions",
    "save_ws",
    "seeds_or_file",
    "sweep_sheet",
    "wanted_seeds",
]
