"""Imports go down: every file uses its own package, lower ones, and its libraries."""

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from conftest import ROOT

OURS = ("eqids", "sharding", "convert", "bench")

LEVELS: tuple[tuple[str, ...], ...] = (
    ("sharding",),
    ("eqids.config",),
    ("eqids.io", "eqids.cli"),
    ("eqids.data", "eqids.model"),
    ("eqids.checkpoints",),
    ("eqids.fit",),
    ("convert",),
    ("eqids.runs",),
    ("eqids.planning", "eqids.inference"),
    (
        "eqids.migrate",
        "eqids.export",
        "eqids.reporting",
        "eqids.diagnosis",
        "eqids.spark",
    ),  # fmt: skip
    ("commands",),
    ("bench",),
)
"""Packages with their sub-packages, from the lowest level up. Each may import itself
and lower levels. The commands are the files at the top of eqids/, and the __main__.py
of sharding and convert."""

NEVER: Mapping[str, tuple[str, ...]] = {
    "eqids.config": ("sharding",),
    "eqids.io": ("sharding",),
    "eqids.cli": ("sharding",),
    "eqids.data": ("sharding",),
}
"""Lower packages that some packages do not import all the same."""

SUB_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "sharding.compiled": ("sharding/compiled/",),
}
"""Which files of a package may import one of its sub-packages."""

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "optax": ("eqids/fit/",),
    "tensorstore": ("eqids/checkpoints/", "convert/"),
    "blake3": ("eqids/io/",),
    "ibis": ("eqids/data/",),
    "grain": ("eqids/data/",),
    "pyspark": ("eqids/data/raw/", "eqids/spark/"),
    "starlette": ("eqids/inference/server/",),
    "uvicorn": ("eqids/inference/server/",),
    "msgspec": ("eqids/inference/server/",),
    "prometheus_client": ("eqids/inference/server/",),
    "torch": (),
    "transformers": (),
    "jax": ("sharding/", "eqids/model/", "eqids/checkpoints/", "eqids/fit/", "convert/",
            "eqids/runs/", "eqids/planning/", "eqids/inference/", "eqids/migrate/",
            "eqids/export/", "eqids/diagnosis/", "eqids/cli/"),
}  # fmt: skip
"""Libraries, and the folders that may import them; bench may import any."""

LATE: Mapping[str, str] = {
    "sharding/__main__.py": "eqids.planning",
    "convert/__main__.py": "eqids.export",
}
"""The two commands that live in a lower package than what they call: at the top they
import only their own package, eqids.config, eqids.io and eqids.cli; one line inside a
function imports the package named here, and nothing else does."""


@dataclass(frozen=True)
class Import:
    """One module that a file imports."""

    file: str
    """The path of the importing file, from the repository's root."""
    line: int
    """Where."""
    module: str
    """The module, or the library's top package."""
    late: bool
    """Whether it is imported inside a function."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def _files() -> list[str]:
    found = (path for top in OURS for path in (ROOT / top).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def _module(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


FILES = _files()
MODULES = {_module(file): file for file in FILES}
PACKAGES = {_module(file) for file in FILES if file.endswith("/__init__.py")}


def _package(file: str) -> str:
    """The package of LEVELS that a file belongs to; its folder if there is none."""
    folder, _, name = file.rpartition("/")
    if folder == "eqids" or file in LATE:
        return "commands"
    own = folder.replace("/", ".")
    rows = [package for level in LEVELS for package in level]
    fitting = [row for row in rows if own == row or own.startswith(row + ".")]
    return max(fitting, key=len, default=own)


def _nodes(node: ast.AST, late: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below one, and whether they are inside a function."""
    for child in ast.iter_child_nodes(node):
        yield child, late
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _nodes(child, late or inside)


def _imports(file: str, text: str) -> Iterator[Import]:
    """All modules that a file imports, those for type checkers only included."""
    for node, late in _nodes(ast.parse(text), False):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            # `from package import module` imports the module as well.
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names = sorted(inside & MODULES.keys()) or [str(node.module)]
        for name in names:
            yield Import(file, node.lineno, name, late)  # type: ignore[attr-defined]


IMPORTS = [i for file in FILES for i in _imports(file, (ROOT / file).read_text())]
INNER = [i for i in IMPORTS if i.module in MODULES]


def _level(package: str) -> int:
    (number,) = (n for n, level in enumerate(LEVELS) if package in level)
    return number


def _goes_down(one: Import) -> bool:
    """Whether an import of ours is of the own package or a lower level."""
    own, other = _package(one.file), _package(MODULES[one.module])
    if one.file in LATE:
        top = one.file.partition("/")[0]
        return one.late or other in (top, "eqids.config", "eqids.io", "eqids.cli")
    if other in NEVER.get(own, ()):
        return False
    return own == other or _level(own) > _level(other)


def _listed(offenders: list[str]) -> str:
    return "\n" + "\n".join(offenders)


def test_every_file_has_a_level() -> None:
    rows = {package for level in LEVELS for package in level}
    lost = [file for file in FILES if _package(file) not in rows]
    assert not lost, _listed(lost)


def test_imports_go_down() -> None:
    wrong = [str(one) for one in INNER if not _goes_down(one)]
    for one in INNER:
        for package, files in SUB_PACKAGES.items():
            top = package.partition(".")[0] + "/"
            inside = one.file.startswith(top) and one.module.startswith(package)
            if inside and not one.file.startswith(files):
                wrong.append(str(one))
    assert not wrong, _listed(wrong)


def test_only_commands_import_late() -> None:
    """Inside a function, so that --help does not wait for jax."""
    wrong = [
        str(one) for one in INNER
        if one.late and not one.file.startswith("bench/")
        and _package(one.file) != "commands"
    ]  # fmt: skip
    assert not wrong, _listed(wrong)


@pytest.mark.parametrize("file", LATE)
def test_a_command_below_what_it_calls_imports_it_in_one_line(file: str) -> None:
    top = file.partition("/")[0]
    late = [
        one for one in INNER
        if one.file == file and one.late and not one.module.startswith(top)
    ]  # fmt: skip
    assert len({one.line for one in late}) == 1, _listed([*map(str, late)])
    assert late[0].module.startswith(LATE[file]), str(late[0])


def test_libraries_belong_to_packages() -> None:
    wrong = []
    for one in IMPORTS:
        folders = LIBRARIES.get(one.module.partition(".")[0])
        if folders is None or one.file.startswith("bench/"):
            continue
        late_in_command = _package(one.file) == "commands" and one.late and folders
        if not one.file.startswith(folders) and not late_in_command:
            wrong.append(str(one))
    assert not wrong, _listed(wrong)


def test_no_two_files_import_each_other() -> None:
    graph: dict[str, set[str]] = {file: set() for file in FILES}
    for one in INNER:
        graph[one.file].add(MODULES[one.module])
    cycles = _cycles(graph)
    assert not cycles, _listed(cycles)


def test_no_two_packages_import_each_other() -> None:
    graph: dict[str, set[str]] = {_package(file): set() for file in FILES}
    for one in INNER:
        graph[_package(one.file)].add(_package(MODULES[one.module]))
    cycles = _cycles(graph)
    assert not cycles, _listed(cycles)


def _cycles(graph: Mapping[str, set[str]]) -> list[str]:
    """A line for each group of nodes that reach one another, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[str] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in sorted(graph[node] - {node}):
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append("these import one another: " + ", ".join(sorted(group)))

    for node in graph:
        if node not in order:
            visit(node)
    return groups


def test_cycles_are_found() -> None:
    assert _cycles({"a": {"b", "a"}, "b": {"c"}, "c": set()}) == []
    found = _cycles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()})
    assert found == ["these import one another: a, b, c"]


def test_imports_are_found() -> None:
    text = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from eqids import train\n"
        "def f():\n    import sharding, optax.losses\n"
    )
    found = [(i.module, i.late) for i in _imports("eqids/model/x.py", text)]
    late = [("sharding", True), ("optax.losses", True)]
    assert found == [("typing", False), ("eqids.train", False), *late]
    assert not _goes_down(Import("eqids/model/x.py", 3, "eqids.train", False))
    assert _goes_down(Import("eqids/model/x.py", 3, "sharding", False))
    assert not _goes_down(Import("sharding/__main__.py", 3, "eqids.planning", False))


def test_every_package_ships() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["setuptools"]["packages"]) == PACKAGES


def test_the_top_of_eqids_holds_commands() -> None:
    tops = {path.stem for path in (ROOT / "eqids").glob("*.py")}
    wrong = [
        f"eqids/{name}.py is no command: it has no main and no `__name__` line"
        for name in sorted(tops - {"__init__"})
        if '__name__ == "__main__"' not in (ROOT / f"eqids/{name}.py").read_text()
    ]
    assert not wrong, _listed(wrong)
