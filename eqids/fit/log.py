"""Metrics as JSON lines, on a progress bar, and as TensorBoard event files.

In a run of several processes only the first prints and writes; all check the metrics.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from eqids.cli import bars_are_shown, progress_bar, say_above_bars
from eqids.config import UserError, require
from eqids.fit.evaluation import Evaluation
from eqids.fit.step import Metrics
from sharding import is_first

METRICS_FILE = "metrics.jsonl"


class Log:
    """Reports the progress of a run; a context manager.

    It shows a progress bar on a terminal, and prints plain lines elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        stop: int,
        tensorboard: bool = False,
        newest: Callable[[], int | None] = lambda: None,
    ):
        """Opens the log of steps start + 1 to stop.

        Args:
            folder: the folder of the run; lines are appended to its `metrics.jsonl`.
            start: number of steps that are done.
            stop: the last step.
            tensorboard: write event files as well.
            newest: returns the newest checkpoint in the folder, or None.

        Raises:
            UserError: the folder cannot be written to, or `tensorboard` is True and
                tensorboardX is not installed.
        """
        first = is_first()
        self._file = _open(folder) if first else None
        self._events = _event_writer(folder) if tensorboard and first else None
        self._folder, self._pending = folder, list[Metrics]()
        self._newest = newest
        self._since = time.perf_counter()
        self._terminal = bars_are_shown()
        self._bar = progress_bar(total=stop, initial=start, unit="step")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._file is not None:
            with suppress(OSError):  # which `_append` has reported
                self._file.close()
        if self._events is not None:
            self._events.close()

    def add(self, metrics: Metrics) -> None:
        """Counts a step, and keeps its metrics on the device until `flush`."""
        self._pending.append(metrics)
        self._bar.update()

    def flush(self, step: int) -> None:
        """Writes the means over the steps since the last flush, up to `step`.

        Raises:
            UserError: the loss, gradient or update of a step is not finite; the
                message names the step.
        """
        if not self._pending:
            return
        metrics = jax.device_get(self._pending)
        self._pending.clear()
        for number, one in enumerate(metrics, start=step - len(metrics) + 1):
            for name in ("loss", "grad_norm", "update_norm"):
                value = float(getattr(one, name))
                if not np.isfinite(value):
                    raise UserError(self._not_finite(name, value, number))
        targets = sum(int(one.num_targets) for one in metrics)
        now = time.perf_counter()
        self.write(
            step,
            {
                "loss": float(np.mean([one.loss for one in metrics])),
                "grad_norm": float(np.mean([one.grad_norm for one in metrics])),
                "targets_per_s": targets / (now - self._since),
            },
        )
        self._since = now

    def _not_finite(self, name: str, value: float, step: int) -> str:
        """What happened, what to try, and the checkpoint to go on from."""
        newest, folder = self._newest(), self._folder
        remedy = (
            "try a lower --learning_rate, a lower --grad_clip or more --warmup_steps"
        )
        if step == 1 and name != "update_norm":
            remedy = (
                "no step has changed a weight yet, so check what the run starts from "
                "(python -m convert inspect, --init_items), and if --dtype is bfloat16 "
                "try float32"
            )
        checkpoint = f"{folder} has no checkpoint yet"
        if newest is not None:
            checkpoint = (
                f"the newest checkpoint in {folder} is of step {newest}, before that: "
                "to go on from it with other flags give --load_checkpoint "
                f"{folder / str(newest)} and another --checkpoint_dir"
            )
        wanted = f"the {name} is {value} at step {step}, wanted a finite number"
        return f"{wanted}: {remedy}; {checkpoint}"

    def validation(self, step: int, result: Evaluation) -> None:
        """Writes the main metrics of an evaluation on the validation split."""
        shown = {n: result["filtered"][n] for n in ("ndcg@10", "recall@10")}
        shown["nll"] = result["nll"]
        self.write(step, {f"valid_{name}": value for name, value in shown.items()})
        self._since = time.perf_counter()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of metrics."""
        if self._file is None:
            return
        line: dict[str, float] = {"step": step, "time": round(time.time(), 3), **values}
        self._append(json.dumps(line) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._terminal:
            self._bar.set_postfix_str(shown)
        else:
            self.say(f"step {step:>6}  {shown}")

    def _append(self, line: str) -> None:
        assert self._file is not None
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            # A full disk must not end the training.
            path = self._folder / METRICS_FILE
            self.say(f"warning: {path} could not be written: {error.strerror}")

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar, in the first process."""
        say_above_bars(text)


def _open(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / METRICS_FILE).open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error}), see --checkpoint_dir"
        ) from error


def _event_writer(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        require(
            False,
            "--tensorboard needs tensorboardX: pip install 'eqids[tensorboard]'",
        )
    return SummaryWriter(str(folder / "events"))
