"""The command `python -m eqids.checkpoint`."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import transformers
from conftest import ROOT
from saved import run_of, small_tree, tiny

from eqids.checkpoint import main
from eqids.checkpoints import save
from eqids.config import LLAMA_PRESETS, UserError


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


def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(monkeypatch)
    tree = small_tree()
    wq = jnp.arange(2 * 3 * 5 * 70.0).reshape(2, 3, 5, 70)  # layer heads head width
    llama = {"embedding": wq[0, 0], "norm": wq[0, 0, 0], "blocks": {"wq": wq}}
    tree["params"] |= {
        "llama": llama,
        "softmax": {"table": wq[1], "scale": wq[0, 0, 0, 1]},
    }
    path, out = (
        save(tmp_path, 5, tree, {"catalog_id": "c-1"}),
        tmp_path / "x.safetensors",
    )
    main(["export", str(path), str(out)])
    got = safetensors.torch.load_file(out)
    named = {
        "eqids.wide": tree["params"]["wide"],
        "eqids.zero": tree["params"]["zero"],
        "eqids.half": tree["params"]["half"].astype(jnp.float32),
        "eqids.softmax.table": wq[1],
        "eqids.softmax.scale": wq[0, 0, 0, 1],
        "model.embed_tokens.weight": wq[0, 0],
        "model.norm.weight": wq[0, 0, 0],
        "model.layers.0.self_attn.q_proj.weight": wq[0].reshape(15, 70),
        "model.layers.1.self_attn.q_proj.weight": wq[1].reshape(15, 70),
    }
    assert got.keys() == named.keys()
    assert str(got["eqids.half"].dtype) == "torch.bfloat16"
    for name, values in named.items():
        ours = got[name].float() if name == "eqids.half" else got[name]
        np.testing.assert_array_equal(ours.numpy(), values, err_msg=name, strict=True)
    with safetensors.safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["meta"]) == {"catalog_id": "c-1"}
    assert [p.name for p in tmp_path.glob(".*.partial*")] == []


def test_an_exported_llama_has_hugging_faces_names(
    finished: Path, tmp_path: Path
) -> None:
    """All of them, and none that transformers does not know."""
    out = tmp_path / "x.safetensors"
    main(["export", str(finished), str(out)])
    with safetensors.safe_open(out, "np") as file:
        names = {name for name in file.keys() if not name.startswith("eqids.")}
    num_layers = LLAMA_PRESETS["nano"].num_layers
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_attention_heads=1,
        num_hidden_layers=num_layers, tie_word_embeddings=True,
    )  # fmt: skip
    theirs = dict(transformers.LlamaForCausalLM(config).named_parameters())
    assert names == theirs.keys()
