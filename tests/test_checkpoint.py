"""Checkpoints: exact, whole or absent, and loud when damaged."""

import contextlib
import hashlib
import json
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
from conftest import ROOT, run_python
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from eqids.checkpoint import main
from eqids.config import UserError
from eqids.fit import chunks, store
from eqids.fit.checkpoint import (
    best_step,
    latest_step,
    partials,
    prune,
    read_manifest,
    resolve,
    restore,
    save,
    steps,
    verify,
)
from eqids.fit.manifest import ArrayRecord


def bits(leaf: Any) -> tuple[str, tuple[int, ...], bytes]:
    """All there is to an array: equal bits are equal, also for NaN and -0."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (
            str(leaf.dtype),
            leaf.shape,
            np.asarray(jax.random.key_data(leaf)).tobytes(),
        )
    return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()


def assert_same(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert type(a) is type(b)
        assert bits(a) == bits(b)


def small_tree(seed: int = 0) -> dict[str, Any]:
    """Arrays of every awkward kind, in several chunks and parts under `tiny`."""
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "wide": jnp.asarray(rng.standard_normal((40, 20)), jnp.float32),
            "half": jnp.asarray(rng.standard_normal((7, 9)), jnp.bfloat16),
            "zero": jnp.zeros(1500),
        },
        "state": [jnp.asarray(seed, jnp.int32), jnp.zeros((3, 0)), None],
        "valid": jnp.asarray(rng.random(11) < 0.5),
        "key": jax.random.split(jax.random.key(seed), 2),
    }


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and parts of a few KiB, some outside of OCDBT's nodes."""
    monkeypatch.setattr(chunks, "_CHUNK_BYTES", 1024)
    monkeypatch.setattr(store, "_PART_BYTES", 3000)
    monkeypatch.setattr(store, "_INLINE_BYTES", 700)


# Exact


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


def test_round_trip_of_many_chunks_and_parts(tmp_path: Path, tiny: None) -> None:
    tree = small_tree()
    path = save(tmp_path, 3, tree, {"seed": 4})
    manifest = read_manifest(path)
    assert len({part for a in manifest.arrays.values() for part, _ in a.chunks}) > 2
    assert len(manifest.arrays["params/wide"].chunks) > 2
    assert manifest.meta == {"seed": 4}
    assert_same(restore(path, tree), tree)
    assert_same(restore(path, tree["params"], prefix="params"), tree["params"])
    assert verify(path) == []


def test_numpy_arrays_come_back_as_numpy(tmp_path: Path) -> None:
    tree = {"cursor": np.arange(3, dtype=np.int64), "x": np.array(2.5)}
    assert_same(restore(save(tmp_path, 0, tree, {}), tree), tree)


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    meta = {"score": float("nan"), "loss": [float("inf"), 1.5], "name": "ü"}
    path = save(tmp_path, 1, {}, meta)
    wanted = {"score": None, "loss": [None, 1.5], "name": "ü"}
    assert read_manifest(path).meta == wanted
    assert json.loads((path / "manifest.json").read_text())["meta"] == wanted


@given(data=st.data())
def test_chunks_tile_every_shard(data: st.DataObject) -> None:
    shard = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
    counts = tuple(data.draw(st.integers(1, 3)) for _ in shard)
    shape = tuple(size * count for size, count in zip(shard, counts, strict=True))
    limit = data.draw(st.integers(1, 200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_CHUNK_BYTES", limit)
        chunk = chunks.chunk_shape(shape, shard, 4)
    record = ArrayRecord(shape, "float32", chunk, ())
    assert np.prod(chunk) * 4 <= max(limit, 4)
    seen = np.full(shape, -1)
    for place in np.ndindex(*counts):
        box = tuple(
            slice(row * size, (row + 1) * size)
            for row, size in zip(place, shard, strict=True)
        )
        inside = np.zeros(shape, bool)
        inside[box] = True
        for number, extent in chunks.chunks_in(record, box):
            assert np.all(inside[extent]), "a chunk crosses a shard"
            assert np.all(seen[extent] == -1), "two chunks overlap"
            seen[extent] = number
    assert set(np.unique(seen)) == set(range(chunks.num_chunks(record)))


# On any mesh


MESHES = """
import jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from eqids.fit import chunks, reader, store
from eqids.fit.checkpoint import read_manifest, restore, save
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
block = store.Block
store.Block = lambda *row: written.append(row[-1].size) or block(*row)
inner = reader.Reader.read
reader.Reader.read = lambda *call: read.append(call[1:]) or inner(*call)

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
from eqids.fit.checkpoint import restore, save, verify
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
    parts = [part for part, _ in read_manifest(path).arrays["w"].chunks]
    assert parts == ["0-0", "1-0"]
    assert verify(path) == []
    host = np.arange(48, dtype=np.float32).reshape(8, 6)
    like = {"w": jax.ShapeDtypeStruct((8, 6), jnp.float32), "step": np.array(0)}
    assert_same(restore(path, like), {"w": jnp.asarray(host), "step": np.array(5)})


# Loud


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    damaged = bytes([data[place] ^ 1 << rng.randrange(8)])
    return data[:place] + damaged + data[place + 1 :]


def assert_detected(path: Path, tree: Any, what: str) -> None:
    problems = verify(path)
    assert problems, f"verify saw nothing: {what}"
    with pytest.raises(UserError) as caught:
        restore(path, tree)
        pytest.fail(f"restore saw nothing: {what}")
    for text in (*problems, str(caught.value)):
        assert text.startswith(f"step {path.name} of {path.parent}: "), text
        assert "array" in text or "file" in text or "manifest" in text, text


def test_every_corruption_is_detected(tmp_path: Path, tiny: None) -> None:
    tree = small_tree(0)
    path = save(tmp_path, 10, tree, {})
    other = save(tmp_path, 20, small_tree(1), {})
    files, others = (
        sorted(p for p in d.rglob("*") if p.is_file()) for d in (path, other)
    )
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    for file, foreign in zip(files, others, strict=True):
        whole = file.read_bytes()
        cases = {
            "truncated": whole[: rng.randrange(len(whole))],
            "emptied": b"",
            "grown": whole + b"\0",
            "zeroed": bytes(len(whole)),
            "swapped": foreign.read_bytes(),
            "deleted": None,
        }
        cases |= {f"flipped {n}": flip(whole, rng) for n in range(6)}
        for case, data in cases.items():
            file.unlink() if data is None else file.write_bytes(data)
            what = f"{file.relative_to(path)} {case}, seed {seed}"
            assert_detected(path, tree, what)
            file.write_bytes(whole)
    assert len(files) >= 8
    assert verify(path) == []
    assert_same(restore(path, tree), tree)


def test_no_byte_of_a_part_is_unguarded(tmp_path: Path, tiny: None) -> None:
    """Restoring hashes chunks and no files, and yet sees every flipped byte."""
    tree = {"a": jnp.arange(190.0)}
    path = save(tmp_path, 1, tree, {})
    start = random.randrange(3)
    for file in (path / "arrays").rglob("*"):
        whole = file.read_bytes() if file.is_file() else b""
        for place in range(start, len(whole), 3):
            damaged = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=f"file .*{file.name} is damaged"):
                restore(path, tree)
                pytest.fail(f"byte {place} of {file.name}")
        if whole:
            file.write_bytes(whole)


def test_another_checkpoint_under_this_name(tmp_path: Path) -> None:
    tree = small_tree()
    ten, twenty = (save(tmp_path, step, tree, {}) for step in (10, 20))
    for name in ("manifest.json", "manifest.json.sha256"):
        shutil.copy(twenty / name, ten / name)
    assert_detected(ten, tree, "manifest and guard of another step")
    twin = save(tmp_path / "twin", 20, small_tree(1), {})
    shutil.rmtree(twenty / "arrays")
    shutil.copytree(twin / "arrays", twenty / "arrays")
    assert_detected(twenty, tree, "arrays of another run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": None}, "array 'w' is stored, wanted no such array"),
        ({"v": jnp.zeros(2)}, r"array 'v' is absent, wanted float32\[2\]"),
        ({"w": jnp.zeros((3, 2))}, r"'w' is float32\[2, 3\], wanted float32\[3, 2\]"),
        ({"w": jnp.zeros((2, 3), jnp.bfloat16)}, r"'w' is .*, wanted bfloat16\[2, 3\]"),
        ({"k": jnp.zeros(2, jnp.uint32)}, r"'k' is key<fry>\[\], wanted uint32\[2\]"),
        ({"k": jax.random.key(0, impl="rbg")}, r"'k' is key<fry>\[\], wanted key<rbg>"),
    ],
)  # fmt: skip
def test_another_tree_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tree = {"w": jnp.ones((2, 3)), "k": jax.random.key(0)}
    path = save(tmp_path, 7, tree, {})
    with pytest.raises(UserError, match=f"^step 7 of .*{message}"):
        restore(path, tree | change)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {}, {})
    text = (path / "manifest.json").read_text().replace('_version": 1', '_version": 9')
    (path / "manifest.json").write_text(text)
    guard = f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n"
    (path / "manifest.json.sha256").write_text(guard)
    with pytest.raises(UserError, match="format version 9, this EqIDs reads 1"):
        restore(path, {})


def test_leaves_that_cannot_be_named_or_stored(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="leaf 'a/0' is 1.5, wanted an array"):
        save(tmp_path, 1, {"a": [1.5]}, {})
    with pytest.raises(ValueError, match="two leaves are named 'a/b'"):
        save(tmp_path, 1, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}, {})
    assert steps(tmp_path) == []


# Whole or absent


KILLED = """
import os, signal
from pathlib import Path
import jax.numpy as jnp
from eqids.fit import checkpoint
checkpoint.save(Path(FOLDER), 1, {"w": jnp.ones(3)}, {})
def killed(*args):
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.POINT = killed
checkpoint.save(Path(FOLDER), 2, {"w": jnp.ones(3)}, {})
"""


@pytest.mark.parametrize("point", ["write_manifest", "_sync"])
def test_killed_save_leaves_no_step(point: str, tmp_path: Path) -> None:
    code = KILLED.replace("FOLDER", repr(str(tmp_path))).replace("POINT", point)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert steps(tmp_path) == [1]
    assert [path.name for path in partials(tmp_path)] == [".2.partial"]
    assert resolve(tmp_path) == tmp_path / "1"
    assert verify(tmp_path / "1") == []
    save(tmp_path, 3, {"w": jnp.zeros(3)}, {})
    assert (steps(tmp_path), partials(tmp_path)) == ([1, 3], [])


@contextlib.contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("num_bytes", [100, 3000])
def test_failed_save_leaves_nothing(num_bytes: int, tmp_path: Path, tiny: None) -> None:
    save(tmp_path, 1, small_tree(), {})
    with (
        full_disk(num_bytes),
        pytest.raises(UserError, match="step 2 of .* not be saved"),
    ):
        save(tmp_path, 2, small_tree(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert verify(save(tmp_path, 2, small_tree(), {})) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="step 2 of .*file could not be saved"):
        save(tmp_path / "file", 2, {}, {})


def test_a_step_is_never_overwritten(tmp_path: Path) -> None:
    path = save(tmp_path, 4, {"w": jnp.ones(2)}, {})
    with pytest.raises(UserError, match="step 4 of .* exists already"):
        save(tmp_path, 4, {"w": jnp.zeros(2)}, {})
    assert_same(restore(path, {"w": jnp.zeros(2)}), {"w": jnp.ones(2)})


# A run's folder


def run_of(folder: Path, scores: dict[int, float | None]) -> Path:
    for step, score in scores.items():
        save(folder, step, {"w": jnp.full(3, step)}, {"score": score})
    return folder


def test_best_latest_and_prune(tmp_path: Path) -> None:
    run = run_of(tmp_path, {2: 0.1, 10: 0.3, 9: 0.3, 30: None, 100: 0.2})
    (run / "007").mkdir()
    (run / "12").write_text("a file")
    assert steps(run) == [2, 9, 10, 30, 100]
    assert latest_step(run) == 100
    assert best_step(run) == 10
    assert resolve(run) == run / "10"
    assert resolve(run / "2") == run / "2"
    prune(run, keep=1, protect=[10])
    assert steps(run) == [10, 100]
    assert partials(run) == []
    prune(run, keep=5)
    assert steps(run) == [10, 100]


def test_without_scores_the_newest_is_best(tmp_path: Path) -> None:
    run = run_of(tmp_path, {1: None, 3: None, 2: float("nan")})
    assert best_step(run) == 3
    assert best_step(tmp_path / "none") is None
    assert latest_step(tmp_path / "none") is None


def test_resolve_says_what_it_wanted(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {1: 0.5, 2: 0.4})
    with pytest.raises(UserError, match=r"run/3: no such folder.*has steps \[1, 2\]"):
        resolve(run / "3")
    with pytest.raises(UserError, match="neither a checkpoint .* nor a run"):
        resolve(tmp_path)
    (run / "2" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="step 2 of .*manifest.json .* is damaged"):
        resolve(run)


# The door


def test_list_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = run_of(tmp_path, {5: 0.25, 60: 0.125})
    (run / ".70.partial").mkdir()
    main(["list", str(run)])
    _, first, second, partial = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "5" and first.endswith("0.2500  best")
    assert second.split()[0] == "60" and second.endswith("0.1250")
    assert ".70.partial: not a checkpoint" in partial
    main(["verify", str(run)])
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == [f"{run / '5'}: sound", f"{run / '60'}: sound"]
    assert ".70.partial" in out[2]


def test_verify_names_a_damaged_step(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = run_of(tmp_path, {5: 0.25, 60: 0.125})
    (victim,) = (run / "60" / "arrays" / "0-0" / "d").iterdir()
    victim.write_bytes(bytes(victim.stat().st_size))
    with pytest.raises(UserError, match=f"^damaged: step 60 of {run}$"):
        main(["verify", str(run)])
    assert f"file arrays/0-0/d/{victim.name} is damaged" in capsys.readouterr().out
    main(["verify", str(run / "5")])
    done = subprocess.run(
        [sys.executable, "-m", "eqids.checkpoint", "verify", str(run / "60")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: damaged: step 60 of {run}\n"


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = save(tmp_path, 5, small_tree(), {"catalog_id": "c-1", "score": 0.5})
    main(["show", str(path)])
    out = capsys.readouterr().out
    assert "params/half  bfloat16    [7, 9]                126 B\n" in out
    assert "step 5 in" in out and "score 0.5000" in out
    assert '"catalog_id": "c-1"' in out


def test_export(tmp_path: Path, tiny: None) -> None:
    tree = small_tree()
    path, out = (
        save(tmp_path, 5, tree, {"catalog_id": "c-1"}),
        tmp_path / "x.safetensors",
    )
    main(["export", str(path), str(out)])
    got = safetensors.torch.load_file(out)
    named = {
        "params/wide": tree["params"]["wide"],
        "params/zero": tree["params"]["zero"],
        "params/half": tree["params"]["half"].astype(jnp.float32),
        "state/0": tree["state"][0],
        "state/1": tree["state"][1],
        "valid": tree["valid"],
        "key": jax.random.key_data(tree["key"]),
    }
    assert got.keys() == named.keys()
    assert str(got["params/half"].dtype) == "torch.bfloat16"
    for name, values in named.items():
        ours = got[name].float() if name == "params/half" else got[name]
        np.testing.assert_array_equal(ours.numpy(), values, err_msg=name, strict=True)
    with safetensors.safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["meta"]) == {"catalog_id": "c-1"}
    assert [p.name for p in tmp_path.glob(".*")] == []
