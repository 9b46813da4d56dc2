"""Read the arrays of a tree of Orbax by name, a part at a time.

Orbax itself is not needed, except for the msgpack of old trees: arrays are zarr (2 or
3), which tensorstore reads. Missing parts are errors here, where Orbax may read zeros.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from convert.json_file import read_object
from convert.orbax_folder import (
    AGGREGATE_FILE,
    DATABASE_FILE,
    TREE_FILE,
    tree_folder,
)
from convert.orbax_msgpack import aggregated
from eqids.config import UserError, require
from sharding import LazyArray, Slices

_EMPTY = frozenset({"Dict", "List", "Tuple", "NamedTuple", "None"})
"""What `_METADATA` calls parts of a tree that hold no leaf."""
_MOST_ZEROS = 1_000
"""Most bytes of arrays for each byte of files: small files that claim terabytes are no
checkpoint."""
_SPARE_BYTES = 1 << 20


class OrbaxTree:
    """A tree of Orbax.

    Attributes:
        folder: the tree's, which has `_METADATA`.
        leaves: arrays by their path, with slashes; each is read when it is used.
    """

    def __init__(self, path: Path):
        """Opens a tree; reads names, shapes and dtypes.

        Args:
            path: the tree, a step with one tree, or a folder with one step.

        Raises:
            UserError: see `tree_folder`; or its structure or an array is damaged.
        """
        self.folder = tree_folder(path)
        self._zarr3, self._sparse = False, False
        self._database = (self.folder / DATABASE_FILE).is_file()
        self._last: tuple[str, Any] = ("", None)
        self._chunk_bytes = dict[str, int]()
        stored, found = list[str](), dict[str, LazyArray]()
        for keys, values in self._structure():
            self._check_keys(keys)
            name = "/".join(keys)
            require(
                name not in found and name not in stored,
                f"{self.folder} has two leaves {name}, wanted one",
            )
            if values is None:
                stored.append(name)
            else:
                found[name] = LazyArray(values.shape, values.dtype, values.__getitem__)
        context = ts.Context()
        begun = {name: ts.open(self._spec(name), context=context) for name in stored}
        for name, future in begun.items():
            store = self._result(name, future)
            dtype = np.dtype(store.dtype.numpy_dtype)
            chunk = self._chunk(name, store)
            self._chunk_bytes[name] = math.prod(chunk) * dtype.itemsize
            found[name] = LazyArray(store.shape, dtype, partial(self._read, name))
        self.leaves: Mapping[str, LazyArray] = dict(sorted(found.items()))
        self._check_sizes()

    def _structure(self) -> Iterator[tuple[tuple[str, ...], np.ndarray | None]]:
        """Yields the keys of every leaf; and its values, if msgpack holds them."""
        file, beside = self.folder / TREE_FILE, self.folder / AGGREGATE_FILE
        if not file.is_file():
            yield from aggregated(beside)
            return
        values = read_object(file)
        self._zarr3 = values.get("use_zarr3") is True
        # Without this mark Orbax stores no chunk of zeros in zarr 3.
        whole = values.get("store_array_data_equal_to_fill_value") is True
        self._sparse = self._zarr3 and not whole
        require(
            self._database or values.get("use_ocdbt") is not True,
            f"{self.folder} has no {DATABASE_FILE}, wanted the whole folder",
        )
        inside = list[tuple[str, ...]]()
        for keys, kind, elsewhere in _rows(file, values):
            if kind in _EMPTY:
                continue
            if elsewhere:
                inside.append(keys)
            else:
                require(
                    kind != "string",
                    f"{self.folder}: leaf {'/'.join(keys)} is a text, wanted numbers",
                )
                yield keys, None
        held = dict(aggregated(beside)) if inside else {}
        for keys in inside:
            require(
                held.get(keys) is not None,
                f"{beside} has no leaf {'/'.join(keys)}, which {TREE_FILE} names",
            )
            yield keys, held[keys]

    def _check_keys(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            require(
                key not in ("", ".", "..") and not set(key) & set("/\\\0"),
                f"{self.folder / TREE_FILE} names a leaf {keys}, wanted names without "
                "slashes",
            )

    def _spec(self, name: str) -> dict[str, Any]:
        """Returns tensorstore's spec of an array."""
        base = {"driver": "file", "path": f"{self.folder.resolve()}/"}
        inner = f"{name.replace('/', '.')}/"
        kvstore: dict[str, Any] = {**base, "path": base["path"] + inner}
        if self._database:
            kvstore = {"driver": "ocdbt", "base": base, "path": inner}
        return {
            "driver": "zarr3" if self._zarr3 else "zarr",
            "kvstore": kvstore,
            "fill_missing_data_reads": self._sparse,
        }

    def _chunk(self, name: str, store: Any) -> tuple[int, ...]:
        """Returns the shape of an array's chunks.

        Raises:
            UserError: a chunk is larger than its array, which Orbax never writes.
        """
        chunk: tuple[int, ...] = store.chunk_layout.read_chunk.shape or store.shape
        pairs = zip(chunk, store.shape, strict=True)
        require(
            all(part <= max(size, 1) for part, size in pairs),
            f"{self.folder}: leaf {name} has shape {store.shape} and chunks of "
            f"{chunk}, wanted chunks inside it",
        )
        return chunk

    def _check_sizes(self) -> None:
        """Refuses arrays that their files cannot hold."""
        files = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        sizes = {
            name: math.prod(leaf.shape) * leaf.dtype.itemsize
            for name, leaf in self.leaves.items()
        }
        total = sum(sizes.values())
        require(
            total <= _MOST_ZEROS * files + _SPARE_BYTES,
            f"{self.folder} has {files:,} bytes, and its arrays are said to have "
            f"{total:,}, the largest {max(sizes, key=sizes.__getitem__, default='')}; "
            "wanted a whole checkpoint",
        )

    def _read(self, name: str, box: Slices) -> np.ndarray:
        if self._last[0] != name:
            # A chunk, which may be a whole array, stays in memory until it was read.
            size = self._chunk_bytes[name] + _SPARE_BYTES
            context = ts.Context({"cache_pool": {"total_bytes_limit": size}})
            opened = ts.open(self._spec(name), context=context)
            self._last = name, self._result(name, opened)
        return np.asarray(self._result(name, self._last[1][(*box, ...)].read()))

    def _result(self, name: str, future: Any) -> Any:
        try:
            return future.result()
        except Exception as error:  # tensorstore raises many types
            reason = str(error).split(" [", 1)[0]
            raise UserError(
                f"{self.folder}: leaf {name} cannot be read: {reason}"
            ) from error


def _rows(
    file: Path, values: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Yields keys, kind, and whether it is in msgpack, of every row of `_METADATA`."""
    tree = values.get("tree_metadata")
    require(isinstance(tree, dict), f"{file} has no tree_metadata, wanted a tree")
    assert isinstance(tree, dict)
    for label, row in tree.items():
        try:
            keys = tuple(str(key["key"]) for key in row["key_metadata"])
            about = row["value_metadata"]
            yield keys, str(about["value_type"]), bool(about.get("skip_deserialize"))
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{file}: {label} has no key_metadata and value_metadata as Orbax "
                "writes them"
            ) from error
