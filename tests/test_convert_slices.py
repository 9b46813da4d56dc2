"""Weights in slices: each device reads its own, and no more."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, run_python
from folders import write_hf
from hypothesis import given, strategies as st
from safetensors.numpy import load_file, save_file
from slices import assert_parts, count_reads
from test_processes import ending, free_port, start

import convert.hf_llama
from convert import fingerprint, load_llama
from eqids.config import UserError
from sharding import LazyArray

TESTS = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"

MESHES = """
import json, sys
from pathlib import Path
import jax
from folders import write_hf
from slices import assert_parts, count_reads
from convert import load_llama
from sharding import LayoutError, placement

reads, found = count_reads(), {}
for shards, tied, bfloat16 in ((1, False, False), (3, True, True), (3, False, True)):
    folder = Path(sys.argv[1]) / f"{shards}-{tied}"
    foreign = write_hf(folder, shards=shards, tied=tied, bfloat16=bfloat16)
    itemsize = 2 if bfloat16 else 4
    size = sum(tensor.size for tensor in foreign.values()) * itemsize
    for name in ("1x8x1", "1x4x2", "2x2x2", "8x1x1", "2x4x1"):
        for dtype in ("float32", "bfloat16"):
            put = placement(name)
            reads.total = reads.largest = 0
            with put.active():
                llama = load_llama(folder, dtype, put)
                assert_parts(llama, foreign)
                # What lies in its place already is not moved again.
                assert all(
                    a is b for a, b in
                    zip(jax.tree.leaves(put(llama)), jax.tree.leaves(llama))
                )
            found[f"{shards} {tied} {name} {dtype}"] = reads.total / size
reads.total = 0
try:
    load_llama(folder, "float32", placement("1x1x8"))
except LayoutError as error:
    found["refused"] = [str(error), reads.total]
print(json.dumps(found))
"""


def test_devices_hold_their_boxes_and_each_is_read_once(tmp_path: Path) -> None:
    code = TESTS + f"sys.argv = ['', {str(tmp_path)!r}]\n" + MESHES
    found = json.loads(run_python(code).splitlines()[-1])
    said, read = found.pop("refused")
    assert "splits 'vocab'" in said and read == 0
    assert len(found) == 30
    for name, share in found.items():
        # All devices are of one process: it reads each byte, and reads it once.
        assert share == 1.0, name


ACCOUNT = """
import json, math
from collections import Counter
from pathlib import Path
import jax
import convert.hf_llama as hf
from convert import lazy_field
from eqids.config import LLAMA_PRESETS
from sharding import LazyArray, placement

config = LLAMA_PRESETS["8b"]

class Nothing:
    '''Takes the place of arrays that nobody has the memory for.'''
    def reshape(self, shape): return self
    def view(self, dtype): return self
    def __getitem__(self, box): return self
    def __setitem__(self, box, value): pass

class Tensor:
    def __init__(self, key, shape): self.key, self.shape = key, shape
    def get_shape(self): return self.shape
    def get_dtype(self): return "BF16"
    def __getitem__(self, box):
        sizes = [at.stop - at.start for at in box]
        read[self.key] += 2 * math.prod(sizes)
        largest.append(2 * math.prod(sizes))
        return Nothing()

def account(self, sharding):
    boxes = {}
    for device, index in sharding.addressable_devices_indices_map(self.shape).items():
        cuts = tuple(at.indices(n)[:2] for at, n in zip(index, self.shape, strict=True))
        boxes.setdefault(cuts, []).append(device)
    for box, devices in boxes.items():
        self.read(tuple(slice(*cut) for cut in box))
        for device in devices:
            held[device] += 2 * math.prod(stop - start for start, stop in box)
    return jax.ShapeDtypeStruct(self.shape, self.dtype, sharding=sharding)

lazy_field.aligned, LazyArray.on = lambda num_bytes: Nothing(), account
tensors = {
    key: Tensor(key, hf.file_shape(row, config))
    for row in hf.ROWS for key in hf.tensor_keys(row, config)
}
whole = {key: 2 * math.prod(tensor.shape) for key, tensor in tensors.items()}
found = {}
for name in ("1x8x1", "1x2x4", "1x1x8"):
    read, held, largest, put = Counter(), Counter(), [], placement(name)
    with put.active():
        put(hf._lazy_llama(Path("8b"), tensors, config, "bfloat16", None))
    found[name] = {
        "once": read == whole, "bytes": sum(read.values()),
        "held": [held[device] for device in jax.devices()], "largest": max(largest),
    }
print(json.dumps(found))
"""


def test_of_8b_eight_devices_read_the_file_once_between_them() -> None:
    """By accounting: 16 GB of tensors, of which none is allocated."""
    found = json.loads(run_python(TESTS + ACCOUNT).splitlines()[-1])
    for name, counted in found.items():
        assert counted["once"], name
        assert counted["bytes"] == 2 * 8_030_261_248
        # Norms are whole on each device, and all else is split.
        assert max(counted["held"]) < 1.001 * counted["bytes"] / 8
        assert counted["largest"] <= 2 * 128_256 * 4096 // 8


PROCESS = """
import json, sys
from pathlib import Path
import jax
import numpy as np
from safetensors.numpy import load_file
from slices import assert_parts, count_reads
from convert import fingerprint, load_llama
from sharding import initialize, placement

where, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
initialize(where, 2, number)
foreign = {}
for path in folder.glob("*.safetensors"):
    foreign |= {k: v.astype(np.float32) for k, v in load_file(path).items()}
reads, found = count_reads(), {}
for name in ("fsdp", "data"):
    put = placement(name)
    reads.total = 0
    with put.active():
        llama = put(load_llama(folder, "float32", put))
    assert_parts(llama, foreign)
    found[name] = reads.total
found["fingerprint"] = fingerprint(folder)
print(json.dumps(found))
"""


def test_each_of_two_processes_reads_its_half(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    foreign = write_hf(folder, shards=3, bfloat16=True)
    where = f"localhost:{free_port()}"
    logs = [tmp_path / f"{n}.log" for n in range(2)]
    jobs = [
        start(["-c", TESTS + PROCESS, where, str(n), str(folder)], 2, logs[n])
        for n in range(2)
    ]
    with ending(jobs):
        for job, log in zip(jobs, logs, strict=True):
            assert job.wait(120) == 0, log.read_text()[-4000:]
    size = 2 * sum(tensor.size for tensor in foreign.values())
    for log in logs:
        lines = log.read_text().splitlines()
        found = json.loads(next(line for line in lines if line.startswith("{")))
        assert found["fsdp"] == size // 2 and found["data"] == size
        assert found["fingerprint"] == fingerprint(folder)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_without_a_mesh_a_llama_is_its_tensors(
    shards: int, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = write_hf(tmp_path / "llama", shards=shards, tied=tied, bfloat16=True)
    monkeypatch.setattr(convert.hf_llama, "tensors", convert.hf_llama.tensors)
    reads = count_reads()
    for dtype in (jnp.float32, jnp.bfloat16):
        llama = load_llama(tmp_path / "llama", dtype)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(llama))
        assert {leaf.dtype for leaf in jax.tree.leaves(llama)} == {jnp.dtype(dtype)}
        assert_parts(llama, foreign)
    # One layer of one field at a time: no tensor is held beside its copy for long.
    assert reads.largest == max(tensor.nbytes for tensor in foreign.values()) // 2
    assert reads.total == 2 * 2 * sum(tensor.size for tensor in foreign.values())


@pytest.mark.parametrize("damage", ["dtype", "shape", "surplus", "doubled"])
def test_what_is_wrong_is_found_before_anything_is_read(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hf(tmp_path / "llama", shards=3)
    first, *_, last = sorted((tmp_path / "llama").glob("*.safetensors"))
    tensors, name = load_file(last), "model.layers.1.mlp.down_proj.weight"
    assert name in tensors
    if damage == "dtype":
        tensors[name] = tensors[name].astype(np.int8)
    elif damage == "shape":
        tensors[name] = tensors[name][1:]
    elif damage == "surplus":
        tensors["model.layers.2.mlp.down_proj.weight"] = np.zeros((16, 24), np.float32)
        name = "num_hidden_layers 2"
    else:
        name = next(iter(load_file(first)))
        tensors[name] = np.zeros(1, np.float32)
    save_file(tensors, last)
    monkeypatch.setattr(convert.hf_llama, "tensors", convert.hf_llama.tensors)
    reads = count_reads()
    with pytest.raises(UserError, match=name):
        load_llama(tmp_path / "llama")
    assert reads.total == 0


@given(st.data())
def test_a_lazy_array_is_padded_with_zeros(data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(1, 5)) for _ in range(2)]
    more = [n + data.draw(st.integers(0, 4)) for n in sizes]
    array = np.arange(1.0, 1 + sizes[0] * sizes[1], dtype=np.float32).reshape(sizes)
    unread = LazyArray(tuple(sizes), array.dtype, lambda box: array[box])
    wide = unread.padded(tuple(more))
    starts = [data.draw(st.integers(0, n - 1)) for n in more]
    ends = [data.draw(st.integers(a + 1, n)) for a, n in zip(starts, more, strict=True)]
    box = tuple(slice(*cut) for cut in zip(starts, ends, strict=True))
    padding = [(0, m - n) for m, n in zip(more, sizes, strict=True)]
    np.testing.assert_array_equal(wide.read(box), np.pad(array, padding)[box])
    np.testing.assert_array_equal(unread.whole(), array)
