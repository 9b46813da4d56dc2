"""A run that is stopped and resumed equals the uninterrupted run."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_close, make_dataset, run_python
from folders import write_hf
from kills import logged
from pytest import CaptureFixture, MonkeyPatch
from runs import refused, small
from safetensors.numpy import load_file, save_file
from surroundings import full_disk

from eqids import evaluate, train
from eqids.checkpoints import damaged, read_manifest, saver, steps
from eqids.data import Dataset
from eqids.fit.results import RESULT_FILE

PRETRAINED = "--adapter linear --dropout 0.1 --warmup_steps 5"


@pytest.mark.parametrize(
    "more",
    [
        "--train all",
        pytest.param(
            "--train all --item_optimizer lazy_adam --accumulate 2",
            marks=pytest.mark.long,
        ),
        pytest.param(f"--train heads {PRETRAINED}", marks=pytest.mark.long),
        pytest.param(
            f"--train lora --lora_rank 2 {PRETRAINED}", marks=pytest.mark.long
        ),
    ],
)
def test_stopped_and_resumed_is_bitwise_the_uninterrupted_run(
    more: str,
    dataset: Dataset,
    finished: Path,
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    """With packing, shuffled ties, hidden gaps and dropout."""
    flags = [*more.split(), "--log_every", "1"]
    if PRETRAINED in more:
        write_hf(tmp_path / "llama")
        flags += ["--llama_path", str(tmp_path / "llama")]
    whole, run = tmp_path / "whole", tmp_path / "run"
    if more == "--train all":
        whole = finished
    else:
        train.main(small(dataset.path, whole, *flags))
    train.main(small(dataset.path, run, *flags, "--stop_at", "20"))
    assert steps(run) == [20] and not (run / RESULT_FILE).exists()
    capsys.readouterr()
    train.main(small(dataset.path, run, *flags))
    assert "going on from step 20" in capsys.readouterr().out
    lines = logged(run)
    assert [step for (step, name), _ in lines if name == "loss"] == list(range(1, 41))
    assert lines == logged(whole)
    for step in ("20", "40"):
        one, two = (read_manifest(folder / step).arrays for folder in (whole, run))
        assert any(name.startswith("optimizer/") for name in one)
        assert one == two
    results = [(folder / RESULT_FILE).read_text() for folder in (whole, run)]
    assert results[0] == results[1]


ORDER = """
import dataclasses, json, zlib
from eqids import train
from eqids.data.batches.training_batches import TrainingBatches
make, order = TrainingBatches.batch, {}
def batch(self, k, **rows):
    host = make(self, k, **rows)
    data = b"".join(a.tobytes() for a in dataclasses.astuple(host) if a is not None)
    order[k] = zlib.crc32(data)
    return host
TrainingBatches.batch = batch
train.main(FLAGS)
print(json.dumps(order))
"""


@pytest.mark.long
def test_a_run_goes_on_with_fewer_devices(dataset: Dataset, tmp_path: Path) -> None:
    """From eight to two to one: item tables of 5 clusters are padded to 8, 6 and 5."""
    whole, run = tmp_path / "whole", tmp_path / "run"

    def go_on(devices: int, folder: Path, stop: int) -> dict[str, int]:
        more = "--batch_size 8 --log_every 1 --layout fsdp --item_optimizer lazy_adam"
        flags = small(dataset.path, folder, *more.split(), "--stop_at", str(stop))
        code = ORDER.replace("FLAGS", repr(flags))
        order = json.loads(run_python(code, devices=devices).splitlines()[-1])
        assert isinstance(order, dict)
        return order

    order = go_on(8, whole, 40)
    shutil.copytree(whole / "20", run / "20")
    rest = {**go_on(2, run, 30), **go_on(1, run, 40)}
    assert len(set(order.values())) == 40
    assert rest == {k: order[k] for k in map(str, range(20, 40))}
    late = [line for line in logged(whole) if line[0][0] > 20]
    for (key, ours), (same, theirs) in zip(logged(run), late, strict=True):
        assert key == same
        for name in ours.keys() & {"loss", "valid_nll"}:
            # The steps magnify differences of rounding: from 1e-7 to 1e-3 in 20 on one
            # CPU, and to 6e-3 on another.
            if key[0] <= 30:
                assert_close(ours[name], theirs[name], "mesh")
            assert ours[name] == pytest.approx(theirs[name], rel=2e-2)


# Bad surroundings


@pytest.mark.long
def test_a_full_disk_costs_checkpoints_and_not_the_run(
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
    capsys: CaptureFixture[str],
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    more = "--save_every 10 --eval_every 40 --keep 9 --log_every 1".split()
    write, full = saver.write_step, {10, 40}

    def write_step(directory: Path, step: int, *args: Any) -> None:
        short = full_disk(100_000) if step in full else contextlib.nullcontext()
        with short:
            write(directory, step, *args)

    monkeypatch.setattr(saver, "write_step", write_step)
    flags = small(dataset.path, run, *more, "--save_blocking")
    said = refused(train.main, flags, capsys)
    first, *_, last = said.splitlines()
    assert first.startswith(f"warning: step 10 of {run} could not be saved: ")
    assert first.endswith("; training continues") and "File too large" in first
    assert last.startswith(f"error: step 40 of {run} could not be saved: ")
    assert steps(run) == [20, 30]
    full.clear()
    for folder in (run, whole):
        train.main(small(dataset.path, folder, *more))
    assert steps(run) == [20, 30, 40]
    one, two = (read_manifest(folder / "40").arrays for folder in (run, whole))
    assert one == two


def test_a_folder_that_is_a_file_is_refused(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("mine")
    said = refused(train.main, small(dataset.path, tmp_path / "run"), capsys)
    assert "run cannot be written to (File exists), wanted a folder" in said
    assert (tmp_path / "run").read_text() == "mine"


def test_another_catalog_is_refused(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    other = make_dataset(tmp_path / "other", seed=1)
    said = refused(train.main, small(other.path, finished), capsys)
    assert (
        f"{finished / '40'} was trained on another catalog than that of {other.path}"
        in said
    )
    assert f"see --data_dir (it was {dataset.path})" in said
    assert f"eqids.prepare --catalog OLD ({dataset.path})" in said
    assert "python -m eqids.catalog migrate" in said
    assert "another --checkpoint_dir" in said and said.count("\n") == 1
    for one in (dataset, other):
        assert one.info.catalog_id[:12] not in said


def test_without_its_base_or_with_another_one_a_run_does_not_go_on(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    llama, run = tmp_path / "llama", tmp_path / "run"
    write_hf(llama)
    flags = small(dataset.path, run, "--llama_path", str(llama), "--stop_at")
    train.main([*flags, "1"])
    file = llama / "model.safetensors"
    tensors = load_file(file)
    save_file({name: 2 * values for name, values in tensors.items()}, file)
    said = refused(train.main, [*flags, "2"], capsys)
    assert f"{run / '1'} was trained over another Llama than this run has in" in said
    assert "wanted the same weights, see --llama_path" in said
    llama.rename(tmp_path / "elsewhere")
    for command, asked in (
        (train, [*flags, "2"]),
        (evaluate, ["--checkpoint", str(run)]),
    ):
        said = refused(command.main, asked, capsys)
        assert f"the Llama in {llama}, which no longer exists" in said
        assert "give its new path: --llama_path DIR" in said
    assert steps(run) == [1]


@pytest.mark.parametrize("version", [0, 9])
def test_another_format_version_is_refused_and_not_taken_for_damage(
    version: int,
    dataset: Dataset,
    finished: Path,
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    manifest = run / "40" / "manifest.json"
    text = manifest.read_text().replace('_version": 2', f'_version": {version}')
    manifest.write_text(text)
    guard = f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n"
    (run / "40" / "manifest.json.sha256").write_text(guard)
    said = refused(train.main, small(dataset.path, run), capsys)
    assert (
        f"step 40 of {run}: manifest.json has format_version {version}, wanted 2"
        in said
    )
    assert (steps(run), damaged(run)) == ([20, 40], [])


def test_weights_to_start_from_that_are_damaged_are_refused(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    path = shutil.copytree(finished / "40", tmp_path / "40")
    (file,) = (path / "arrays").glob("*/d/*")
    data = np.fromfile(file, np.uint8)
    data[::1000] ^= 1  # weights as well: state of the optimizer is not read
    data.tofile(file)
    flags = small(dataset.path, tmp_path / "run", "--load_checkpoint", str(path))
    said = refused(train.main, flags, capsys)
    assert f"step 40 of {tmp_path}: array " in said and "is damaged" in said
    assert damaged(tmp_path) == [] and not (tmp_path / "run").exists()
