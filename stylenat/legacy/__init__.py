"""Published checkpoints (StyleNAT's two formats, StyleSwin's) -> our networks.

`archive` reads a file without running anything in it, `architecture` works out what network it
holds, `tensors` says which official tensors make which of ours, `convert` uses the three.
"""

from stylenat.legacy.archive import OfficialCheckpoint, read_official
from stylenat.legacy.convert import NETWORKS, convert_all, convert_checkpoint

__all__ = ["NETWORKS", "OfficialCheckpoint", "convert_all", "convert_checkpoint", "read_official"]
