"""Keeps Python's garbage collector from long pauses between requests."""

import gc


def collect_and_freeze() -> None:
    """Collects garbage, and leaves all that is left out of later collections.

    A full collection walks every object of jax and of the model, for which requests
    waited up to 0.3 seconds. What a reload replaces is collected by the next call at
    the latest.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
