"""The checkpoint, or the pair, whose flags a run takes over."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from convert.hf_eqids import Pair, read_pair
from eqids.checkpoints import DamageError, read_manifest, resolve, steps
from eqids.config import RunConfig, TrainConfig, from_json
from eqids.data.batches.item_texts import TOKENIZER_FILE


@dataclass(frozen=True)
class StartingPoint:
    """The checkpoint or pair that a run takes its flags over from."""

    path: Path
    """The checkpoint, DIR/STEP, or the folder of the pair."""
    config: RunConfig
    """The config of the run that made it."""
    is_pair: bool = False
    """Whether it is a pair: a whole Llama, low-rank changes merged."""
    is_own: bool = False
    """Whether it is a checkpoint of the run itself, which is resumed."""


def starting_point(flags: TrainConfig) -> StartingPoint | None:
    """Returns the checkpoint or pair that a run takes its flags over from, or None.

    It is the run's own newest undamaged checkpoint, if `--checkpoint_dir` has one,
    because the checkpoint that the run started from may no longer exist. Otherwise it
    is the checkpoint of --load_checkpoint or --continue_from, or the pair of
    --init_from.

    Args:
        flags: the run's flags.

    Raises:
        UserError: the checkpoint or the pair does not exist.
    """
    if flags.starts_from is None:
        return None
    folder = flags.checkpoint_dir
    own = None if folder is None else newest_checkpoint(folder)
    if own is not None:
        return replace(own, is_own=True)
    for name in ("load_checkpoint", "continue_from"):
        given = getattr(flags, name)
        if given is not None:
            return _of_checkpoint(resolve(given, f"--{name}"))
    assert flags.init_from is not None
    return _of_pair(read_pair(flags.init_from))


def newest_checkpoint(folder: Path) -> StartingPoint | None:
    """Returns the newest undamaged checkpoint in a run's folder, or None.

    Damaged ones are skipped without a message: the run reports them when it locks its
    folder.
    """
    for step in reversed(steps(folder)):
        with suppress(DamageError):
            return _of_checkpoint(folder / str(step))
    return None


def _of_checkpoint(path: Path) -> StartingPoint:
    config = read_manifest(path).meta["config"]
    return StartingPoint(path, from_json(RunConfig, config, f"{path}: config"))


def _of_pair(pair: Pair) -> StartingPoint:
    """The run that made a pair, as if the pair's folder had been its --llama_path."""
    has_tokenizer = (pair.folder / TOKENIZER_FILE).is_file()
    flags = replace(
        pair.config.flags,
        llama_path=pair.folder,
        llama_config=None,
        from_scratch=False,
        tokenizer=None if has_tokenizer else pair.config.flags.tokenizer,
    )
    config = replace(pair.config, flags=flags)
    return StartingPoint(pair.folder, config, is_pair=True)
