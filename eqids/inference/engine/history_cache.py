"""Keeps keys and values of histories, so that one more event costs one position.

A history is cut into pages of `PAGE` positions. Histories that begin alike share pages,
because a page is found by the digest of all positions up to its last one.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from eqids.config import require
from eqids.inference.engine.batching import BatchPlan
from eqids.inference.engine.compiled_programs import (
    Programs,
    continued_vectors,
    with_pages,
)
from eqids.inference.engine.host_arrays import history_arrays, recent_array
from eqids.inference.engine.page_index import PageIndex
from eqids.inference.engine.prepared_query import PreparedQuery, positions_per_event
from eqids.inference.engine.shapes import PAGE, Shapes, bucket
from eqids.inference.open import Opened
from eqids.model import PrefixCache

_DEFAULT_MB = 256
"""Memory of the pages by default, unless fewer of the longest histories fit into it
than the number below."""
_LEAST_HISTORIES = 4


def num_computed(opened: Opened) -> int:
    """Returns how many positions are computed after one more event.

    What a position reads of the time of the next event or request is another one then.
    """
    return positions_per_event(opened.tokens) + opened.model.config.request_time


class HistoryCache:
    """Pages of keys and values on the device. Threads may share it.

    Attributes:
        pages: keys and values `[layer, place, position, kv_heads, head]`.
        shapes: the shapes of these arrays.
        hits: queries that continued kept pages.
        misses: queries that had to be computed whole.
    """

    pages: PrefixCache
    shapes: PrefixCache
    hits: int
    misses: int

    def __init__(self, opened: Opened, shapes: Shapes, max_mb: float | None):
        """Allocates the pages.

        Args:
            opened: the model.
            shapes: the shapes of its programs.
            max_mb: memory of the pages in MB (2**20 bytes), by default 256, or what 4
                histories of full length take, if that is more.

        Raises:
            UserError: there is no room for one history of full length.
        """
        tokens = jax.ShapeDtypeStruct((PAGE,), np.int32)
        of_one = partial(opened.model.llama.prefix_cache, dtype=opened.dtype)
        one = jax.eval_shape(of_one, tokens)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(one))
        of_history = shapes.num_pages * size
        if max_mb is None:
            max_mb = max(_DEFAULT_MB, _LEAST_HISTORIES * of_history / 2**20)
        require(
            max_mb * 2**20 >= of_history,
            f"--cache_mb is {max_mb:g}, wanted 0 or at least "
            f"{-(-of_history // 2**20)}: what one history of {shapes.lengths[-1]} "
            "positions takes",
        )
        self._num_pages = int(max_mb * 2**20) // size
        self.shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (x.shape[0], self._num_pages, *x.shape[1:]), x.dtype
            ),
            one,
        )
        self.hits = self.misses = 0
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forgets all pages, and allocates them anew."""
        with self._lock:
            self._index = PageIndex(self._num_pages)
            self.pages = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), self.shapes
            )

    def num_known(self, query: PreparedQuery) -> int:
        """Returns how many positions of a query need not be computed."""
        with self._lock:
            return self._known(query)[1]

    def vectors(
        self,
        batch: BatchPlan,
        queries: Sequence[PreparedQuery],
        opened: Opened,
        shapes: Shapes,
        programs: Programs,
    ) -> tuple[Float[Array, "batch item_width"], Int[Array, "batch recent"]]:
        """Returns the queries of a batch and its recent items; keeps new positions.

        Args:
            batch: its sizes.
            queries: its members, or some of them, at least one.
            opened: the model that reads them.
            shapes: the shapes of its programs.
            programs: its compiled programs.
        """
        recent = jax.device_put(recent_array(queries, batch.rows))
        with self._lock:
            batch, starts, before = self._before(batch, queries, shapes)
            arrays, last = history_arrays(
                queries, batch.rows, batch.length, starts[: len(queries)].tolist()
            )
            query, found = programs.run(
                continued_vectors, opened.model, opened.prefix, self.pages, arrays,
                last, recent, before, starts, dtype=opened.dtype,
            )  # fmt: skip
            self._keep(queries, starts, found, programs)
            hits = len(queries) if batch.continues else 0
            self.hits += hits
            self.misses += len(queries) - hits
        return query, recent

    def _before(
        self, batch: BatchPlan, queries: Sequence[PreparedQuery], shapes: Shapes
    ) -> tuple[BatchPlan, Int32[np.ndarray, " batch"], Int32[np.ndarray, "batch page"]]:
        """Looks up what is kept of the histories of a batch.

        Returns:
            The batch, which computes whole histories if pages were forgotten since it
            was planned; how many positions of each row are kept; and the places of
            their pages.
        """
        known = [self._known(one) for one in queries]
        left = [one.length - num for one, (_, num) in zip(queries, known, strict=True)]
        if batch.continues and max(left) > batch.length:
            longest = max(one.length for one in queries)
            length = bucket(shapes.lengths, longest)
            batch = replace(batch, continues=False, length=length)
        if not batch.continues:
            known = [([], 0) for _ in queries]
        before = np.zeros(
            (batch.rows, shapes.num_pages if batch.continues else 0), np.int32
        )
        starts = np.zeros(batch.rows, np.int32)
        for row, (own, num) in enumerate(known):
            before[row, : len(own)], starts[row] = own, num
        return batch, starts, before

    def _known(self, query: PreparedQuery) -> tuple[list[int], int]:
        """Places of pages, and how many positions of them need not be computed.

        The last position is always computed: the query is read from it.
        """
        places, length = self._index.known(query.prefixes)
        return places, min(length, max(query.length - 1, 0))

    def _keep(
        self,
        queries: Sequence[PreparedQuery],
        starts: Int32[np.ndarray, " batch"],
        found: PrefixCache,
        programs: Programs,
    ) -> None:
        """Keeps the positions of a batch that are new."""
        places = np.full(found.keys.shape[1:3], self._num_pages, np.int32)
        written = set[int]()
        for row, one, start in zip(places, queries, starts.tolist(), strict=False):
            # What the last position reads of the time of the request will change.
            stop = one.length - (one.row.request_gap is not None)
            for page, place in enumerate(
                self._index.keep(one.prefixes, start, stop, written)
            ):
                row[page] = self._num_pages if place < 0 else place
        if not written:
            return
        try:
            self.pages = programs.run(with_pages, self.pages, found, places)
        except Exception:
            # The index names places that were not written.
            self.clear()
            raise
