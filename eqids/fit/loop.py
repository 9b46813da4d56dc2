"""The training loop: step, log, evaluate, save, stop."""

import time
from collections.abc import Callable
from signal import Signals
from typing import NamedTuple

from eqids.cli import first_call_announced, waiting
from eqids.config import Stopped
from eqids.fit.evaluation import Evaluation
from eqids.fit.log import Log
from eqids.fit.patience import Patience
from eqids.fit.run import Run
from eqids.fit.run_end import RunEnd
from eqids.fit.signals import StopSignals
from eqids.fit.step import State
from eqids.fit.training_time import TrainingTime


class Trained(NamedTuple):
    """How far `train` came."""

    step: int
    """The last step, which is saved."""
    finished: bool
    """Whether the run has ended, and not only stopped at --stop_at."""


def train(run: Run, state: State, now: Callable[[], float] = time.monotonic) -> Trained:
    """Trains from the state's step to the run's last, and leaves checkpoints.

    Args:
        run: everything that does not change.
        state: where to start; its buffers are donated.
        now: the clock of --max_minutes, in seconds.

    Raises:
        UserError: the loss is not finite, or the last checkpoint could not be written.
        Stopped: a signal asked to stop; the last state is saved.
    """
    config, flags, recipe = run.config, run.config.flags, run.config.recipe
    saver, done = run.checkpoints.saver, int(state.step)
    patience = Patience(recipe.early_stop, saver.directory, recipe.eval_every)
    clock = TrainingTime(run.checkpoints.seconds(done), flags.max_minutes, now)
    end = RunEnd(recipe, state)
    if end.reached(done, patience) or clock.begins_over:
        return Trained(done, True)
    frozen = run.frozen if run.cold is None else run.cold.without_unused(run.frozen)
    batches = run.batches.iterate(done, config.stop_at)
    log = Log(saver.directory, done, config.stop_at, flags.tensorboard, saver.newest)
    finished, step = False, first_call_announced(run.step, "compiling the train step")
    with log, StopSignals(flags.save_minutes, clock) as signals:
        for batch, active in batches:
            state, metrics = step(state, frozen, batch, run.key, active, run.prefix)
            done += 1
            log.add(metrics)
            if done % flags.log_every == 0:
                log.flush(done)
            signals.check(done)
            validation = None
            if done % recipe.eval_every == 0 or done == end.last or signals.over:
                state, validation = _validated(run, state, done, log)
            better = validation is not None and patience.better(validation)
            state = end.after(done, state, patience, signals.cools, log.say)
            finished = end.reached(done, patience) or signals.over
            last = finished or done == config.stop_at or signals.stop
            if last or better or signals.save or done % config.save_every == 0:
                log.flush(done)  # which refuses weights that are not finite
                state = run.with_cold_items(state)
                run.checkpoints.save(done, state, validation, clock.seconds, keep=last)
                signals.saved()
            if last:
                with waiting(f"writing the checkpoint of step {done}"):
                    saver.wait()
                break
    if signals.signal is not None:
        raise _stopped(signals.signal, done)
    return Trained(done, finished)


def _validated(run: Run, state: State, done: int, log: Log) -> tuple[State, Evaluation]:
    log.flush(done)
    state, validation = run.validate(state)
    log.validation(done, validation)
    return state, validation


def _stopped(signal: int, step: int) -> Stopped:
    name = Signals(signal).name
    return Stopped(
        f"stopped by {name} at step {step}, which is saved; the same command goes on",
        signal,
    )
