"""The answer of `python -m sharding prove`: train steps compiled for their hardware."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eqids.cli import waiting
from eqids.config import ProveConfig, UserError, require
from eqids.io.atomic import write_json
from eqids.planning.abstract import abstract_run
from eqids.planning.estimates import Answer, estimated, positions, preset_json, title
from eqids.planning.layout_presets import LAYOUT_PRESETS, LayoutPreset
from eqids.planning.preset_jobs import compile_placement, preset_job, preset_of
from eqids.planning.proof_tables import proof_table, proofs_table
from sharding.compiled.machines import GIB, hardware
from sharding.compiled.proof import Proof, prove


def prove_answer(config: ProveConfig) -> Answer:
    """Returns what the compiler reports of a layout.

    Raises:
        LayoutError: there is no such layout, or it does not fit the model, the batch
            or the compiler.
    """
    preset = preset_of(config)
    proof = proved(preset, config.item_width)
    text = proof_table(proof, preset.hardware, positions(preset))
    return Answer(
        f"{title(preset)}\n{text}", {**preset_json(preset), **proof.to_json()}
    )


def proved(preset: LayoutPreset, item_width: int | None = None) -> Proof:
    """Returns what the compiler reports of a preset's train step."""
    put, job = compile_placement(preset), preset_job(preset, item_width)
    with put.active():
        run = abstract_run(job, put)
        machine = hardware(preset.hardware)
        with waiting(f"compiling the train step for {preset.hardware}"):
            proof = prove(run.step, run.args, machine, preset.num_hosts)
    return dataclasses.replace(proof, capacity_bytes=preset.capacity_bytes)


def prove_all(path: Path, report: Callable[[str], None]) -> None:
    """Proves every preset that a file of proofs lacks, and writes it after each one.

    Raises:
        UserError: the file holds something else, or a preset does not fit its hardware.
    """
    proofs = _read_proofs(path)
    for name, preset in LAYOUT_PRESETS.items():
        recorded = json.loads(json.dumps(preset_json(preset)))
        if not recorded.items() <= proofs.get(name, {}).items():
            memory, proof = estimated(preset), proved(preset)
            more = {"estimated_peak_bytes": memory.peak, "tokens": positions(preset)}
            proofs[name] = {**recorded, **proof.to_json(), **more}
            write_json(path, {"layouts": proofs})
            report(f"{name}: {_verdict(proof)}")
    proofs = {name: proofs[name] for name in LAYOUT_PRESETS}
    tight = [name for name, proof in proofs.items() if not proof["fits"]]
    require(not tight, f"layouts that do not fit their hardware: {', '.join(tight)}")
    report(proofs_table(proofs))


def _read_proofs(path: Path) -> dict[str, Mapping[str, Any]]:
    if not path.exists():
        return {}
    try:
        proofs = json.loads(path.read_text(encoding="utf-8"))["layouts"]
        require(isinstance(proofs, dict), f"{path} holds a list of layouts")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no proofs; wanted a file that prove --all wrote, or another "
            "--json"
        ) from error
    return dict(proofs)


def _verdict(proof: Proof) -> str:
    return (
        f"peak {proof.peak_bytes / GIB:.2f} of {proof.capacity_bytes / GIB:.2f} GiB, "
        f"{'fits' if proof.fits else 'DOES NOT FIT'}"
    )
