"""Reads the text of a compiled program (XLA's HLO) into instructions."""

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16,
    "f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64,
    "c64": 64, "c128": 128, "token": 0, "opaque": 0,
}  # fmt: skip
_SHAPE = re.compile(r"\b(f\d+e\w+|[a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_OPERAND = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class HloShape:
    """The type of one array.

    Attributes:
        dtype: HLO's name of it, such as `bf16`.
        sizes: the sizes of its axes.
    """

    dtype: str
    sizes: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size in memory, without padding."""
        small_float = re.match(r"f(\d+)e", self.dtype)
        bits = int(small_float[1]) if small_float else _BITS[self.dtype]
        return -(-math.prod(self.sizes) * bits // 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: unique in its computation.
        opcode: the operation; `X-start` begins an asynchronous `X`.
        shapes: the shapes of its results, the leaves of a tuple in order.
        operands: names of instructions of the same computation.
        attributes: everything after the operands, as text.
        is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[HloShape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def operation(self) -> str:
        """The opcode without the mark of an asynchronous one."""
        return self.opcode.removesuffix("-start")

    @property
    def label(self) -> str:
        """Its origin in the user's program, or its name."""
        found = re.search(r'op_name="([^"]+)"', self.attributes)
        return found[1] if found else self.name

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """Returns the numbers of an attribute such as `dimensions={0,1}`."""
        found = re.search(attribute + r"=\{([\d,]*)\}", self.attributes)
        return _numbers(found[1]) if found else ()

    @property
    def backend_config(self) -> dict[str, Any]:
        """The compiler's notes on loops and on calls of NVIDIA's libraries."""
        _, found, text = self.attributes.partition("backend_config=")
        return json.JSONDecoder().raw_decode(text)[0] if found else {}

    def computations(self, attribute: str) -> tuple[str, ...]:
        """Returns the computations that an attribute names, one or several."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
        return tuple(re.findall(r"[\w.\-]+", found[1])) if found else ()


@dataclass(frozen=True)
class Computation:
    """Instructions in order; operands come before their users."""

    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """Instructions by name."""
        return {ins.name: ins for ins in self.instructions}

    @cached_property
    def users(self) -> Mapping[str, tuple[tuple[Instruction, int], ...]]:
        """The users of an instruction, and as which operand they use it."""
        users: dict[str, list[tuple[Instruction, int]]] = {}
        for ins in self.instructions:
            for position, operand in enumerate(ins.operands):
                users.setdefault(operand, []).append((ins, position))
        return {name: tuple(found) for name, found in users.items()}

    @cached_property
    def root(self) -> Instruction:
        """The result."""
        return next(ins for ins in self.instructions if ins.is_root)

    def operand_shapes(self, ins: Instruction) -> tuple[HloShape, ...]:
        """Returns the types of an instruction's operands, tuples flattened."""
        return tuple(
            shape for name in ins.operands for shape in self.by_name[name].shapes
        )


@dataclass(frozen=True)
class HloProgram:
    """A compiled program.

    Attributes:
        num_devices: the number of devices of the partitioned program.
        entry: the name of the first computation.
        computations: by name.
    """

    num_devices: int
    entry: str
    computations: Mapping[str, Computation]


def parse(text: str) -> HloProgram:
    """Returns the program that `compiled.as_text()` describes.

    Raises:
        ValueError: the text is not that of a compiled program.
    """
    computations: dict[str, Computation] = {}
    entry, name, body = "", "", list[Instruction]()
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name, body = header[2], []
            entry = name if header[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(tuple(body))
        elif found := _INSTRUCTION.match(line):
            body.append(_instruction(found))
    if entry not in computations:
        raise ValueError("the text has no ENTRY computation, wanted compiled HLO")
    sizes = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.split("\n")[0])
    return HloProgram(math.prod(map(int, sizes)), entry, computations)


def replica_groups(ins: Instruction, num_devices: int) -> tuple[tuple[int, ...], ...]:
    """Returns the groups of devices that take part in a collective instruction.

    XLA writes groups out (`{{0,1},{2,3}}`), as a reshaped and transposed range
    (`[2,2]<=[2,2]T(1,0)`), or as axes of a mesh (`mesh['a'=2,'b'=2] {'a'}`).

    Args:
        ins: a collective. The groups of a collective-permute are its pairs of source
            and target.
        num_devices: the number of devices of the program. An instruction without groups
            has one group of all devices.

    Raises:
        ValueError: the groups are written in another way.
    """
    found = re.search(r"\b(?:replica_groups|source_target_pairs)=(.*)$", ins.attributes)
    if found is None or found[1].startswith("{}"):
        return (tuple(range(num_devices)),)
    text = found[1]
    if listed := re.match(r"\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}", text):
        return tuple(map(_numbers, re.findall(r"\{([\d,]+)\}", listed[1])))
    if ranged := re.match(r"\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _rows(_range(ranged[2]).reshape(_numbers(ranged[1])))
    mesh = re.match(
        r"mesh\[([^\]]*)\](?:, device_ids=\((.*?\]\S*)\))? \{([^}]*)\}", text
    )
    if mesh is None:
        raise ValueError(f"cannot read the replica groups of {ins.name}: {text[:80]}")
    return _mesh_groups(mesh[1], mesh[2], mesh[3])


def _instruction(line: re.Match[str]) -> Instruction:
    root, name, type_, opcode, rest = line.groups()
    depth = 1
    end = next(
        (
            at
            for at, char in enumerate(rest)
            if (depth := depth + (char == "(") - (char == ")")) == 0
        ),
        len(rest),
    )
    operands = () if opcode == "constant" else tuple(_OPERAND.findall(rest[:end]))
    return Instruction(
        name, opcode, _shapes(type_), operands, rest[end + 1 :], bool(root)
    )


def _shapes(text: str) -> tuple[HloShape, ...]:
    return tuple(HloShape(m[1], _numbers(m[2])) for m in _SHAPE.finditer(text))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _range(text: str) -> np.ndarray:
    """The devices of `[4,2]` or `[4,2]T(1,0)`, in their order."""
    sizes, _, order = text.partition("T")
    shape = _numbers(sizes.strip("[]"))
    devices = np.arange(math.prod(shape)).reshape(shape)
    return devices.transpose(_numbers(order.strip("()"))) if order else devices


def _rows(groups: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(device) for device in row) for row in groups)


def _mesh_groups(
    sizes: str, device_ids: str | None, names: str
) -> tuple[tuple[int, ...], ...]:
    """Groups along axes of a mesh, or along parts of them: `'a':(2)4`."""
    axes = [(m[1], int(m[2])) for m in re.finditer(r"'([^']+)'=(\d+)", sizes)]
    wanted = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", names)
    factors: list[tuple[bool, int]] = []
    for axis, size in axes:
        cuts = {1: False, size: False}
        for name, before, part in wanted:
            if name == axis:
                start = int(before or 1)
                cuts[start] = True
                cuts.setdefault(start * int(part or size), False)
        for start, end in itertools.pairwise(sorted(cuts)):
            factors.append((cuts[start], end // start))
    shape = [size for _, size in factors]
    devices = np.arange(math.prod(shape)) if device_ids is None else _range(device_ids)
    inside = [at for at, (grouped, _) in enumerate(factors) if grouped]
    outside = [at for at, (grouped, _) in enumerate(factors) if not grouped]
    grid = devices.reshape(shape).transpose(outside + inside)
    return _rows(grid.reshape(-1, math.prod(shape[at] for at in inside)))
