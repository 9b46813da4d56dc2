"""What goes into the engine and what comes out."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, Int32

from eqids.inference.histories import History


class QueueFull(Exception):
    """The engine has as many queries as it may; try again later."""


class EngineClosed(Exception):
    """The engine was closed and takes no queries."""


class DeadlinePassed(Exception):
    """A query was not computed before its deadline."""


@dataclass(frozen=True)
class ModelVersion:
    """Names the one version of model and catalog that an answer comes from."""

    checkpoint: str
    """The folder of the checkpoint, DIR/STEP, or of the exported pair."""
    step: int
    """The training step."""
    catalog_id: str
    """The catalog."""
    catalog_version: int
    """Its version."""


@dataclass(frozen=True, eq=False)
class SlotFilter:
    """The only items that may be recommended.

    Queries with the same object share one mask on the device, so make it once for many.
    """

    allowed: Bool[np.ndarray, "cluster place"]
    """Where these items are in the catalog; not to be changed."""

    @staticmethod
    def of(
        slots: Int[np.ndarray, " n"], valid: Bool[np.ndarray, "cluster place"]
    ) -> "SlotFilter":
        """Returns the filter that allows these slots, if they may be recommended.

        Args:
            slots: of items; negative ones are ignored.
            valid: places that may be recommended, `Dataset.item_valid`.
        """
        allowed = np.zeros_like(valid)
        allowed.flat[slots[slots >= 0]] = True
        return SlotFilter(allowed & valid)

    def __and__(self, other: "SlotFilter") -> "SlotFilter":
        """Returns the filter of the items that both allow."""
        return SlotFilter(self.allowed & other.allowed)

    @functools.cached_property
    def digest(self) -> bytes:
        """Identifies the allowed items."""
        return hashlib.blake2b(np.packbits(self.allowed).tobytes()).digest()

    @functools.cached_property
    def on_device(self) -> Bool[Array, "cluster place"]:
        """The mask on the default device."""
        return jax.device_put(jnp.asarray(self.allowed))


@dataclass(frozen=True, eq=False)
class Query:
    """A request for the k most probable next items of one history.

    All slots are of the catalog of the `ServedModel` that answers.
    """

    history: History
    """Popularity answers an empty one."""
    k: int
    """The number of items."""
    filter_seen: bool = True
    """Do not recommend items of the history."""
    allow: SlotFilter | None = None
    """The only items to recommend; by default all."""
    deny: Int32[np.ndarray, " n"] | None = None
    """Slots not to recommend."""


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The answer to one query."""

    slots: Int32[np.ndarray, " n"]
    """The most probable items, best first; fewer than k if fewer may be recommended."""
    probabilities: Float32[np.ndarray, " n"]
    """Their probabilities."""
    popularity: bool = False
    """Whether popularity answered, because the history is empty."""
    cached: bool = False
    """Whether they are from the cache of answers."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The limits of an engine."""

    max_queue: int = 1024
    """Most queries and calls that wait."""
    answer_cache_mb: int = 64
    """Memory of the cache of answers in MB (2**20 bytes); 0 turns it off."""


@dataclass(frozen=True)
class EngineCounters:
    """What an engine did since it started."""

    queue_depth: int
    """Queries and calls that wait now."""
    batches: Mapping[int, int]
    """How many batches had so many queries, by that number."""
    device_seconds: float
    """Time of the thread in batches and calls."""
    cache_hits: Mapping[str, int]
    """Queries that a cache served, by its tier: "answer" the whole answer, "history"
    the positions that were read before."""
    cache_misses: Mapping[str, int]
    """Queries that were looked up in vain, by tier."""
    compilations_after_ready: int
    """Programs that the thread compiled: 0 unless a shape was not compiled ahead."""
