"""`convert eqids-to-stablehlo`, and the loader that it writes."""

import hashlib
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from exports import close, jax_alone, started
from folders import write_hf
from runs import refused, save_noisy
from text_runs import flags_of

import eqids
from convert import __main__ as command
from eqids import train
from eqids.config import TrainConfig
from eqids.data import Dataset


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jax_alone(tmp_path_factory.mktemp("jax") / "alone")


def test_the_command_writes_what_its_loader_reads(
    dataset: Dataset,
    packages: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", seq_len=16
    )
    save_noisy(tmp_path / "run", flags, dataset)
    run, out = tmp_path / "run", tmp_path / "out"
    words = ["eqids-to-stablehlo", str(run), str(out), "--k", "3"]
    words += ["--rows", "1", "--lengths", "16"]
    command.main(words)
    digest = hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    assert f"{digest}  {out / 'manifest.json'}" in capsys.readouterr().out
    said = started(packages, tmp_path, out / "loader.py", "item 3,item 5", "--k", "2")
    assert said.returncode == 0, said.stderr
    found = eqids.load(run).recommend([["item 3", "item 5"]], k=2)
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    assert [line[:2] for line in lines] == found[["item", "title"]].values.tolist()
    np.testing.assert_allclose(
        [float(line[2]) for line in lines], found["probability"], atol=1e-6
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert shlex.split(manifest["command"])[3:-1] == words
    assert "exists already, wanted a new folder, or --over" in refused(
        command.main, words, capsys
    )
    inode = out.stat().st_ino
    command.main([*words, "--overwrite"])
    assert out.stat().st_ino != inode
    assert json.loads((out / "manifest.json").read_text()) == manifest
    for some_flags, says in REFUSED.items():
        assert says in refused(command.main, [*words[:2], *some_flags], capsys)
    other = [*words[:2], str(run), "--overwrite"]
    assert "is no export of eqids-to-stablehlo" in refused(command.main, other, capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    (out / "items.json").write_text("[]")
    said = started(packages, tmp_path, out / "loader.py", "item 3")
    assert (said.returncode, said.stdout) == (2, "")
    assert "items.json is not the file that was exported" in said.stderr
    assert "Traceback" not in said.stderr


REFUSED = {
    ("new", "--k", "0"): "--k is 0, wanted 1 or more",
    ("new", "--rows", "1", "-3"): "--rows is 1 -3, wanted 1 or more",
    ("new", "--lengths", "0"): "--lengths is 0, wanted 1 or more",
    ("new", "--lengths", "999"): "--lengths has 999, wanted at most",
    ("new", "--jaxlib_released", "May"): "--jaxlib_released is 'May', wanted a date",
    ("new", "--data_dir", "none"): "none",
}
"""Flags, and what the command says of them."""


def test_missing_flatbuffers_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ["eqids-to-stablehlo", "run", str(tmp_path / "out")]
    assert "flatbuffers: pip install 'eqids[stablehlo]'" in refused(
        command.main, words, capsys
    )


@pytest.mark.long
def test_a_frozen_llama_stays_in_bfloat16(
    dataset: Dataset, packages: Path, tmp_path: Path
) -> None:
    write_hf(tmp_path / "llama", bfloat16=True)
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", train="heads",
        llama_path=tmp_path / "llama", dtype="bfloat16",
    )  # fmt: skip
    save_noisy(tmp_path / "run", flags, dataset)
    words = [str(tmp_path / "run"), str(tmp_path / "out"), "--rows", "1", "--lengths"]
    command.main(["eqids-to-stablehlo", *words, "16"])
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["weights"]["llama.blocks.wq"]["dtype"] == "bfloat16"
    found = eqids.load(tmp_path / "run").recommend([["item 3", "item 5"]], k=5)
    loader = tmp_path / "out/loader.py"
    said = started(packages, tmp_path, loader, "item 3,item 5", "--k", "5")
    assert said.returncode == 0, said.stderr
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    assert [line[0] for line in lines] == found["item"].tolist()
    close([float(line[2]) for line in lines], found["probability"])


@pytest.mark.long
def test_a_run_with_text_columns_and_its_pair_are_exported_alike(
    loyal: Dataset, text_llama: Path, packages: Path, tmp_path: Path
) -> None:
    run, pair = tmp_path / "run", tmp_path / "pair"
    train.main(flags_of(loyal.path, run, text_llama))
    command.main(["eqids-to-hf", str(run), str(pair)])
    files = []
    for given, out in ((run, "first"), (pair, "second")):
        words = [str(given), str(tmp_path / out), "--rows", "1"]
        command.main(["eqids-to-stablehlo", *words])
        manifest = json.loads((tmp_path / out / "manifest.json").read_text())
        files.append(manifest["files"])
    assert files[0] == files[1] and "text_lift" in str(manifest["weights"])
    history = loyal.items()["item"].tolist()[:3]
    ids = ",".join(map(str, history))
    said = started(packages, tmp_path, tmp_path / "first/loader.py", ids, "--k", "9")
    assert said.returncode == 0, said.stderr
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    found = eqids.load(run).recommend([history], k=9)
    assert [line[0] for line in lines] == [*map(str, found["item"])]
    close([float(line[2]) for line in lines], found["probability"])
