"""Checks the versions of Python and of the packages that EqIDs needs."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement

from eqids.diagnosis.findings import Finding

_OLDEST = (3, 11)
_SHOWN = ("jax", "equinox", "optax", "numpy", "tensorstore", "ibis-framework")
_EXTRAS = ("serve", "onnx", "stablehlo", "faiss", "orbax", "tensorboard")
"""Extras that add something to commands; those for tests and peers are left out."""


def check_packages() -> Iterator[Finding]:
    """Yields findings about Python, required packages, and extras."""
    yield _python()
    try:
        needed = [Requirement(text) for text in requires("eqids") or []]
    except PackageNotFoundError:
        yield Finding(
            "packages",
            "mend",
            "EqIDs is not installed; this is a folder with its source",
            "pip install -e .",
        )
        return
    yield _required([one for one in needed if one.marker is None])
    yield _extras(needed)


def _python() -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}, {platform.platform()}"
    if sys.version_info[:2] < _OLDEST:
        wanted = ".".join(map(str, _OLDEST))
        return Finding("python", "mend", f"{found}, wanted {wanted} or later")
    return Finding("python", "ok", found)


def _required(needed: list[Requirement]) -> Finding:
    wrong = [one for one in needed if not _is_met(one)]
    if wrong:
        said = "; ".join(f"{one} is required, {_found(one)}" for one in wrong)
        typed = " ".join(f"'{one}'" for one in wrong)
        return Finding("packages", "mend", said, f"pip install {typed}")
    names = [one for one in _SHOWN if _version(one) is not None]
    said = ", ".join(f"{name} {_version(name)}" for name in ("eqids", *names))
    others = len(needed) - len(names)
    return Finding("packages", "ok", f"{said}, and {others} others as required")


def _extras(needed: list[Requirement]) -> Finding:
    missing = []
    known = metadata("eqids").get_all("Provides-Extra") or []
    for extra in (one for one in _EXTRAS if one in known):
        of_extra = (
            one for one in needed
            if one.marker is not None and one.marker.evaluate({"extra": extra})
        )  # fmt: skip
        if not all(map(_is_met, of_extra)):
            missing.append(extra)
    if not missing:
        return Finding("extras", "ok", f"all of {', '.join(_EXTRAS)} are installed")
    return Finding(
        "extras",
        "note",
        f"not installed: {', '.join(missing)}; only their own commands need them",
        f"pip install 'eqids[{','.join(missing)}]'",
    )


def _is_met(needed: Requirement) -> bool:
    found = _version(needed.name)
    return found is not None and needed.specifier.contains(found, prereleases=True)


def _found(needed: Requirement) -> str:
    found = _version(needed.name)
    return "and is not installed" if found is None else f"and {found} is installed"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
