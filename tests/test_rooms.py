"""Imports go down: each room uses those below it and the libraries it may know."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# What each room may import of ours; doors may import anything but bench.
MAY_IMPORT = {
    "sharding": ("sharding",),
    "eqids/config": ("eqids.config",),
    "eqids/cli": ("eqids.config", "eqids.cli"),
    "eqids/data": ("eqids.config", "eqids.data"),
    "eqids/model": ("eqids.config", "eqids.model", "sharding"),
    "eqids/fit": (
        "eqids.config", "eqids.data", "eqids.model", "eqids.fit", "sharding",
    ),
    "convert": ("eqids.config", "eqids.model", "convert", "sharding"),
}  # fmt: skip
# Libraries that belong to one room.
OWNERS = {
    "optax": "eqids/fit",
    "tensorstore": "eqids/fit/checkpoint",
    "ibis": "eqids/data",
    "grain": "eqids/data",
    "torch": None,
    "transformers": None,
}
OURS = ("eqids", "sharding", "convert", "bench")
FILES = sorted(p for cluster_size in OURS for p in (ROOT / cluster_size).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules that a file imports, names imported from packages included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for module in imports(path):
        top = module.split(".")[0]
        if top in OWNERS and not place.startswith("bench/"):
            owner = OWNERS[top]
            assert owner is not None and place.startswith(owner), (place, module)
        if top in OURS:
            assert top != "bench" or place.startswith("bench"), (place, module)
            for cluster_size, allowed in MAY_IMPORT.items():
                if place.startswith(cluster_size + "/") and not place.endswith(
                    "__main__.py"
                ):
                    assert module.startswith(allowed), (place, module)


def test_every_package_ships() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in FILES
        if path.name == "__init__.py"
    }
    assert listed == found
