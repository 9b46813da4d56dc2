"""Programs, compiled once for each shape: ahead of time or when first needed."""

import threading
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from eqids.model import Batch, EqIDs, PrefixCache, recent_items
from eqids.model.scores import log_probs_of_slots
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
        allowed: see `top_k`.
        k: the number of items.
    """
    mixture = model.mixture(query, recent)
    found = top_k(
        model.softmax, query, k, exclude=exclude, allowed=allowed, mixture=mixture
    )
    return found.slots, found.log_probs


def log_probs(
    model: EqIDs,
    query: Float[Array, "batch item_width"],
    recent: Int[Array, "batch recent"],
    slot: Int[Array, " some"],
) -> Float[Array, "batch some"]:
    """Returns the log-probabilities of the same items for all queries.

    Args:
        model: the model; counts are mixed in.
        query: from `query_vectors`.
        recent: from `query_vectors`.
        slot: slots of the items.
    """
    slots = jnp.broadcast_to(slot, (len(query), len(slot)))
    found = log_probs_of_slots(model.softmax, query, slots)
    mixture = model.mixture(query, recent)
    if mixture is None:
        return found
    raised = jax.vmap(mixture.raised_one, in_axes=1, out_axes=1)(found, slots)
    valid = model.softmax.valid.reshape(-1)[slots]
    return jnp.where(valid, raised + mixture.log_rest[:, None], -jnp.inf)


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
        self._lock = threading.Lock()

    def run(self, function: Callable[..., Any], *args: PyTree, **static: Any) -> Any:
        """Calls the program for the shapes of the arguments; compiles a missing one.

        Args:
            function: one of this module's, or `nearest_items`.
            args: its arguments; all calls have a model of the same sizes first.
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
            with self._lock:
                if key not in self._compiled:
                    program = jax.jit(partial(function, **static))
                    self._compiled[key] = program.lower(*args).compile()
        return self._compiled[key]

    @property
    def num_compiled(self) -> int:
        return len(self._compiled)


def sizes_of(tree: PyTree) -> Hashable:
    """Returns what decides whether two trees can use the same programs."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((x.shape, np.dtype(x.dtype)) for x in leaves)
