"""Lists what each instruction of a compiled program costs, to read a program by.

`count` sums these costs. Here every instruction outside of fusions is one row, so that
copies, casts and products in a wider dtype than was meant can be found with their size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sharding.compiled.hlo import product_flops
from sharding.compiled.hlo_text import (
    Computation,
    HloProgram,
    HloShape,
    Instruction,
    parse,
)
from sharding.compiled.hlo_traffic import memory_bytes

_INNER = "fusion", "while", "conditional", "call", "async"
"""Operations whose computations are visited, not counted as one instruction."""
_MOVES = frozenset(
    {
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy",
        "transpose", "convert", "reshape", "broadcast", "slice", "dynamic-slice",
        "dynamic-update-slice", "concatenate", "pad", "iota", "select", "compare",
    }
)  # fmt: skip
"""Operations that move or cast values without computing any."""


@dataclass(frozen=True)
class InstructionCost:
    """What one instruction outside of fusions costs in one run of the program.

    Attributes:
        operation: its operation; of a fusion, `fusion`.
        shapes: the shapes of its results.
        times: how often it runs.
        bytes: its memory traffic in all of these.
        flops: of matrix products in it, in all of these.
        product_dtypes: the dtypes of the operands of these products.
        casts: casts of whole arrays to a wider dtype inside of it, as from and to.
        moves_only: whether it computes nothing, as a copy or a cast.
        label: its origin in the user's program.
    """

    operation: str
    shapes: tuple[HloShape, ...]
    times: int
    bytes: int
    flops: int
    product_dtypes: frozenset[str]
    casts: frozenset[tuple[str, str]]
    moves_only: bool
    label: str


def instruction_costs(text: str) -> tuple[InstructionCost, ...]:
    """Returns the costs of a program's instructions, largest memory traffic first.

    Loops whose trip count is unknown run once, and of a conditional all branches count.

    Args:
        text: optimized HLO, as `compiled.as_text()` gives it.

    Raises:
        ValueError: the text is not that of a compiled program.
    """
    program = parse(text)
    found = [
        cost for cost in _costs(program, program.entry, 1) if cost.bytes or cost.flops
    ]
    return tuple(sorted(found, key=lambda cost: -cost.bytes))


def _costs(program: HloProgram, name: str, times: int) -> Iterator[InstructionCost]:
    here = program.computations[name]
    for ins in here.instructions:
        if ins.operation == "fusion":
            yield _fusion(ins, here, program, times)
        elif ins.operation in _INNER:
            yield from _called(ins, program, times)
        else:
            flops = product_flops(ins, here)
            shapes = here.operand_shapes(ins)
            dtypes = frozenset(s.dtype for s in shapes[:2]) if flops else frozenset()
            yield InstructionCost(
                ins.operation, ins.shapes, times,
                times * memory_bytes(ins, here, program), times * flops, dtypes,
                frozenset(_cast(ins, here)), ins.operation in _MOVES, ins.label,
            )  # fmt: skip


def _called(
    ins: Instruction, program: HloProgram, times: int
) -> Iterator[InstructionCost]:
    """The costs of the computations that an instruction calls."""
    attributes = {
        "while": ("body", "condition"),
        "conditional": (
            "branch_computations", "true_computation", "false_computation",
        ),
        "call": ("to_apply",),
    }.get(ins.operation, ("calls",))  # fmt: skip
    if ins.operation == "while":
        trips = ins.backend_config.get("known_trip_count")
        times *= int(trips["n"]) if trips else 1
    for attribute in attributes:
        for name in ins.computations(attribute):
            yield from _costs(program, name, times)


def _fusion(
    ins: Instruction, here: Computation, program: HloProgram, times: int
) -> InstructionCost:
    """One fusion, with the products and casts of all computations in it."""
    inside = [*_inside(program, ins)]
    own = InstructionCost(
        "fusion", ins.shapes, times, times * memory_bytes(ins, here, program), 0,
        frozenset(), frozenset(), all(one.operation in _MOVES for one, _ in inside),
        ins.label,
    )  # fmt: skip
    flops, dtypes, casts = 0, set[str](), set[tuple[str, str]]()
    for one, around in inside:
        added = product_flops(one, around)
        flops += times * added
        if added:
            dtypes |= {shape.dtype for shape in around.operand_shapes(one)[:2]}
        casts |= {*_cast(one, around)}
    return replace(
        own, flops=flops, product_dtypes=frozenset(dtypes), casts=frozenset(casts)
    )


def _inside(
    program: HloProgram, ins: Instruction
) -> Iterator[tuple[Instruction, Computation]]:
    """All instructions of a fusion, those of nested fusions included."""
    for name in ins.computations("calls"):
        here = program.computations[name]
        for one in here.instructions:
            if one.operation == "fusion":
                yield from _inside(program, one)
            else:
                yield one, here


def _cast(ins: Instruction, here: Computation) -> Iterator[tuple[str, str]]:
    """The dtypes of a cast to a wider one."""
    if ins.operation != "convert":
        return
    ((source,), (result,)) = here.operand_shapes(ins), ins.shapes
    if result.bytes > source.bytes:
        yield source.dtype, result.dtype
