"""Finds the k most probable items of histories, chunk by chunk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from eqids.data.batches.training_batches import last_positions, query_batch
from eqids.inference.histories import History
from eqids.inference.open import Opened
from eqids.model import Batch, EqIDs, PrefixCache, recent_items
from eqids.model.search import TopK, top_k

_EXCLUDED = 2**18
"""Most seen items that a chunk excludes, padding included; one history alone may
exceed it."""
_FEWEST = 64
"""Smallest width of the excluded items of a chunk, so that few shapes are compiled."""


@dataclass(frozen=True)
class HistoryChunk:
    """Histories that go through the model in one call.

    Attributes:
        histories: in the given order; some may be empty.
        width: most items that one of them excludes, padded; 0 excludes none.
        num_rows: rows of the arrays.
    """

    histories: Sequence[History]
    width: int
    num_rows: int


class ModelSearch:
    """Searches with a model; few shapes are compiled, and their sizes are bounded."""

    def __init__(self, opened: Opened):
        """Compiles nothing yet."""
        self._opened = opened
        self._run = _make_search(opened.dtype)

    def chunks(
        self, histories: Sequence[History], filter_seen: bool, most: int
    ) -> Iterator[HistoryChunk]:
        """Yields all histories, in order.

        Args:
            histories: at least one, of any lengths.
            filter_seen: exclude the items of each history.
            most: most histories of a chunk; histories with very many items get smaller
                chunks.
        """
        most, width = min(most, len(histories)), 0
        some: list[History] = []
        for history in histories:
            own = _width(history) if filter_seen else 0
            wider = max(width, own)
            if len(some) >= min(most, _most_rows(wider)):
                yield HistoryChunk(some, width, min(most, _most_rows(width)))
                some, wider = [], own
            some.append(history)
            width = wider
        yield HistoryChunk(some, width, min(most, _most_rows(width)))

    def __call__(
        self, chunk: HistoryChunk, k: int, allowed: Bool[np.ndarray, "cluster place"]
    ) -> tuple[Int[np.ndarray, "history k"], Float[np.ndarray, "history k"]]:
        """Returns the most probable slots of the histories that are not empty.

        Args:
            chunk: at least one of its histories is not empty.
            k: how many slots.
            allowed: places that may be recommended.

        Returns:
            Slots, padded with -1; and their probabilities.
        """
        histories = [one for one in chunk.histories if len(one.slots)]
        # Rows past the last history repeat the first.
        rows = [*histories, *[histories[0]] * (chunk.num_rows - len(histories))]
        slots, times = [one.slots for one in rows], [one.times for one in rows]
        seq_len = self._opened.config.recipe.seq_len
        reads_time = self._opened.model.config.request_time
        asked = [one.request_time for one in rows] if reads_time else None
        host = query_batch(slots, times, seq_len, self._opened.tokens, asked)
        request = _Request(
            batch=Batch.of(host),
            last=jnp.asarray(last_positions(host)),
            exclude=_excluded(slots, chunk.width),
            allowed=jnp.asarray(allowed),
        )
        found = self._run(self._opened.model, self._opened.prefix, request, k)
        kept = slice(len(histories))
        return np.asarray(found.slots)[kept], np.exp(np.asarray(found.log_probs)[kept])


def _width(history: History) -> int:
    """Returns the number of a history's distinct items, padded to a power of two."""
    return 1 << (max(_FEWEST, len(np.unique(history.slots))) - 1).bit_length()


def _most_rows(width: int) -> int:
    """Returns the most rows of a chunk of this width."""
    return max(1, _EXCLUDED // max(width, 1))


def _excluded(
    histories: Sequence[np.ndarray], width: int
) -> Int[Array, "batch seen"] | None:
    """Returns the distinct slots of each history, padded with -1."""
    if not width:
        return None
    exclude = np.full((len(histories), width), -1, np.int32)
    for row, history in zip(exclude, histories, strict=True):
        distinct = np.unique(history)
        row[: len(distinct)] = distinct
    return jnp.asarray(exclude)


class _Request(eqx.Module):
    """A chunk of histories as arrays."""

    batch: Batch
    last: Int[Array, " batch"]
    exclude: Int[Array, "batch seen"] | None
    allowed: Bool[Array, "cluster place"]


def _make_search(
    dtype: DTypeLike,
) -> Callable[[EqIDs, PrefixCache | None, _Request, int], TopK]:
    def run(model: EqIDs, prefix: PrefixCache | None, asks: _Request, k: int) -> TopK:
        query = model.queries_at(asks.batch, asks.last, dtype=dtype, prefix=prefix)
        batch = asks.batch
        recent = recent_items(batch.items, batch.segment, asks.last)
        query = model.lifted(query, recent)
        return top_k(
            model.softmax, query, k, exclude=asks.exclude, allowed=asks.allowed,
            mixture=model.mixture(query, recent),
        )  # fmt: skip

    return jax.jit(run, static_argnums=3)
