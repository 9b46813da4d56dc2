"""FLOPs, memory traffic and collectives of compiled programs, against hand counts."""

import json
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from conftest import run_python
from hypothesis import given, settings
from jax import Array

from sharding.compiled.hlo import HloCounts, count
from sharding.compiled.hlo_costs import instruction_costs
from sharding.compiled.hlo_text import HloShape, Instruction, replica_groups


def counted(function: Callable[..., Any], *shapes: tuple[int, ...]) -> HloCounts:
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count(jax.jit(function).lower(*args).compile().as_text())


@settings(max_examples=8)
@given(*[st.integers(8, 24)] * 4, st.sampled_from(["bmk,bkn->bmn", "bkm,bnk->nbm"]))
def test_a_product_costs_two_flops_for_each_multiplication(
    b: int, m: int, n: int, k: int, equation: str
) -> None:
    sizes = {"b": b, "m": m, "n": n, "k": k}
    shapes = [
        tuple(sizes[axis] for axis in axes)
        for axes in equation.split("->")[0].split(",")
    ]
    found = counted(lambda x, y: jnp.einsum(equation, x, y), *shapes)
    assert found.flops == 2 * b * m * n * k
    assert found.num_devices == 1 and not found.collectives


def test_loops_count_as_often_as_they_run_and_read_only_their_slices() -> None:
    def function(x: Array, weights: Array) -> Array:
        def once(x: Array, w: Array) -> tuple[Array, None]:
            return jnp.tanh(x @ w), None

        def again(x: Array, _: None) -> tuple[Array, None]:
            return jax.lax.scan(once, x, weights)[0], None

        return jax.lax.scan(again, x, None, length=3)[0]

    found = counted(function, (16, 64), (20, 64, 64))
    assert found.flops == 3 * 20 * 2 * 16 * 64 * 64
    assert not found.unknown_loops
    # Each layer's weights are read, at most sliced out (read, written) and read again;
    # there are six passes over the activations. Whole stacks would be 20 times that.
    weights, activations = 3 * 20 * 4 * 64 * 64, 3 * 20 * 4 * 16 * 64
    assert weights < found.memory_bytes < 3 * weights + 6 * activations


def test_a_loop_of_unknown_length_counts_once_and_is_named() -> None:
    def function(x: Array, n: Array) -> tuple[Array, Array]:
        def body(state: tuple[Array, Array]) -> tuple[Array, Array]:
            return state[0] + 1, state[1] @ x

        return jax.lax.while_loop(lambda state: state[0] < n[0], body, (0, x))

    args = jax.ShapeDtypeStruct((32, 32), jnp.float32), jax.ShapeDtypeStruct((1,), int)
    found = count(jax.jit(function).lower(*args).compile().as_text())
    assert found.flops == 2 * 32**3
    assert len(found.unknown_loops) == 1 and "while" in found.unknown_loops[0]


def test_a_conditional_counts_its_costliest_branch() -> None:
    def function(x: Array) -> Array:
        branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
        return jax.lax.switch(jnp.argmax(x[0]), branches, x)

    assert counted(function, (32, 32)).flops == 2 * 2 * 32**3


def test_elementwise_code_reads_its_operands_and_writes_its_result() -> None:
    found = counted(lambda x, y: jnp.exp(x + y) * y, (64, 128), (64, 128))
    assert found.memory_bytes == 3 * 4 * 64 * 128
    assert found.flops == 0


def test_an_update_in_place_counts_only_its_part() -> None:
    def function(x: Array, rows: Array) -> Array:
        def put(i: Array, x: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(x, rows[None, i], 3 * i, 0)

        return jax.lax.fori_loop(0, 10, put, x)

    found = counted(function, (1000, 256), (10, 256))
    copied = 2 * 4 * 1000 * 256  # x, which is not donated
    assert copied <= found.memory_bytes < copied + 10 * 8 * 4 * 256


ON_A_MESH = """
import json, sys
sys.path.insert(0, "tests")
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from programs import compiled_layers
from sharding.compiled.hlo import count

def facts(counts):
    number = {}
    for each in counts.collectives:
        number[each.kind] = number.get(each.kind, 0) + each.times
    return {
        "flops": counts.flops, "bytes": counts.collective_bytes,
        "number": number, "devices": counts.num_devices,
        "gathers": [[s.dtype, s.sizes] for s in counts.gathers],
        "sent": sum(c.times * c.sent_bytes for c in counts.collectives),
        "groups": {c.kind: sorted(map(sorted, c.groups)) for c in counts.collectives},
    }

devices = np.array(jax.devices())
explicit = (AxisType.Explicit,)
line = Mesh(devices, ("x",), axis_types=explicit)
cube = Mesh(devices.reshape(2, 2, 2), ("a", "b", "c"), axis_types=3 * explicit)
layers = compiled_layers(line, 4, 64, 128, jnp.float32)
found = {"layers": facts(count(layers.as_text()))}

def each(x):
    x = jax.lax.ppermute(x, "x", [(i, (i + 1) % 8) for i in range(8)])
    x = jax.lax.all_to_all(x, "x", 1, 1, tiled=True)
    x = jax.lax.psum_scatter(jnp.concatenate([x] * 8), "x", tiled=True)
    return x * jax.lax.psum(x[:2, :3], "x")[0, 0]

def compiled(mesh, spec, function):
    sharding = NamedSharding(mesh, spec)
    x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=sharding)
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(x).compile().as_text()

mapped = jax.shard_map(each, mesh=line, in_specs=P("x"), out_specs=P("x"))
found["each"] = facts(count(compiled(line, P("x"), mapped)))
for axes in ("a", "b", "c", "ab", "ac", "bc", "abc"):
    spec = P(tuple(axes))
    gather = lambda x: jax.sharding.reshard(x, P())
    found[axes] = facts(count(compiled(cube, spec, gather)))
    kept = [cube.axis_names.index(axis) for axis in axes]
    ids = np.vectorize(lambda device: device.id)(cube.devices)
    ids = np.moveaxis(ids, kept, range(3 - len(axes), 3)).reshape(-1, 2 ** len(axes))
    found[axes]["wanted"] = sorted(map(sorted, ids.tolist()))
print(json.dumps(found))
"""


def test_collectives_of_a_mesh() -> None:
    found = json.loads(run_python(ON_A_MESH).splitlines()[-1])
    layers, weight = found["layers"], 4 * 128 * 128
    assert layers["devices"] == 8
    # Forward, recomputed, and two products backward; an eighth of the batch each.
    assert layers["flops"] == 4 * 4 * 2 * (64 // 8) * 128 * 128
    assert layers["bytes"]["all-gather"] == 2 * 4 * weight
    assert layers["number"]["all-gather"] == 2 * 4
    assert layers["gathers"] == [["f32", [128, 128]]]
    (summed,) = set(layers["bytes"]) - {"all-gather"}
    assert layers["bytes"][summed] == 4 * weight and layers["number"][summed] == 4
    ways = {"all-reduce": 2, "reduce-scatter": 1}[summed]
    assert layers["sent"] == 7 / 8 * (2 * 4 + ways * 4) * weight

    local = 4 * 8 * 128
    assert found["each"]["bytes"] == {
        "collective-permute": local,
        "all-to-all": local,
        "reduce-scatter": 8 * local,
        "all-reduce": 4 * 2 * 3,
    }
    assert found["each"]["sent"] == local + 7 / 8 * (local + 8 * local + 2 * 24)
    for axes in ("a", "b", "c", "ab", "ac", "bc", "abc"):
        assert found[axes]["groups"]["all-gather"] == found[axes]["wanted"], axes
        assert found[axes]["bytes"] == {"all-gather": 4 * 64 * 128}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("{{0,3},{1,2}}", [[0, 3], [1, 2]]),
        ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (
            "mesh['a'=4,'b'=2], device_ids=([2,2,2]T(0,2,1)) {'a'}",
            [[0, 1, 4, 5], [2, 3, 6, 7]],
        ),
    ],
)
def test_groups_however_they_are_written(text: str, wanted: list[list[int]]) -> None:
    attributes = f", channel_id=1, replica_groups={text}, dimensions={{0}}"
    ins = Instruction("x", "all-gather", (), (), attributes, False)
    assert [sorted(group) for group in replica_groups(ins, 8)] == wanted


def test_groups_written_in_a_new_way_are_an_error() -> None:
    ins = Instruction("x", "all-gather", (), (), "replica_groups=all", False)
    with pytest.raises(ValueError, match="replica groups of x: all"):
        replica_groups(ins, 8)


LIBRARIES = """HloModule jit_f, is_scheduled=true, num_partitions=4

ENTRY %main (q: bf16[2,64,32,128], k: bf16[2,64,8,128]) -> bf16[2,32,64,128] {
  %q = bf16[2,64,32,128]{3,2,1,0} parameter(0)
  %k = bf16[2,64,8,128]{3,2,1,0} parameter(1)
  %fwd = (bf16[2,32,64,128]{3,1,2,0}, u8[4096]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"dimensions": ["2", "32", "64", "64"]}}}
  %out = bf16[2,32,64,128]{3,1,2,0} get-tuple-element(%fwd), index=0
  %bwd = (bf16[2,64,32,128]{3,2,1,0}, u8[0]{0}) custom-call(%q, %k, %k, %out), custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"dimensions": ["2", "32", "64", "64"]}}}
  %a = bf16[128,4096]{1,0} bitcast(%q)
  %b = bf16[128,1024]{1,0} bitcast(%k)
  %gemm = (bf16[4096,1024]{1,0}, s8[1048576]{0}) custom-call(%a, /*index=1*/%b), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"]}}}
  %start = ((bf16[128,1024]{1,0}), bf16[128,256]{1,0}) reduce-scatter-start(%b), replica_groups=[1,4]<=[4], dimensions={1}, to_apply=%add
  %done = bf16[128,256]{1,0} reduce-scatter-done(%start)
  ROOT %copy = bf16[2,32,64,128]{3,1,2,0} copy(%out)
}
"""  # noqa: E501


def test_products_of_libraries_count_and_their_work_space_does_not() -> None:
    found = count(LIBRARIES)
    attention = 2 * 2 * 32 * 64 * 64 * 128
    assert found.flops == (2 + 5) * attention + 2 * 4096 * 1024 * 128
    assert found.custom_calls == {
        "__cudnn$fmhaSoftmax": 1,
        "__cudnn$fmhaSoftmaxBackward": 1,
        "__cublas$lt$matmul": 1,
    }
    q, k = 2 * 2 * 64 * 32 * 128, 2 * 2 * 64 * 8 * 128
    attention_bytes = (q + 2 * k + q) + (2 * q + 2 * k + q)
    assert found.memory_bytes == (
        attention_bytes + q + k + 2 * 4096 * 1024 + k + k // 4 + 2 * q
    )
    assert found.collective_bytes == {"reduce-scatter": k}
    assert not found.gathers


def test_sizes_of_types() -> None:
    assert HloShape("bf16", (3, 5)).bytes == 30
    assert HloShape("s4", (3,)).bytes == 2
    assert HloShape("f8e4m3fn", (7,)).bytes == 7
    assert HloShape("pred", ()).bytes == 1


def test_text_of_something_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        count("module @jit_f {}")


def test_the_costs_of_instructions_add_up_to_the_counts() -> None:
    """And they say what copies, casts and multiplies, in which dtypes."""

    def function(x: Array, weights: Array) -> Array:
        def once(x: Array, w: Array) -> tuple[Array, None]:
            return jnp.tanh((x.astype(jnp.bfloat16) @ w).astype(jnp.float32)), None

        return jax.lax.scan(once, x, weights)[0].T

    x = jax.ShapeDtypeStruct((16, 64), jnp.float32)
    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.bfloat16)
    text = jax.jit(function).lower(x, weights).compile().as_text()
    costs, counts = instruction_costs(text), count(text)
    assert sum(cost.flops for cost in costs) == counts.flops == 5 * 2 * 16 * 64 * 64
    assert sum(cost.bytes for cost in costs) == counts.memory_bytes
    assert [cost.bytes for cost in costs] == sorted(
        (cost.bytes for cost in costs), reverse=True
    )
    (product,) = (cost for cost in costs if cost.flops)
    assert product.times == 5 and product.product_dtypes <= {"bf16", "f32"}
    assert any(("bf16", "f32") in cost.casts for cost in costs)
    moves = [cost for cost in costs if cost.moves_only]
    assert any(cost.shapes[0].sizes == (64, 16) for cost in moves)
    assert not any(cost.flops for cost in moves)
