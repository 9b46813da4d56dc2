"""Runs the server: listens, opens the model, answers, and drains after a signal."""

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eqids.config import ServeConfig, Stopped, UserError
from eqids.inference.engine.inference_engine import InferenceEngine
from eqids.inference.engine.values import EngineOptions
from eqids.inference.events.event_store import EventStore
from eqids.inference.server.access_log import AccessLog
from eqids.inference.server.api_keys import read_keys
from eqids.inference.server.application import Application
from eqids.inference.server.connections import http_server
from eqids.inference.server.filter_file import watch_filters
from eqids.inference.server.garbage import collect_and_freeze
from eqids.inference.server.listening import bound_socket, load_certificate, url_of
from eqids.inference.server.open_served import OpenReport, open_beside, open_first
from eqids.inference.server.reload import watch
from eqids.inference.server.service import Service


@dataclass(frozen=True)
class ServerOutput:
    """Where the server's texts go."""

    say: Callable[[str], None]
    """Receives the line that says that it is ready."""
    warn: Callable[[str], None]
    """Receives warnings."""
    compiled: Callable[[int, int], None]
    """Receives how many programs are compiled."""
    log: Callable[[str], None]
    """Receives lines of the access log; may block."""


def serve(config: ServeConfig, output: ServerOutput) -> None:
    """Serves until a signal, and returns never.

    Args:
        config: the command's flags.
        output: where texts go.

    Raises:
        UserError: a file of the flags is missing or invalid, or the port is in use.
        Stopped: a signal came, and every accepted request was answered.
    """

    async def until_signal() -> None:
        service = Service(config, output.warn)
        number = await serve_until(_first_signal(), service, output)
        name = signal.Signals(number).name
        raise Stopped(f"{name}: all accepted requests are answered", number)

    asyncio.run(until_signal())


async def serve_until(
    stopped: "asyncio.Future[int]", service: Service, output: ServerOutput
) -> int:
    """Serves until a future has a result, and drains.

    Args:
        stopped: its result is returned.
        service: without a model, which is opened here.
        output: where texts go.

    Raises:
        UserError: see `serve`.
    """
    config = service.config
    keys = [] if config.api_key_file is None else read_keys(config.api_key_file)
    with bound_socket(config) as listener:
        log = AccessLog(output.log) if config.access_log else None
        application = Application(service, keys, log)
        server = http_server(config, application)
        load_certificate(server.config, config)
        listening = asyncio.create_task(server.serve([listener]))
        working = asyncio.create_task(_work(service, url_of(config, listener), output))
        try:
            ends: list[asyncio.Future[Any]] = [stopped, listening, working]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await service.drain()
        finally:
            working.cancel()
            await asyncio.wait([working])
            server.should_exit = True
            await listening
            _close(service)
            if log is not None:
                log.close()
        failed = None if working.cancelled() else working.exception()
        if failed is not None and not stopped.done():
            raise failed
        return stopped.result()


async def _work(service: Service, url: str, output: ServerOutput) -> None:
    """Makes the service ready, and then watches for new checkpoints."""
    config, started = service.config, time.monotonic()

    def compiled(done: int, of: int) -> None:
        if service.draining.is_set():
            raise UserError("stopped before the model was ready")
        output.compiled(done, of)

    if config.events is not None:
        service.events = EventStore(config.events)
    report = OpenReport(compiled, service.warn)
    catalog = await asyncio.to_thread(open_first, config, report)
    options = EngineOptions(
        max_queue=config.max_queue, answer_cache_mb=config.answer_cache_mb
    )
    if config.compare is not None:
        service.compared = await asyncio.to_thread(
            open_beside, config, config.compare, None, catalog.served, report
        )
    service.engine = InferenceEngine(catalog.served, options)
    service.catalog = catalog
    service.record_dataset()
    collect_and_freeze()
    output.say(
        f"ready at {url} after {time.monotonic() - started:.1f} s: serves "
        f"{catalog.model.checkpoint}, {len(catalog.names):,} items"
    )
    every, watching = config.watch_every, []
    if config.watch is not None:
        watching.append(watch(service, config.watch, every))
    if config.filters is not None:
        watching.append(watch_filters(service, config.filters, every, service.warn))
    await asyncio.gather(*watching, service.draining.wait())


def _first_signal() -> "asyncio.Future[int]":
    """Returns a future of the first signal to stop; a second one ends the process."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int) -> None:
        for one in numbers:
            loop.remove_signal_handler(one)
        stopped.set_result(number)

    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    return stopped


def _close(service: Service) -> None:
    if service.engine is not None:
        service.engine.close()
    if service.events is not None:
        service.events.close()
