"""Keeps Python's garbage collector from long pauses between requests."""

import ctypes
import gc
import sys


def collect_and_freeze() -> None:
    """Collects garbage, and leaves all that is left out of later collections.

    A full collection walks every object of jax and of the model, for which requests
    waited up to 0.3 seconds. What a reload replaces is collected by the next call at
    the latest.

    Free memory goes back to the system: glibc would keep what a model and its programs
    took between other pieces, and a server grew by half in ten reloads.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc has it, musl does not
            trim(0)
