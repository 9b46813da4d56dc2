"""Packages whose names are imported when they are used first."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, files: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package.

    A command then waits only for the libraries that it uses.

    Args:
        package: the package's `__name__`.
        files: the module of the package that has each name.

    References:
        PEP 562, "Module __getattr__ and __dir__".
    """

    def attribute(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{files[name]}"), name)

    return attribute
