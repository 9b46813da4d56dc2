"""Exports the vectors of items and clusters with the items' ids."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from convert.outputs import OutputFolder, Progress, Weight, output_folder
from eqids.checkpoints import read_manifest, resolve
from eqids.checkpoints.reader import Reader
from eqids.config import ItemsConfig, RunConfig, from_json, require, to_json
from eqids.config.slots import cluster_of
from eqids.data import Dataset
from eqids.data.files import read_parquet, write_parquet
from eqids.export.trained_arrays import PARAMS, TrainedArrays
from eqids.runs.recorded_folders import dataset_of
from eqids.runs.same_catalog import check_catalog


def export_items(
    config: ItemsConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes the vectors of items and clusters with the items' ids.

    Vectors are the rows of the softmax in float32, text columns included, an item a
    row, without retired items: ready for an index of nearest neighbours. The model
    ranks items by probability, which depends on their clusters and biases too.

    Args:
        config: what to write, and where.
        advance: called for every part of a tensor that was written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or the dataset has
            another catalog; or the output exists already.
    """
    path = resolve(config.input)
    manifest = read_manifest(path)
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    dataset = dataset_of(path, run, config.data_dir)
    check_catalog(path, manifest.meta, dataset)
    with Reader(path, manifest) as reader:
        read = TrainedArrays(reader, manifest)
        names = ("table", "bias", "cluster_table", "cluster_bias")
        softmax = {name: read(f"{PARAMS}softmax/{name}") for name in names}
        if run.recipe.text_width:
            columns = softmax["table"], read(f"{PARAMS}softmax/text")
            softmax["table"] = np.concatenate(columns, axis=-1)
    items, clusters = _tables(dataset, softmax)
    with output_folder(config.output, advance) as new:
        _write_parquet(new, "items.parquet", items)
        _write_parquet(new, "clusters.parquet", clusters)
        weights = {
            "item_vectors": _rows(items["vector"]),
            "item_bias": items["bias"].to_numpy(),
            "item_slot": items["slot"].to_numpy().astype(np.int32),
            "cluster_vectors": softmax["cluster_table"],
            "cluster_bias": softmax["cluster_bias"],
        }
        tensors = {name: Weight.of(array) for name, array in weights.items()}
        new.expect(tensors)
        new.write_tensors("items.safetensors", tensors)
        about = {name: manifest.meta[name] for name in ("catalog_id", "dataset_hash")}
        about |= {"step": manifest.step, "protocol": to_json(dataset.info.protocol)}
        new.write_json("items.json", about)
    return new.digests


def _tables(
    dataset: Dataset, softmax: Mapping[str, np.ndarray]
) -> tuple[dict[str, pa.Array], dict[str, pa.Array]]:
    """Returns the columns of items.parquet and of clusters.parquet."""
    frame = dataset.items()
    frame = frame[~frame["retired"]]
    slot = frame["slot"].to_numpy()
    cluster = cluster_of(slot, dataset.info.cluster_size)
    table, cluster_table = softmax["table"], softmax["cluster_table"]
    items = {
        "item": pa.Array.from_pandas(frame["item"]),
        "title": pa.Array.from_pandas(frame["title"]),
        "slot": pa.array(slot),
        "cluster": pa.array(cluster),
        "bias": pa.array(softmax["bias"].reshape(-1)[slot]),
        "vector": _lists(table.reshape(-1, table.shape[-1])[slot]),
    }
    num_clusters = len(cluster_table)
    clusters = {
        "cluster": pa.array(np.arange(num_clusters, dtype=np.int32)),
        "num_items": pa.array(np.bincount(cluster, minlength=num_clusters)),
        "bias": pa.array(softmax["cluster_bias"]),
        "vector": _lists(cluster_table),
    }
    return items, clusters


def _lists(vectors: Float[np.ndarray, "row width"]) -> pa.FixedSizeListArray:
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[-1])


def _rows(lists: pa.FixedSizeListArray) -> Float[np.ndarray, "row width"]:
    return lists.values.to_numpy().reshape(-1, lists.type.list_size)


def _write_parquet(
    new: OutputFolder, name: str, columns: Mapping[str, pa.Array]
) -> None:
    table = pa.table(dict(columns))
    new.write_with(name, lambda path: write_parquet(path, table))
    again = read_parquet(new.path / name)
    require(again.equals(table), f"{name} does not read back as it was written")
