"""Reads what a checkpoint trained, and writes it as one safetensors file."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from convert.names import Tensor, tensors_of
from convert.outputs import Progress, Weight, write_safetensors
from eqids.checkpoints import Manifest, read_manifest
from eqids.checkpoints.chunks import whole
from eqids.checkpoints.reader import Reader
from eqids.io.atomic import new_file, sync

PARAMS = "params/"
LLAMA = PARAMS + "llama/"
"""How the names of parameters, and of Llama's, begin in a checkpoint."""


class TrainedArrays:
    """The trained arrays of a checkpoint, each read when it is used."""

    def __init__(self, reader: Reader, manifest: Manifest):
        self._reader, self._records = reader, manifest.arrays

    def __call__(self, name: str, layer: int | None = None) -> np.ndarray:
        """Returns an array by its name in the checkpoint, or one of its layers."""
        box = whole(self._records[name])
        if layer is None:
            return self._reader.read(name, box)
        return self._reader.read(name, (slice(layer, layer + 1), *box[1:]))[0]

    def of_llama(self, path: str, layer: int | None) -> np.ndarray:
        """Returns an array of the Llama by its path in it, or one of its layers."""
        return self(LLAMA + path, layer)

    def weights(self, *, without: tuple[str, ...] = ()) -> dict[str, Weight]:
        """Returns the arrays as tensors to write, by their names in safetensors.

        Args:
            without: arrays whose names begin with one of these are left out.
        """
        return {
            tensor.name: Weight(
                tensor.shape, np.dtype(record.dtype), partial(self._parts, name, tensor)
            )
            for name, record in self._records.items()
            if name.startswith(PARAMS) and not name.startswith(without)
            for tensor in tensors_of(name.removeprefix(PARAMS), record.shape)
        }

    def by_name(self, *, optimizer: bool) -> dict[str, Weight]:
        """Returns the arrays as the checkpoint names them.

        Args:
            optimizer: whether to include the step and the state of the optimizer.
        """
        return {
            name: Weight(
                record.shape,
                np.dtype(record.dtype),
                partial(self._parts, name, Tensor(name, record.shape)),
            )
            for name, record in self._records.items()
            if optimizer or name.startswith(PARAMS)
        }

    def _parts(self, name: str, tensor: Tensor) -> Iterator[np.ndarray]:
        """Yields an array, or its layer that a tensor holds, a row of chunks a time."""
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


def export_trained(path: Path, output: Path, advance: Progress) -> None:
    """Writes what a checkpoint trained into one safetensors file.

    Llama's tensors have Hugging Face's names. The step and the checkpoint's `meta` (as
    JSON) go into the file's metadata.

    Args:
        path: the checkpoint, DIR/STEP.
        output: the file, which is replaced if it exists.
        advance: called for every part of a tensor that was written.

    Raises:
        UserError: an array is damaged, or the file could not be written.
    """
    manifest = read_manifest(path)
    meta = json.dumps(dict(manifest.meta), ensure_ascii=False)
    with new_file(output) as partial_path, Reader(path, manifest) as reader:
        weights = TrainedArrays(reader, manifest).weights()
        total = sum(weight.num_bytes() for weight in weights.values())
        with partial_path.open("wb") as file:
            write_safetensors(
                file,
                weights,
                metadata={"step": str(manifest.step), "meta": meta},
                advance=lambda num_bytes: advance(num_bytes, total),
            )
        sync(partial_path)
