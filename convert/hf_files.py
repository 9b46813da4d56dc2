"""Find and open the safetensors files of a Hugging Face folder."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from safetensors import SafetensorError, safe_open

from convert.diagnosis import INDEX, SINGLE, check_folder, check_weights
from convert.json_file import read_object
from convert.stored_tensor import StoredTensor, first_bytes
from eqids.config import UserError, require
from eqids.io.digests import combined_sha256, file_sha256
from sharding import exchange


def shard_paths(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder: one file, or those of its index.

    As in transformers, `model.safetensors` is preferred to an index, and an index
    only lists files: the files themselves say which tensors they hold.

    Raises:
        UserError: the folder has no weights, a file of the index is missing, or the
            index names a file outside the folder.
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
    """Requires that a file lies in its folder, or in the hub's cache of that folder.

    The cache has a folder of links for each revision, beside a folder of files.

    Raises:
        UserError: the file is a link to somewhere else.
    """
    real, parent = path.resolve(), folder.resolve()
    allowed = [parent]
    if parent.parent.name == "snapshots":
        allowed.append(parent.parent.parent / "blobs")
    require(
        any(real.is_relative_to(one) for one in allowed),
        f"{path} is a link out of its folder, to {real}; wanted the file itself",
    )


def fingerprint(folder: Path) -> str:
    """Returns the SHA-256 over the digests of a folder's files, in order of name.

    Every byte is read, which takes about a second for a gigabyte. The processes of a
    run divide the files among them: all must call it, once for each folder.
    """
    paths, num_processes = shard_paths(folder), jax.process_count()
    own = paths[jax.process_index() :: num_processes]
    found = exchange(f"fingerprint of {folder}", " ".join(map(file_sha256, own)))
    digests = {process: text.split() for process, text in found.items()}
    return combined_sha256(
        digests[i % num_processes][i // num_processes] for i in range(len(paths))
    )


@contextmanager
def tensors(folder: Path) -> Iterator[Mapping[str, StoredTensor]]:
    """Opens a folder's tensors, which read what is indexed.

    Args:
        folder: a Hugging Face folder, with one file of weights or shards.

    Raises:
        UserError: a file is missing or broken, or two files hold the same tensor.
    """
    with safetensors_slices(shard_paths(folder)) as found:
        yield found


@contextmanager
def safetensors_slices(paths: Sequence[Path]) -> Iterator[Mapping[str, StoredTensor]]:
    """Opens the tensors of files, which read what is indexed.

    The files are memory-mapped; opening them reads only their headers.

    Raises:
        UserError: a file is missing or broken, or two files hold the same tensor.
    """
    found: dict[str, StoredTensor] = {}
    with ExitStack() as stack:
        for path in paths:
            try:
                file = stack.enter_context(safe_open(path, framework="np"))
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{path} is not whole safetensors: {error}; download it again"
                ) from error
            starts = first_bytes(path)
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                require(key not in found, f"{path}: {key} is in another shard as well")
                found[key] = StoredTensor(path, key, starts[key], file.get_slice(key))
        yield found
