"""Makes a checkpoint of a model in Flax: its items get the slots of a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Int, Int64

import convert
from convert.diagnosis import CONFIG
from convert.flax_tree import ASSIGNMENT, LEAF_ROWS, FlaxTree, RowsOfPlaces, flax_arrays
from eqids.checkpoints import leaf_name
from eqids.config import (
    LlamaConfig,
    OrbaxToEqidsConfig,
    Strategy,
    TrainConfig,
    UserError,
    require,
)
from eqids.config.slots import cluster_of
from eqids.data import Dataset, open_dataset
from eqids.data.clustering.given_clusters import (
    CLUSTER_COLUMN,
    read_clusters,
    rows_of_items,
)
from eqids.data.facts import facts_of
from eqids.data.ids import shown
from eqids.export.trained_arrays import PARAMS
from eqids.fit.strategy import stored
from eqids.model import EqIDs
from eqids.runs.checkpoint_meta import run_meta
from eqids.runs.new_model import model_config
from eqids.runs.recipe import resolved
from sharding import LazyArray


@dataclass(frozen=True)
class ImportedCheckpoint:
    """What a checkpoint is made of.

    Attributes:
        step: the training step.
        meta: what it records.
        arrays: by name; each is read when it is written.
    """

    step: int
    meta: Mapping[str, Any]
    arrays: Mapping[str, LazyArray]


def flax_checkpoint(config: OrbaxToEqidsConfig) -> ImportedCheckpoint:
    """Opens a model in Flax, and checks all of its values.

    Args:
        config: names the tree, and what it does not hold.

    Raises:
        UserError: a flag is missing, or the tree, the items and the dataset do not fit
            together; the message names the leaf or the item.
    """
    tree = FlaxTree(config.input, config.rename)
    for name in ("data_dir", "items"):
        require(
            getattr(config, name) is not None,
            f"{config.input} is no folder of eqids-to-orbax, and a model in Flax needs "
            f"--{name}: see docs/orbax.md",
        )
    assert config.data_dir is not None and config.items is not None
    dataset = open_dataset(config.data_dir)
    rows = _rows(config.items, config.item_column, tree, dataset)
    strategy: Strategy = "all" if tree.has_llama else "heads"
    llama = _llama(config, tree)
    run = resolved(_flags(config, tree, strategy), facts_of(dataset))
    sizes = model_config(run, dataset, llama)
    abstract = eqx.filter_eval_shape(EqIDs, sizes, key=jax.random.key(0))
    held = eqx.filter(abstract, stored(abstract, strategy))
    leaves = jax.tree_util.tree_leaves_with_path(held)
    shapes = {leaf_name(route): leaf.shape for route, leaf in leaves}
    arrays = flax_arrays(tree, shapes, llama, rows)
    frozen = run.flags.llama_path
    base = None if frozen is None else convert.fingerprint(frozen)
    meta = run_meta(run, sizes, dataset, base, None)
    named = {f"{PARAMS}{name}": array for name, array in arrays.items()}
    return ImportedCheckpoint(tree.step, meta, named)


def _llama(config: OrbaxToEqidsConfig, tree: FlaxTree) -> LlamaConfig:
    """Returns the sizes of the Llama: shapes do not tell its heads and frequencies."""
    path, file = config.llama_path, config.llama_config
    require(
        (path is None) != (file is None),
        f"{config.input} needs one of --llama_path DIR and --llama_config config.json: "
        "the shapes of a Llama do not tell its heads and its RoPE",
    )
    if path is not None:
        read = convert.read_config if tree.has_llama else convert.check_llama
        return read(path)
    assert file is not None
    require(
        tree.has_llama,
        f"{config.input} holds no leaf of a Llama (llama/model/…), wanted the folder "
        "of its weights: --llama_path DIR, or their name in the tree: --rename",
    )
    return convert.read_config_file(file)


def _flags(
    config: OrbaxToEqidsConfig, tree: FlaxTree, strategy: Strategy
) -> TrainConfig:
    """Returns the flags of a run that would train such a model."""
    _, table = tree.leaf(LEAF_ROWS[0])
    folder, file = config.llama_path, config.llama_config
    if tree.has_llama and folder is not None:
        file = folder / CONFIG
        folder = None
    return TrainConfig(
        data_dir=config.data_dir,
        llama_path=folder,
        llama_config=file,
        train=strategy,
        item_width=table.shape[1],
        adapter="linear",
        skip=False,
        counts=False,
        text_features=False,
        init_items="random",
        seq_len=config.seq_len,
    )


def _rows(
    path: Path, item_column: str, tree: FlaxTree, dataset: Dataset
) -> RowsOfPlaces:
    """Returns which row of the embeddings each place and each cluster gets.

    Raises:
        UserError: items of the file and of the dataset differ, or their clusters do.
    """
    ids, cluster = read_clusters(path, item_column)
    sizes = list[int]()
    for name, leaf in map(tree.leaf, LEAF_ROWS[:2]):
        require(
            len(leaf.shape) == 2,
            f"{tree.path}: leaf {name} has shape {leaf.shape}, wanted rows of vectors",
        )
        sizes.append(leaf.shape[0])
    if ASSIGNMENT in tree.leaves:
        cluster = _assignment(tree, len(ids))
    if cluster is None:
        raise UserError(
            f"{path} has no column {CLUSTER_COLUMN!r}, and {tree.path} no leaf "
            f"{ASSIGNMENT}; wanted the cluster of each row of the item embeddings"
        )
    require(
        len(ids) == sizes[0],
        f"{path} has {len(ids):,} rows, and {LEAF_ROWS[0].names[0]} of {tree.path} has "
        f"{sizes[0]:,}; wanted a row for each, in their order",
    )
    slots = dataset.find_items(ids)
    item = _row_of_slot(path, ids, slots, dataset)
    named = np.flatnonzero(slots >= 0)
    ours = cluster_of(slots[named], dataset.info.cluster_size)
    row_of_cluster = _row_of_cluster(
        path, ours, cluster[named], sizes[1], dataset, ids.take(named)
    )
    return RowsOfPlaces(item.reshape(dataset.item_valid.shape), row_of_cluster)


def _assignment(tree: FlaxTree, num_rows: int) -> Int64[np.ndarray, " row"]:
    leaf = tree.leaves[ASSIGNMENT]
    require(
        leaf.shape == (num_rows,) and leaf.dtype.kind in "iu",
        f"{tree.path}: leaf {ASSIGNMENT} is {leaf.dtype} of shape {leaf.shape}, wanted "
        f"whole numbers of shape {(num_rows,)}",
    )
    return leaf.read((slice(0, num_rows),)).astype(np.int64)


def _row_of_slot(
    path: Path, ids: Any, slots: Int[np.ndarray, " row"], dataset: Dataset
) -> Int64[np.ndarray, " slot"]:
    """Returns which row of the embeddings each slot gets, -1 for none.

    Raises:
        UserError: the rows do not name the items of the catalog, each of them once.
    """
    lost = np.flatnonzero(ids.is_valid().to_numpy() & (slots < 0))
    row = int(lost[0]) if len(lost) else 0
    require(
        not len(lost),
        f"{path}, row {row + 1}: item {shown(ids[row].as_py())} is not in the catalog "
        f"of {dataset.path}; empty the cell to leave the row out",
    )
    row_of_slot = rows_of_items(path, ids, slots, dataset.num_slots)
    missing = np.flatnonzero(dataset.item_valid.reshape(-1) & (row_of_slot < 0))
    frame = dataset.items() if len(missing) else None
    first = None if frame is None else frame["item"][frame["slot"] == missing[0]].item()
    require(
        not len(missing),
        f"{path} has no row for {len(missing):,} items of {dataset.path}, the first of "
        f"which is {shown(first)}; wanted a row of the embeddings for each",
    )
    return row_of_slot


def _row_of_cluster(
    path: Path,
    ours: Int[np.ndarray, " item"],
    theirs: Int[np.ndarray, " item"],
    num_theirs: int,
    dataset: Dataset,
    ids: Any,
) -> Int[np.ndarray, " cluster"]:
    """Returns which row of the cluster embeddings each of our clusters is.

    Raises:
        UserError: a cluster of one is no cluster of the other.
    """
    table = LEAF_ROWS[1].names[0]
    wrong = np.flatnonzero((theirs < 0) | (theirs >= num_theirs))
    first = int(wrong[0]) if len(wrong) else 0
    require(
        not len(wrong),
        f"{path}: item {shown(ids[first].as_py())} is in cluster {theirs[first]}, and "
        f"{table} has {num_theirs} rows; wanted a row of it, from 0 on",
    )
    out, back = np.full(dataset.info.num_clusters, -1), np.full(num_theirs, -1)
    out[ours], back[theirs] = theirs, ours
    empty = np.flatnonzero(back < 0)
    require(
        not len(empty),
        f"{path} has no item in cluster {empty[0] if len(empty) else ''}, and {table} "
        f"has {num_theirs} rows; wanted the clusters that the model was trained with",
    )
    wrong = np.flatnonzero((out[ours] != theirs) | (back[theirs] != ours))
    first = int(wrong[0]) if len(wrong) else 0
    require(
        not len(wrong),
        f"{path}: item {shown(ids[first].as_py())} is in cluster {theirs[first]}, "
        f"whose items are in several clusters of {dataset.path}, or share one with "
        f"others; wanted the same clusters: prepare it with --cluster_file {path}",
    )
    return out
