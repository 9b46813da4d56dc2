"""Interruptions of the training loop: signals to stop, and the time to save."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

import jax

from sharding import exchange, is_first

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAVE = "save"
_STEPS_BETWEEN_EXCHANGES = 10

_Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignals:
    """Receives signals and watches the clock, between steps; a context manager.

    The first SIGTERM or SIGINT (Ctrl-C) takes effect at the end of a step, the second
    ends the process at once. Processes of one run exchange what they received every ten
    steps, so that all stop at the same step. Only the main thread can enter this
    context, because Python handles signals there.
    """

    def __init__(self, save_minutes: float | None = None) -> None:
        """Starts the clock.

        Args:
            save_minutes: minutes from one save to the next, if any.
        """
        self._seconds = None if save_minutes is None else 60 * save_minutes
        self._saved = time.monotonic()
        self._received: int | None = None
        self._handlers: dict[int, _Handler] = {}
        self.signal: int | None = None
        """The signal to stop that all processes agree on, or None."""
        self.save = False
        """Whether minutes have passed since `saved` was called."""

    def __enter__(self) -> "StopSignals":
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        if self.signal is not None and self._received is None:
            # Another process was signaled; this one still takes its own signal, which
            # launchers send a moment later, and then ends with the same exit code.
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._received is not None and self.signal is None:
            # The signal came after the last step, when the loop no longer checks.
            signal.raise_signal(self._received)

    def check(self, step: int) -> None:
        """Sets `signal` and `save` after a step, to the same values in all
        processes."""
        if jax.process_count() > 1 and step % _STEPS_BETWEEN_EXCHANGES != 0:
            return
        request = ""
        if self._received is not None:
            request = str(self._received)
        elif is_first() and self._save_is_due():
            request = _SAVE
        requests = set(exchange(f"signals after step {step}", request).values())
        self.save = _SAVE in requests
        numbers = (int(text) for text in requests - {_SAVE, ""})
        self.signal = max(numbers, default=None)

    @property
    def stop(self) -> bool:
        """Whether the run should stop."""
        return self.signal is not None

    def saved(self) -> None:
        """Restarts the clock."""
        self._saved, self.save = time.monotonic(), False

    def _save_is_due(self) -> bool:
        return (
            self._seconds is not None
            and time.monotonic() - self._saved >= self._seconds
        )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        # The second one ends the process within XLA, where Python can print nothing.
        name = signal.Signals(number).name
        message = f"{name}: the run saves and ends after this step; a second signal "
        message += "ends it at once, and nothing is saved\n"
        os.write(2, message.encode())
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
