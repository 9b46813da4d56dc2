"""One thread owns the device and answers what is queued, in batches."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import (
    EngineCounters,
    EngineOptions,
    Query,
    Recommendations,
)

Result = TypeVar("Result")


class InferenceEngine:
    """Takes queries from any thread; one thread of its own computes the answers.

    When the device is free, the thread takes all that is queued: there is no timer.
    """

    def __init__(self, served: ServedModel, options: EngineOptions):
        """Starts the thread.

        Args:
            served: the model, compiled.
            options: the limits.
        """
        raise NotImplementedError

    @property
    def served(self) -> ServedModel:
        """The current model. Read it once for a request, and submit with it."""
        raise NotImplementedError

    def submit(
        self, served: ServedModel, query: Query, deadline: float | None = None
    ) -> "Future[Recommendations]":
        """Queues a query; a cached answer comes at once.

        `cancel` of the future removes a query that is not yet in a batch.

        Args:
            served: the model that answers; the query's slots are of its catalog.
            query: the query.
            deadline: by `time.monotonic`; the future gets `DeadlinePassed` if the query
                is not in a batch by then.

        Raises:
            QueueFull: too many wait.
            EngineClosed: the engine was closed.
            ValueError: the query is invalid, see `ServedModel.answer`.
        """
        raise NotImplementedError

    def submit_call(
        self, function: Callable[[], Result], deadline: float | None = None
    ) -> "Future[Result]":
        """Queues a function that uses the device; the thread calls it.

        Args:
            function: such as one that calls `ServedModel.log_probs`.
            deadline: as for `submit`.

        Raises:
            QueueFull: too many wait.
            EngineClosed: the engine was closed.
        """
        raise NotImplementedError

    def replace(self, served: ServedModel) -> None:
        """Makes another model the current one.

        Queries that were submitted with the old one are answered by the old one.

        Args:
            served: the model, compiled.
        """
        raise NotImplementedError

    def counters(self) -> EngineCounters:
        """Returns what the engine did so far."""
        raise NotImplementedError

    def close(self, drain: bool = True) -> None:
        """Stops taking queries, and ends the thread.

        Args:
            drain: answer what waits; otherwise its futures get `EngineClosed`.
        """
        raise NotImplementedError
