"""Trains the smallest model on generated data for some seconds."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa

from eqids.cli import messages_to
from eqids.config import PrepareConfig, TrainConfig
from eqids.data.preparation import prepare
from eqids.data.raw.frames import FRAME, frame_files
from eqids.diagnosis.findings import Finding
from eqids.runs.inputs import complete_inputs, open_inputs
from eqids.runs.run_folder import locked_folder
from eqids.runs.start_or_restore import start_or_restore
from sharding import placement

_NUM_USERS, _NUM_EVENTS, _NUM_ITEMS = 256, 40, 100
_LEAST_STEPS = 5
_SETTINGS = TrainConfig(
    llama_size="nano", batch_size=16, seq_len=32, num_steps=100_000, warmup_steps=1
)


def check_training(
    folder: Path, seconds: float, now: Callable[[], float] = time.perf_counter
) -> Finding:
    """Prepares data, compiles the train step, and trains.

    Users walk through the items in their order, so that the loss must fall.

    Args:
        folder: an empty folder, for the dataset and the run.
        seconds: how long to train after compiling.
        now: a clock, in seconds.
    """
    with messages_to(lambda message: None):
        prepared = _prepared(folder / "data")
        flags = TrainConfig(
            **{
                **vars(_SETTINGS),
                "data_dir": prepared,
                "checkpoint_dir": folder / "run",
            }
        )
        put = placement("none")
        inputs = open_inputs(flags)
        with put.active(), locked_folder(inputs.config) as saver:
            inputs, sizes = complete_inputs(inputs)
            run, state = start_or_restore(inputs, sizes, put, saver)
            losses, targets = list[jax.Array](), list[jax.Array]()
            begun = start = now()
            for batch, active in run.batches.iterate(0, run.config.stop_at):
                state, found = run.step(
                    state, run.frozen, batch, run.key, active, run.prefix
                )
                losses.append(found.loss)
                if len(losses) == 1:
                    found.loss.block_until_ready()
                    start = now()
                    continue
                targets.append(found.num_targets)
                found.loss.block_until_ready()
                if now() - start >= seconds and len(losses) > _LEAST_STEPS:
                    break
            took = now() - start
    rate = sum(map(int, targets)) / max(took, 1e-9)
    return training_finding(np.asarray(losses, np.float64), rate, start - begun)


def training_finding(losses: np.ndarray, rate: float, compiled: float) -> Finding:
    """Returns a finding about losses and speed.

    Args:
        losses: float [step].
        rate: targets a second, without compiling.
        compiled: seconds of the first step, which compiles.
    """
    first, last = losses[0], losses[-3:].mean()
    said = (
        f"compiled in {compiled:.1f} s, then {len(losses) - 1} steps of nano at "
        f"{rate:,.0f} targets/s; the loss went from {first:.2f} to {last:.2f}"
    )
    if not np.isfinite(losses).all():
        remedy = "JAX_PLATFORMS=cpu python -m eqids.doctor tells if it is the device"
        return Finding("training", "mend", f"{said}: it is not finite", remedy)
    if last >= first:
        remedy = "report this with the output of python -m eqids.doctor"
        return Finding("training", "mend", f"{said}: it does not fall", remedy)
    return Finding("training", "ok", said)


def _prepared(path: Path) -> Path:
    rng = np.random.default_rng(0)
    begin = rng.integers(0, _NUM_ITEMS, (_NUM_USERS, 1))
    items = (begin + np.arange(_NUM_EVENTS)) % _NUM_ITEMS
    table = pa.table(
        {
            "user_id": np.repeat(np.arange(_NUM_USERS), _NUM_EVENTS),
            "item_id": items.ravel(),
            "timestamp": np.tile(np.arange(_NUM_EVENTS), _NUM_USERS) + 1_700_000_000,
        }
    )
    with frame_files() as files:
        source = f"parquet:{files.write('events', table)}"
        config = PrepareConfig(source=source, data_dir=path)
        return prepare(config, lambda message: None, recorded_source=FRAME).path
