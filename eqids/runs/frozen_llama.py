"""The frozen Llama of a checkpoint; the checkpoint itself does not hold its weights."""

from pathlib import Path

import convert
from eqids.config import require
from eqids.model import Llama
from sharding import Placement


def frozen_llama(
    base: str | None, path: Path | None, dtype: str, put: Placement
) -> Llama | None:
    """Loads the Llama that a checkpoint was trained over; None if it was random.

    Args:
        base: the fingerprint of its files.
        path: its folder.
        dtype: its weights are cast to this dtype.
        put: places them.

    Raises:
        UserError: see `check_base`.
    """
    if base is None:
        return None
    return convert.load_llama(check_base(base, path), dtype, put, head=False)


def check_base(base: str, path: Path | None) -> Path:
    """Returns the folder of the Llama that a checkpoint was trained over.

    Args:
        base: the fingerprint of its files.
        path: where it should be.

    Raises:
        UserError: no path is given, or its folder holds no Llama or other weights.
    """
    path = check_llama_folder(path)
    found = convert.fingerprint(path)
    require(
        found == base,
        f"{path} holds other weights than the checkpoint was trained over; wanted the "
        "same files, see --llama_path",
    )
    return path


def check_llama_folder(path: Path | None) -> Path:
    """Returns the folder of the Llama that a checkpoint was trained over.

    Args:
        path: where it should be.

    Raises:
        UserError: no path is given, or its folder holds no Llama.
    """
    require(path is not None, "the checkpoint needs its Llama: add --llama_path DIR")
    assert path is not None
    require(
        path.exists(),
        f"{path} has no model.safetensors: the folder does not exist; give the path of "
        "the checkpoint's Llama: --llama_path DIR",
    )
    convert.check_llama(path)
    return path
