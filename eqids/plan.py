"""What `python -m sharding plan` answers: which layouts fit, the fastest first."""

import dataclasses
from collections.abc import Iterator

from eqids.config import PlanConfig, require
from eqids.fit.memory import Memory
from eqids.fit.planning import job_of, row_of
from eqids.layouts import GIB, Answer, estimated, proved, row_json, tokens
from sharding import LayoutError, Row, devices_text, hardware, mesh_shapes


def plan(config: PlanConfig) -> Answer:
    """Tries every mesh, a few batch sizes, and blocks recomputed or not."""
    start, found, refused = row_of(config), list[tuple[float, Row, Memory]](), 0
    room = hardware(start.hardware).capacity_bytes
    smallest: tuple[Row, Memory] | None = None
    for row in _candidates(config, start):
        try:
            memory = estimated(row, config.item_width)
        except LayoutError:
            refused += 1
            continue
        if smallest is None or memory.peak < smallest[1].peak:
            smallest = row, memory
        if memory.peak <= room:
            found.append((_rate(row, memory), row, memory))
    require(
        smallest is not None,
        f"no layout of {start.num_devices} devices divides this model and batch; "
        "wanted another --devices or --batch_size",
    )
    assert smallest is not None
    if not found:
        row, memory = smallest
        return _nothing_fits(row, memory, room), {"layouts": []}
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
    values = []
    for rate, row, memory in found[: config.top]:
        peak = memory.peak
        if config.prove:
            proof = proved(row, config.item_width)
            if proof.roofline is not None:
                rate = tokens(row) / proof.roofline.seconds
            peak = proof.peak_bytes
        shape = "x".join(map(str, row.mesh_shape))
        lines.append(
            f"{shape:<10}{row.batch_size:>7}  {'yes' if row.remat else 'no':<6}"
            f"{peak / GIB:>10.2f}{rate:>18,.0f}"
        )
        values.append({**row_json(row), "peak_bytes": peak, "tokens_per_s": rate})
    best = found[0][1]
    shape = "x".join(map(str, best.mesh_shape))
    lines += [
        "",
        "train with the first:",
        f"  python -m eqids.train --llama_path DIR --train {best.train} "
        f"--layout {shape} \\\n      --batch_size {best.batch_size} "
        f"--seq_len {best.seq_len}"
        f"{' --remat' if best.remat else ''} --data_dir DIR --checkpoint_dir DIR",
    ]
    return "\n".join(lines), {"layouts": values}


def _candidates(config: PlanConfig, start: Row) -> Iterator[Row]:
    sizes = [start.batch_size]
    if config.batch_size is None:
        sizes = [start.num_devices * n for n in (1, 4, 16, 64)]
    remats = (False, True) if config.remat is None else (config.remat,)
    for shape in mesh_shapes(start.num_devices):
        for batch_size in sizes:
            for remat in remats:
                yield dataclasses.replace(
                    start, mesh_shape=shape, batch_size=batch_size, remat=remat
                )


def _rate(row: Row, memory: Memory) -> float:
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


def _nothing_fits(row: Row, memory: Memory, room: int) -> str:
    lines = [
        f"nothing fits: {row.llama_size} with {row.train} trained needs at least "
        f"{memory.peak / GIB:.1f} GiB of each of {row.num_devices} x {row.hardware}, "
        f"which have {room / GIB:.1f}; what would:"
    ]
    devices = row.num_devices
    while devices < 1024:
        devices *= 2
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
            lines.append(f"  --devices {text} ({peak / GIB:.1f} GiB)")
            break
    for train in ("lora", "heads"):
        if train == row.train:
            break
        less = dataclasses.replace(row, train=train)
        peak = estimated(less).peak
        if peak <= room:
            lines.append(f"  --train {train} ({peak / GIB:.1f} GiB)")
    return "\n".join(lines)
