"""Hides JAX's plugin for NVIDIA's GPUs on machines without a GPU."""

import glob
import importlib.util
import os
import pkgutil
import sys
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from eqids.config import PlanConfig, ProveConfig, TrainConfig

_CUDA = ("cuda12", "cuda13")
_NVIDIA_DEVICES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/dxg")
"""Device files of the driver, of Jetson, and of Windows' subsystem for Linux."""


def choose_platform(config: Any) -> None:
    """Makes JAX use the CPU silently if its plugin for GPUs finds no GPU.

    `eqids[gpu-compile]` installs the plugin on machines without a GPU. There it prints
    a traceback and several lines of CUDA in every process that imports jax. So this
    sets JAX_PLATFORMS=cpu, and hides the plugin unless the command compiles for GPUs.
    It changes nothing if JAX_PLATFORMS has another value, if there may be a GPU or
    another accelerator, or if jax is imported already.

    Args:
        config: the command's config.
    """
    plugins = [name for name in _CUDA if _installed(f"jax_plugins.xla_{name}")]
    if not plugins or "jax" in sys.modules:
        return
    if _undecided() and not nvidia_device() and not _other_accelerators():
        os.environ["JAX_PLATFORMS"] = "cpu"
    if os.environ.get("JAX_PLATFORMS") == "cpu" and not _compiles_for_gpu(config):
        for name in plugins:
            _hide(name)


def _undecided() -> bool:
    names = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
    return not any(os.environ.get(name) for name in names)


def _compiles_for_gpu(config: Any) -> bool:
    """Whether a command needs XLA's compiler for GPUs, which is in the plugin."""
    match config:
        case ProveConfig():
            return True
        case PlanConfig():
            return config.prove
        case TrainConfig():
            return config.hardware is not None
    return False


def _hide(name: str) -> None:
    """Makes a plugin's library impossible to import, and the plugin do nothing."""
    sys.modules[f"jax_{name}_plugin"] = None  # type: ignore[assignment]
    plugin: Any = ModuleType(f"jax_plugins.xla_{name}")
    plugin.initialize = lambda: None
    sys.modules[plugin.__name__] = plugin


def nvidia_device() -> bool:
    """Returns whether the machine has an NVIDIA GPU with its driver."""
    return any(glob.glob(pattern) for pattern in _NVIDIA_DEVICES)


def _other_accelerators() -> bool:
    """Whether another maker's plugin is installed, or the library of TPUs."""
    ours = {f"jax_plugins.xla_{name}" for name in _CUDA}
    found = {point.value for point in entry_points(group="jax_plugins")}
    package = importlib.util.find_spec("jax_plugins")
    if package is not None:
        folders = package.submodule_search_locations
        found |= {one.name for one in pkgutil.iter_modules(folders, "jax_plugins.")}
    return bool(found - ours) or _installed("libtpu")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
