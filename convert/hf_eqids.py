"""The pair that `eqids-to-hf` writes, read back: a Llama, and what EqIDs adds to it.

A folder of Hugging Face holds the Llama, low-rank changes merged. Beside it lie
`eqids.safetensors`, all other arrays of the model, and `eqids.json`, what they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from convert.diagnosis import ITEMS
from convert.finite import finite
from convert.hf_config import read_config
from convert.hf_files import fingerprint
from convert.hf_llama import load_llama
from convert.json_file import read_object
from convert.names import path_of, tensors_of
from eqids.config import (
    ModelConfig,
    RunConfig,
    UserError,
    check_content,
    from_json,
    require,
)
from eqids.io.digests import file_sha256
from eqids.model import EqIDs
from sharding import LazyArray, Placement, Slices, exchange, is_first

TENSORS_FILE, INFO_FILE = ITEMS, "eqids.json"
"""Items, adapters and softmax, beside the tensors of Llama; and what they are."""
FORMAT_VERSION = 1

_LLAMA = "llama/"


@dataclass(frozen=True)
class Pair:
    """What the folder of a pair says of itself.

    Attributes:
        folder: of Hugging Face.
        meta: the content of eqids.json.
        step: of the checkpoint that was written.
        config: of its run.
        sizes: of its model, whose Llama has no low-rank changes any more.
    """

    folder: Path
    meta: Mapping[str, Any]
    step: int
    config: RunConfig
    sizes: ModelConfig


def is_pair(folder: Path) -> bool:
    """Returns whether a folder has the files that a pair has beside its Llama."""
    return (folder / INFO_FILE).is_file() or (folder / TENSORS_FILE).is_file()


def read_pair(folder: Path) -> Pair:
    """Returns what a pair says of itself; no tensor is read.

    Raises:
        UserError: a file is missing, is of another version, or holds something else
            than it should.
    """
    path = folder / INFO_FILE
    require(folder.is_dir(), f"{folder}: no such folder, wanted one of eqids-to-hf")
    for name in (INFO_FILE, TENSORS_FILE):
        require(
            (folder / name).is_file(),
            f"{folder} has no {name}, wanted a folder that python -m convert "
            "eqids-to-hf wrote",
        )
        check_content(folder / name, binary=name == TENSORS_FILE)
    meta = read_object(path)
    version = meta.get("format_version")
    require(
        version == FORMAT_VERSION,
        f"{path}: format_version is {version!r}, wanted {FORMAT_VERSION}",
    )
    kinds = {"step": int, "config": dict, "model": dict}
    kinds |= dict.fromkeys(("llama", "tensors", "catalog_id", "dataset_hash"), str)
    for name, kind in kinds.items():
        require(name in meta, f"{path} has no field {name!r}")
        require(
            isinstance(meta[name], kind),
            f"{path}: {name} is {meta[name]!r}, wanted {_KINDS[kind]}",
        )
    try:
        config = from_json(RunConfig, meta["config"], f"{path}: config")
        sizes = from_json(ModelConfig, meta["model"], f"{path}: model")
        llama, beside = read_config(folder), sizes.llama
    except (AttributeError, TypeError) as error:
        raise UserError(f"{path} holds a value of another type: {error}") from error
    require(
        llama == beside,
        f"{folder}/config.json and {path} are of two Llamas, {llama} and {beside}; "
        "wanted the pair that was written together",
    )
    require(sizes.lora is None, f"{path}: model.lora is {sizes.lora}, wanted null")
    return Pair(folder, meta, meta["step"], config, sizes)


_KINDS = {int: "a whole number", str: "a text", dict: "an object"}


def check_pair(pair: Pair, llama: str | None = None) -> None:
    """Requires that a pair's tensors are those that were written together.

    Every byte is read. All processes of a run call it, once.

    Args:
        pair: the folder's.
        llama: the fingerprint of its Llama, where it is known already.

    Raises:
        UserError: a file is another one.
    """
    path = pair.folder / TENSORS_FILE
    own = file_sha256(path) if is_first() else ""
    found = {
        "tensors": (path, exchange(f"digest of {path}", own)[0]),
        "llama": (pair.folder, llama or fingerprint(pair.folder)),
    }
    for name, (where, digest) in found.items():
        require(
            digest == pair.meta[name],
            f"{where} holds other weights (SHA-256 {digest}) than {INFO_FILE} says "
            f"({pair.meta[name]}), wanted the pair that was written together",
        )


def load_pair(pair: Pair, like: EqIDs, put: Placement) -> EqIDs:
    """Returns the arrays of a pair's model.

    Args:
        pair: the folder's, after `check_pair`.
        like: the shapes of all arrays that learn, which no mesh pads.
        put: where they go; each process reads only what its devices hold.

    Returns:
        A tree like `like`; its Llama is in the dtype that the run used it in.

    Raises:
        UserError: a tensor is missing, surplus, misshapen or of another dtype, or has
            values that are not finite; it names the tensor.
    """
    config = pair.config
    dtype = "float32" if config.strategy == "all" else config.dtype
    beside = load_beside(pair, like, put)
    llama = load_llama(pair.folder, dtype, put, head=False)
    # Those of Llama are none in the first, and all others are its own.
    return eqx.combine(beside, eqx.tree_at(lambda m: m.llama, like, llama))


def load_beside(pair: Pair, like: EqIDs, put: Placement) -> EqIDs:
    """Returns what lies beside a pair's Llama, whose own arrays are None.

    Args:
        pair: the folder's, after `check_pair`.
        like: the shapes of arrays, which no mesh pads.
        put: where they go.

    Raises:
        UserError: as `load_pair` does.
    """
    path = pair.folder / TENSORS_FILE
    try:
        # What is read later keeps the file mapped.
        file = safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not whole safetensors: {error}") from error
    surplus = set(file.keys())

    def unread(route: Any, leaf: Any) -> LazyArray | None:
        name = path_of(route)
        if name.startswith(_LLAMA):
            return None
        (tensor,) = tensors_of(name, leaf.shape)
        require(tensor.name in surplus, f"{path} has no tensor {tensor.name}")
        surplus.remove(tensor.name)
        found = file.get_slice(tensor.name)
        shape, dtype = tuple(found.get_shape()), found.get_dtype()
        require(
            (shape, dtype) == (tensor.shape, "F32"),
            f"{path}: {tensor.name} is {dtype} of shape {shape}, wanted F32 of "
            f"{tensor.shape}",
        )

        def read(box: Slices) -> np.ndarray:
            return np.asarray(found[box])

        return LazyArray(leaf.shape, np.dtype(np.float32), read)

    tree = jax.tree_util.tree_map_with_path(unread, like)
    require(
        not surplus,
        f"{path} has {len(surplus)} tensors that the model has not, the first is "
        f"{min(surplus, default='')}",
    )
    placed = put(tree)
    told = jax.tree.leaves(finite(placed))
    for (route, _), fine in zip(
        jax.tree_util.tree_leaves_with_path(placed), told, strict=True
    ):
        (tensor,) = tensors_of(path_of(route), ())
        require(bool(fine), f"{path}: {tensor.name} has values that are not finite")
    return placed
