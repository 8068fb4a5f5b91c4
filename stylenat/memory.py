"""The process's memory allocator."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h

_is_kept = False


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for the next tensor. Returns whether that succeeded.

    glibc takes blocks over 32 MB from the system and gives them back when they are freed, so that
    every large activation on the CPU pays for fresh, zeroed pages: a third of the time of an
    FFHQ-256 image. After this call the process keeps the most memory that it has used. This changes
    the whole process, so a program should call it (the `stylenat` command does), once, at its
    start. PyTorch on GPUs has an allocator of its own and is not affected. False without glibc.
    """
    global _is_kept
    if not _is_kept and sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            _is_kept = bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
    return _is_kept


def is_memory_kept() -> bool:
    """Whether `keep_freed_memory` was called and took effect; measurements record it."""
    return _is_kept
