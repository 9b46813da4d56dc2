"""A model that answers queries in batches, by programs of few shapes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int, Int32

from eqids.data import Dataset
from eqids.inference.engine.shapes import Shapes
from eqids.inference.engine.values import (
    ModelVersion,
    Query,
    Recommendations,
    SlotFilter,
)
from eqids.inference.histories import History
from eqids.inference.open import Opened


class ServedModel:
    """An open model with its compiled programs; immutable.

    Attributes:
        opened: the model.
        dataset: its catalog and histories.
        version: names it.
        shapes: the shapes of its programs.
        filters: named filters of its catalog.
    """

    opened: Opened
    dataset: Dataset
    version: ModelVersion
    shapes: Shapes
    filters: Mapping[str, SlotFilter]

    def __init__(
        self,
        opened: Opened,
        *,
        max_batch: int = 64,
        max_k: int = 1024,
        filters: Mapping[str, SlotFilter] | None = None,
        programs_of: "ServedModel | None" = None,
    ):
        """Compiles nothing yet.

        Args:
            opened: the model.
            max_batch: most histories of a batch.
            max_k: most items of an answer; less if the catalog has fewer.
            filters: named filters of its catalog, see `named_filters`.
            programs_of: another served model, whose programs are taken over if all
                sizes are equal, as after a reload.
        """
        raise NotImplementedError

    def with_filters(self, filters: Mapping[str, SlotFilter]) -> "ServedModel":
        """Returns the same model with other named filters, for `Engine.replace`."""
        raise NotImplementedError

    def compile(self, report: Callable[[int, int], None] | None = None) -> None:
        """Compiles the programs of all shapes that are not compiled yet.

        Args:
            report: receives how many are compiled, and how many there are.
        """
        raise NotImplementedError

    def answer(self, queries: Sequence[Query]) -> list[Recommendations]:
        """Returns the answers to queries, in order; compiles shapes that are missing.

        Raises:
            ValueError: k is below 1 or above `shapes.max_k`, or a slot is not of the
                catalog.
        """
        raise NotImplementedError

    def log_probs(
        self, histories: Sequence[History], slots: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "history n"]:
        """Returns the log-probability of items after each history, counts included.

        -inf for items that cannot be recommended. After an empty history it is the
        logarithm of the share of training events.
        """
        raise NotImplementedError

    def similar(
        self, slots: Int[np.ndarray, " query"], k: int
    ) -> tuple[Int32[np.ndarray, "query k"], Float32[np.ndarray, "query k"]]:
        """Returns the items with the nearest vectors, by cosine, and the cosines.

        An item is not its own neighbour. Slots are padded with -1.
        """
        raise NotImplementedError

    def item_vectors(self) -> Float32[np.ndarray, "cluster place item_width"]:
        """Returns the vectors of all items, text columns included."""
        raise NotImplementedError

    def query_vectors(
        self, histories: Sequence[History]
    ) -> Float32[np.ndarray, "history item_width"]:
        """Returns the query of each history; zeros for an empty one."""
        raise NotImplementedError
