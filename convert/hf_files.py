"""The safetensors files of a Hugging Face folder: which there are, and their keys."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from safetensors import SafetensorError, safe_open

from convert.diagnosis import INDEX, SINGLE, check_folder, check_weights
from convert.json_file import read_object
from eqids.config import UserError, require
from eqids.io.digests import file_sha256
from sharding import exchange


def shard_paths(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder: the one, or those its index names.

    As in transformers, `model.safetensors` counts before an index, and of an index
    only the names of its files: tensors are where they are.

    Raises:
        UserError: there are none, one that the index names is missing, or the index
            names a file outside the folder.
    """
    check_folder(folder)
    index = folder / INDEX
    names = [SINGLE]
    if index.exists() and not (folder / SINGLE).exists():
        where: Any = read_object(index).get("weight_map")
        require(
            isinstance(where, dict) and bool(where),
            f"{index} is not an index of safetensors: it has no weight_map",
        )
        for name in where.values():
            require(
                isinstance(name, str) and Path(name).name == name,
                f"{index} names {name!r}, wanted a file inside the folder",
            )
        names = sorted(set(where.values()))
    check_weights(folder, names)
    for name in names:
        check_inside(folder, folder / name)
    return [folder / name for name in names]


def check_inside(folder: Path, path: Path) -> None:
    """Requires that a file lies in its folder, or in the cache of the hub it is of.

    That cache has a folder of links for each revision, beside one of files.

    Raises:
        UserError: it is a link that leads elsewhere.
    """
    real, home = path.resolve(), folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    require(
        any(real.is_relative_to(home) for home in homes),
        f"{path} is a link out of its folder, to {real}; wanted the file itself",
    )


def fingerprint(folder: Path) -> str:
    """Returns the SHA-256 over the digests of a folder's files, in order of name.

    Every byte is read, about a second for a gigabyte. Processes of one run share the
    files out, and tell one another: all call it, once a run for each folder.
    """
    paths, num_processes = shard_paths(folder), jax.process_count()
    own = paths[jax.process_index() :: num_processes]
    told = exchange(f"fingerprint of {folder}", " ".join(map(file_sha256, own)))
    total = hashlib.sha256()
    for i in range(len(paths)):
        digests = told[i % num_processes].split()
        total.update(bytes.fromhex(digests[i // num_processes]))
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
                raise UserError(
                    f"{path} is not whole safetensors: {error}; download it again"
                ) from error
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                require(key not in found, f"{path}: {key} is in another shard as well")
                found[key] = file.get_slice(key)
        yield found
