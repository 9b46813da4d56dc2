"""Exports a model as StableHLO that jax runs alone: weights, items and a loader."""

import importlib.metadata
import importlib.util
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jax import export

from convert.outputs import OutputFolder, Progress, Weight, output_folder
from eqids.config import EqidsToStablehloConfig, require, to_json
from eqids.data.files import write_parquet
from eqids.export import loader
from eqids.export.exported_programs import (
    PLATFORMS,
    ModelArrays,
    exported,
    program_inputs,
)
from eqids.export.jaxlib_dates import GUARANTEE, released, six_months_after
from eqids.inference.engine.prepared_query import window_step
from eqids.inference.engine.shapes import Shapes
from eqids.inference.open import Opened, open_path
from sharding import Placement

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
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
    _check_output(config)
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
    _check_output(config)
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
        _write_items(new, opened)
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
            "inputs": {n: asdict(x) for n, x in program_inputs(opened).items()},
            "outputs": _OUTPUTS,
            "weights": {
                n: {"shape": list(x.shape), "dtype": str(x.dtype)}
                for n, x in sorted(tensors.items())
            },
        }
        new.write_json(MANIFEST, {**about, "files": dict(sorted(new.digests.items()))})
    return new.digests


def _check_output(config: EqidsToStablehloConfig) -> None:
    output = config.output
    require(
        config.overwrite or not output.exists(),
        f"{output} exists already, wanted a new folder, or --overwrite to replace an "
        "export",
    )
    require(
        not output.exists() or _is_export(output),
        f"{output} is no export of eqids-to-stablehlo, wanted one to --overwrite, or a "
        "new folder",
    )


def _is_export(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"programs", "weights"} <= manifest.keys()


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


def _write_items(new: OutputFolder, opened: Opened) -> None:
    """Writes items.parquet, and items.json for the loader: both in the order of slots.

    In items.json an unused slot is null.
    """
    frame, tokens = opened.dataset.items(), opened.tokens
    rows: list[Any] = [None] * opened.dataset.num_slots
    for item, title, slot in zip(
        frame["item"].astype(str), frame["title"], frame["slot"].tolist(), strict=True
    ):
        text: list[int] = []
        if tokens is not None:
            first = tokens.first[slot]
            text = tokens.ids[first : first + tokens.length[slot]].tolist()
        rows[slot] = [item, title if isinstance(title, str) else "", text]
    order = frame.sort_values("slot")
    columns = ("item", "title", "slot", "retired")
    table = pa.table({name: pa.Array.from_pandas(order[name]) for name in columns})
    new.write_with("items.parquet", lambda path: write_parquet(path, table))
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    new.write("items.json", ("[\n" + ",\n".join(lines) + "\n]\n").encode())


def _facts(opened: Opened) -> Mapping[str, Any]:
    """Returns what the manifest says of the model, its catalog and its histories."""
    info, tokens = opened.dataset.info, opened.tokens
    return {
        "checkpoint": str(opened.path),
        "step": opened.step,
        "catalog_id": info.catalog_id,
        "catalog_version": info.catalog_version,
        "model": to_json(opened.model.config),
        "dtype": str(opened.dtype),
        "seq_len": opened.config.recipe.seq_len,
        "window_step": window_step(opened),
        "prompt": [] if tokens is None else tokens.prompt.tolist(),
    }


def _versions(config: EqidsToStablehloConfig) -> Mapping[str, Any]:
    """Returns what the manifest says of jax, and how to export again."""
    jaxlib = importlib.metadata.version("jaxlib")
    date = released(jaxlib, config.jaxlib_released)
    command = shlex.join(_words(config))
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


def _words(config: EqidsToStablehloConfig) -> Iterator[str]:
    """Yields the words of the command that exports again."""
    yield from ("python", "-m", "convert", "eqids-to-stablehlo")
    yield from (str(config.input), str(config.output))
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ("input", "output", "overwrite") or value in (None, ()):
            continue
        yield f"--{field.name}"
        yield from map(str, value if isinstance(value, tuple) else (value,))
    yield "--overwrite"
