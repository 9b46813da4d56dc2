"""What `python -m sharding plan` answers: which layouts fit, the fastest first."""

import dataclasses
from collections.abc import Iterator

from eqids.config import PlanConfig, require
from eqids.planning.estimates import Answer, estimated, row_json, tokens
from eqids.planning.jobs import job_of, row_of
from eqids.planning.memory import Memory
from eqids.planning.named_layouts import LayoutPreset, devices_text
from eqids.planning.proofs import proved
from sharding import LayoutError, hardware, mesh_shapes
from sharding.compiled.machines import GIB


def answer(config: PlanConfig) -> Answer:
    """Tries every mesh or the one that is asked for, a few batch sizes, and blocks
    recomputed or not.
    """
    start, found = row_of(config), list[tuple[float, LayoutPreset, Memory]]()
    room = start.capacity_bytes
    smallest: tuple[LayoutPreset, Memory] | None = None
    for row in _candidates(config, start):
        try:
            memory = estimated(row, config.item_width)
        except LayoutError:
            continue
        if smallest is None or memory.peak < smallest[1].peak:
            smallest = row, memory
        if memory.peak <= room:
            found.append((_rate(row, memory), row, memory))
    require(
        smallest is not None,
        f"{_tried(config, start)} divides this model and batch; wanted another "
        "--layout, --devices or --batch_size",
    )
    assert smallest is not None
    if not found:
        row, memory = smallest
        return _nothing_fits(config, row, memory), {"layouts": []}
    # Of equals, the mesh that moves least comes first.
    found.sort(key=lambda one: (-one[0], one[1].mesh_shape[2], one[1].mesh_shape[1]))
    lines = [
        f"{start.llama_size}, {start.train} trains, {start.num_items:,} items, "
        f"{start.num_devices} x {start.hardware}: {len(found)} layouts fit, the "
        f"fastest on a perfect machine first"
    ]
    lines.append(
        f"{'mesh':<10}{'batch':>7}  {'remat':<6}{'peak, GiB':>10}"
        f"{'tokens/s at best':>18}"
    )
    best = [(rate, row, memory.peak) for rate, row, memory in found[: config.top]]
    if config.prove:
        best = _proved(config, [row for _, row, _ in best])
        require(
            len(best) > 0,
            "the best layouts by closed form do not fit by the compiler; wanted a "
            "larger --top",
        )
    values = []
    for rate, row, peak in best:
        lines.append(
            f"{_mesh(row):<10}{row.batch_size:>7}  {'yes' if row.remat else 'no':<6}"
            f"{peak / GIB:>10.2f}{f'{rate:,.0f}' if rate > 1 else '-':>18}"
        )
        values.append({**row_json(row), "peak_bytes": peak, "tokens_per_s": rate})
    lines += ["", "train with the first:", _command(config, best[0][1])]
    return "\n".join(lines), {"layouts": values}


def _proved(
    config: PlanConfig, rows: list[LayoutPreset]
) -> list[tuple[float, LayoutPreset, int]]:
    """Those that fit by the compiler, the fastest by its counts first."""
    found = []
    for row in rows:
        proof = proved(row, config.item_width)
        if proof.fits:
            least = proof.roofline
            rate = 0.0 if least is None else tokens(row) / least.seconds
            found.append((rate, row, proof.peak_bytes))
    return sorted(found, key=lambda one: -one[0])


def _command(config: PlanConfig, row: LayoutPreset) -> str:
    llama = "--llama_size nano" if row.llama_size == "nano" else "--llama_path DIR"
    width = "" if config.item_width is None else f" --item_width {config.item_width}"
    return (
        f"  python -m eqids.train {llama} --train {row.train} --layout {_mesh(row)} "
        f"\\\n      --batch_size {row.batch_size} --seq_len {row.seq_len}{width}"
        f"{' --remat' if row.remat else ''} --data_dir DIR --checkpoint_dir DIR"
    )


def _mesh(row: LayoutPreset) -> str:
    return "x".join(map(str, row.mesh_shape))


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


def _rate(row: LayoutPreset, memory: Memory) -> float:
    """Tokens a second on a perfect machine, by hand arithmetic.

    Products: 2 FLOPs for every weight and token forwards, 2 backwards to activations,
    2 to weights that train, 2 more where blocks are recomputed. Memory: everything a
    step holds, once. Links: weights that are split, gathered forwards and backwards,
    and their gradients.
    """
    machine, job = hardware(row.hardware), job_of(row)
    llama = job.sizes.llama
    heads = llama.num_heads + llama.num_kv_heads
    weights = llama.num_layers * llama.width * (2 * heads * llama.head + 3 * llama.ffn)
    per = 4 + 2 * (row.train == "all") + 2 * row.remat
    data, fsdp, tensor = row.mesh_shape
    if machine.bf16_flops is None or machine.hbm_bytes_per_second is None:
        return float(tokens(row)) / memory.peak
    assert machine.link_bytes_per_second and machine.network_bytes_per_second
    link = machine.link_bytes_per_second
    if fsdp * tensor > row.devices_per_host:
        link = machine.network_bytes_per_second
    moved = 0.0
    if fsdp > 1:
        moved += (2 + (row.train == "all")) * 2 * weights / tensor * (fsdp - 1) / fsdp
    if tensor > 1:
        rows = row.batch_size // (data * fsdp)
        carry = 2 * rows * row.seq_len * llama.width
        moved += 2 * 4 * llama.num_layers * carry * (tensor - 1) / tensor
    seconds = moved / link
    if data > 1 and row.train == "all":
        between = row.num_hosts > 1
        slow = machine.network_bytes_per_second if between else link
        seconds += 2 * 2 * weights / (fsdp * tensor) * (data - 1) / data / slow
    return tokens(row) / max(
        per * weights * tokens(row) / row.num_devices / machine.bf16_flops,
        memory.peak / machine.hbm_bytes_per_second,
        seconds,
    )


def _tried(config: PlanConfig, row: LayoutPreset) -> str:
    if config.layout is None:
        return f"no layout of {row.num_devices} devices"
    return f"no batch on --layout {config.layout} of {row.num_devices} devices"


def _nothing_fits(config: PlanConfig, row: LayoutPreset, memory: Memory) -> str:
    room = row.capacity_bytes
    mesh = "" if config.layout is None else f" on the mesh {_mesh(row)}"
    lines = [
        f"nothing fits: {row.llama_size} with {row.train} trained needs at least "
        f"{memory.peak / GIB:.1f} GiB of each of {row.num_devices} x {row.hardware}"
        f"{mesh}, which have {room / GIB:.1f}; what would:"
    ]
    if config.layout is not None:
        lines += _other_meshes(config, row)
    for devices in (2**n for n in range(1, 11)):
        if devices <= row.num_devices:
            continue
        more = dataclasses.replace(
            row, num_hosts=max(1, devices // 8), devices_per_host=min(devices, 8),
            mesh_shape=(1, devices, 1), batch_size=devices, remat=True,
        )  # fmt: skip
        try:
            peak = estimated(more).peak
        except LayoutError:
            continue
        if peak <= room:
            text = devices_text(more.num_hosts, more.devices_per_host)
            lines.append(
                f"  --devices {text} --batch_size {devices} --remat True "
                f"({peak / GIB:.1f} GiB)"
            )
            break
    less_than = {"all": ("lora", "heads"), "lora": ("heads",)}
    for train in less_than.get(row.train, ()):
        peak = estimated(dataclasses.replace(row, train=train)).peak
        if peak <= room:
            lines.append(f"  --train {train} ({peak / GIB:.1f} GiB)")
    return "\n".join(lines)


def _other_meshes(config: PlanConfig, row: LayoutPreset) -> list[str]:
    """The mesh of as many devices that needs least for this batch, if it fits."""
    least: tuple[int, str] | None = None
    for shape in mesh_shapes(row.num_devices):
        try:
            other = dataclasses.replace(row, mesh_shape=shape)
            peak = estimated(other, config.item_width).peak
        except LayoutError:
            continue
        if least is None or peak < least[0]:
            least = peak, _mesh(other)
    if least is None or least[0] > row.capacity_bytes:
        return []
    return [f"  --layout {least[1]} ({least[0] / GIB:.1f} GiB)"]
