"""The safetensors files of a Hugging Face folder: which there are, and their keys."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from eqids.config import UserError, require

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def shard_paths(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder, by its index if it has one.

    Raises:
        UserError: there is none, one that the index names is missing, or the index
            names a file outside the folder.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index} is not an index of safetensors") from error
    else:
        names = [SINGLE]
    for name in names:
        require(
            isinstance(name, str) and Path(name).name == name,
            f"{index} names {name!r}, wanted a file inside the folder",
        )
        require((folder / name).is_file(), f"{folder} has no {name}")
    return [folder / name for name in names]


def fingerprint(folder: Path) -> str:
    """Returns the SHA-256 over a folder's safetensors files, in order of name.

    It reads every byte, about 15 s for 16 GB: of many processes, one is enough.
    """
    total = hashlib.sha256()
    for path in shard_paths(folder):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@contextmanager
def tensors(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Opens a folder's tensors as safetensors' slices, which read what is indexed.

    The files are mapped; opening reads their headers only.

    Args:
        folder: with safetensors, in one file or in shards.

    Raises:
        UserError: a file is missing or broken, or a tensor is in two of them.
    """
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        for path in shard_paths(folder):
            try:
                file = stack.enter_context(safe_open(path, framework="np"))
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is not whole safetensors: {error}") from error
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                require(key not in found, f"{path}: {key} is in another shard as well")
                found[key] = file.get_slice(key)
        yield found
