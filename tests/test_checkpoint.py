"""Checkpoints: equal to the bit, on any mesh; the best and the newest are kept."""

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import blake3
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, run_python
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from saved import assert_same, small_tree, tiny

from eqids.checkpoints import (
    chunks,
    read_manifest,
    restore,
    save,
    store,
    verify,
)
from eqids.checkpoints.listing import verified_bytes
from eqids.checkpoints.manifest import ArrayRecord
from eqids.checkpoints.store import Shard
from eqids.config import UserError

DTYPES = ["float32", "float16", "bfloat16", "int32", "uint32", "int8", "bool"]


@st.composite
def arrays(draw: st.DrawFn) -> jax.Array:
    if draw(st.integers(0, 9)) == 0:
        kind = draw(st.sampled_from(["threefry2x32", "rbg"]))
        key = jax.random.key(draw(st.integers(0, 99)), impl=kind)
        return draw(st.sampled_from([key, jax.random.split(key, 3)]))
    dtype = jnp.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    size = int(np.prod(shape)) * dtype.itemsize
    flags, binary = st.sampled_from([b"\0", b"\1"]), st.binary(min_size=1, max_size=64)
    data = draw(flags if dtype.kind == "b" else binary)
    raw = (data * (size // len(data) + 1))[:size]
    return jnp.asarray(np.frombuffer(raw, dtype).reshape(shape))


trees = st.recursive(
    arrays() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab.%é ", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(tree=trees)
def test_round_trip(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = save(tmp_path_factory.mktemp("run"), 3, tree, {})
    assert_same(restore(path, tree), tree)
    abstract = jax.eval_shape(lambda: tree)
    assert_same(restore(path, abstract), tree)


def test_round_trip_of_many_chunks_and_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch)
    tree = small_tree()
    path = save(tmp_path, 3, tree, {"seed": 4})
    manifest = read_manifest(path)
    assert len({part for a in manifest.arrays.values() for part, *_ in a.chunks}) > 2
    assert len(manifest.arrays["params/wide"].chunks) > 2
    assert manifest.meta == {"seed": 4}
    assert_same(restore(path, tree), tree)
    assert_same(restore(path, tree["params"], prefix="params"), tree["params"])
    assert verify(path) == []


@pytest.mark.long
def test_round_trip_of_ten_thousand_leaves(tmp_path: Path) -> None:
    tree = {str(n): np.full((n % 3, 2), n, np.float32) for n in range(10_000)}
    assert_same(restore(save(tmp_path, 1, tree, {}), tree), tree)


def _blake3(data: bytes) -> str:
    return f"blake3:{blake3.blake3(data).hexdigest()}"


def test_the_digests_of_chunks_and_files_cover_every_byte_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_CHUNK_BYTES", 64 << 10)
    monkeypatch.setattr(store, "_ALONE_BYTES", 32 << 10)
    tree = {
        "noise": np.random.default_rng(0).random((300, 100)),
        "zero": jnp.zeros((128, 129)),
        "half": jnp.ones((300, 200), jnp.bfloat16),
        "small": np.arange(3),
    }
    path = save(tmp_path, 1, tree, {})
    manifest = read_manifest(path)
    inside = dict[str, str]()
    for name, record in manifest.arrays.items():
        boxes = chunks.chunks_in(record, chunks.whole(record))
        for (_, box), chunk in zip(boxes, record.chunks, strict=True):
            values = np.asarray(tree[name])[box].tobytes()
            assert chunk.digest == _blake3(values)
            for file in (path / "arrays" / chunk.part / "d").iterdir():
                if len(values) >= 32 << 10:
                    inside[file.relative_to(path).as_posix()] = chunk.digest
    assert len(inside) == 4 + 2 + 2
    rest = 0
    for name, file in manifest.files.items():
        content = (path / name).read_bytes()
        assert file.size == len(content) and (file.start > 0) == (name in inside)
        assert file.digest == _blake3(content[file.start :])
        if name in inside:
            assert _blake3(content[: file.start]) == inside[name]
        rest += file.size - file.start
    assert rest < 30_000
    assert_same(restore(path, tree), tree)
    read = list[int]()
    assert verify(path, read.append) == []
    assert sum(read) == rest + sum(leaf.nbytes for leaf in tree.values())


def _as_version_1(path: Path, tree: Any) -> None:
    """Rewrites the manifest of a checkpoint as EqIDs 0.2 wrote it: SHA-256 only."""
    values = json.loads((path / "manifest.json").read_text())
    for name, row in values["arrays"].items():
        record = read_manifest(path).arrays[name]
        boxes = chunks.chunks_in(record, chunks.whole(record))
        for (number, box), chunk in zip(boxes, row["chunks"], strict=True):
            raw = np.asarray(tree[name])[box].tobytes()
            row["chunks"][number] = [chunk[0], hashlib.sha256(raw).hexdigest()]
    for name, row in values["files"].items():
        content = (path / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        values["files"][name] = {"size": row["size"], "sha256": sha256}
    text = json.dumps({**values, "format_version": 1})
    (path / "manifest.json").write_text(text)
    guard = f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n"
    (path / "manifest.json.sha256").write_text(guard)


def test_checkpoints_of_version_1_verify_and_restore_beside_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch)
    tree = {"large": jnp.arange(900.0), "small": jnp.arange(7)}
    old, new = (save(tmp_path, step, tree, {}) for step in (1, 2))
    _as_version_1(old, tree)
    for path, version in ((old, 1), (new, 2)):
        assert read_manifest(path).format_version == version
        read = list[int]()
        assert verify(path, read.append) == []
        assert sum(read) == verified_bytes(read_manifest(path))
        assert_same(restore(path, tree), tree)
    (file,) = (p for p in old.glob("arrays/*/d/*") if p.stat().st_size > 1000)
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    (said,) = [text for text in verify(old) if "array 'large'" in text]
    assert said.startswith(f"step 1 of {tmp_path}: array 'large' cannot be read")
    with pytest.raises(UserError, match=f"file .*{file.name} is damaged"):
        restore(old, tree)


def test_a_chunk_that_is_padded_inside_is_not_read_without_tensorstore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its edges are zeros, as the padding is."""
    monkeypatch.setattr(store, "_ALONE_BYTES", 1)
    monkeypatch.setattr(store, "_EDGE_BYTES", 64)
    monkeypatch.setattr(store, "_INLINE_BYTES", 100)
    record = ArrayRecord((7, 21, 64), "float32", (7, 5, 64), ())
    values = np.zeros(record.shape, np.float32)
    values[3] = np.random.default_rng(0).random((21, 64))
    whole = tuple(slice(0, size) for size in record.shape)
    written = store.write_parts(tmp_path, [Shard("x", record, whole, values)])
    assert len(written.chunks) == 5
    direct = {name.split("/")[1] for name, f in written.files.items() if f.start > 0}
    inside = [written.chunks["x", n].part in direct for n in range(5)]
    assert inside == [True] * 4 + [False]
    for name, file in written.files.items():
        assert _blake3((tmp_path / name).read_bytes()[file.start :]) == file.digest


def test_numpy_arrays_come_back_as_numpy(tmp_path: Path) -> None:
    tree = {"cursor": np.arange(3, dtype=np.int64), "x": np.array(2.5)}
    assert_same(restore(save(tmp_path, 0, tree, {}), tree), tree)


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    meta = {"score": float("nan"), "loss": [float("inf"), 1.5], "name": "ü"}
    path = save(tmp_path, 1, {}, meta)
    wanted = {"score": None, "loss": [None, 1.5], "name": "ü"}
    assert read_manifest(path).meta == wanted
    assert json.loads((path / "manifest.json").read_text())["meta"] == wanted


# On any mesh


MESHES = """
import jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from eqids.checkpoints import chunks, reader, store
from eqids.checkpoints import read_manifest, restore, save
from jax.sharding import AxisType, PartitionSpec as P

chunks._CHUNK_BYTES = 256
host = {"w": np.arange(48 * 16, dtype=np.float32).reshape(48, 16),
        "b": np.arange(16, dtype=np.float32), "n": np.array(7, np.int32)}
key = jax.random.split(jax.random.key(1), 8)

def mesh(*sizes):
    kinds = (AxisType.Explicit,) * len(sizes)
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, ("x", "y")[: len(sizes)], kinds, devices=devices)

def put(mesh, w, b):
    at = lambda spec: jax.NamedSharding(mesh, spec)
    where = {"w": at(w), "b": at(b), "n": at(P()), "key": at(P(mesh.axis_names[0]))}
    return {name: jax.device_put((host | {"key": key})[name], where[name])
            for name in where}

def check(got, like):
    for name, leaf in like.items():
        assert got[name].sharding == leaf.sharding, (name, got[name].sharding)
        if name != "key":
            np.testing.assert_array_equal(np.asarray(got[name]), host[name])
    assert jnp.array_equal(jax.random.key_data(got["key"]), jax.random.key_data(key))

written, read = [], []
chunk = store.HostChunk
store.HostChunk = lambda *row: written.append(row[-1].size) or chunk(*row)
inner = reader.Reader._begin
reader.Reader._begin = lambda *call: read.append(call[1:]) or inner(*call)

layouts = [(mesh(8), P("x"), P("x")), (mesh(4, 2), P("x", "y"), P("y")),
           (mesh(2, 4), P(None, "y"), P()), (mesh(2), P("x"), P()), (mesh(1), P(), P())]
folder = Path(FOLDER)
for step, layout in enumerate(layouts):
    written.clear()
    path = save(folder, step, put(*layout), {})
    record = read_manifest(path).arrays["w"]
    shard = jax.NamedSharding(*layout[:2]).shard_shape((48, 16))
    for cut, size, axis in zip(record.chunk, shard, (48, 16)):
        assert size % cut == 0 or size == axis
    assert sum(written) == 48 * 16 + 16 + 1 + 16, written  # each value once
    for other in layouts:
        like = put(*other)
        check(restore(path, like), like)
    read.clear()
    like = put(*layouts[0])
    check(restore(path, like), like)
    for name, box in read:
        assert name != "w" or box[0].stop - box[0].start == 6  # never the whole
with jax.set_mesh(layouts[1][0]):
    like = jax.eval_shape(lambda: put(*layouts[1]))
    assert isinstance(like["w"].sharding.mesh, jax.sharding.AbstractMesh)
    check(restore(path, like), put(*layouts[1]))
# Restored arrays may be given away, also where copies share one host buffer.
got = restore(path, put(*layouts[3]))
more = jax.jit(lambda b: b + 1, donate_argnums=0)(got["b"])
for shard in more.addressable_shards:
    np.testing.assert_array_equal(np.asarray(shard.data), host["b"] + 1)
print("all meshes agree")
"""


def test_restores_onto_any_mesh(tmp_path: Path) -> None:
    code = MESHES.replace("FOLDER", repr(str(tmp_path)))
    assert "all meshes agree" in run_python(code, devices=8)


PROCESSES = """
import sys, jax, numpy as np
from pathlib import Path
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from eqids.checkpoints import restore, save, verify
kind = (jax.sharding.AxisType.Explicit,)
where = jax.NamedSharding(jax.make_mesh((2,), ("x",), kind), jax.P("x"))
host = np.arange(48, dtype=np.float32).reshape(8, 6)
tree = {"w": jax.make_array_from_callback(host.shape, where, lambda i: host[i]),
        "step": np.array(5)}
path = save(Path(sys.argv[3]), 5, tree, {})
(shard,) = restore(path, tree)["w"].addressable_shards
np.testing.assert_array_equal(shard.data, host[shard.index])
"""


def test_two_processes_write_one_checkpoint(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESSES, address, str(rank), str(tmp_path)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for job in jobs:
        _, error = job.communicate(timeout=60)
        assert job.returncode == 0, error[-3000:]
    path = tmp_path / "5"
    parts = [chunk.part for chunk in read_manifest(path).arrays["w"].chunks]
    assert parts == ["0-0", "1-0"]
    assert verify(path) == []
    host = np.arange(48, dtype=np.float32).reshape(8, 6)
    like = {"w": jax.ShapeDtypeStruct((8, 6), jnp.float32), "step": np.array(0)}
    assert_same(restore(path, like), {"w": jnp.asarray(host), "step": np.array(5)})
