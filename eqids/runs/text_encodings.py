"""Encodings of items' texts, each made once and cached in the dataset folder.

The cache finds an encoding by its text. So a catalog that grows encodes its new texts
only, and items with the same text share one encoding.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from eqids.data import Dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.files import encodings_file
from eqids.io.cached_arrays import read_arrays, write_arrays
from sharding import exchange, is_first

_DIGEST = 16
"""Bytes of a text's hash."""


class _Encodings(NamedTuple):
    """Encodings of distinct texts, in ascending order of their hashes."""

    digest: np.ndarray
    """Hashes of the texts' tokens, of dtype S16."""
    vectors: Float[np.ndarray, "item encoding"]

    def find(self, digest: np.ndarray) -> tuple[np.ndarray, Bool[np.ndarray, " text"]]:
        """Returns the rows of texts, and whether these are their rows."""
        row = np.searchsorted(self.digest, digest)
        row = np.minimum(row, max(len(self.digest) - 1, 0))
        if not len(self.digest):
            return row, np.zeros(len(digest), np.bool_)
        return row, self.digest[row] == digest

    def and_more(self, digest: np.ndarray, vectors: np.ndarray) -> "_Encodings":
        """Returns these encodings and those of other texts."""
        digest = np.concatenate([self.digest, digest])
        order = np.argsort(digest)
        vectors = np.concatenate([self.vectors, vectors])
        return _Encodings(digest[order], vectors[order])


def cached_encodings(
    dataset: Dataset,
    tokens: ItemTokens,
    source: str,
    width: int,
    encode: Callable[[ItemTokens], Float[np.ndarray, "slot encoding"]],
    report: Callable[[str], None],
) -> Float[np.ndarray, "slot encoding"]:
    """Returns the encodings of items' texts; all processes of a run call it.

    A stale or damaged cache is made again. If the folder cannot be written to, there
    is none.

    Args:
        dataset: its folder has the cache.
        tokens: of the texts to encode, by slot; items of length 0 have none.
        source: SHA-256 of all that determines an encoding besides the text.
        width: size of an encoding.
        encode: encodes texts; it is called if the cache lacks one, with these only.
        report: receives a message if the cache cannot be written.

    Returns:
        float32, zeros for an item without a text.
    """
    slots = np.flatnonzero(tokens.length)
    digest, first, inverse = np.unique(
        _digests(tokens, slots), return_index=True, return_inverse=True
    )
    path = dataset.path / encodings_file(source)
    known = _read(path, source, width)
    missing = _agreed(~known.find(digest)[1], source)
    if missing.any():
        own = np.zeros_like(tokens.length)
        own[slots[first[missing]]] = tokens.length[slots[first[missing]]]
        made = encode(replace(tokens, length=own))[slots[first[missing]]]
        known = _without(known, digest[missing]).and_more(digest[missing], made)
        if is_first():
            _write(path, known, source, report)
    out = np.zeros((len(tokens.length), width), np.float32)
    out[slots] = known.vectors[known.find(digest)[0][inverse]]
    return out


def _digests(tokens: ItemTokens, slots: np.ndarray) -> np.ndarray:
    """The hashes of items' tokens, with those that begin every text."""
    before = hashlib.blake2b(tokens.prompt.astype("<i4").tobytes(), digest_size=_DIGEST)

    def one(slot: int) -> bytes:
        digest, start = before.copy(), tokens.first[slot]
        ids = tokens.ids[start : start + tokens.length[slot]]
        digest.update(ids.astype("<i4").tobytes())
        return digest.digest()

    return np.array([one(slot) for slot in slots.tolist()], f"S{_DIGEST}")


def _agreed(missing: Bool[np.ndarray, " text"], source: str) -> np.ndarray:
    """Texts to encode, the same in all processes: all, if their caches differ."""
    said = hashlib.sha256(missing.tobytes()).hexdigest()
    found = set(exchange(f"texts to encode {source}", said).values())
    return missing if len(found) == 1 else np.ones_like(missing)


def _without(known: _Encodings, digest: np.ndarray) -> _Encodings:
    others = ~np.isin(known.digest, digest)
    return _Encodings(known.digest[others], known.vectors[others])


def _read(path: Path, source: str, width: int) -> _Encodings:
    """The content of a cache; empty if it is missing, stale or damaged."""
    found = read_arrays(path, {"source": source})
    if found is None:
        return _Encodings(np.zeros(0, f"S{_DIGEST}"), np.zeros((0, width), np.float32))
    return _Encodings(found["digest"].view(f"S{_DIGEST}")[:, 0], found["vectors"])


def _write(
    path: Path, known: _Encodings, source: str, report: Callable[[str], None]
) -> None:
    digest = known.digest.view(np.uint8).reshape(-1, _DIGEST)
    arrays = {"digest": digest, "vectors": known.vectors}
    cost = "every run encodes the texts again"
    write_arrays(path, arrays, {"source": source}, report, cost)
