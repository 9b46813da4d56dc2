"""A checkpoint, for others: one file, a Hugging Face folder, or vectors with ids."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from convert.hf_config import base_config, hf_config
from convert.hf_eqids import FORMAT_VERSION, INFO_FILE, TENSORS_FILE
from convert.hf_files import shard_paths, tensors
from convert.hf_write import (
    HEAD,
    arrays_of,
    copy_companions,
    llama_weights,
    merged,
    of_slice,
    write_llama,
)
from convert.names import Tensor, tensors_of
from convert.outputs import (
    FLOATS,
    OutputFolder,
    Progress,
    Weight,
    output_folder,
    write_safetensors,
)
from eqids.checkpoints import Manifest, read_manifest, resolve
from eqids.checkpoints.chunks import whole
from eqids.checkpoints.reader import Reader
from eqids.config import (
    EqidsToHfConfig,
    ItemsConfig,
    ModelConfig,
    RunConfig,
    from_json,
    require,
    to_json,
)
from eqids.data.batches.item_texts import TOKENIZER_FILE
from eqids.data.files import read_parquet, write_parquet
from eqids.inference.open import open_checkpoint
from eqids.io.atomic import new_file, sync
from eqids.io.digests import combined_sha256, file_sha256
from eqids.model.lora import FIELDS
from eqids.runs.frozen_llama import check_base
from eqids.runs.recorded_folders import dataset_of, llama_of_run
from eqids.runs.same_catalog import check_catalog
from sharding import Placement

_PARAMS = "params/"
_LLAMA = _PARAMS + "llama/"


class _Arrays:
    """What was trained, read from a checkpoint when it is asked for."""

    def __init__(self, reader: Reader, manifest: Manifest):
        self._reader, self._records = reader, manifest.arrays

    def __call__(self, name: str, layer: int | None = None) -> np.ndarray:
        """Returns an array by its name in the checkpoint, or a layer of it."""
        box = whole(self._records[name])
        if layer is None:
            return self._reader.read(name, box)
        return self._reader.read(name, (slice(layer, layer + 1), *box[1:]))[0]

    def of_llama(self, path: str, layer: int | None) -> np.ndarray:
        """Returns an array of the Llama by its path in it, or a layer of it."""
        return self(_LLAMA + path, layer)

    def weights(self, *, without: tuple[str, ...] = ()) -> dict[str, Weight]:
        """Returns what was trained as tensors to write, a row of chunks at a time.

        Args:
            without: what names of arrays begin with that are left out.
        """
        return {
            tensor.name: Weight(
                tensor.shape, np.dtype(record.dtype), partial(self._parts, name, tensor)
            )
            for name, record in self._records.items()
            if name.startswith(_PARAMS) and not name.startswith(without)
            for tensor in tensors_of(name.removeprefix(_PARAMS), record.shape)
        }

    def _parts(self, name: str, tensor: Tensor) -> Iterator[np.ndarray]:
        record, first, axis = self._records[name], whole(self._records[name]), 0
        if tensor.layer is not None:
            first, axis = (slice(tensor.layer, tensor.layer + 1), *first[1:]), 1
        if len(first) == axis:
            yield self._reader.read(name, first)
            return
        for start in range(0, record.shape[axis], record.chunk[axis]):
            stop = min(start + record.chunk[axis], record.shape[axis])
            rows = (*first[:axis], slice(start, stop), *first[axis + 1 :])
            yield self._reader.read(name, rows)


def export(path: Path, output: Path, advance: Progress) -> None:
    """Writes what was trained into one safetensors file, under the names of others.

    The step and the checkpoint's `meta` (as JSON) go into the file's metadata.

    Args:
        path: the checkpoint, DIR/STEP.
        output: the file; it appears when it is whole, over an older one.
        advance: hears of bytes as they are written, and of how many there will be.

    Raises:
        UserError: an array is damaged, or the file cannot be written.
    """
    manifest = read_manifest(path)
    said = json.dumps(dict(manifest.meta), ensure_ascii=False)
    with new_file(output) as partial_path, Reader(path, manifest) as reader:
        weights = _Arrays(reader, manifest).weights()
        total = sum(weight.num_bytes() for weight in weights.values())
        with partial_path.open("wb") as file:
            write_safetensors(
                file, weights, metadata={"step": str(manifest.step), "meta": said},
                advance=lambda num_bytes: advance(num_bytes, total),
            )  # fmt: skip
        sync(partial_path)


def eqids_to_hf(
    config: EqidsToHfConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes a checkpoint as a Hugging Face folder, items and heads beside it.

    A frozen Llama is copied from its folder, every tensor to the bit. Low-rank changes
    are merged in float32, which is what is written then.

    Args:
        config: what to write, and where.
        advance: hears of bytes as they are written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: no such checkpoint, a damaged one, another Llama than it was
            trained over, or an output that is there already.
    """
    path = resolve(config.input)
    manifest = read_manifest(path)
    dtype = None if config.dtype is None else FLOATS[config.dtype]
    with (
        Reader(path, manifest) as reader,
        _llama(config, path, manifest, _Arrays(reader, manifest)) as (found, folder),
        output_folder(config.output, advance) as new,
    ):
        sizes = _sizes(path, manifest)
        stored = dtype or next(iter(found.values())).dtype
        beside = _Arrays(reader, manifest).weights(without=(_LLAMA,))
        new.expect(beside)
        content = hf_config(sizes.llama, str(stored))
        if folder is not None and (folder / "config.json").is_file():
            changed = dtype is not None or sizes.lora is not None
            content = base_config(folder, str(stored) if changed else None)
            copy_companions(new, folder)
        _copy_tokenizer(new, path, manifest)
        write_llama(new, found, content, dtype, config.max_shard_bytes)
        new.write_tensors(TENSORS_FILE, beside)
        new.write_json(INFO_FILE, _info(manifest, sizes, new))
    return new.digests


@contextmanager
def _llama(
    config: EqidsToHfConfig, path: Path, manifest: Manifest, arrays: _Arrays
) -> Iterator[tuple[dict[str, Weight], Path | None]]:
    """The tensors of a checkpoint's Llama, and the folder of its base if it is there.

    Args:
        config: where the base may be.
        path: the checkpoint.
        manifest: what it says of itself.
        arrays: what was trained.
    """
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    sizes = _sizes(path, manifest)
    folder, base = config.llama_path or run.flags.llama_path, manifest.meta["base"]
    float32 = np.dtype(np.float32)
    if run.strategy == "all" and sizes.llama.tied:
        there = folder is not None and folder.is_dir()
        weights = llama_weights(sizes.llama, float32, arrays.of_llama)
        yield weights, folder if there else None
        return
    if base is None:
        # A random Llama that was frozen: the run's seed makes it again.
        opened = open_checkpoint(path, None, None, Placement(None, None))
        llama = opened.model.llama
        stored = np.dtype(llama.embedding.dtype)
        yield llama_weights(sizes.llama, stored, arrays_of(llama)), None
        return
    folder = check_base(base, llama_of_run(path, run, config.llama_path))
    with tensors(folder) as found:
        weights = {key: of_slice(found[key]) for key in found}
        if run.strategy == "all":
            # The head for words never learns, and is in no checkpoint.
            trained = llama_weights(sizes.llama, float32, arrays.of_llama)
            trained[HEAD] = weights[HEAD].as_dtype(float32)
            weights = trained
        elif sizes.lora is not None:
            scale = sizes.lora.alpha / sizes.lora.rank
            scales = {FIELDS[target]: scale for target in sizes.lora.targets}
            weights = merged(weights, sizes.llama, scales, arrays.of_llama)
            weights = {key: one.as_dtype(float32) for key, one in weights.items()}
        yield weights, folder


def _copy_tokenizer(new: OutputFolder, path: Path, manifest: Manifest) -> None:
    """Copies the tokenizer of a run that named its own, if it is still there."""
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    named = run.flags.tokenizer
    if run.tokens is None or named is None:
        return
    file = named / TOKENIZER_FILE if named.is_dir() else named
    if file.is_file() and file_sha256(file) == run.tokens.tokenizer:
        new.write(TOKENIZER_FILE, file.read_bytes())


def _sizes(path: Path, manifest: Manifest) -> ModelConfig:
    """The model's; a Llama that never had a head for words is written as a tied one."""
    sizes = from_json(ModelConfig, manifest.meta["model"], f"{path}: model")
    if manifest.meta["base"] is not None:
        return sizes
    return replace(sizes, llama=replace(sizes.llama, tied=True))


def _info(manifest: Manifest, sizes: ModelConfig, new: OutputFolder) -> dict[str, Any]:
    """The content of eqids.json: whatever one must know to use the tensors."""
    meta = manifest.meta
    names = ("catalog_id", "dataset_hash", "protocol", "base", "score", "versions")
    shards = [new.digests[path.name] for path in shard_paths(new.path)]
    return {
        "format_version": FORMAT_VERSION,
        "step": manifest.step,
        "saved": manifest.saved,
        "llama": combined_sha256(shards),
        "tensors": new.digests[TENSORS_FILE],
        **{name: meta[name] for name in names},
        "model": to_json(replace(sizes, lora=None)),
        "config": meta["config"],
    }


def items(
    config: ItemsConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes the vectors of items and clusters with the items' ids.

    Vectors are those that the softmax multiplies a query with, in float32, an item a
    row: ready for an index of nearest neighbours. What ranks items is their
    probability, which takes their clusters and biases too.

    Args:
        config: what to write, and where.
        advance: hears of bytes as they are written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: no such checkpoint, a damaged one, another catalog, or an output
            that is there already.
    """
    path = resolve(config.input)
    manifest = read_manifest(path)
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    dataset = dataset_of(path, run, config.data_dir)
    check_catalog(path, manifest.meta, dataset)
    with Reader(path, manifest) as reader:
        arrays = _Arrays(reader, manifest)
        names = ("table", "bias", "cluster_table", "cluster_bias")
        table, bias, cluster_table, cluster_bias = (
            arrays(f"{_PARAMS}softmax/{name}") for name in names
        )
    catalog = dataset.items()
    catalog = catalog[~catalog["retired"]]
    slot = catalog["slot"].to_numpy()
    cluster = slot // dataset.info.cluster_size
    vectors = table.reshape(-1, table.shape[-1])[slot]
    rows = {
        "item": pa.Array.from_pandas(catalog["item"]),
        "title": pa.Array.from_pandas(catalog["title"]),
        "slot": pa.array(slot),
        "cluster": pa.array(cluster),
        "bias": pa.array(bias.reshape(-1)[slot]),
        "vector": _lists(vectors),
    }
    clusters = {
        "cluster": pa.array(np.arange(len(cluster_table), dtype=np.int32)),
        "num_items": pa.array(np.bincount(cluster, minlength=len(cluster_table))),
        "bias": pa.array(cluster_bias),
        "vector": _lists(cluster_table),
    }
    weights = {
        "item_vectors": vectors,
        "item_bias": bias.reshape(-1)[slot],
        "item_slot": slot.astype(np.int32),
        "cluster_vectors": cluster_table,
        "cluster_bias": cluster_bias,
    }
    with output_folder(config.output, advance) as new:
        for name, columns in (("items", rows), ("clusters", clusters)):
            _write_parquet(new, f"{name}.parquet", columns)
        tensors = {name: Weight.of(array) for name, array in weights.items()}
        new.expect(tensors)
        new.write_tensors("items.safetensors", tensors)
        about = {name: manifest.meta[name] for name in ("catalog_id", "dataset_hash")}
        about |= {"step": manifest.step, "protocol": to_json(dataset.info.protocol)}
        new.write_json("items.json", about)
    return new.digests


def _lists(vectors: np.ndarray) -> pa.FixedSizeListArray:
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[-1])


def _write_parquet(
    new: OutputFolder, name: str, columns: Mapping[str, pa.Array]
) -> None:
    table = pa.table(dict(columns))
    new.write_with(name, lambda path: write_parquet(path, table))
    again = read_parquet(new.path / name)
    require(again.equals(table), f"{name} does not read back as it was written")
