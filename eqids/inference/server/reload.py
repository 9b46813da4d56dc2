"""Replaces the served model while requests are answered."""

import asyncio
from pathlib import Path

from eqids.checkpoints import resolve
from eqids.config import UserError
from eqids.inference.server.bodies import ReloadAnswer, ReloadRequest
from eqids.inference.server.garbage import collect_and_freeze
from eqids.inference.server.http_errors import HttpError, expect
from eqids.inference.server.open_served import OpenReport, open_beside
from eqids.inference.server.service import Service


async def reload(service: Service, asked: ReloadRequest) -> ReloadAnswer:
    """Serves another checkpoint once it is verified, open and compiled.

    A reload goes on if the client goes away. One that runs when the server shuts down
    is given up.
    """

    def ended(task: "asyncio.Task[ReloadAnswer]") -> None:
        service.reloading = False
        if not task.cancelled():
            task.exception()  # which nobody reads if the client went away

    service.ready()
    expect("\0" not in asked.checkpoint, 400, "checkpoint holds a null character")
    expect(not service.reloading, 409, "another reload runs, wanted one at a time")
    data_dir = None if asked.data_dir is None else Path(asked.data_dir)
    replacing = asyncio.create_task(
        _replace_served(service, Path(asked.checkpoint), data_dir)
    )
    service.reloading = True
    replacing.add_done_callback(ended)
    draining = asyncio.create_task(service.draining.wait())
    try:
        await asyncio.wait({replacing, draining}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        draining.cancel()
    if not replacing.done():
        service.ready()  # says that the server is shutting down
    return replacing.result()


async def _replace_served(
    service: Service, checkpoint: Path, data_dir: Path | None
) -> ReloadAnswer:
    engine, before = service.ready()

    def compiled(done: int, of: int) -> None:
        if service.draining.is_set():
            raise UserError("the server is shutting down")

    try:
        after = await asyncio.to_thread(
            open_beside,
            service.config,
            checkpoint,
            data_dir,
            before.served,
            OpenReport(compiled, service.warn),
        )
    except (UserError, OSError) as error:
        raise HttpError(409, str(error)) from None
    engine.replace(after.served)
    service.catalog = after
    service.record_dataset()
    await asyncio.to_thread(collect_and_freeze)
    return ReloadAnswer(after.model, before.model)


async def watch(service: Service, run: Path, seconds: float) -> None:
    """Serves each new best step of a run, until it is cancelled.

    A step that is refused is reported once.

    Args:
        service: with a model that is ready.
        run: the run's folder.
        seconds: between two looks.
    """
    _, catalog = service.ready()
    seen = catalog.served.opened.path.resolve()
    while True:
        await asyncio.sleep(seconds)
        try:
            best = (await asyncio.to_thread(resolve, run)).resolve()
            if best == seen or service.reloading:
                continue
            seen = best
            answer = await reload(service, ReloadRequest(str(best)))
            service.warn(f"serves {answer.model.checkpoint} now")
        except (UserError, OSError) as error:
            service.warn(f"--watch {run}: {error}")
        except HttpError as error:
            service.warn(f"--watch {run}: {error.sentence}")
