"""Which leaf of a model in Flax is which of our arrays, and how it becomes it.

The model is that of the system's first implementation: item and cluster embeddings, an
adapter into Llama's width and one out of it, and a Llama by the names of transformers'
`FlaxLlamaForCausalLM`. Flax stores matrices inputs first, we store them outputs first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from convert.hf_llama import ROWS, file_shape, tensor_keys
from convert.lazy_field import TensorRow, lazy_array
from convert.orbax_read import OrbaxTree
from convert.outputs import row_ranges
from eqids.config import LlamaConfig, require
from sharding import LazyArray, Slices

Transform = Literal["item rows", "cluster rows", "transposed", "unchanged"]
"""Rows in the order of our slots or clusters, axes exchanged, or neither."""


@dataclass(frozen=True)
class LeafRow:
    """A leaf of the first implementation: its names there, our array, the way."""

    names: tuple[str, ...]
    array: str
    transform: Transform


LEAF_ROWS = (
    LeafRow(("item_embeddings", "item_embeddings/embedding"),
            "softmax/table", "item rows"),
    LeafRow(("cluster_embeddings", "cluster_embeddings/embedding"),
            "softmax/cluster_table", "cluster rows"),
    LeafRow(("input_adapter/kernel",), "input_adapter/w", "transposed"),
    LeafRow(("input_adapter/bias",), "input_adapter/b", "unchanged"),
    LeafRow(("output_adapter/kernel",), "output_adapter/w", "transposed"),
    LeafRow(("output_adapter/bias",), "output_adapter/b", "unchanged"),
)  # fmt: skip
"""Every leaf but those of the Llama, whose names follow from `hf_llama.ROWS`."""
ZEROS = ("gap_table", "softmax/bias", "softmax/cluster_bias")
"""Our arrays that the first implementation lacks; with zeros they change nothing."""
LLAMA, HEAD = "llama/", "llama/lm_head/kernel"
ASSIGNMENT = "cluster_assignments"
"""The cluster of each row of the item embeddings, if the tree has it."""
_PARAMS, _STEP, _OPTIMIZER = "params/", "step", "opt_state/"


@dataclass(frozen=True)
class RowsOfPlaces:
    """Which rows of the embeddings our places and clusters get; -1 for none."""

    item: Int[np.ndarray, "cluster place"]
    cluster: Int[np.ndarray, " cluster"]


class FlaxTree:
    """A model of the first implementation.

    Attributes:
        path: as the user gave it.
        leaves: by name, without `params/` at the beginning, after --rename.
        step: its training step, 0 if it has none.
    """

    def __init__(self, path: Path, rename: tuple[str, ...] = ()):
        """Opens the tree, and names its leaves.

        Args:
            path: a checkpoint of Orbax.
            rename: pairs THEIRS=OURS.

        Raises:
            UserError: see `OrbaxTree`; or a pair fits no leaf, or gives two leaves one
                name.
        """
        found = OrbaxTree(path).leaves
        leaves = {
            name: leaf
            for name, leaf in found.items()
            if name != _STEP and not name.startswith(_OPTIMIZER)
        }
        while leaves and all(name.startswith(_PARAMS) for name in leaves):
            leaves = {n.removeprefix(_PARAMS): leaf for n, leaf in leaves.items()}
        self.path, self.leaves = path, _renamed(path, leaves, rename)
        self.step = _step(path, found[_STEP]) if _STEP in found else 0

    def leaf(self, row: LeafRow) -> tuple[str, LazyArray]:
        """Returns the name and the values of a row's leaf.

        Raises:
            UserError: there is none, or it has several names.
        """
        names = [name for name in row.names if name in self.leaves]
        require(
            bool(names),
            f"{self.path} has no leaf {' or '.join(row.names)}, wanted one: see "
            f"--rename; it has {', '.join(sorted(self.leaves)[:5])} and others",
        )
        require(len(names) == 1, f"{self.path} has leaves {names}, wanted one of them")
        return names[0], self.leaves[names[0]]

    @property
    def has_llama(self) -> bool:
        """Whether the tree holds the Llama's weights."""
        return any(name.startswith(LLAMA) and name != HEAD for name in self.leaves)


def _step(path: Path, leaf: LazyArray) -> int:
    require(
        leaf.shape == () and leaf.dtype.kind in "iu",
        f"{path}: leaf {_STEP} is {leaf.dtype} of shape {leaf.shape}, wanted one whole "
        "number",
    )
    step = int(leaf.read(()))
    require(step >= 0, f"{path}: leaf {_STEP} is {step}, wanted 0 or more")
    return step


def _renamed(
    path: Path, leaves: Mapping[str, LazyArray], rename: tuple[str, ...]
) -> dict[str, LazyArray]:
    pairs = sorted((pair.split("=", 1) for pair in rename), key=_length, reverse=True)
    for theirs, _ in pairs:
        require(
            any(f"{name}/".startswith(f"{theirs}/") for name in leaves),
            f"--rename {theirs}: no leaf of {path} begins so",
        )
    out: dict[str, LazyArray] = {}
    for old, leaf in leaves.items():
        fitting = (pair for pair in pairs if f"{old}/".startswith(f"{pair[0]}/"))
        theirs, ours = next(fitting, (old, old))
        name = (ours + old.removeprefix(theirs)).removeprefix("/")
        require(name not in out, f"--rename: {path} then has two leaves {name}")
        out[name] = leaf
    return out


def _length(pair: list[str]) -> int:
    return len(pair[0])


def flax_arrays(
    tree: FlaxTree,
    shapes: Mapping[str, tuple[int, ...]],
    llama: LlamaConfig,
    rows: RowsOfPlaces,
) -> dict[str, LazyArray]:
    """Returns our arrays, each read from its leaf when it is used.

    Args:
        tree: the model in Flax.
        shapes: of our arrays by their path in an `EqIDs`.
        llama: sizes of the Llama.
        rows: the order of items and clusters.

    Raises:
        UserError: a leaf is missing, surplus, misshapen, of another dtype or not
            finite; the message names it.
    """
    arrays, used = dict[str, LazyArray](), {HEAD, ASSIGNMENT}
    for array, shape in shapes.items():
        if array in ZEROS:
            arrays[array] = _zeros(shape)
        elif array.startswith(LLAMA):
            arrays[array], names = _of_llama(tree, array, shape, llama)
            used |= names
        else:
            row = next(row for row in LEAF_ROWS if row.array == array)
            name, leaf = tree.leaf(row)
            arrays[array] = _made(tree, name, leaf, row.transform, shape, rows)
            used.add(name)
    surplus = sorted(tree.leaves.keys() - used)
    require(
        not surplus,
        f"{tree.path} has {len(surplus)} leaves that no row of docs/orbax.md names, "
        f"the first is {surplus[0] if surplus else ''}; see --rename",
    )
    for name in sorted(used & tree.leaves.keys() - {HEAD, ASSIGNMENT}):
        _check_values(tree.path, name, tree.leaves[name])
    return arrays


def _zeros(shape: tuple[int, ...]) -> LazyArray:
    def read(box: Slices) -> np.ndarray:
        return np.zeros([cut.stop - cut.start for cut in box], np.float32)

    return LazyArray(shape, np.dtype(np.float32), read)


def _made(
    tree: FlaxTree,
    name: str,
    leaf: LazyArray,
    transform: Transform,
    shape: tuple[int, ...],
    rows: RowsOfPlaces,
) -> LazyArray:
    """Returns our array of a leaf, after checking the leaf's shape."""
    if transform in ("item rows", "cluster rows"):
        order = rows.item if transform == "item rows" else rows.cluster
        _check_shape(tree.path, name, leaf, (leaf.shape[0], shape[-1]))
        return _gathered(leaf, order)
    turned = transform == "transposed"
    _check_shape(tree.path, name, leaf, shape[::-1] if turned else shape)
    part = _Oriented(leaf, turned)
    return LazyArray(
        shape, np.dtype(np.float32), lambda box: part[box].astype(np.float32)
    )


def _gathered(leaf: LazyArray, rows: Int[np.ndarray, "..."]) -> LazyArray:
    """Returns rows of a leaf in another order; zeros for row -1."""

    @cache
    def whole() -> np.ndarray:
        return leaf.read(tuple(slice(0, size) for size in leaf.shape))

    def read(box: Slices) -> np.ndarray:
        at = rows[box[:-1]]
        values = whole()[at, box[-1]].astype(np.float32)
        return np.where(at[..., None] >= 0, values, np.float32(0))

    shape = (*rows.shape, leaf.shape[-1])
    return LazyArray(shape, np.dtype(np.float32), read)


@dataclass(frozen=True)
class _Oriented:
    """A leaf as Hugging Face orients it: a matrix of Flax is transposed."""

    leaf: LazyArray
    turned: bool

    def __getitem__(self, box: Slices) -> np.ndarray:
        if not self.turned:
            return self.leaf.read(box)
        return self.leaf.read(box[::-1]).T


def _of_llama(
    tree: FlaxTree, array: str, shape: tuple[int, ...], llama: LlamaConfig
) -> tuple[LazyArray, set[str]]:
    """Returns one array of the Llama, all its layers, and the names of its leaves."""
    field = array.removeprefix(LLAMA).removeprefix("blocks/")
    row = next(row for row in ROWS if row.field == field)
    wanted, parts, names = file_shape(row, llama), list[Any](), list[str]()
    for key in tensor_keys(row, llama):
        name, turned = _flax_name(row, key)
        require(name in tree.leaves, f"{tree.path} has no leaf {name}, wanted one")
        leaf = tree.leaves[name]
        _check_shape(tree.path, name, leaf, wanted[::-1] if turned else wanted)
        parts.append(_Oriented(leaf, turned))
        names.append(name)
    return lazy_array(row, parts, shape, np.dtype(np.float32)), set(names)


def _flax_name(row: TensorRow, key: str) -> tuple[str, bool]:
    """Returns Flax's name of a tensor of Hugging Face, and whether it is turned."""
    path = LLAMA + key.removesuffix(".weight").replace(".", "/")
    if len(row.axes) == 1:
        return f"{path}/weight", False
    if row.field == "embedding":
        return f"{path}/embedding", False
    return f"{path}/kernel", True


def _check_shape(
    path: Path, name: str, leaf: LazyArray, wanted: tuple[int, ...]
) -> None:
    require(
        leaf.shape == wanted,
        f"{path}: leaf {name} has shape {leaf.shape}, wanted {wanted}",
    )


def _check_values(path: Path, name: str, leaf: LazyArray) -> None:
    """Requires floating-point numbers that are finite, a few MiB at a time."""
    require(
        bool(jnp.issubdtype(leaf.dtype, jnp.floating)),
        f"{path}: leaf {name} is {leaf.dtype}, wanted floating-point numbers",
    )
    with np.errstate(over="ignore"):
        finite = all(np.isfinite(x.astype(np.float32)).all() for x in _parts(leaf))
    require(finite, f"{path}: leaf {name} has values that are not finite in float32")


def _parts(leaf: LazyArray) -> Iterator[np.ndarray]:
    first, *rest = leaf.shape
    row_bytes = int(np.prod(rest)) * leaf.dtype.itemsize
    for rows in row_ranges(first, row_bytes):
        yield leaf.read((rows, *(slice(0, size) for size in rest)))
