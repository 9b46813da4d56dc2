"""Runs that take a second, and doors that refuse."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pytest import CaptureFixture

from eqids.data import Dataset
from eqids.door import run

Door = Callable[[list[str]], None]


def small(data: Path, folder: Path, *more: str) -> list[str]:
    """Flags of a run that takes a second."""
    sizes = "--batch_size 4 --seq_len 16 --item_width 8 --num_steps 40 --eval_every 20"
    flags = ["--data_dir", str(data), "--checkpoint_dir", str(folder), *sizes.split()]
    return [*flags, "--learning_rate", "1e-2", *more]


def flags(dataset: Dataset, *more: str) -> list[str]:
    """Flags of a door to a dataset."""
    return ["--data_dir", str(dataset.path), *more]


def refused(door: Door, flags: list[str], capsys: CaptureFixture[str]) -> str:
    """Opens a door that must refuse; returns its one sentence."""
    with pytest.raises(SystemExit) as exit_:
        run(lambda: door(flags))
    said = capsys.readouterr().err
    assert exit_.value.code == 2, said
    assert "Traceback" not in said
    return said
