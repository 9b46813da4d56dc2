"""Exports the vectors of items and clusters with the items' ids."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float32, Int

from convert.outputs import OutputFolder, Progress, Weight, output_folder, row_ranges
from eqids.checkpoints import Manifest, read_manifest, resolve
from eqids.checkpoints.reader import Reader
from eqids.config import ItemsConfig, RunConfig, from_json, require, to_json
from eqids.config.slots import cluster_of
from eqids.data.files import read_parquet, write_parquet
from eqids.export.flat_index import (
    INDEX_FILE,
    augmented_vectors,
    check_faiss,
    index_bytes,
    ranking_note,
)
from eqids.export.trained_arrays import PARAMS, TrainedArrays
from eqids.inference.item_directions import directions, principal_components
from eqids.runs.recorded_folders import dataset_of
from eqids.runs.same_catalog import check_catalog


def export_items(
    config: ItemsConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes the vectors of items and clusters with the items' ids.

    Vectors are the rows of the softmax in float32, text columns included, an item a
    row, without retired items. Products of augmented vectors (see `flat_index.py`) rank
    nearly as the model does. Parquet has lists of any length, because some databases
    refuse Arrow's lists of a fixed one.

    Args:
        config: what to write, and where.
        advance: called for every part of a tensor that was written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or the dataset has
            another catalog; FAISS is wanted and missing; or the output exists already.
    """
    if config.faiss:
        check_faiss()
    path = resolve(config.input)
    manifest = read_manifest(path)
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    dataset = dataset_of(path, run, config.data_dir)
    check_catalog(path, manifest.meta, dataset)
    softmax = _softmax(path, manifest, run.recipe.text_width > 0)
    frame = dataset.items()
    frame = frame[~frame["retired"]]
    slot = frame["slot"].to_numpy()
    cluster = cluster_of(slot, dataset.info.cluster_size)
    vectors = {
        "item_vectors": softmax["table"].reshape(dataset.num_slots, -1)[slot],
        "item_bias": softmax["bias"].reshape(-1)[slot],
        "item_slot": slot.astype(np.int32),
        "cluster_vectors": softmax["cluster_table"],
        "cluster_bias": softmax["cluster_bias"],
    }
    place = principal_components(directions(softmax["table"]), slot, slot)
    augmented = augmented_vectors(vectors, cluster)
    with output_folder(config.output, advance) as new:
        _write_items(new, frame, cluster, place, vectors, augmented)
        _write_clusters(new, cluster, vectors)
        tensors = {name: Weight.of(array) for name, array in vectors.items()}
        new.expect(tensors)
        new.write_tensors("items.safetensors", tensors)
        if config.faiss:
            new.write(INDEX_FILE, index_bytes(augmented))
        about = {name: manifest.meta[name] for name in ("catalog_id", "dataset_hash")}
        about |= {"step": manifest.step, "protocol": to_json(dataset.info.protocol)}
        about["augmented_vector"] = ranking_note(dataset.info.num_clusters)
        new.write_json("items.json", about)
    return new.digests


def _softmax(path: Path, manifest: Manifest, text: bool) -> Mapping[str, np.ndarray]:
    """Returns the arrays of a checkpoint's softmax, text columns after learned ones."""
    with Reader(path, manifest) as reader:
        read = TrainedArrays(reader, manifest)
        names = ("table", "bias", "cluster_table", "cluster_bias")
        found = {name: read(f"{PARAMS}softmax/{name}") for name in names}
        if text:
            columns = found["table"], read(f"{PARAMS}softmax/text")
            found["table"] = np.concatenate(columns, axis=-1)
    return found


def _write_items(
    new: OutputFolder,
    frame: pd.DataFrame,
    cluster: Int[np.ndarray, " item"],
    place: Float32[np.ndarray, "item 2"],
    vectors: Mapping[str, np.ndarray],
    augmented: Float32[np.ndarray, "item augmented_width"],
) -> None:
    columns = {
        "item": _column(frame["item"]),
        "title": _column(frame["title"]),
        "slot": pa.array(frame["slot"].to_numpy()),
        "cluster": pa.array(cluster),
        "x": pa.array(place[:, 0]),
        "y": pa.array(place[:, 1]),
        "bias": pa.array(vectors["item_bias"]),
        "vector": _lists(vectors["item_vectors"]),
        "augmented_vector": _lists(augmented),
    }
    _write_parquet(new, "items.parquet", columns)


def _write_clusters(
    new: OutputFolder,
    cluster: Int[np.ndarray, " item"],
    vectors: Mapping[str, np.ndarray],
) -> None:
    bias = vectors["cluster_bias"]
    columns = {
        "cluster": pa.array(np.arange(len(bias), dtype=np.int32)),
        "num_items": pa.array(np.bincount(cluster, minlength=len(bias))),
        "bias": pa.array(bias),
        "vector": _lists(vectors["cluster_vectors"]),
    }
    _write_parquet(new, "clusters.parquet", columns)


def _column(values: pd.Series) -> pa.Array:
    """Returns ids or titles, texts as Arrow's usual type if that can hold them."""
    found = pa.Array.from_pandas(values)
    large = pa.types.is_large_string(found.type) and found.nbytes < 2**31
    return found.cast(pa.string()) if large else found


def _lists(vectors: Float32[np.ndarray, "row width"]) -> pa.ChunkedArray:
    """Returns vectors as lists, in chunks, because a chunk counts values in 32 bits."""
    width = vectors.shape[1]
    parts = [vectors[rows] for rows in row_ranges(len(vectors), width * 4)]
    ends = [np.arange(len(part) + 1, dtype=np.int32) * width for part in parts]
    return pa.chunked_array(
        [
            pa.ListArray.from_arrays(end, part.reshape(-1))
            for end, part in zip(ends, parts, strict=True)
        ],
        pa.list_(pa.float32()),
    )


def _write_parquet(
    new: OutputFolder, name: str, columns: Mapping[str, pa.Array]
) -> None:
    table = pa.table(dict(columns))
    new.write_with(name, lambda path: write_parquet(path, table))
    again = read_parquet(new.path / name)
    require(again.equals(table), f"{name} does not read back as it was written")
