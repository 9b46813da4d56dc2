"""Programs, compiled once for each shape: ahead of time or when first needed."""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from eqids.inference.engine.shapes import PAGE
from eqids.model import Batch, EqIDs, PrefixCache, recent_items
from eqids.model.continued import continued_queries
from eqids.model.search import top_k


def query_vectors(
    model: EqIDs,
    prefix: PrefixCache | None,
    arrays: Mapping[str, Int[Array, "batch seq"]],
    last: Int[Array, " batch"],
    *,
    dtype: DTypeLike,
) -> tuple[Float[Array, "batch item_width"], Int[Array, "batch recent"]]:
    """Returns the queries of histories, by which the model answers, and recent items.

    Args:
        model: the model.
        prefix: the keys and values of its prompt, if rows lack the prompt.
        arrays: the fields of a `Batch`, one history a row.
        last: the last position of each.
        dtype: the dtype of activations.
    """
    batch = Batch(**arrays)
    query = model.queries_at(batch, last, dtype=dtype, prefix=prefix)
    recent = recent_items(batch.items, batch.segment, last)
    return model.lifted(query, recent), recent


def continued_vectors(
    model: EqIDs,
    prompt: PrefixCache | None,
    pages: PrefixCache,
    arrays: Mapping[str, Int[Array, "batch seq"]],
    last: Int[Array, " batch"],
    recent: Int[Array, "batch recent"],
    before: Int[Array, "batch page"],
    num_before: Int[Array, " batch"],
    *,
    dtype: DTypeLike,
) -> tuple[Float[Array, "batch item_width"], PrefixCache]:
    """Returns the queries of histories whose first positions are kept, and new pages.

    Args:
        model: the model.
        prompt: as for `query_vectors`.
        pages: all that are kept, see `HistoryCache`.
        arrays: the fields of a `Batch`, the rest of one history a row.
        last: the last position of each row.
        recent: from `recent_items`, of whole histories.
        before: the places of each history's first pages, padded with any.
        num_before: positions that are kept.
        dtype: the dtype of activations.

    Returns:
        The queries, and keys and values `[layer, batch, page, position, kv_heads,
        head]` of pages from the one on that holds the row's first position.
    """
    size = PAGE if before.shape[1] else 1
    offset = num_before % size

    def of_rows(x: Array) -> Array:
        layer, _, _, *sizes = x.shape
        return x[:, before].reshape(layer, len(before), -1, *sizes)

    def paged(x: Array, pages: Array) -> Array:
        layer, rows, seq, *sizes = x.shape
        length = -(-(seq + size - 1) // PAGE) * PAGE
        out = jnp.zeros((layer, rows, length, *sizes), x.dtype)
        if before.shape[1]:
            # The first page begins with positions that are kept.
            grows = jnp.take_along_axis(before, num_before[:, None] // PAGE, axis=1)
            out = out.at[:, :, :PAGE].set(pages[:, grows[:, 0]])
        write = jax.vmap(
            partial(jax.lax.dynamic_update_slice_in_dim, axis=1),
            in_axes=(1, 1, 0), out_axes=1,
        )  # fmt: skip
        return write(out, x, offset).reshape(layer, rows, -1, PAGE, *sizes)

    query, found = continued_queries(
        model, Batch(**arrays), last, recent, jax.tree.map(of_rows, pages), num_before,
        prompt, dtype=dtype,
    )  # fmt: skip
    return query, jax.tree.map(paged, found, pages)


def with_pages(
    pages: PrefixCache, new: PrefixCache, place: Int[Array, "batch page"]
) -> PrefixCache:
    """Returns the kept pages with some replaced, in the same memory.

    Args:
        pages: all that are kept; they are gone afterwards.
        new: from `continued_vectors`.
        place: where they go; nowhere if there is no such place.
    """
    return jax.tree.map(lambda x, y: x.at[:, place].set(y, mode="drop"), pages, new)


def most_probable(
    model: EqIDs,
    query: Float[Array, "batch item_width"],
    recent: Int[Array, "batch recent"],
    exclude: Int[Array, "batch n"] | None,
    allowed: Bool[Array, "cluster place"] | Bool[Array, "batch cluster place"],
    *,
    k: int,
) -> tuple[Int[Array, "batch k"], Float[Array, "batch k"]]:
    """Returns the slots and log-probabilities of the most probable items.

    Args:
        model: the model; counts are mixed in.
        query: from `query_vectors`.
        recent: from `query_vectors`.
        exclude: see `top_k`.
        allowed: see `top_k`; without the clusters that pad the model's tables to the
            number of its devices.
        k: the number of items.
    """
    padding = len(model.softmax.valid) - allowed.shape[-2]
    allowed = jnp.pad(allowed, [(0, 0)] * (allowed.ndim - 2) + [(0, padding), (0, 0)])
    mixture = model.mixture(query, recent)
    found = top_k(
        model.softmax, query, k, exclude=exclude, allowed=allowed, mixture=mixture
    )
    return found.slots, found.log_probs


class Programs:
    """The compiled programs of models of the same sizes.

    Attributes:
        sizes: what the models have in common.
        num_compiled: how many programs there are.
    """

    def __init__(self, sizes: Hashable):
        """Compiles nothing yet.

        Args:
            sizes: from `sizes_of`.
        """
        self.sizes = sizes
        self._compiled: dict[Hashable, Any] = {}

    def run(self, function: Callable[..., Any], *args: PyTree, **static: Any) -> Any:
        """Calls the program for the shapes of the arguments; compiles a missing one.

        Args:
            function: one of this module's, or `nearest_items`.
            args: its arguments; in all calls the first has the same sizes.
            static: its arguments by name, constants of the program.
        """
        return self.compiled(function, *args, **static)(*args)

    def compiled(
        self, function: Callable[..., Any], *args: PyTree, **static: Any
    ) -> Any:
        """Returns the program for the shapes of the arguments; see `run`."""
        shapes = tuple(x.shape for x in jax.tree.leaves(args[1:]))
        key = function.__name__, shapes, tuple(static.items())
        if key not in self._compiled:
            donated = (0,) if function is with_pages else ()
            program = jax.jit(partial(function, **static), donate_argnums=donated)
            self._compiled[key] = program.lower(*args).compile()
        return self._compiled[key]

    @property
    def num_compiled(self) -> int:
        return len(self._compiled)


def sizes_of(tree: PyTree) -> Hashable:
    """Returns what decides whether two trees can use the same programs."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((x.shape, np.dtype(x.dtype)) for x in leaves)
