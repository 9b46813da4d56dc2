"""Exports of small models, and processes that read them with jax alone."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from models import tiny_model

from eqids.config import EqidsToStablehloConfig, TrainConfig
from eqids.data import Dataset
from eqids.data.facts import facts_of
from eqids.export.export_stablehlo import write_export
from eqids.inference.open import Opened
from eqids.runs.recipe import resolved

NEEDED = ("jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "safetensors", "scipy")
"""What `pip install jax flatbuffers safetensors` brings."""


def jax_alone(folder: Path) -> Path:
    """Fills a folder with links to jax and what it needs; EqIDs is not among it."""
    return alone(folder, (*NEEDED, "flatbuffers"))


def alone(folder: Path, packages: Sequence[str]) -> Path:
    """Fills a folder with links to installed packages; EqIDs is not among them."""
    folder.mkdir()
    for name in packages:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations is not None
        package = Path(spec.submodule_search_locations[0])
        for found in (package, package.with_name(f"{name}.libs")):
            if found.exists():
                (folder / found.name).symlink_to(found)
    return folder


def run_alone(
    packages: Path, cwd: Path, code: str, *args: str
) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that finds only these packages."""
    begin = f"import sys; sys.path.append({str(packages)!r})\n"
    begin += "import importlib.util as u; assert u.find_spec('eqids') is None\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", begin + code, *args],
        cwd=cwd,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )


def started(packages: Path, cwd: Path, loader: Path, *flags: str) -> Any:
    """Runs a loader as `python loader.py` does, with jax alone."""
    code = "import runpy; sys.argv[:] = sys.argv[1:]\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return run_alone(packages, cwd, code, str(loader), *flags)


def plain_model(dataset: Dataset, seed: int = 0, text_width: int = 0) -> Opened:
    """A model of ids alone, or with text columns; its weights are noise."""
    widths = {"text_width": text_width, "encoding_width": text_width}
    model = tiny_model(dataset, seed, **widths)
    rng = np.random.default_rng(seed)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    noisy = jax.tree.map(
        lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(x.dtype), arrays
    )
    flags = TrainConfig(seq_len=24, item_width=8, data_dir=dataset.path)
    config = resolved(flags, facts_of(dataset))
    model = eqx.combine(noisy, rest)
    return Opened(Path(f"run/{seed}"), seed, config, dataset, model)


def export_to(output: Path, opened: Opened, **flags: Any) -> dict[str, Any]:
    """Exports an open model; returns the manifest."""
    given = {"k": 6, "rows": (1, 3), **flags}
    write_export(opened, EqidsToStablehloConfig(opened.path, output, **given))
    manifest: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    return manifest


def close(ours: Any, theirs: Any) -> None:
    """Holds probabilities to those of EqIDs."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
