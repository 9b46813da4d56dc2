"""The answer of `python -m sharding plan`: the layouts that fit, the fastest first."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from eqids.config import SCRATCH_SIZES, PlanConfig, require
from eqids.planning.estimates import (
    Answer,
    estimated,
    mesh_text,
    positions,
    preset_json,
)
from eqids.planning.layout_presets import LayoutPreset
from eqids.planning.memory import Memory
from eqids.planning.nothing_fits import nothing_fits
from eqids.planning.preset_jobs import preset_job, preset_of
from eqids.planning.proofs import proved
from sharding import LayoutError, mesh_shapes
from sharding.compiled.machines import GIB, hardware


@dataclass(frozen=True)
class _Candidate:
    """A layout that fits."""

    preset: LayoutPreset
    peak_bytes: int
    rate: float
    """Tokens a second at best, or a number that ranks alike, at most 1."""


def plan_answer(config: PlanConfig) -> Answer:
    """Tries every mesh or the one of --layout, a few batch sizes, and both of --remat.

    Raises:
        UserError, LayoutError: no layout of these devices divides the model and the
            batch.
    """
    start, found = preset_of(config), list[_Candidate]()
    smallest: tuple[LayoutPreset, Memory] | None = None
    for preset in _candidates(config, start):
        try:
            memory = estimated(preset, config.item_width)
        except LayoutError:
            continue
        if smallest is None or memory.peak < smallest[1].peak:
            smallest = preset, memory
        if memory.peak <= start.capacity_bytes:
            rate = _rate(preset, memory)
            found.append(_Candidate(preset, memory.peak, rate))
    require(
        smallest is not None,
        f"{_tried(config, start)} divides this model and batch; wanted another "
        "--layout, --devices or --batch_size",
    )
    assert smallest is not None
    if not found:
        return Answer(nothing_fits(config, *smallest), {"layouts": []})
    return _ranked(config, start, found)


def _ranked(config: PlanConfig, start: LayoutPreset, found: list[_Candidate]) -> Answer:
    # Of equals, the one that leaves most memory free comes first.
    found.sort(key=lambda c: (-c.rate, c.peak_bytes, c.preset.mesh_shape[::-1]))
    best = found[: config.top]
    if config.prove:
        best = _proved(config, best)
        require(
            len(best) > 0,
            "the compiler says that none of the best layouts by closed form fits; "
            "wanted a larger --top",
        )
    lines = [
        f"{start.llama_size}, {start.train} trains, {start.num_items:,} items, "
        f"{start.num_devices} x {start.hardware}: {len(found)} layouts fit, the "
        f"fastest on a perfect machine first",
        f"{'mesh':<10}{'batch':>7}  {'remat':<6}{'peak, GiB':>10}"
        f"{'tokens/s at best':>18}",
    ]
    for one in best:
        preset, rate = one.preset, f"{one.rate:,.0f}" if one.rate > 1 else "-"
        lines.append(
            f"{mesh_text(preset, 'x'):<10}{preset.batch_size:>7}  "
            f"{'yes' if preset.remat else 'no':<6}{one.peak_bytes / GIB:>10.2f}"
            f"{rate:>18}"
        )
    lines += ["", "train with the first:", _command(config, best[0].preset)]
    values = [
        {
            **preset_json(one.preset),
            "peak_bytes": one.peak_bytes,
            "tokens_per_s": one.rate,
        }
        for one in best
    ]
    return Answer("\n".join(lines), {"layouts": values})


def _proved(config: PlanConfig, candidates: list[_Candidate]) -> list[_Candidate]:
    """Those that fit by the compiler, the fastest by its counts first."""
    found = []
    for one in candidates:
        proof = proved(one.preset, config.item_width)
        if proof.fits:
            least = proof.roofline
            rate = 0.0 if least is None else positions(one.preset) / least.seconds
            found.append(_Candidate(one.preset, proof.peak_bytes, rate))
    return sorted(found, key=lambda one: -one.rate)


def _command(config: PlanConfig, preset: LayoutPreset) -> str:
    llama = "--llama_path DIR"
    if preset.llama_size in SCRATCH_SIZES:
        llama = f"--llama_size {preset.llama_size}"
    width = "" if config.item_width is None else f" --item_width {config.item_width}"
    remat = " --remat" if preset.remat else ""
    text, memory = "", ""
    if config.text_tokens_per_item:
        text = f" --text_tokens_per_item {config.text_tokens_per_item}"
    if preset.hardware != "cpu":
        share = hardware(preset.hardware).client_memory_fraction
        memory = f"XLA_CLIENT_MEM_FRACTION={share} "
    return (
        f"  {memory}python -m eqids.train {llama} \\\n      --train {preset.train} "
        f"--layout {mesh_text(preset, 'x')} --batch_size {preset.batch_size} --seq_len "
        f"{preset.seq_len}{remat} \\\n      --data_dir DIR --checkpoint_dir DIR"
        f"{text}{width}"
    )


def _candidates(config: PlanConfig, start: LayoutPreset) -> Iterator[LayoutPreset]:
    sizes = [start.batch_size]
    if config.batch_size is None:
        sizes = [start.num_devices * n for n in (1, 4, 16, 64)]
    remats = (False, True) if config.remat is None else (config.remat,)
    shapes = mesh_shapes(start.num_devices)
    if config.layout is not None:
        shapes = [start.mesh_shape]
    for shape in shapes:
        for batch_size in sizes:
            for remat in remats:
                yield dataclasses.replace(
                    start, mesh_shape=shape, batch_size=batch_size, remat=remat
                )


def _rate(preset: LayoutPreset, memory: Memory) -> float:
    """Tokens a second on a perfect machine, by hand arithmetic.

    Products: 2 FLOPs for every weight and token forwards, 2 backwards to activations,
    2 to weights that train, 2 more if blocks are recomputed. Memory: everything a
    step holds, once. Links: weights that are split, gathered forwards and backwards,
    and their gradients.
    """
    machine, llama = hardware(preset.hardware), preset_job(preset).model.llama
    if machine.bf16_flops is None or machine.hbm_bytes_per_second is None:
        return float(positions(preset)) / memory.peak
    heads = llama.num_heads + llama.num_kv_heads
    weights = llama.num_layers * llama.width * (2 * heads * llama.head + 3 * llama.ffn)
    flops = (4 + 2 * (preset.train == "all") + 2 * preset.remat) * weights
    return positions(preset) / max(
        flops * positions(preset) / preset.num_devices / machine.bf16_flops,
        memory.peak / machine.hbm_bytes_per_second,
        _link_seconds(preset, weights, llama.num_layers * llama.width),
    )


def _link_seconds(preset: LayoutPreset, weights: int, carried: int) -> float:
    """Seconds of a step on links, that move bfloat16.

    Args:
        preset: the layout.
        weights: numbers in Llama's matrices.
        carried: numbers in a position's activations between blocks, over all blocks.
    """
    machine = hardware(preset.hardware)
    assert machine.link_bytes_per_second and machine.network_bytes_per_second
    data, fsdp, tensor = preset.mesh_shape
    link, network = machine.link_bytes_per_second, machine.network_bytes_per_second
    if fsdp * tensor > preset.devices_per_host:
        link = network
    moved = 0.0
    if fsdp > 1:
        passes = 2 + (preset.train == "all")
        moved += passes * 2 * weights / tensor * (fsdp - 1) / fsdp
    if tensor > 1:
        rows = preset.batch_size // (data * fsdp)
        moved += 2 * 4 * 2 * rows * preset.seq_len * carried * (tensor - 1) / tensor
    seconds = moved / link
    if data > 1 and preset.train == "all":
        slow = network if preset.num_hosts > 1 else link
        seconds += 2 * 2 * weights / (fsdp * tensor) * (data - 1) / data / slow
    return seconds


def _tried(config: PlanConfig, preset: LayoutPreset) -> str:
    if config.layout is None:
        return f"no layout of {preset.num_devices} devices"
    return f"no batch on --layout {config.layout} of {preset.num_devices} devices"
