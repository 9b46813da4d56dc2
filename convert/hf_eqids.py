"""Read the pair that `eqids-to-hf` writes: a Llama, and the rest of an EqIDs model.

The folder is a Hugging Face folder of the Llama, with LoRA merged. It also holds
`eqids.safetensors`, all other arrays of the model, and `eqids.json`, which describes
them.
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
from convert.names import tensors_of
from eqids.checkpoints import leaf_name
from eqids.config import (
    ModelConfig,
    RunConfig,
    UserError,
    check_content,
    from_json,
    require,
)
from eqids.config.upgrade import upgrade_meta
from eqids.io.digests import file_sha256
from eqids.model import EqIDs
from sharding import LazyArray, Placement, Slices, exchange, is_first

TENSORS_FILE, INFO_FILE = ITEMS, "eqids.json"
"""The tensors of items, adapters and softmax; and what describes them."""
FORMAT_VERSION = 1

_LLAMA = "llama/"
_FIELDS: Mapping[str, type] = {
    "step": int, "config": dict, "model": dict, "llama": str, "tensors": str,
    "catalog_id": str, "dataset_hash": str,
}  # fmt: skip
"""Required fields of eqids.json."""
_TYPES = {int: "a whole number", str: "a text", dict: "an object"}


@dataclass(frozen=True)
class Pair:
    """The folder of a pair, and the content of its eqids.json.

    Attributes:
        folder: the Hugging Face folder.
        meta: the content of eqids.json.
        step: of the checkpoint that was exported.
        config: of its run.
        sizes: of its model, without LoRA, which is merged.
    """

    folder: Path
    meta: Mapping[str, Any]
    step: int
    config: RunConfig
    sizes: ModelConfig


def is_pair(folder: Path) -> bool:
    """Returns whether a folder has a file that only pairs have."""
    return (folder / INFO_FILE).is_file() or (folder / TENSORS_FILE).is_file()


def read_pair(folder: Path) -> Pair:
    """Returns the description of a pair; no tensor is read.

    Raises:
        UserError: a file is missing, has another format version, or has a field that
            is missing or of another type.
    """
    path = folder / INFO_FILE
    meta = _read_info(folder, path)
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


def _read_info(folder: Path, path: Path) -> Mapping[str, Any]:
    require(folder.is_dir(), f"{folder}: no such folder, wanted one of eqids-to-hf")
    for name in (INFO_FILE, TENSORS_FILE):
        require(
            (folder / name).is_file(),
            f"{folder} has no {name}, wanted a folder that python -m convert "
            "eqids-to-hf wrote",
        )
        check_content(folder / name, binary=name == TENSORS_FILE)
    meta = upgrade_meta(read_object(path))
    version = meta.get("format_version")
    require(
        version == FORMAT_VERSION,
        f"{path}: format_version is {version!r}, wanted {FORMAT_VERSION}",
    )
    for name, kind in _FIELDS.items():
        require(name in meta, f"{path} has no field {name!r}")
        require(
            isinstance(meta[name], kind),
            f"{path}: {name} is {meta[name]!r}, wanted {_TYPES[kind]}",
        )
    return meta


def check_pair(pair: Pair, llama: str | None = None) -> None:
    """Requires that a pair's files are those that were written together.

    Every byte is read. All processes of a run must call it, once.

    Args:
        pair: from `read_pair`.
        llama: the fingerprint of its Llama, if it was computed before.

    Raises:
        UserError: the SHA-256 of a file differs from the one in eqids.json.
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
        pair: from `read_pair`, after `check_pair`.
        like: the shapes of all trainable arrays, without padding for a mesh.
        put: where they go; each process reads only what its devices hold.

    Returns:
        A tree like `like`; its Llama has the dtype in which the run used it.

    Raises:
        UserError: a tensor is missing, surplus, misshapen, not finite or of another
            dtype; the message names the tensor.
    """
    config = pair.config
    dtype = "float32" if config.strategy == "all" else config.dtype
    beside = load_beside(pair, like, put)
    llama = load_llama(pair.folder, dtype, put, head=False)
    return eqx.combine(beside, eqx.tree_at(lambda m: m.llama, like, llama))


def load_beside(pair: Pair, like: EqIDs, put: Placement) -> EqIDs:
    """Returns the arrays of a pair's model but those of its Llama, which are None.

    Args:
        pair: from `read_pair`, after `check_pair`.
        like: the shapes of the arrays, without padding for a mesh.
        put: where they go.

    Raises:
        UserError: as `load_pair` does.
    """
    path = pair.folder / TENSORS_FILE
    placed = put(_lazy_beside(path, like))
    leaves = jax.tree_util.tree_leaves_with_path(placed)
    for (route, _), fine in zip(leaves, jax.tree.leaves(finite(placed)), strict=True):
        (tensor,) = tensors_of(leaf_name(route), ())
        require(bool(fine), f"{path}: {tensor.name} has values that are not finite")
    return placed


def _lazy_beside(path: Path, like: EqIDs) -> EqIDs:
    """Returns a model of lazy arrays, after checking names, shapes and dtypes."""
    try:
        # Lazy arrays keep the file mapped until they are read.
        file = safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not whole safetensors: {error}") from error
    surplus = set(file.keys())

    def lazy(route: Any, leaf: Any) -> LazyArray | None:
        name = leaf_name(route)
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

    tree = jax.tree_util.tree_map_with_path(lazy, like)
    require(
        not surplus,
        f"{path} has {len(surplus)} tensors that the model does not have, the first is "
        f"{min(surplus, default='')}",
    )
    return tree
