"""What comes to a loop from outside: signals to stop, and the clock's call to save."""

import os
import signal
import time
from types import FrameType
from typing import Any

import jax

from sharding import exchange, is_first

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAVE = "save"
_STEPS_BETWEEN_TALKS = 10


class StopSignals:
    """Listens for signals and to the clock, between steps; a context manager.

    The first SIGTERM or SIGINT (Ctrl-C) is heard at the end of a step, a second one
    ends the process at once. Many processes talk of it every ten steps, so that all
    stop at the same one. It must be entered in the main thread, as Python wants it.
    """

    def __init__(self, save_minutes: float | None = None) -> None:
        """Sets the clock.

        Args:
            save_minutes: minutes from one save to the next, if any.
        """
        self._seconds = None if save_minutes is None else 60 * save_minutes
        self._saved = time.monotonic()
        self._heard: int | None = None
        self._handlers: dict[int, Any] = {}
        self.signal: int | None = None
        """The signal that all processes know of: the run is to stop."""
        self.save = False
        """Whether minutes have passed since `saved` was called."""

    def __enter__(self) -> "StopSignals":
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        if self.signal is not None and self._heard is None:
            # Another process was signaled; this one still takes its own signal, which
            # launchers send a moment later, and then ends with the same exit code.
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._heard is not None and self.signal is None:
            # It came after the last step, where nobody listens any more.
            signal.raise_signal(self._heard)

    def listen(self, step: int) -> None:
        """Learns what is wished, the same in all processes, after a step."""
        if jax.process_count() > 1 and step % _STEPS_BETWEEN_TALKS != 0:
            return
        wish = ""
        if self._heard is not None:
            wish = str(self._heard)
        elif is_first() and self._late():
            wish = _SAVE
        told = set(exchange(f"wishes after step {step}", wish).values())
        self.save = _SAVE in told
        self.signal = max((int(text) for text in told - {_SAVE}), default=None)

    def saved(self) -> None:
        """Sets the clock anew."""
        self._saved, self.save = time.monotonic(), False

    def _late(self) -> bool:
        return (
            self._seconds is not None
            and time.monotonic() - self._saved >= self._seconds
        )

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = number
        # The second one ends the process within XLA, where Python can say no more.
        name = signal.Signals(number).name
        said = f"{name}: the run saves and ends after this step; a second signal ends "
        said += "it at once, and nothing is saved\n"
        os.write(2, said.encode())
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
