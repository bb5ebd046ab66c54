"""Memory habits of a process that serves for weeks."""

from __future__ import annotations

import ctypes
import gc

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGE = 128 * 1024
"""Bytes. glibc's own default, which it gives up by itself once the first large block was freed."""


def settle() -> None:
    """Called once, when the gateway is ready.

    What was made by now stays for good, so the collector need not look at it again and again. And large blocks go back
    to the system as soon as they are free: after a hundred prompts of 1 MB the process otherwise keeps tens of MB.
    """
    gc.collect()
    gc.freeze()
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return  # not glibc: its allocator has habits of its own
    mallopt(M_MMAP_THRESHOLD, LARGE)
    mallopt(M_TRIM_THRESHOLD, LARGE)
