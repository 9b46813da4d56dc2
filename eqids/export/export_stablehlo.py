"""Exports a model as StableHLO that jax runs alone: weights, items and a loader."""

import importlib.metadata
import importlib.util
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from convert.outputs import Progress, Weight, output_folder
from eqids.config import EqidsToStablehloConfig, require, to_json
from eqids.export import loader
from eqids.export.export_folder import (
    MANIFEST,
    check_output_folder,
    command_words,
    facts_of_histories,
    write_items,
)
from eqids.export.exported_programs import (
    PLATFORMS,
    ModelArrays,
    exported,
    inputs_of,
)
from eqids.export.jaxlib_dates import GUARANTEE, released, six_months_after
from eqids.inference.engine.shapes import Shapes
from eqids.inference.open import Opened, open_path
from sharding import Placement

FORMAT_VERSION = 1
_COMMAND, _PARTS = "eqids-to-stablehlo", ("programs", "weights")
"""The subcommand, and fields that only its manifests have."""
_OUTPUTS = {
    "slots": "int32 [rows, k]: the most probable items, best first; -1 for none",
    "log_probs": "float32 [rows, k]: the natural logarithms of their probabilities",
}


def eqids_to_stablehlo(
    config: EqidsToStablehloConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes a model as programs that recommend with jax alone.

    Args:
        config: what to write, and where.
        advance: called for every part of a tensor that was written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: the model cannot be opened, a flag does not fit to it, flatbuffers is
            missing, or the output exists already.
    """
    check_output_folder(config, _COMMAND, _PARTS)
    require(
        importlib.util.find_spec("flatbuffers") is not None,
        "eqids-to-stablehlo needs flatbuffers: pip install 'eqids[stablehlo]'",
    )
    released(importlib.metadata.version("jaxlib"), config.jaxlib_released)
    opened = open_path(
        config.input,
        config.data_dir,
        config.llama_path,
        Placement(None, None),
        config.tokenizer,
    )
    return write_export(opened, config, advance)


def write_export(
    opened: Opened,
    config: EqidsToStablehloConfig,
    advance: Progress = lambda done, total: None,
) -> dict[str, str]:
    """Writes an open model; see `eqids_to_stablehlo`."""
    check_output_folder(config, _COMMAND, _PARTS)
    weights, lengths = ModelArrays(opened), _lengths(opened, config)
    k = min(config.k, opened.dataset.num_slots)
    shapes = [(r, length) for r in sorted(set(config.rows)) for length in lengths]
    files = {shape: "recommend-{}x{}.stablehlo".format(*shape) for shape in shapes}
    tensors = {n: Weight.of(np.asarray(x)) for n, x in weights.arrays.items()}
    with output_folder(config.output, advance, replace=config.overwrite) as new:
        new.expect(tensors)
        for (rows, length), file in files.items():
            program = exported(opened, weights, rows, length, k)
            new.write(file, bytes(program.serialize()))
        new.write_tensors("weights.safetensors", tensors)
        write_items(new, opened.dataset, opened.tokens)
        new.write("loader.py", Path(loader.__file__).read_bytes())
        about = {
            "format_version": FORMAT_VERSION,
            **_versions(config),
            **_facts(opened),
            "k": k,
            "programs": [
                {"rows": rows, "length": length, "file": file}
                for (rows, length), file in files.items()
            ],
            "inputs": {n: asdict(x) for n, x in inputs_of(opened).items()},
            "outputs": _OUTPUTS,
            "weights": {
                n: {"shape": list(x.shape), "dtype": str(x.dtype)}
                for n, x in sorted(tensors.items())
            },
        }
        new.write_json(MANIFEST, {**about, "files": dict(sorted(new.digests.items()))})
    return new.digests


def _lengths(opened: Opened, config: EqidsToStablehloConfig) -> list[int]:
    """Returns the positions of programs, ascending; any history fits into the last."""
    seq_len, num_slots = opened.config.recipe.seq_len, opened.dataset.num_slots
    if not config.lengths:
        return list(Shapes.of(seq_len, num_slots, 1, 1).lengths)
    for length in config.lengths:
        require(
            length <= seq_len,
            f"--lengths has {length}, wanted at most {seq_len}, the positions that "
            f"{opened.path} reads",
        )
    return sorted({*config.lengths, seq_len})


def _facts(opened: Opened) -> Mapping[str, Any]:
    """Returns what the manifest says of the model, its catalog and its histories."""
    return {
        "checkpoint": str(opened.path),
        "step": opened.step,
        "model": to_json(opened.model.config),
        "dtype": str(opened.dtype),
        **facts_of_histories(opened.config, opened.dataset, opened.tokens),
    }


def _versions(config: EqidsToStablehloConfig) -> Mapping[str, Any]:
    """Returns what the manifest says of jax, and how to export again."""
    jaxlib = importlib.metadata.version("jaxlib")
    date = released(jaxlib, config.jaxlib_released)
    command = shlex.join(command_words(_COMMAND, config))
    return {
        "command": command,
        "jax": {
            "jax": jax.__version__,
            "jaxlib": jaxlib,
            "jaxlib_released": date.isoformat(),
            "calling_convention_version": {
                "minimum": export.minimum_supported_calling_convention_version,
                "maximum": export.maximum_supported_calling_convention_version,
            },
            "guarantee": GUARANTEE,
        },
        "platforms": list(PLATFORMS),
        "expires": six_months_after(date).isoformat(),
        "instead": f"jax {jax.__version__} or a new export: {command}",
    }
