"""The state of the server: what it serves, and whether it takes requests."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eqids.config import ServeConfig
from eqids.inference.engine.inference_engine import InferenceEngine
from eqids.inference.events.event_store import EventStore
from eqids.inference.server.http_errors import HttpError
from eqids.inference.server.metrics import ServerMetrics
from eqids.inference.server.served_catalog import ServedCatalog


class Service:
    """What all requests share. Only the thread of the event loop changes it.

    Attributes:
        config: the command's flags.
        warn: receives warnings.
        metrics: what `/metrics` shows.
        engine: computes answers; None until the first model is ready.
        catalog: the served model with its names; None until it is ready.
        compared: that of `--compare`, if it is wanted.
        events: the stored events, if the server stores them.
        draining: set when the server stops taking requests.
        reloading: whether a reload runs.
    """

    def __init__(self, config: ServeConfig, warn: Callable[[str], None]):
        """Starts without a model.

        Args:
            config: the command's flags.
            warn: receives warnings.
        """
        self.config = config
        self.warn = warn
        self.metrics = ServerMetrics(
            lambda: self.engine, lambda: self.catalog, config.max_batch
        )
        self.engine: InferenceEngine | None = None
        self.catalog: ServedCatalog | None = None
        self.compared: ServedCatalog | None = None
        self.events: EventStore | None = None
        self.draining = asyncio.Event()
        self.reloading = False
        self._accepted = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def ready(self) -> tuple[InferenceEngine, ServedCatalog]:
        """Returns the engine and what it serves; a request calls this once.

        Raises:
            HttpError: 503 before the first model is ready, and while draining.
        """
        if self.draining.is_set():
            raise HttpError(503, "the server is shutting down", {"connection": "close"})
        if self.engine is None or self.catalog is None:
            raise HttpError(503, "the model is not ready yet", {"retry-after": "1"})
        return self.engine, self.catalog

    def record_dataset(self) -> None:
        """Records which dataset the stored events continue, for the next `prepare`."""
        if self.events is not None and self.catalog is not None:
            self.events.record_dataset(self.catalog.served.dataset.path)

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Counts a request that will be answered, also while draining."""
        self._accepted += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._accepted -= 1
            if not self._accepted:
                self._idle.set()

    async def drain(self) -> None:
        """Takes no more requests, and returns when all accepted ones are answered."""
        self.draining.set()
        await self._idle.wait()
