"""The first losses of three runs, kept as text: what a change of form must not alter.

`python tests/test_golden.py` writes them anew, after a change of the mathematics.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, make_dataset
from folders import write_hf
from runs import small
from safetensors.numpy import save_file
from tokens import TEXTS, with_texts, write_tokenizer

from eqids import train
from eqids.data import Dataset

GOLDEN = ROOT / "tests" / "golden.json"
TEXT = "--text_tokens_per_item 3 --seq_len 32 --adapter mlp --warmup_steps 5 "
TEXT += "--no_text_features"
RUNS = {
    "default": "--train all",
    "frozen": f"--train heads {TEXT} --prompt Up",
    "lora": f"--train lora --lora_rank 2 --dropout 0.1 {TEXT}",
}
SHORT = "--num_steps 20 --log_every 1 --eval_every 20"


def write_llama(folder: Path) -> None:
    """Writes a tiny Llama whose vocabulary holds the tokens of a `write_tokenizer`."""
    tensors = write_hf(folder, tied=True)
    embeddings = np.random.default_rng(1).standard_normal((300, 16))
    tensors["model.embed_tokens.weight"] = (0.3 * embeddings).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))


def losses(name: str, dataset: Dataset, folder: Path) -> list[float]:
    """The losses of a run's steps."""
    flags = [*RUNS[name].split(), *SHORT.split()]
    if name != "default":
        dataset = with_texts(dataset, folder / "data", TEXTS)
        write_llama(folder / "llama")
        tokenizer = write_tokenizer(folder / "tokenizer.json")
        flags += ["--llama_path", str(folder / "llama"), "--tokenizer", str(tokenizer)]
    train.main(small(dataset.path, folder / "run", *flags))
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_before(
    name: str, dataset: Dataset, tmp_path: Path
) -> None:
    expected = json.loads(GOLDEN.read_text())[name]
    assert len(expected) == 20
    assert losses(name, dataset, tmp_path) == pytest.approx(expected, rel=1e-5)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        small_dataset = make_dataset(Path(made) / "small")
        found = {}
        for run in RUNS:
            (Path(made) / run).mkdir()
            found[run] = losses(run, small_dataset, Path(made) / run)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
