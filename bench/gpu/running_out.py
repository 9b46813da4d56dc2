"""Recognises errors that say that a device's memory ran out."""

_MARKS = "RESOURCE_EXHAUSTED", "out of memory", "Out of memory"


def ran_out(error: BaseException) -> bool:
    """Returns whether jax or torch says that the memory ran out."""
    kinds = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    return kinds or any(mark in str(error) for mark in _MARKS)
