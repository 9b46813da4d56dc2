"""The named filters of `--filters`, which are read again when the file changes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from eqids.config import UserError
from eqids.inference.engine.named_filters import read_filters
from eqids.inference.server.served_catalog import ServedCatalog
from eqids.inference.server.service import Service

Report = Callable[[str], None]


def with_filters(
    catalog: ServedCatalog, path: Path | None, report: Report
) -> ServedCatalog:
    """Returns a served catalog with the filters of a file.

    Args:
        catalog: without these filters.
        path: the file, or None for no filters.
        report: receives how many ids the catalog does not hold.

    Raises:
        UserError: see `read_filters`.
    """
    if path is None:
        return catalog
    filters = read_filters(path, catalog.served.dataset, report)
    return replace(catalog, served=catalog.served.with_filters(filters))


async def watch_filters(
    service: Service, path: Path, seconds: float, report: Report
) -> None:
    """Serves the filters of a file whenever it changed, until this is cancelled.

    All of them change at once. If the file is no longer valid, this is reported and
    the old ones stay.

    Args:
        service: with a model that is ready.
        path: the file.
        seconds: between two looks.
        report: see `read_filters`.
    """
    engine, catalog = service.ready()
    seen = _state(path, catalog)
    while True:
        await asyncio.sleep(seconds)
        _, catalog = service.ready()
        if service.reloading or (now := _state(path, catalog)) == seen:
            continue
        seen = now
        try:
            new = await asyncio.to_thread(with_filters, catalog, path, report)
            other = service.compared
            if other is not None:
                other = await asyncio.to_thread(with_filters, other, path, report)
        except UserError as error:
            report(f"{error}; the filters stay as they are")
            continue
        if service.catalog is catalog:
            engine.replace(new.served)
            service.catalog = new
            service.compared = other


def _state(path: Path, catalog: ServedCatalog) -> object:
    """Returns a value that differs once the file or the model is another one."""
    model = catalog.served.opened.path
    try:
        stat = path.stat()
    except OSError:
        return model
    return model, stat.st_mtime_ns, stat.st_size, stat.st_ino
