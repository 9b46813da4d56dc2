"""Checkpoints as trees of Orbax: restored by name, and back to the bit."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax_trees import nested
from folders import write_hf
from runs import refused, save_noisy, small
from saved import bits

from convert import __main__ as command, orbax_write
from convert.orbax_read import OrbaxTree
from convert.outputs import Weight
from eqids import train
from eqids.checkpoints import chunks, read_manifest, restore, save, verify
from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.export.inspecting import inspect


def arrays_of(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a checkpoint whose names begin so."""
    records = read_manifest(path).arrays
    like = {name: np.empty(r.shape, r.dtype) for name, r in records.items()}
    return {n: x for n, x in restore(path, like).items() if n.startswith(prefix)}


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert [*ours] == [*theirs]
    for name, array in ours.items():
        assert bits(array) == bits(theirs[name]), name


def by_name(tree: Any, name: str) -> Any:
    for key in name.split("/"):
        tree = tree[key]
    return tree


def converted(capfd: pytest.CaptureFixture[str], *words: str) -> None:
    """Runs a conversion; holds the terminal to the lines of digests."""
    command.main([*words])
    said = capfd.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert all(line[64:].startswith(f"  {words[2]}") for line in lines), said.out


def trained_run(folder: Path, dataset: Dataset) -> None:
    """Saves a step with weights and something like an optimizer's state."""
    flags = TrainConfig(data_dir=dataset.path, item_width=8, adapter="linear")
    save_noisy(folder / "weights", flags, dataset)
    params = arrays_of(folder / "weights/4")
    state = {
        name.replace("params", "optimizer/1/0/mu", 1): np.asarray(-array)
        for name, array in params.items()
    }
    state |= {"optimizer/1/0/count": np.asarray(4, np.int32)}
    state |= {"optimizer/0/half": np.arange(6, dtype="bfloat16").reshape(2, 3)}
    everything = {"step": np.asarray(4, np.int32), **params, **state}
    save(folder, 4, everything, read_manifest(folder / "weights/4").meta)


@pytest.mark.parametrize("optimizer", [True, False])
def test_a_checkpoint_returns_to_the_bit(
    optimizer: bool,
    dataset: Dataset,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In many chunks and transactions, too."""
    if optimizer:
        monkeypatch.setattr(chunks, "_CHUNK_BYTES", 10_000)
        monkeypatch.setattr(orbax_write, "_COMMIT_BYTES", 200_000)
    run, out, again = (tmp_path / name for name in ("run", "tree", "again"))
    trained_run(run, dataset)
    flag = ["--optimizer"] if optimizer else []
    converted(capfd, "eqids-to-orbax", str(run / "4"), str(out), *flag)
    wanted = arrays_of(run / "4", "" if optimizer else "params/")
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(out)
        like = nested({n: np.empty_like(x) for n, x in wanted.items()})
        shaped = checkpointer.restore(out, like)
    for name, array in wanted.items():
        assert bits(by_name(tree, name)) == bits(array), name
        assert bits(by_name(shaped, name)) == bits(array), name
    text, values = inspect(out)
    assert values["kind"] == "EqIDs checkpoint as a tree of Orbax"
    assert {one["name"] for one in values["tensors"]} == wanted.keys()
    assert "params/softmax/cluster_table" in text
    converted(capfd, "orbax-to-eqids", str(out), str(again))
    same(arrays_of(again / "4"), wanted)
    assert verify(again / "4") == []
    old, new = (read_manifest(path / "4").meta for path in (run, again))
    assert new["config"].pop("checkpoint_dir") == str(again)
    del old["config"]["checkpoint_dir"]
    assert new == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "run", "tree"]


def test_a_chunk_and_a_part_are_in_memory_at_a_time() -> None:
    """By accounting, of two layers of an 8B Llama's largest matrix."""
    shape, part = (2, 14336, 4096), np.zeros((1000, 4096), np.float32)
    size, read, written, most = int(np.prod(shape)), 0, 0, 0

    def parts() -> Iterator[np.ndarray]:
        nonlocal read
        while read < size:
            rows = min(len(part), (size - read) // 4096)
            read += rows * 4096
            yield part[:rows]

    weight = Weight(shape, part.dtype, parts)
    for box, values in orbax_write._chunks(weight, orbax_write._record(weight)):
        assert values.shape == tuple(cut.stop - cut.start for cut in box)
        written += values.size
        most = max(most, 4 * (read - written) + values.nbytes)
    assert written == size
    assert most <= (32 << 20) + part.nbytes


@pytest.mark.long
def test_a_run_resumes_from_what_came_back(
    finished: Path, dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second half of a run is the same, to the bit."""
    tree, run = str(tmp_path / "tree"), tmp_path / "run"
    converted(capfd, "eqids-to-orbax", str(finished / "20"), tree, "--optimizer")
    converted(capfd, "orbax-to-eqids", tree, str(run))
    train.main(small(dataset.path, run, "--log_every", "1"))
    same(arrays_of(run / "40"), arrays_of(finished / "40"))


@pytest.mark.long
def test_a_frozen_llama_is_in_the_tree_on_request(
    dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tensors = write_hf(tmp_path / "llama")
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, train="lora", lora_rank=2,
        llama_path=tmp_path / "llama",
    )  # fmt: skip
    save_noisy(tmp_path / "run", flags, dataset)
    run, plain, whole = (str(tmp_path / name) for name in ("run", "plain", "whole"))
    converted(capfd, "eqids-to-orbax", run, plain)
    assert not any("llama/embedding" in name for name in OrbaxTree(Path(plain)).leaves)
    converted(capfd, "eqids-to-orbax", run, whole, "--with_llama")
    with ocp.StandardCheckpointer() as checkpointer:
        llama = checkpointer.restore(whole)["llama"]
    lora = arrays_of(tmp_path / "run/4", "params/llama/blocks/lora/")
    for key, tensor in tensors.items():
        got = by_name(llama, key.replace(".", "/"))
        if "proj" in key:
            continue
        np.testing.assert_array_equal(got, tensor)
    a, b = (lora[f"params/llama/blocks/lora/wq/{n}"][1] for n in "ab")
    change = np.einsum("hdr,rw->hdw", b, a).reshape(32, 16) * (32 / 2)
    key = "model.layers.1.self_attn.q_proj.weight"
    got = by_name(llama, key.replace(".", "/"))
    np.testing.assert_allclose(got, tensors[key] + change, atol=1e-5)
    for tree in (plain, whole):
        converted(capfd, "orbax-to-eqids", tree, f"{tree}-run")
        same(arrays_of(Path(f"{tree}-run/4")), arrays_of(tmp_path / "run/4"))


def test_flags_that_do_not_fit_are_refused(
    dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = TrainConfig(data_dir=dataset.path, item_width=8, adapter="linear")
    save_noisy(tmp_path / "run", flags, dataset)
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    words = ["eqids-to-orbax", run, out]
    assert "--with_llama is for a frozen Llama" in refused(
        command.main, [*words, "--with_llama"], capsys
    )
    command.main(words)
    assert "out exists already" in refused(command.main, words, capsys)
    back = ["orbax-to-eqids", out, str(tmp_path / "again")]
    assert "--seq_len is for a model in Flax" in refused(
        command.main, [*back, "--seq_len", "9"], capsys
    )
    assert "run exists already" in refused(command.main, [*back[:2], run], capsys)
    assert "--rename is 'a', wanted THEIRS=OURS" in refused(
        command.main, [*back, "--rename", "a"], capsys
    )
    manifest = json.loads((tmp_path / "out/eqids_orbax.json").read_text())
    assert manifest["step"] == 4
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    (tmp_path / "out").rename(tmp_path / "moved")
    assert "Orbax, which checks what was written: pip install 'eqids[orbax]'" in (
        refused(command.main, words, capsys)
    )
    command.main([back[0], str(tmp_path / "moved"), back[2]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "moved", "run"]
