"""Corruptions: one thing wrong in a checkpoint of a real run, and who notices."""

import io
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pytest
from runs import small

from eqids import train
from eqids.config import UserError
from eqids.fit.checkpoint import (
    chunks,
    damaged,
    read_manifest,
    restore,
    steps,
    store,
    verify,
)
from eqids.fit.checkpoint.manifest import DamageError

Damage = Literal["one bit flipped", "truncated", "deleted", "another step's"]
DAMAGES: Sequence[Damage] = (
    "one bit flipped",
    "truncated",
    "deleted",
    "another step's",
)
Kind = Literal[
    "manifest.json", "manifest.json.sha256", "OCDBT manifest", "OCDBT nodes", "chunks"
]
"""Of what is damaged: nodes and chunks of values share OCDBT's data files."""
KINDS: Sequence[Kind] = (
    "manifest.json",
    "manifest.json.sha256",
    "OCDBT manifest",
    "OCDBT nodes",
    "chunks",
)

_STEPS = (10, 20, 30)
_LAST = 40


@dataclass(frozen=True)
class Corruption:
    """One thing that was wrong, and that was noticed."""

    kind: Kind
    """Of what."""
    damage: Damage
    """What was done to it."""
    resumed: bool
    """Whether a run was resumed from it too."""


def corruption_sweep(
    data: Path,
    folder: Path,
    num_corruptions: int,
    num_resumed: int,
    seed: int,
    *,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Corruption]:
    """Damages checkpoints of a run, one thing at a time, in turn of every kind.

    `verify` and `restore` must refuse each, by step and by array or file. A run that
    resumes must say so, set the step aside, and go on from the one before to the same
    losses and weights as a run that met no damage.

    Args:
        data: the dataset folder.
        folder: an empty one.
        num_corruptions: how many.
        num_resumed: how many of them a run is resumed from.
        seed: of the places.
        tell: hears of every corruption.

    Raises:
        AssertionError: one was not noticed.
    """
    rng = random.Random(seed)
    run, whole = folder / "run", folder / "whole"
    with pytest.MonkeyPatch.context() as patch:
        # A run this small has many chunks, several parts, and chunks outside of nodes.
        patch.setattr(chunks, "_CHUNK_BYTES", 32 << 10)
        patch.setattr(store, "_PART_BYTES", 512 << 10)
        _train(data, run, "--stop_at", str(_STEPS[-1]))
        _train(data, whole)
        cases = [(kind, damage) for damage in DAMAGES for kind in KINDS]
        resumed = set(np.linspace(0, num_corruptions - 1, num_resumed, dtype=int))
        found = []
        for number in range(num_corruptions):
            kind, damage = cases[number % len(cases)]
            resume = number in resumed
            step, other = rng.sample(_STEPS, 2)
            if resume:
                step, other = _STEPS[-1], _STEPS[0]
            file, good, bad = _damaged(run / str(step), run / str(other), *cases[
                number % len(cases)], rng)
            what = f"seed {seed}, {number}: {file.relative_to(run)}: {kind} {damage}"
            file.unlink() if bad is None else file.write_bytes(bad)
            _noticed(run / str(step), what)
            if resume:
                _falls_back(data, run, whole, folder / f"resumed-{number}", what)
            file.write_bytes(good)
            found.append(Corruption(kind, damage, resume))
            tell(what)
        for step in _STEPS:
            assert verify(run / str(step)) == []
            restore(run / str(step), _like(run / str(step)))
    return found
