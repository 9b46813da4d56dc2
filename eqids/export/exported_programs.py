"""Programs of `jax.export` that go from histories to the most probable items.

They are those that EqIDs itself runs (`eqids.inference.engine.compiled_programs`), with
the model's arrays as inputs: another training step needs no other program.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, Int

from eqids.data.batches.event_gaps import NUM_GAPS
from eqids.inference.engine.compiled_programs import most_probable, query_vectors
from eqids.inference.open import Opened
from eqids.model import EqIDs, PrefixCache

PLATFORMS = ("cpu", "cuda", "tpu")
"""Where one program runs."""
_NO_TRACEBACKS = "jax_traceback_in_locations_limit"
"""The setting of jax for how many lines of our source each operation names: paths of
this machine, which would make equal programs differ."""


@dataclass(frozen=True)
class ProgramInput:
    """What a program reads beside the weights."""

    shape: tuple[str, ...]
    """Its axes: "rows", "length" or "slots"."""
    dtype: str
    """The dtype."""
    fill: int
    """The value of padding; for `allowed`, True allows an item."""
    meaning: str
    """What it says."""


def program_inputs(reads_text: bool, request_time: bool) -> Mapping[str, ProgramInput]:
    """Returns the inputs of a model's programs by name.

    Args:
        reads_text: whether the model reads tokens.
        request_time: whether it reads when the next item is requested.
    """
    history = ("rows", "length")
    gaps = (
        "0 is unknown (fill all with 0 if times are), 1 the same second, otherwise 2 + "
        f"floor(log2(seconds)), at most {NUM_GAPS - 1}"
    )
    inputs = {
        "items": ProgramInput(
            history, "int32", -1,
            "slots of items, oldest first from position 0; -1 at tokens and padding",
        ),
        "gap": ProgramInput(
            history, "int32", 0,
            f"at an item, the time since the one before it, 0 for the first: {gaps}",
        ),
        "last": ProgramInput(("rows",), "int32", 0, "the last position of each row"),
        "allowed": ProgramInput(
            ("rows", "slots"), "bool", 1, "which slots may be returned"
        ),
    }  # fmt: skip
    if reads_text:
        inputs["tokens"] = ProgramInput(
            history, "int32", 0, "tokens: the prompt, then each item's after it; or 0"
        )
    if request_time:
        inputs["request_gap"] = ProgramInput(
            history, "int32", 0,
            "at the last position of an item and its tokens, the time from it to the "
            f"next item, and at `last` to the request: {gaps}",
        )  # fmt: skip
    return inputs


def input_shapes(
    opened: Opened, rows: int, length: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a program's inputs, but for the weights."""
    size = {"rows": rows, "length": length, "slots": opened.dataset.num_slots}
    return {
        name: jax.ShapeDtypeStruct([size[axis] for axis in one.shape], one.dtype)
        for name, one in inputs_of(opened).items()
    }


def inputs_of(opened: Opened) -> Mapping[str, ProgramInput]:
    """Returns the inputs of an open model's programs by name."""
    return program_inputs(opened.tokens is not None, opened.model.config.request_time)


class ModelArrays:
    """The arrays of a model that programs read, by names that stay the same.

    Attributes:
        arrays: by the path of their fields, such as "softmax.table".
    """

    def __init__(self, opened: Opened):
        """Names the arrays of an open model, and those of its computed prompt."""
        # The axes of text columns serve to encode new texts only.
        model = eqx.tree_at(
            lambda m: m.text_axes, opened.model, None, is_leaf=lambda x: x is None
        )
        found, self._treedef = jax.tree.flatten_with_path((model, opened.prefix))
        begin = {0: "", 1: "prefix."}
        self._names = [begin[path[0].idx] + _dotted(path[1:]) for path, _ in found]
        self.arrays = dict(zip(self._names, (x for _, x in found), strict=True))

    def model(self, arrays: Mapping[str, Array]) -> tuple[EqIDs, PrefixCache | None]:
        """Returns the model, and the keys and values of its prompt, of named arrays."""
        return jax.tree.unflatten(self._treedef, [arrays[name] for name in self._names])


def _dotted(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def exported(
    opened: Opened, weights: ModelArrays, rows: int, length: int, k: int
) -> export.Exported:
    """Returns one program.

    It takes the weights and the inputs of `program_inputs`, both by name, and returns
    slots (int32, -1 for none) and log-probabilities (float32), k for each row.

    Args:
        opened: the model.
        weights: names its arrays.
        rows: number of histories.
        length: positions of each.
        k: number of items.
    """

    def recommend(
        arrays: dict[str, Array], inputs: dict[str, Array]
    ) -> tuple[Int[Array, "batch k"], Float[Array, "batch k"]]:
        model, prefix = weights.model(arrays)
        fields, last, allowed = _fields(inputs), inputs["last"], inputs["allowed"]
        query, recent = query_vectors(model, prefix, fields, last, dtype=opened.dtype)
        places = allowed.reshape(rows, *model.softmax.valid.shape)
        return most_probable(model, query, recent, None, places, k=k)

    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for name, x in weights.arrays.items()
    }
    with _no_tracebacks():
        program = export.export(jax.jit(recommend), platforms=PLATFORMS)
        return program(shapes, input_shapes(opened, rows, length))


def _fields(inputs: Mapping[str, Array]) -> dict[str, Int[Array, "batch seq"]]:
    """Returns the fields of a `Batch` with one history a row, as the engine has it."""
    items = inputs["items"]
    position = jnp.broadcast_to(
        jnp.arange(items.shape[1], dtype=jnp.int32), items.shape
    )
    inside = position <= inputs["last"][:, None]
    return {
        "tokens": jnp.zeros_like(items),
        **{n: x for n, x in inputs.items() if n not in ("last", "allowed")},
        "segment": inside.astype(jnp.int32),
        "position": jnp.where(inside, position, 0),
        "target": jnp.full_like(items, -1),
    }


@contextmanager
def _no_tracebacks() -> Iterator[None]:
    before = jax.config.values[_NO_TRACEBACKS]
    jax.config.update(_NO_TRACEBACKS, 0)
    try:
        yield
    finally:
        jax.config.update(_NO_TRACEBACKS, before)
