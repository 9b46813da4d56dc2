"""Runs that take a second or none at all, and commands that refuse."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytest import CaptureFixture

from convert import fingerprint, load_llama, read_config
from eqids.checkpoints import save
from eqids.cli import run
from eqids.config import LLAMA_PRESETS, TrainConfig
from eqids.data import Dataset
from eqids.data.facts import facts_of
from eqids.fit.gate import with_gate
from eqids.fit.step import split
from eqids.runs.checkpoint_meta import run_meta
from eqids.runs.new_model import initial_model, model_config
from eqids.runs.recipe import resolved
from eqids.runs.run_keys import run_keys

Command = Callable[[list[str]], None]


def small(data: Path, folder: Path, *more: str) -> list[str]:
    """Flags of a run that takes a second, but for those among `more`."""
    sizes = "--batch_size 4 --seq_len 16 --item_width 8 --num_steps 40 --eval_every 20"
    flags = ["--data_dir", str(data), "--checkpoint_dir", str(folder), *sizes.split()]
    return once([*flags, "--learning_rate", "1e-2", "--schedule", "cosine", *more])


def once(flags: list[str]) -> list[str]:
    """The flags, each with its last values only: commands refuse one that repeats."""
    last: dict[str, list[str]] = {}
    values: list[str] = []
    for word in flags:
        if word.startswith("--"):
            values = last[word] = []
        else:
            values.append(word)
    return [word for name, values in last.items() for word in (name, *values)]


def save_noisy(
    folder: Path, flags: TrainConfig, dataset: Dataset, score: float | None = None
) -> None:
    """Saves what a run might have learned by step 4: its start, with noise added.

    `score` is recorded as its NDCG@10 on validation.
    """
    config, llama = resolved(flags, facts_of(dataset)), None
    sizes, base, path = LLAMA_PRESETS["nano"], None, flags.llama_path
    if path is not None:
        sizes, base, llama = read_config(path), fingerprint(path), load_llama(path)
    whole = model_config(config, dataset, sizes)
    model = initial_model(whole, dataset, llama, run_keys(flags.seed)[0])
    params, _ = split(model, config.strategy, jnp.float32)
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    leaves = [x + 0.1 * rng.standard_normal(x.shape, np.float32) for x in leaves]
    params = jax.tree.unflatten(treedef, leaves)
    if params.successors is not None:
        params = with_gate(params, 0.25)  # a weight, which noise would leave
    meta = run_meta(config, whole, dataset, base, None)
    save(folder, 4, {"params": params}, {**meta, "score": score})


def flags(dataset: Dataset, *more: str) -> list[str]:
    """Flags of a command for a dataset."""
    return ["--data_dir", str(dataset.path), *more]


def refused(command: Command, flags: list[str], capsys: CaptureFixture[str]) -> str:
    """Runs a command that must refuse; returns its one sentence."""
    with pytest.raises(SystemExit) as exit_:
        run(lambda: command(flags))
    said = capsys.readouterr().err
    assert exit_.value.code == 2, said
    assert "Traceback" not in said
    return said
