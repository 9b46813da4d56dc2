"""Counts the programs that each thread compiles."""

import threading
from weakref import WeakKeyDictionary

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
"""JAX reports this event for each program, also for one from the cache on disk."""
_COUNTS: WeakKeyDictionary[threading.Thread, int] = WeakKeyDictionary()


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    if event == _EVENT:
        thread = threading.current_thread()
        _COUNTS[thread] = num_compilations(thread) + 1


jax.monitoring.register_event_duration_secs_listener(_count)


def num_compilations(thread: threading.Thread) -> int:
    """Returns how many programs a thread has compiled."""
    return _COUNTS.get(thread, 0)
