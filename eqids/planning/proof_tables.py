"""Proofs as lines to print, and as a table in Markdown."""

from collections.abc import Mapping
from typing import Any

from sharding import Proof
from sharding.compiled.machines import GIB


def proof_table(proof: Proof, device: str, positions: int) -> str:
    """Returns a proof as lines to print.

    Args:
        proof: what the compiler reported.
        device: what it compiled for.
        positions: of a batch.
    """
    lines = [
        f"compiled for {device} in {proof.compile_seconds:.0f} s; of one device:",
        f"  {'arguments of a step':<28}{proof.argument_bytes / GIB:9.3f} GiB",
        f"  {'temporaries of a step':<28}{proof.temp_bytes / GIB:9.3f} GiB",
        f"  {'peak':<28}{proof.peak_bytes / GIB:9.3f} GiB",
        f"  {'usable memory':<28}{proof.capacity_bytes / GIB:9.3f} GiB: "
        f"{'it fits' if proof.fits else 'IT DOES NOT FIT'}",
        f"  {'matrix products':<28}{proof.flops / 1e12:9.3f} TFLOP a step",
    ]
    for kind, size in proof.collective_bytes.items():
        lines.append(f"  {kind:<28}{size / GIB:9.3f} GiB a step")
    least = proof.roofline
    if least is not None:
        lines.append(
            f"  a perfect machine needs {1e3 * least.compute_seconds:.1f} ms for "
            f"products, {1e3 * least.memory_seconds:.1f} for memory, "
            f"{1e3 * least.link_seconds:.1f} for links: bound by {least.bound}, at "
            f"most {positions / least.seconds:,.0f} tokens/s"
        )
    return "\n".join(lines)


def proofs_table(proofs: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the proofs of `prove --all` as a table in Markdown.

    Args:
        proofs: as JSON values, by the preset's name.
    """
    head = (
        "layout", "mesh", "batch", "remat", "given", "made", "peak", "of",
        "closed form", "TFLOP", "gathered, summed, scattered",
        "ms: products / memory / links",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, proof in proofs.items():
        lines.append(f"| {name} | {' | '.join(_cells(proof))} |")
    return "\n".join(lines)


def _cells(proof: Mapping[str, Any]) -> list[str]:
    shared = [
        f"{proof['collective_bytes'].get(kind, 0) / GIB:.2f}"
        for kind in ("all-gather", "all-reduce", "reduce-scatter")
    ]
    sizes = [
        f"{proof[f'{kind}_bytes'] / GIB:.2f}"
        for kind in ("argument", "temp", "peak", "capacity")
    ]
    least = proof["roofline_seconds"] or {}
    off = proof["estimated_peak_bytes"] / proof["peak_bytes"] - 1
    return [
        "x".join(map(str, proof["mesh_shape"])),
        f"{proof['batch_size']} x {proof['seq_len']}",
        "yes" if proof["remat"] else "no",
        *sizes,
        f"{100 * off:+.0f}%",
        f"{proof['flops'] / 1e12:.2f}",
        ", ".join(shared),
        " / ".join(f"{1e3 * seconds:.0f}" for seconds in least.values()) or "-",
    ]
