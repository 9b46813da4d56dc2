"""Waits for what the engine computes, and says why it did not."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TypeVar

from eqids.config import UserError
from eqids.inference.engine.inference_engine import InferenceEngine
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import (
    DeadlinePassed,
    EngineClosed,
    Query,
    QueueFull,
    Recommendations,
)
from eqids.inference.server.http_errors import HttpError

Computed = TypeVar("Computed")


async def recommendations(
    engine: InferenceEngine,
    served: ServedModel,
    queries: Sequence[Query],
    seconds: float,
) -> list[Recommendations]:
    """Returns the answers to queries; if this is cancelled, so are they.

    Args:
        engine: computes them.
        served: the model, to whose catalog their slots belong.
        queries: at least one.
        seconds: within which all must be answered.

    Raises:
        HttpError: 400, 429, 503 or 504.
    """
    deadline = time.monotonic() + seconds
    futures: list[Future[Recommendations]] = []
    async with _refusals(seconds):
        try:
            for query in queries:
                futures.append(engine.submit(served, query, deadline))
            return [await _result(future) for future in futures]
        finally:
            for future in futures:
                future.cancel()  # changes nothing in one that is done


async def device_call(
    engine: InferenceEngine, function: Callable[[], Computed], seconds: float
) -> Computed:
    """Returns what a function returns that the engine's thread calls.

    Args:
        engine: calls it.
        function: uses the device.
        seconds: within which it must have returned.

    Raises:
        HttpError: 429, 503 or 504.
    """
    async with _refusals(seconds):
        deadline = time.monotonic() + seconds
        return await _result(engine.submit_call(function, deadline))


async def _result(future: "Future[Computed]") -> Computed:
    if future.done():  # answered by a cache
        return future.result()
    return await asyncio.wrap_future(future)


@asynccontextmanager
async def _refusals(seconds: float) -> AsyncIterator[None]:
    """Turns the engine's refusals, and the end of the time, into HTTP statuses."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except UserError as error:  # a query that the engine refuses
        raise HttpError(400, str(error)) from None
    except QueueFull:
        raise HttpError(
            429, "the queue is full, wanted another try later", {"retry-after": "1"}
        ) from None
    except EngineClosed:
        raise HttpError(
            503, "the server is shutting down", {"connection": "close"}
        ) from None
    except (DeadlinePassed, TimeoutError):
        raise HttpError(
            504, f"there was no answer within {seconds:g} seconds, see --timeout"
        ) from None
