"""Count what one run of a compiled program does on each device.

`count` walks the optimized HLO of a CPU or a GPU, multiplies what stands in loops by
their trip counts, and knows products that XLA gave to libraries (cuBLAS, cuDNN's
attention). It is what `cost_analysis()` would be if it existed for a GPU.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sharding.compiled.hlo_text import (
    Computation,
    Instruction,
    Program,
    Shape,
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
        shapes: the whole of what a group shares: results of an all-gather, operands
            of the others; several where XLA combined several collectives.
        groups: the devices that take part together, by number. Of a permutation, its
            pairs of source and target.
        times: how often it happens in one run of the program.
        label: where in the user's program it comes from.
    """

    kind: str
    shapes: tuple[Shape, ...]
    groups: tuple[tuple[int, ...], ...]
    times: int
    label: str

    @property
    def bytes(self) -> int:
        """The size of `shapes`, once."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def sent_bytes(self) -> float:
        """What one device sends, once, by the best known algorithms.

        A ring of n devices passes (n-1)/n of the whole through each of them to gather,
        to scatter sums or to exchange, twice that to sum for all of them (Patarasuk and
        Yuan 2009, Bandwidth optimal all-reduce algorithms).
        """
        if self.kind == "collective-permute":
            moves = any(source != target for source, target in self.groups)
            return float(self.bytes) if moves else 0.0
        n = len(self.groups[0])
        ways = 2 if self.kind == "all-reduce" else 1
        return ways * (n - 1) / n * self.bytes


@dataclass(frozen=True)
class Counts:
    """What one run of a program does, on each device.

    Attributes:
        num_devices: over how many the program is partitioned.
        flops: of matrix products, two for each multiplication and addition. Products
            that XLA turned into elementwise code do not count.
        memory_bytes: about what moves to and from the device's memory: operands and
            results of everything that is not inside a fusion; of slices and updates
            in place only the part that they touch.
        collectives: every collective instruction.
        custom_calls: how often each library routine is called, by target.
        unknown_loops: labels of loops whose trip count XLA does not know; what stands
            in them is counted once.
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
    def num_collectives(self) -> dict[str, int]:
        """How often each kind of collective happens."""
        total = Counter[str]()
        for each in self.collectives:
            total[each.kind] += each.times
        return dict(total)

    @property
    def gathers(self) -> tuple[Shape, ...]:
        """Types of all arrays that all-gathers build up, in order, without repeats.

        No table is gathered if no type here is as large as the table.
        """
        found = [c.shapes for c in self.collectives if c.kind == "all-gather"]
        return tuple(dict.fromkeys(shape for shapes in found for shape in shapes))


def count(text: str) -> Counts:
    """Returns what a compiled program does.

    Of a conditional, the branch with most FLOPs and the branch with most memory traffic
    count, and the collectives of all branches.

    Args:
        text: optimized HLO, as `compiled.as_text()` gives it.

    Raises:
        ValueError: the text is not that of a compiled program.
    """
    program = parse(text)
    return _Counter(program).computation(program.entry, fused=False)


class _Counter:
    """Counts computations, each but once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.done: dict[tuple[str, bool], Counts] = {}

    def computation(self, name: str, *, fused: bool) -> Counts:
        """Returns one run of a computation; `fused` ones move nothing themselves."""
        if (name, fused) not in self.done:
            here = self.program.computations[name]
            parts = [self.instruction(ins, here, fused) for ins in here.instructions]
            self.done[name, fused] = self.sum(parts)
        return self.done[name, fused]

    def instruction(self, ins: Instruction, here: Computation, fused: bool) -> Counts:
        """Returns one run of an instruction and of what it calls."""
        called = self.called(ins, fused)
        own = Counts(
            self.program.num_devices,
            flops=_flops(ins, here),
            memory_bytes=0 if fused else memory_bytes(ins, here, self.program),
            collectives=_collectives(ins, here, self.program.num_devices),
            custom_calls=Counter(_targets(ins)),
        )
        return self.sum([own, called])

    def called(self, ins: Instruction, fused: bool) -> Counts:
        """Returns what the computations that an instruction calls do."""
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

    def sum(self, parts: Sequence[Counts]) -> Counts:
        """Returns one after the other."""
        calls = Counter[str]()
        for part in parts:
            calls.update(part.custom_calls)
        return Counts(
            self.program.num_devices,
            flops=sum(part.flops for part in parts),
            memory_bytes=sum(part.memory_bytes for part in parts),
            collectives=tuple(each for part in parts for each in part.collectives),
            custom_calls=calls,
            unknown_loops=tuple(loop for part in parts for loop in part.unknown_loops),
        )


def _times(counts: Counts, times: int) -> Counts:
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


def _flops(ins: Instruction, here: Computation) -> int:
    """FLOPs of a product, whoever computes it."""
    targets = _targets(ins)
    if ins.operation == "dot":
        contracted = ins.numbers("lhs_contracting_dims")
    elif any(re.search("cublas.*(gemm|matmul)", target) for target in targets):
        dots = ins.backend_config["gemm_backend_config"]["dot_dimension_numbers"]
        contracted = tuple(map(int, dots["lhs_contracting_dimensions"]))
    elif any("cudnn$fmha" in target for target in targets):
        # cuDNN's attention: two products forward; backward four, and one recomputed.
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
