"""Find the tree in a folder of Orbax, and refuse what a killed save left behind.

A tree is a folder with `_METADATA` (JSON: the path of every leaf). Its arrays are in
one OCDBT database (`manifest.ocdbt`) or, in the older layout, in a folder each; very
old trees have a file `checkpoint` of msgpack. Orbax writes a tree alone, or below a
step (`DIR/3/default`), and gives the folder its name last:
https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html
"""

from contextlib import suppress
from pathlib import Path

from convert.json_file import read_object
from eqids.config import require

TREE_FILE, STEP_FILE = "_METADATA", "_CHECKPOINT_METADATA"
AGGREGATE_FILE = "checkpoint"
"""Small leaves, and in trees without `_METADATA` also the structure, as msgpack."""
DATABASE_FILE = "manifest.ocdbt"
_UNFINISHED = ".orbax-checkpoint-tmp"
"""Part of a folder's name while Orbax writes it."""
_PARTS = "ocdbt.process_*"
"""What each process wrote, before it becomes one database."""
_KILLED = "a save was killed or is still running; wanted a finished checkpoint"


def holds_trees(path: Path) -> bool:
    """Returns whether a folder is a tree of Orbax, or holds some."""
    return _is_tree(path) or bool(_with_trees(_folders(path)))


def tree_folder(path: Path) -> Path:
    """Returns the folder of the tree that a path names.

    Args:
        path: the tree, a step with one tree, or a folder with one step.

    Raises:
        UserError: there is no such folder, it holds no tree or several, or the save of
            its tree did not finish.
    """
    require(path.is_dir(), f"{path}: no such folder, wanted a checkpoint of Orbax")
    _check_finished(path)
    if _is_tree(path):
        _check_finished(path.resolve().parent)
        _check_whole(path)
        return path
    inside = sorted(_folders(path))
    done = [child for child in inside if _UNFINISHED not in child.name]
    found = _with_trees(done)
    require(
        bool(found) or done == inside,
        f"{path} holds {inside[0].name if inside else ''} alone: {_KILLED}",
    )
    require(
        bool(found),
        f"{path} is no checkpoint of Orbax: it has neither {TREE_FILE} nor "
        f"{DATABASE_FILE}",
    )
    names = ", ".join(child.name for child in found)
    require(
        len(found) == 1,
        f"{path} holds {len(found)} checkpoints ({names}), wanted the path of one of "
        f"them, such as {found[-1]}",
    )
    return tree_folder(found[0])


def _folders(path: Path) -> list[Path]:
    with suppress(PermissionError):
        return [child for child in path.iterdir() if child.is_dir()]
    return []


def _with_trees(folders: list[Path]) -> list[Path]:
    """Returns those that are trees, or steps with trees."""
    return [
        folder
        for folder in folders
        if _is_tree(folder) or any(map(_has_structure, _folders(folder)))
    ]


def _has_structure(path: Path) -> bool:
    return (path / TREE_FILE).is_file() or (path / AGGREGATE_FILE).is_file()


def _is_tree(path: Path) -> bool:
    """Returns whether a folder is a tree, or a part of one that was left behind."""
    has_database = (path / DATABASE_FILE).is_file()
    return has_database or _has_structure(path) or any(path.glob(_PARTS))


def _check_finished(path: Path) -> None:
    """Refuses a folder with a temporary name, or one that was never committed."""
    name = path.resolve().name
    require(_UNFINISHED not in name, f"{path} is named {name}: {_KILLED}")
    if not (path / STEP_FILE).is_file():
        return  # as in trees of old versions
    times = read_object(path / STEP_FILE)
    begun, committed = (
        times.get(f"{point}_timestamp_nsecs") for point in ("init", "commit")
    )
    require(
        begun is None or committed is not None,
        f"{path / STEP_FILE} has no commit_timestamp_nsecs: {_KILLED}",
    )


def _check_whole(path: Path) -> None:
    """Refuses a tree whose structure, or whose database, was never written."""
    require(
        _has_structure(path),
        f"{path} has arrays and no {TREE_FILE}: {_KILLED}",
    )
    require(
        (path / DATABASE_FILE).is_file() or not any(path.glob(_PARTS)),
        f"{path} has {_PARTS.replace('*', '0')} and no {DATABASE_FILE}: {_KILLED}",
    )
