"""Interruptions of the training loop: signals to stop, and times to save or end."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

import jax

from eqids.fit.training_time import TrainingTime
from sharding import exchange, is_first

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAVE, _COOLS, _OVER = "save", "cools", "over"
_STEPS_BETWEEN_EXCHANGES = 10

_Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignals:
    """Receives signals and watches clocks, between steps; a context manager.

    The first SIGTERM or SIGINT (Ctrl-C) takes effect at the end of a step, the second
    ends the process at once. Processes of one run exchange what they received every ten
    steps, so that all stop at the same step. Only the main thread can enter this
    context, because Python handles signals there.
    """

    def __init__(
        self,
        save_minutes: float | None = None,
        training_time: TrainingTime | None = None,
    ) -> None:
        """Starts the clock of saves.

        Args:
            save_minutes: minutes from one save to the next, if any.
            training_time: the time of the run, if it is watched.
        """
        self._training_time = training_time or TrainingTime()
        self._seconds = None if save_minutes is None else 60 * save_minutes
        self._saved = time.monotonic()
        self._received: int | None = None
        self._handlers: dict[int, _Handler] = {}
        self.signal: int | None = None
        """The signal to stop that all processes agree on, or None."""
        self.save = False
        """Whether minutes have passed since `saved` was called."""
        self.cools = False
        """Whether only the time of a cool-down is left of --max_minutes."""
        self.over = False
        """Whether no time is left."""

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
        """Sets what is requested after a step, to the same values in all processes."""
        if jax.process_count() > 1 and step % _STEPS_BETWEEN_EXCHANGES != 0:
            return
        request = self._due() if is_first() else []
        if self._received is not None:
            request.append(str(self._received))
        texts = exchange(f"signals after step {step}", " ".join(request)).values()
        requests = {word for text in texts for word in text.split()}
        self.save, self.cools = _SAVE in requests, _COOLS in requests
        self.over = _OVER in requests
        numbers = (int(word) for word in requests if word.isdecimal())
        self.signal = max(numbers, default=None)

    @property
    def stop(self) -> bool:
        """Whether the run should stop."""
        return self.signal is not None

    def saved(self) -> None:
        """Restarts the clock."""
        self._saved, self.save = time.monotonic(), False

    def _due(self) -> list[str]:
        """What the clocks request."""
        clock = self._training_time
        due = {_SAVE: self._save_is_due(), _COOLS: clock.cools, _OVER: clock.over}
        return [word for word, is_due in due.items() if is_due]

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
