"""One checkpoint of many processes: what one of them wrote or met, all have to know."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from eqids.checkpoints.manifest import FileRecord
from eqids.checkpoints.store import Written
from eqids.config import UserError, require
from sharding import exchange


@contextmanager
def together(point: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """Ends once all processes have done its body; a failure of one is a failure of all.

    Args:
        point: names it, never used before in this run.
        kind: of the error that is raised where another process failed.

    Raises:
        OSError, ValueError: the body raised it.
        UserError: another process's body did.
    """
    problem: Exception | None = None
    try:
        yield
    except (OSError, ValueError) as error:
        problem = error
    told = exchange(point, str(problem or ""))
    if problem is not None:
        raise problem
    for process, text in told.items():
        raise kind(f"{text} (process {process})")


def of_all_processes(folder: Path, written: Written) -> Written:
    """What all processes have written below `folder`, a folder that all of them see.

    Each tells the others by a file, which is gone when this returns.

    Returns:
        The whole for process 0, which writes the manifest; else only its own part.

    Raises:
        UserError: process 0 does not see what another one wrote.
    """
    if jax.process_count() == 1:
        return written
    with together(f"{folder} is written"):
        note = folder / f"process-{jax.process_index()}.json"
        note.write_text(_to_json(written), encoding="utf-8")
    if jax.process_index() != 0:
        return written
    whole = Written({}, {})
    notes = sorted(folder.glob("process-*.json"))
    require(
        len(notes) == jax.process_count(),
        f"{folder.parent} was written to by {len(notes)} processes of "
        f"{jax.process_count()}, wanted a folder that all of them share",
    )
    for path in notes:
        whole.add(_from_json(path.read_text(encoding="utf-8")))
        path.unlink()
    return whole


def _to_json(written: Written) -> str:
    chunks = [[*chunk, *place] for chunk, place in written.chunks.items()]
    files = {name: [row.size, row.sha256] for name, row in written.files.items()}
    return json.dumps({"chunks": chunks, "files": files})


def _from_json(text: str) -> Written:
    values = json.loads(text)
    chunks = {(name, n): (part, sha) for name, n, part, sha in values["chunks"]}
    files = {name: FileRecord(*row) for name, row in values["files"].items()}
    return Written(chunks, files)
