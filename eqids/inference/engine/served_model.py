"""A model that answers queries in batches, by programs of few shapes."""

import copy
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from eqids.config import require
from eqids.data import Dataset
from eqids.inference.engine.all_programs import SCORED, ProgramShape, all_programs
from eqids.inference.engine.batching import BatchPlan, plan
from eqids.inference.engine.compiled_programs import (
    Programs,
    most_probable,
    query_vectors,
    sizes_of,
)
from eqids.inference.engine.history_cache import HistoryCache, num_computed
from eqids.inference.engine.host_arrays import (
    exclude_array,
    history_arrays,
    mask_array,
)
from eqids.inference.engine.page_index import prefix_digests
from eqids.inference.engine.popularity import Popularity
from eqids.inference.engine.prepared_query import PreparedQuery, prepare_query
from eqids.inference.engine.shapes import Shapes, bucket
from eqids.inference.engine.values import (
    ModelVersion,
    Query,
    Recommendations,
    SlotFilter,
)
from eqids.inference.histories import History
from eqids.inference.open import Opened
from eqids.model.item_log_probs import log_probs
from eqids.model.similar import nearest_items
from sharding import ONE_DEVICE, Placement

_SERIAL = itertools.count()


class ServedModel:
    """An open model with its compiled programs; immutable but for these.

    Attributes:
        opened: the model.
        dataset: its catalog and histories.
        version: names it.
        shapes: the shapes of its programs.
        filters: named filters of its catalog.
        serial: differs from that of any other served model of this process.
        history_cache: keeps keys and values of histories.
    """

    opened: Opened
    dataset: Dataset
    version: ModelVersion
    shapes: Shapes
    filters: Mapping[str, SlotFilter]
    serial: int
    history_cache: HistoryCache | None

    def __init__(
        self,
        opened: Opened,
        *,
        max_batch: int = 64,
        max_k: int = 1024,
        filters: Mapping[str, SlotFilter] | None = None,
        history_cache_mb: float | None = 0,
        programs_of: "ServedModel | None" = None,
        put: Placement = ONE_DEVICE,
    ):
        """Compiles nothing yet.

        Args:
            opened: the model.
            max_batch: most histories of a batch.
            max_k: most items of an answer; less if the catalog has fewer.
            filters: named filters of its catalog, see `named_filters`.
            history_cache_mb: memory of the keys and values of histories in MB, see
                `HistoryCache` and its default, which is None; 0 keeps none.
            programs_of: another served model, whose programs and memory of histories
                are taken over if all sizes are equal, as after a reload.
            put: places batches where the model is. On several devices only
                recommendations are computed, in the context `put.active()`.

        Raises:
            UserError: `history_cache_mb` is too little for one history.
        """
        dataset, info = opened.dataset, opened.dataset.info
        self.opened, self.dataset, self.serial = opened, dataset, next(_SERIAL)
        self.version = ModelVersion(
            str(opened.path), opened.step, info.catalog_id, info.catalog_version
        )
        self.shapes = Shapes.of(
            opened.config.recipe.seq_len, dataset.num_slots, max_batch, max_k,
            num_devices=1 if put.mesh is None else put.mesh.size,
            per_event=0 if history_cache_mb == 0 else num_computed(opened),
        )  # fmt: skip
        self.filters = dict(filters or {})
        self._put = put
        self._all_items = SlotFilter(dataset.item_valid)
        sizes = sizes_of((opened.model, opened.prefix)), opened.dtype
        self._programs, self.history_cache = Programs(sizes), None
        if programs_of is not None and programs_of._programs.sizes == sizes:
            self._programs = programs_of._programs
            self.history_cache = programs_of.history_cache
        if history_cache_mb == 0:
            self.history_cache = None
        elif self.history_cache is None:
            self.history_cache = HistoryCache(opened, self.shapes, history_cache_mb)
        self._weights = f"weights {self.serial}".encode()

    def with_filters(self, filters: Mapping[str, SlotFilter]) -> "ServedModel":
        """Returns the same model with other named filters, to replace this one."""
        other = copy.copy(self)
        other.filters, other.serial = dict(filters), next(_SERIAL)
        return other

    def compile(
        self,
        report: Callable[[int, int], None] | None = None,
        max_k: int | None = None,
    ) -> None:
        """Compiles the programs of all shapes that are not compiled yet.

        Args:
            report: receives how many are compiled, and how many there are.
            max_k: the largest k of the queries, by default any.
        """
        cache = self.history_cache
        pages = None if cache is None else cache.shapes
        programs = all_programs(self.opened, self.shapes.up_to(max_k), pages)

        def compiled(one: ProgramShape) -> None:
            self._programs.compiled(one.function, *one.args, **one.static)

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for number, _ in enumerate(threads.map(compiled, programs), start=1):
                if report is not None:
                    report(number, len(programs))

    @property
    def num_programs(self) -> int:
        """How many programs are compiled."""
        return self._programs.num_compiled

    def prepare(self, query: Query) -> PreparedQuery:
        """Returns a query as `plan` and `run` take it; see `prepare_query`."""
        prepared = prepare_query(
            query, self.opened, self._all_items, self.shapes.ks[-1]
        )
        if self.history_cache is None:
            return prepared
        prefixes = prefix_digests(
            prepared.row, self._weights, num_computed(self.opened)
        )
        return dataclasses.replace(prepared, prefixes=prefixes)

    def plan(self, queries: Sequence[PreparedQuery]) -> list[BatchPlan]:
        """Divides queries into batches, the one with the first query first."""
        cache = self.history_cache
        known = None if cache is None else [cache.num_known(one) for one in queries]
        return plan(queries, self.shapes, known)

    def run(
        self, batch: BatchPlan, queries: Sequence[PreparedQuery]
    ) -> list[Recommendations]:
        """Returns the answers of one batch.

        Args:
            batch: its sizes.
            queries: its members, or some of them, at least one.
        """
        if not batch.length:
            top = self._popularity.top
            return [top(one.k, one.allow.allowed, one.left_out) for one in queries]
        lists: tuple[Any, Any]
        if batch.width is None:
            lists = None, mask_array(queries, batch.rows)
        else:
            exclude = exclude_array(queries, batch.rows, batch.width)
            lists = exclude, queries[0].allow.on_device
        vectors = self._vectors(batch, queries)
        found = self._run(most_probable, *vectors, *lists, k=batch.k)
        slots, log_prob = jax.device_get(found)
        return [
            _recommendations(slots[row, : one.k], log_prob[row, : one.k])
            for row, one in enumerate(queries)
        ]

    def answer(self, queries: Sequence[Query]) -> list[Recommendations]:
        """Returns the answers to queries, in order; compiles shapes that are missing.

        Raises:
            UserError: see `prepare`.
        """
        prepared = [self.prepare(query) for query in queries]
        found: dict[int, Recommendations] = {}
        for batch in self.plan(prepared):
            members = [prepared[i] for i in batch.members]
            found |= zip(batch.members, self.run(batch, members), strict=True)
        return [found[i] for i in range(len(queries))]

    def log_probs(
        self, histories: Sequence[History], slots: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "history n"]:
        """Returns the log-probability of items after each history, counts included.

        -inf for items that cannot be recommended. After an empty history it is the
        logarithm of the share of training events.
        """
        with np.errstate(divide="ignore"):
            shares = np.log(self._popularity.shares[slots])
        found = np.tile(shares, (len(histories), 1))
        if not len(slots):
            return found
        chunks = -(-len(slots) // SCORED)
        padded = np.resize(slots.astype(np.int32), chunks * SCORED)
        for members, vectors in self._vectors_of(histories):
            parts = [
                np.asarray(self._run(log_probs, *vectors, part))[: len(members)]
                for part in padded.reshape(chunks, SCORED)
            ]
            found[members] = np.concatenate(parts, axis=1)[:, : len(slots)]
        return found

    def query_vectors(
        self, histories: Sequence[History]
    ) -> Float32[np.ndarray, "history item_width"]:
        """Returns the query of each history; zeros for an empty one."""
        width = self.opened.model.config.item_width
        found = np.zeros((len(histories), width), np.float32)
        for members, (query, _) in self._vectors_of(histories):
            found[members] = np.asarray(query)[: len(members)]
        return found

    def item_vectors(self) -> Float32[np.ndarray, "cluster place item_width"]:
        """Returns the vectors of all items, text columns included.

        They are those by which the softmax predicts items.
        """
        softmax = self.opened.model.softmax
        parts = [x for x in (softmax.table, softmax.text) if x is not None]
        # By NumPy: jax would compile it.
        return np.concatenate([np.asarray(x, np.float32) for x in parts], axis=-1)

    def similar(
        self, slots: Int[np.ndarray, " query"], k: int
    ) -> tuple[Int32[np.ndarray, "query k"], Float32[np.ndarray, "query k"]]:
        """Returns the items with the nearest vectors, by cosine, and the cosines.

        An item is not its own neighbour. Slots are padded with -1.

        Args:
            slots: at least one item.
            k: number of neighbours.

        Raises:
            UserError: k is below 1 or too large.
        """
        most = self.shapes.ks[-1]
        require(1 <= k <= most, f"k is {k}, wanted 1 to {most}")
        rows = 1 if len(slots) == 1 else self.shapes.rows[-1]
        chunks = -(-len(slots) // rows)
        padded = np.resize(slots.astype(np.int32), (chunks, rows))
        softmax, size = self.opened.model.softmax, bucket(self.shapes.ks, k)
        run = functools.partial(self._programs.run, nearest_items, softmax)
        parts = [jax.device_get(run(chunk, k=size)) for chunk in padded]
        found, cosines = map(np.concatenate, zip(*parts, strict=True))
        return found[: len(slots), :k], cosines[: len(slots), :k]

    @functools.cached_property
    def _popularity(self) -> Popularity:
        return Popularity(self.dataset)

    def _run(self, function: Callable[..., Any], *args: Any, **static: Any) -> Any:
        return self._programs.run(function, self.opened.model, *args, **static)

    def _vectors(
        self, batch: BatchPlan, queries: Sequence[PreparedQuery]
    ) -> tuple[Float[Array, "batch item_width"], Int[Array, "batch recent"]]:
        """Returns the queries of a batch and its recent items, on the device."""
        if self.history_cache is not None:
            return self.history_cache.vectors(
                batch, queries, self.opened, self.shapes, self._programs
            )
        arrays: Any = history_arrays(queries, batch.rows, batch.length)
        if self._put.mesh is not None:
            arrays = self._put.batch(arrays, batch.rows)
        prefix, dtype = self.opened.prefix, self.opened.dtype
        return self._run(query_vectors, prefix, *arrays, dtype=dtype)

    def _vectors_of(
        self, histories: Sequence[History]
    ) -> Iterator[tuple[Sequence[int], tuple[Array, Array]]]:
        """Yields queries and recent items of histories with items, and their rows."""
        prepared = [self.prepare(Query(one, 1, filter_seen=False)) for one in histories]
        for batch in self.plan(prepared):
            if batch.length:
                members = [prepared[i] for i in batch.members]
                yield batch.members, self._vectors(batch, members)


def _recommendations(
    slots: Int32[np.ndarray, " k"], log_prob: Float32[np.ndarray, " k"]
) -> Recommendations:
    """Returns found items; slot -1 is padding. The arrays are copies."""
    found = slots >= 0
    return Recommendations(slots[found], np.exp(log_prob[found]))
