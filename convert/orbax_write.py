"""Write arrays as Orbax's StandardCheckpointer lays them out, a part at a time.

Orbax saves whole trees that are in memory. So tensorstore writes here, as it does for
Orbax, and then Orbax itself must find every array. Chunks have a CRC-32C, which Orbax's
own do not: whoever reads the arrays finds damage.
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from convert.orbax_folder import STEP_FILE, TREE_FILE
from convert.orbax_package import import_orbax
from convert.outputs import Weight
from eqids.checkpoints import leaf_name
from eqids.checkpoints.chunks import Box, chunk_shape, chunks_in, whole
from eqids.checkpoints.manifest import ArrayRecord
from eqids.config import UserError, require
from eqids.io.digests import ReportBytes

_COMMIT_BYTES = 32 << 20
"""Bytes of chunks in one transaction, which holds them in memory."""
_HANDLER = (
    "orbax.checkpoint._src.handlers.standard_checkpoint_handler."
    "StandardCheckpointHandler"
)
_DICT_KEY = 2
"""What `_METADATA` calls a key of a dictionary."""


def check_orbax() -> None:
    """Requires Orbax, which `write_orbax` needs in the end.

    Raises:
        UserError: see `import_orbax`.
    """
    _orbax()


def _orbax() -> Any:
    reason = "eqids-to-orbax needs Orbax, which checks what was written"
    return import_orbax("orbax.checkpoint", reason)


def write_orbax(
    folder: Path, weights: Mapping[str, Weight], advance: ReportBytes
) -> None:
    """Writes arrays as a tree of dictionaries that StandardCheckpointer restores.

    Args:
        folder: an empty folder.
        weights: by their path, with slashes; a name on the way holds no dot.
        advance: called for every part that was written.

    Raises:
        UserError: Orbax does not find what was written.
    """
    begun, database = time.time_ns(), _Database(folder)
    for name, weight in weights.items():
        require("." not in name, f"array {name} has a dot in its name, wanted none")
        record = _record(weight)
        database.begin(name, record)
        for box, values in _chunks(weight, record):
            database.write(box, values)
            advance(values.nbytes)
    database.commit()
    _write_json(folder / TREE_FILE, _structure(weights))
    _write_json(folder / STEP_FILE, _times(begun))
    _check_found(folder, weights)


class _Database:
    """The OCDBT database of a tree, written in transactions of bounded size."""

    def __init__(self, folder: Path):
        self._folder, self._context = folder, ts.Context()
        self._transaction, self._num_bytes = ts.Transaction(atomic=True), 0
        self._spec: dict[str, Any] = {}
        self._store: Any = None

    def begin(self, name: str, record: ArrayRecord) -> None:
        """Creates an array, which `write` writes to from now on."""
        self._spec = _spec(self._folder, name, record)
        self._open()

    def write(self, box: Box, values: np.ndarray) -> None:
        """Writes a chunk."""
        if self._num_bytes >= _COMMIT_BYTES:
            self.commit()
            self._transaction, self._num_bytes = ts.Transaction(atomic=True), 0
            self._open()
        self._store[(*box, ...)].write(values).result()
        self._num_bytes += values.nbytes

    def commit(self) -> None:
        """Waits until all chunks are in the database."""
        self._transaction.commit_async().result()

    def _open(self) -> None:
        self._store = ts.open(
            self._spec,
            open=True,
            create=True,
            context=self._context,
            transaction=self._transaction,
        ).result()


def _record(weight: Weight) -> ArrayRecord:
    chunk = chunk_shape(weight.shape, weight.shape, weight.dtype.itemsize)
    return ArrayRecord(weight.shape, weight.dtype.name, chunk, ())


def _chunks(weight: Weight, record: ArrayRecord) -> Iterator[tuple[Box, np.ndarray]]:
    """Yields the chunks of an array.

    `chunk_shape` cuts leading axes first, so each chunk continues the one before it in
    C order, as the parts of a weight do.
    """
    parts = (part.reshape(-1) for part in weight.parts())
    rest = np.zeros(0, weight.dtype)
    for _, box in chunks_in(record, whole(record)):
        shape = [cut.stop - cut.start for cut in box]
        size, taken = int(np.prod(shape, dtype=np.int64)), [rest]
        while sum(map(len, taken)) < size:
            taken.append(next(parts))
        rest = np.concatenate(taken)
        yield box, rest[:size].reshape(shape)
        rest = rest[size:]


def _spec(folder: Path, name: str, record: ArrayRecord) -> dict[str, Any]:
    chunk = {"name": "regular", "configuration": {"chunk_shape": list(record.chunk)}}
    return {
        "driver": "zarr3",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{folder.resolve()}/"},
            "path": f"{name.replace('/', '.')}/",
            "config": {"compression": None},
        },
        "metadata": {
            "shape": list(record.shape),
            "data_type": record.dtype,
            "chunk_grid": chunk,
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
        },
        "store_data_equal_to_fill_value": True,
    }


def _structure(weights: Mapping[str, Weight]) -> dict[str, Any]:
    rows = {}
    for name in weights:
        keys = tuple(name.split("/"))
        rows[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in keys],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    return {
        "tree_metadata": rows,
        "use_ocdbt": True,
        "use_zarr3": True,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _times(begun: int) -> dict[str, Any]:
    return {
        "item_handlers": _HANDLER,
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": begun,
        "commit_timestamp_nsecs": time.time_ns(),
        "custom_metadata": {},
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _check_found(folder: Path, weights: Mapping[str, Weight]) -> None:
    """Requires that Orbax finds every array, in its shape and dtype."""
    orbax = _orbax()
    try:
        with orbax.StandardCheckpointer() as checkpointer:
            about = checkpointer.metadata(folder.resolve()).item_metadata
        leaves, _ = jax.tree_util.tree_flatten_with_path(about.tree)
        found = {
            leaf_name(route): (tuple(leaf.shape), str(leaf.dtype))
            for route, leaf in leaves
        }
    except Exception as error:  # another version may raise any type
        raise UserError(
            f"Orbax {orbax.__version__} does not read what was written ({error}), "
            "wanted a version that eqids[orbax] installs"
        ) from error
    wanted = {name: (one.shape, one.dtype.name) for name, one in weights.items()}
    differs = sorted(dict(found.items() ^ wanted.items()))
    require(
        not differs,
        f"Orbax {orbax.__version__} reads array {differs[0] if differs else ''} of "
        f"{folder} otherwise than it was written, wanted a version that eqids[orbax] "
        "installs",
    )
