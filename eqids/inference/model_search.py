"""Histories through the model to the k most probable items, chunk by chunk."""

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
from eqids.model import Batch, EqIDs, PrefixCache
from eqids.model.search import TopK, top_k

_EXCLUDED = 2**18
"""Items that a chunk leaves out at most, padding included, unless one history alone
has more."""
_FEWEST = 64
"""Items that a history of a chunk has space for at least, so that few shapes are
compiled."""


@dataclass(frozen=True)
class HistoryChunk:
    """Histories that are asked together.

    Attributes:
        histories: in the order in which they were given; some may be empty.
        width: space for the items that one of them leaves out; 0: none are left out.
        num_rows: rows of the arrays.
    """

    histories: Sequence[History]
    width: int
    num_rows: int


class ModelSearch:
    """Asks a model; few shapes are compiled, and their sizes are bounded."""

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
            filter_seen: whether each leaves out its own items.
            most: histories of a chunk; fewer are together where one has very many
                items.
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
        """Returns the most probable slots of those histories that are not empty.

        Args:
            chunk: with at least one of them.
            k: how many slots.
            allowed: places that may be recommended.

        Returns:
            Slots, -1 where there are no more; and their probabilities.
        """
        histories = [one for one in chunk.histories if len(one.slots)]
        # Rows past the last history repeat the first.
        rows = [*histories, *[histories[0]] * (chunk.num_rows - len(histories))]
        slots, times = [one.slots for one in rows], [one.times for one in rows]
        seq_len = self._opened.config.recipe.seq_len
        host = query_batch(slots, times, seq_len, self._opened.tokens)
        asked = _Asked(
            batch=Batch.of(host),
            last=jnp.asarray(last_positions(host)),
            exclude=_excluded(slots, chunk.width),
            allowed=jnp.asarray(allowed),
        )
        found = self._run(self._opened.model, self._opened.prefix, asked, k)
        kept = slice(len(histories))
        return np.asarray(found.slots)[kept], np.exp(np.asarray(found.log_probs)[kept])


def _width(history: History) -> int:
    """Space for the distinct items of a history: a power of two."""
    return 1 << (max(_FEWEST, len(np.unique(history.slots))) - 1).bit_length()


def _most_rows(width: int) -> int:
    """Rows of a chunk whose histories have space for so many items each."""
    return max(1, _EXCLUDED // max(width, 1))


def _excluded(
    histories: Sequence[np.ndarray], width: int
) -> Int[Array, "batch seen"] | None:
    """The distinct slots of each history, padded with -1."""
    if not width:
        return None
    exclude = np.full((len(histories), width), -1, np.int32)
    for row, history in zip(exclude, histories, strict=True):
        distinct = np.unique(history)
        row[: len(distinct)] = distinct
    return jnp.asarray(exclude)


class _Asked(eqx.Module):
    """A chunk of histories as arrays."""

    batch: Batch
    last: Int[Array, " batch"]
    exclude: Int[Array, "batch seen"] | None
    allowed: Bool[Array, "cluster place"]


def _make_search(
    dtype: DTypeLike,
) -> Callable[[EqIDs, PrefixCache | None, _Asked, int], TopK]:
    def run(model: EqIDs, prefix: PrefixCache | None, asked: _Asked, k: int) -> TopK:
        query = model.queries_at(asked.batch, asked.last, dtype=dtype, prefix=prefix)
        return top_k(
            model.softmax, query, k, exclude=asked.exclude, allowed=asked.allowed
        )

    return jax.jit(run, static_argnums=3)
