"""Memory traffic of a compiled program's instructions."""

from collections.abc import Sequence

from sharding.compiled.hlo_text import Computation, HloProgram, HloShape, Instruction

_FREE = frozenset(
    {
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
        "opt-barrier", "partition-id", "replica-id", "while", "conditional", "call",
        "async",
    }
)  # fmt: skip
"""Operations without memory traffic of their own."""

_SLICING = frozenset({"dynamic-slice", "slice", "gather"})
_UPDATING = {"dynamic-update-slice": 1, "scatter": 2}
"""Operations in place, and which operand holds the new values."""


def memory_bytes(ins: Instruction, here: Computation, program: HloProgram) -> int:
    """Returns the bytes that an instruction outside of fusions reads and writes.

    Operands are read and results written once. Slices and updates in place read or
    write only their part of an array. Called computations do not count.

    Args:
        ins: the instruction.
        here: its computation.
        program: all computations.
    """
    if ins.operation in _FREE or ins.opcode.endswith(("-done", "-update")):
        return 0
    if ins.operation == "fusion":
        (name,) = ins.computations("calls")
        return _fusion_bytes(program.computations[name])
    reads = sum(
        _read(ins, position, here.by_name[operand].shapes)
        for position, operand in enumerate(ins.operands)
    )
    return reads + _written(ins, here)


def _fusion_bytes(fusion: Computation) -> int:
    """Bytes that a fusion reads of its parameters and writes of its root."""
    reads = 0
    for ins in fusion.instructions:
        if ins.opcode == "parameter":
            parts = [
                _read(user, position, ins.shapes)
                for user, position in _users(fusion, ins)
            ]
            reads += min(sum(parts), _bytes(ins.shapes))
    roots = [fusion.root]
    if fusion.root.opcode == "tuple":
        roots = [fusion.by_name[name] for name in fusion.root.operands]
    return reads + sum(_written(_behind(fusion, root), fusion) for root in roots)


def _users(fusion: Computation, ins: Instruction) -> list[tuple[Instruction, int]]:
    """Users of a value, bitcasts resolved."""
    found = []
    for user, position in fusion.users.get(ins.name, ()):
        if user.opcode == "bitcast":
            found += _users(fusion, user)
        else:
            found.append((user, position))
    return found


def _behind(fusion: Computation, ins: Instruction) -> Instruction:
    """The instruction behind bitcasts."""
    while ins.opcode == "bitcast":
        ins = fusion.by_name[ins.operands[0]]
    return ins


def _read(user: Instruction, position: int, shapes: Sequence[HloShape]) -> int:
    """Bytes of an operand that its user reads."""
    if position == 0 and user.opcode in _SLICING:
        return min(_bytes(user.shapes), _bytes(shapes))
    if position == 0 and user.opcode in _UPDATING:
        return 0
    return _bytes(shapes)


def _written(ins: Instruction, here: Computation) -> int:
    """Bytes of its results that an instruction writes."""
    if ins.opcode in _UPDATING:
        return here.operand_shapes(ins)[_UPDATING[ins.opcode]].bytes
    shapes = ins.shapes
    if ins.opcode.endswith("-start"):
        operands = here.operand_shapes(ins)
        shapes = operands if ins.operation == "all-reduce" else shapes[len(operands) :]
    if ins.operation == "custom-call" and len(shapes) > 1:
        # The others are work space, of which a library uses an unknown part.
        shapes = tuple(shape for shape in shapes if shape.dtype not in ("s8", "u8"))
    return _bytes(shapes)


def _bytes(shapes: Sequence[HloShape]) -> int:
    return sum(shape.bytes for shape in shapes)
