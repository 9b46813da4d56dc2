"""What a compiled program's instructions move to and from a device's memory."""

from collections.abc import Sequence

from sharding.compiled.hlo_text import Computation, Instruction, Program, Shape

_FREE = frozenset(
    {
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
        "opt-barrier", "partition-id", "replica-id", "while", "conditional", "call",
        "async",
    }
)  # fmt: skip
"""Operations that move nothing themselves."""

_SLICING = frozenset({"dynamic-slice", "slice", "gather"})
_UPDATING = {"dynamic-update-slice": 1, "scatter": 2}
"""Operations in place, and which operand holds the new values."""


def memory_bytes(ins: Instruction, here: Computation, program: Program) -> int:
    """Returns the bytes that an instruction outside of fusions reads and writes.

    Operands and results move once each, but slices and updates in place touch only
    their part of an array. What a computation that it calls moves is not counted.

    Args:
        ins: the instruction.
        here: the computation that it stands in.
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
    """What a fusion reads of its parameters and writes of its root."""
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
    """Users of a value, through bitcasts."""
    found = []
    for user, position in fusion.users.get(ins.name, ()):
        if user.opcode == "bitcast":
            found += _users(fusion, user)
        else:
            found.append((user, position))
    return found


def _behind(fusion: Computation, ins: Instruction) -> Instruction:
    """The instruction of which this is a bitcast."""
    while ins.opcode == "bitcast":
        ins = fusion.by_name[ins.operands[0]]
    return ins


def _read(user: Instruction, position: int, shapes: Sequence[Shape]) -> int:
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
        # The others are work space, of which a library uses what it likes.
        shapes = tuple(shape for shape in shapes if shape.dtype not in ("s8", "u8"))
    return _bytes(shapes)


def _bytes(shapes: Sequence[Shape]) -> int:
    return sum(shape.bytes for shape in shapes)
