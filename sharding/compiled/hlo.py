"""Counts the FLOPs, memory traffic and collectives of a compiled program.

`count` reads the optimized HLO of a CPU or a GPU. It multiplies the bodies of loops by
their trip counts, and includes products that libraries compute (cuBLAS, cuDNN's
attention). JAX's `cost_analysis()` has no such counts for a GPU.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sharding.compiled.hlo_text import (
    Computation,
    HloProgram,
    HloShape,
    Instruction,
    parse,
    replica_groups,
)
from sharding.compiled.hlo_traffic import memory_bytes

_KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)


@dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
        kind: one of `all-gather`, `all-reduce`, `reduce-scatter`, `all-to-all`,
            `ragged-all-to-all`, `collective-permute`.
        shapes: the shapes of all that a group shares: results of an all-gather,
            operands of the others; several if XLA combined several collectives.
        groups: numbers of the devices that take part together; of a permutation, its
            pairs of source and target.
        times: how often it runs in one run of the program.
        label: its origin in the user's program.
    """

    kind: str
    shapes: tuple[HloShape, ...]
    groups: tuple[tuple[int, ...], ...]
    times: int
    label: str

    @property
    def bytes(self) -> int:
        """The size of `shapes`, for one run of the instruction."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def sent_bytes(self) -> float:
        """Bytes that one device sends in one run, by the best known algorithms.

        In a ring of n devices, each sends (n-1)/n of the whole in an all-gather, a
        reduce-scatter or an all-to-all, and twice that in an all-reduce (Patarasuk and
        Yuan 2009, Bandwidth optimal all-reduce algorithms).
        """
        if self.kind == "collective-permute":
            moves = any(source != target for source, target in self.groups)
            return float(self.bytes) if moves else 0.0
        n = len(self.groups[0])
        ways = 2 if self.kind == "all-reduce" else 1
        return ways * (n - 1) / n * self.bytes


@dataclass(frozen=True)
class HloCounts:
    """Counts of one run of a program, for each device.

    Attributes:
        num_devices: the number of devices of the partitioned program.
        flops: the FLOPs of matrix products, two for each multiplication and addition.
            Products that XLA turned into elementwise code do not count.
        memory_bytes: an estimate of the memory traffic: operands and results of all
            instructions outside of fusions; of slices and updates in place, only their
            own part.
        collectives: every collective instruction.
        custom_calls: number of calls of each library routine, by target.
        unknown_loops: labels of loops whose trip count XLA does not know; their bodies
            count once.
    """

    num_devices: int
    flops: int = 0
    memory_bytes: int = 0
    collectives: tuple[Collective, ...] = ()
    custom_calls: Mapping[str, int] = field(default_factory=dict)
    unknown_loops: tuple[str, ...] = ()

    @property
    def collective_bytes(self) -> dict[str, int]:
        """Bytes shared in collectives (`Collective.bytes`), by kind."""
        total = Counter[str]()
        for each in self.collectives:
            total[each.kind] += each.times * each.bytes
        return dict(total)

    @property
    def gathers(self) -> tuple[HloShape, ...]:
        """Types of all results of all-gathers, in order, without repeats.

        If none is as large as a table, that table is never gathered.
        """
        found = [c.shapes for c in self.collectives if c.kind == "all-gather"]
        return tuple(dict.fromkeys(shape for shapes in found for shape in shapes))


def count(text: str) -> HloCounts:
    """Returns the counts of a compiled program.

    A conditional has the FLOPs and the memory traffic of its largest branch, and the
    collectives of all branches.

    Args:
        text: optimized HLO, as `compiled.as_text()` gives it.

    Raises:
        ValueError: the text is not that of a compiled program.
    """
    program = parse(text)
    return _Counter(program).computation(program.entry, fused=False)


class _Counter:
    """Counts computations, each one once."""

    def __init__(self, program: HloProgram) -> None:
        self.program = program
        self.done: dict[tuple[str, bool], HloCounts] = {}

    def computation(self, name: str, *, fused: bool) -> HloCounts:
        """Returns counts of one run; a `fused` computation has no memory traffic."""
        if (name, fused) not in self.done:
            here = self.program.computations[name]
            parts = [self.instruction(ins, here, fused) for ins in here.instructions]
            self.done[name, fused] = self.sum(parts)
        return self.done[name, fused]

    def instruction(
        self, ins: Instruction, here: Computation, fused: bool
    ) -> HloCounts:
        """Returns counts of an instruction and of the computations that it calls."""
        called = self.called(ins, fused)
        own = HloCounts(
            self.program.num_devices,
            flops=product_flops(ins, here),
            memory_bytes=0 if fused else memory_bytes(ins, here, self.program),
            collectives=_collectives(ins, here, self.program.num_devices),
            custom_calls=Counter(_targets(ins)),
        )
        return self.sum([own, called])

    def called(self, ins: Instruction, fused: bool) -> HloCounts:
        """Returns counts of the computations that an instruction calls."""
        if ins.opcode == "while":
            trips = ins.backend_config.get("known_trip_count")
            names = ins.computations("body") + ins.computations("condition")
            once = self.sum([self.computation(name, fused=fused) for name in names])
            if trips is None:
                unknown = once.unknown_loops + (ins.label,)
                return dataclasses.replace(once, unknown_loops=unknown)
            return _times(once, int(trips["n"]))
        if ins.opcode == "conditional":
            names = (
                ins.computations("branch_computations")
                + ins.computations("true_computation")
                + ins.computations("false_computation")
            )
            branches = [self.computation(name, fused=fused) for name in names]
            return dataclasses.replace(
                self.sum(branches),
                flops=max(branch.flops for branch in branches),
                memory_bytes=max(branch.memory_bytes for branch in branches),
            )
        names = ins.computations("calls")
        if ins.opcode == "call":
            names = ins.computations("to_apply")
        fused = fused or ins.operation == "fusion"
        return self.sum([self.computation(name, fused=fused) for name in names])

    def sum(self, parts: Sequence[HloCounts]) -> HloCounts:
        """Returns the sum of counts."""
        calls = Counter[str]()
        for part in parts:
            calls.update(part.custom_calls)
        return HloCounts(
            self.program.num_devices,
            flops=sum(part.flops for part in parts),
            memory_bytes=sum(part.memory_bytes for part in parts),
            collectives=tuple(each for part in parts for each in part.collectives),
            custom_calls=calls,
            unknown_loops=tuple(loop for part in parts for loop in part.unknown_loops),
        )


def _times(counts: HloCounts, times: int) -> HloCounts:
    return dataclasses.replace(
        counts,
        flops=times * counts.flops,
        memory_bytes=times * counts.memory_bytes,
        collectives=tuple(
            dataclasses.replace(each, times=times * each.times)
            for each in counts.collectives
        ),
        custom_calls={name: times * n for name, n in counts.custom_calls.items()},
    )


def _targets(ins: Instruction) -> list[str]:
    if ins.operation != "custom-call":
        return []
    return re.findall(r'custom_call_target="([^"]+)"', ins.attributes)


def product_flops(ins: Instruction, here: Computation) -> int:
    """FLOPs of a product, also of one that a library computes."""
    targets = _targets(ins)
    if ins.operation == "dot":
        contracted = ins.numbers("lhs_contracting_dims")
    elif any(re.search("cublas.*(gemm|matmul)", target) for target in targets):
        dots = ins.backend_config["gemm_backend_config"]["dot_dimension_numbers"]
        contracted = tuple(map(int, dots["lhs_contracting_dimensions"]))
    elif any("cudnn$fmha" in target for target in targets):
        # cuDNN's attention has two products in the forward pass; in the backward pass
        # four, and one that is recomputed.
        config = ins.backend_config["cudnn_fmha_backend_config"]
        scores = map(int, config["intermediate_tensor_shape"]["dimensions"])
        head = here.operand_shapes(ins)[0].sizes[-1]
        return 2 * (5 if "Backward" in targets[0] else 2) * math.prod(scores) * head
    else:
        return 0
    left = here.operand_shapes(ins)[0].sizes
    out = math.prod(ins.shapes[0].sizes)
    return 2 * out * math.prod(left[axis] for axis in contracted)


def _collectives(
    ins: Instruction, here: Computation, num_devices: int
) -> tuple[Collective, ...]:
    if ins.operation not in _KINDS:
        return ()
    shapes = here.operand_shapes(ins)
    if ins.operation == "all-gather":
        shapes = ins.shapes[-len(shapes) :]
    if ins.operation == "collective-permute":
        shapes = shapes[:1]
    groups = replica_groups(ins, num_devices)
    return (Collective(ins.operation, shapes, groups, 1, ins.label),)
