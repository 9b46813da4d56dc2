"""Coordinates processes that write one checkpoint: they fail together, and process 0
collects what each wrote."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from eqids.checkpoints.manifest import ChunkRecord, FileRecord
from eqids.checkpoints.store import Written
from eqids.config import UserError, require
from sharding import exchange


@contextmanager
def all_or_none(point: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """Waits until all processes have run the block; if one fails, all of them raise.

    Args:
        point: a name for this wait, which the run has not used before.
        kind: the error to raise if the block failed in another process.

    Raises:
        OSError, ValueError: the block raised it in this process.
        UserError: the block failed in another process.
    """
    problem: Exception | None = None
    try:
        yield
    except (OSError, ValueError) as error:
        problem = error
    problems = exchange(point, str(problem or ""))
    if problem is not None:
        raise problem
    for process, text in problems.items():
        raise kind(f"{text} (process {process})")


def collect_written(folder: Path, written: Written) -> Written:
    """Collects what all processes have written below a folder that they share.

    Each process writes a file, which process 0 reads and removes.

    Args:
        folder: the folder of the checkpoint.
        written: what this process has written.

    Returns:
        In process 0, which writes the manifest, what all have written; elsewhere
        `written`.

    Raises:
        UserError: process 0 cannot see what another process wrote.
    """
    if jax.process_count() == 1:
        return written
    with all_or_none(f"{folder} is written"):
        note = folder / f"process-{jax.process_index()}.json"
        note.write_text(_to_json(written), encoding="utf-8")
    if jax.process_index() != 0:
        return written
    total = Written({}, {})
    notes = sorted(folder.glob("process-*.json"))
    require(
        len(notes) == jax.process_count(),
        f"{folder.parent} shows the files of {len(notes)} processes of "
        f"{jax.process_count()}, wanted a folder that all processes share, see "
        "--checkpoint_dir",
    )
    for path in notes:
        total.add(_from_json(path.read_text(encoding="utf-8")))
        path.unlink()
    return total


def _to_json(written: Written) -> str:
    chunks = [[*chunk, *stored] for chunk, stored in written.chunks.items()]
    files = {n: [f.size, f.digest, f.start] for n, f in written.files.items()}
    return json.dumps({"chunks": chunks, "files": files})


def _from_json(text: str) -> Written:
    values = json.loads(text)
    chunks = {(name, n): ChunkRecord(*row) for name, n, *row in values["chunks"]}
    files = {name: FileRecord(*row) for name, row in values["files"].items()}
    return Written(chunks, files)
