"""A digest of the code that a result depends on, whatever its comments say."""

import ast
import hashlib
from functools import cache
from pathlib import Path

import convert
import eqids
import sharding

_USED = ("checkpoints", "config", "data", "fit", "io", "model", "prepare.py", "runs",
         "train.py")  # fmt: skip
"""What a training run uses of eqids; of convert and sharding, it may use all."""


@cache
def code_digest() -> str:
    """Returns a SHA-256 of the code that prepares, trains and evaluates.

    Comments, docstrings and the layout of lines do not count, so that a better sentence
    does not make hours of runs stale.
    """
    return digest_of_code(_files())


def digest_of_code(files: list[tuple[str, Path]]) -> str:
    """Returns a SHA-256 of the syntax of Python files, with their names.

    Args:
        files: names, and where the files are.
    """
    digest = hashlib.sha256()
    for name, path in files:
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            _drop_docstring(node)
        digest.update(f"{name}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def _files() -> list[tuple[str, Path]]:
    """The Python files of our packages, by their paths from the packages' parent."""
    found = []
    for package in (convert, eqids, sharding):
        (top,) = map(Path, package.__path__)
        for path in sorted(top.rglob("*.py")):
            name = path.relative_to(top.parent)
            if package is not eqids or name.parts[1] in _USED:
                found.append((name.as_posix(), path))
    return found


def _drop_docstring(node: ast.AST) -> None:
    """Removes texts that are statements: docstrings of all kinds."""
    body = getattr(node, "body", None)
    if isinstance(body, list):
        body[:] = [
            line for line in body
            if not (
                isinstance(line, ast.Expr)
                and isinstance(line.value, ast.Constant)
                and isinstance(line.value.value, str)
            )
        ]  # fmt: skip
