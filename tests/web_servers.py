"""Servers of a test's own: in a thread on a free port, or an application alone."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from eqids.config import ServeConfig
from eqids.inference.engine.inference_engine import InferenceEngine
from eqids.inference.engine.values import EngineOptions
from eqids.inference.server.application import Application
from eqids.inference.server.service import Service
from eqids.inference.server.web_server import ServerOutput, serve_until


@dataclass
class Served:
    """A running server.

    Attributes:
        service: its state.
        client: sends requests to it.
        stop: what SIGTERM does.
        log: the access log.
        ended: set when it has shut down.
    """

    service: Service
    client: httpx.Client
    stop: Callable[[], None]
    log: list[str]
    ended: threading.Event

    @property
    def port(self) -> int:
        port = self.client.base_url.port
        assert port is not None
        return port

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def raw(self, sent: bytes) -> bytes:
        """Sends bytes, and returns what comes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as one:
            one.sendall(sent)
            parts = []
            while part := one.recv(65536):
                parts.append(part)
            return b"".join(parts)


def application(
    served: Served, *, keys: Sequence[bytes] = (), **flags: Any
) -> tuple[Application, InferenceEngine]:
    """Returns an application with other flags, and an engine of its own, which serve
    the same model."""
    checkpoint = served.service.config.checkpoint
    service = Service(ServeConfig(checkpoint=checkpoint, **flags), served.log.append)
    service.catalog = served.service.catalog
    options = EngineOptions(max_queue=service.config.max_queue)
    service.engine = InferenceEngine(service.catalog.served, options)
    return Application(service, keys, None), service.engine


def ask(app: Application, method: str, path: str, **more: Any) -> httpx.Response:
    """Sends a request to an application."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as one:
            return await one.request(method, path, **more)

    return asyncio.run(send())


@dataclass
class _Start:
    url: str = ""
    error: BaseException | None = None
    known: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(checkpoint: Path, **flags: Any) -> Iterator[Served]:
    """Serves a checkpoint until the block ends."""
    config = ServeConfig(checkpoint=checkpoint, port=0, **flags)
    start, ended, log = _Start(), threading.Event(), list[str]()
    parts: list[Any] = []

    def say(text: str) -> None:
        start.url = text.split()[2]
        start.known.set()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[int] = loop.create_future()
        service = Service(config, log.append)
        parts.extend((service, loop, stopped))
        output = ServerOutput(say, log.append, lambda done, of: None, log.append)
        await serve_until(stopped, service, output)

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            start.error = error
        ended.set()
        start.known.set()

    thread = threading.Thread(target=work)
    thread.start()
    start.known.wait()
    if start.error is not None:
        thread.join()
        raise start.error
    service, loop, stopped = parts

    def stop() -> None:
        loop.call_soon_threadsafe(lambda: stopped.done() or stopped.set_result(15))

    with httpx.Client(base_url=start.url, timeout=60) as client:
        try:
            yield Served(service, client, stop, log, ended)
        finally:
            if not ended.is_set():
                stop()
            thread.join()
    if start.error is not None:
        raise start.error


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits for what another thread will do."""
    waited = threading.Event()
    for _ in range(int(seconds * 100)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it did not happen")


def same(found: dict[str, Any], expected: Any) -> None:
    """Holds the items of an answer to a table of `recommend`."""
    for name in ("rank", "item", "title"):
        assert [one[name] for one in found["items"]] == expected[name].tolist()
    probabilities = [one["probability"] for one in found["items"]]
    np.testing.assert_allclose(
        probabilities, expected["probability"], rtol=0, atol=1e-6
    )
