"""Runs with texts: trained, resumed, opened again, and on a mesh."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_close, run_python
from models import log_probs_at
from pytest import CaptureFixture
from runs import refused, small
from tokens import TEXTS, with_texts, write_tokenizer

import eqids
from eqids import catalog, evaluate, train
from eqids.checkpoints import read_manifest
from eqids.data import Dataset, open_dataset
from eqids.data.batches.training_batches import query_batch
from eqids.model import Batch

TEXT = ["--text_tokens_per_item", "3", "--prompt", "Up", "--seq_len", "32"]


def text_flags(tokenizer: Path) -> list[str]:
    return [*TEXT, "--tokenizer", str(tokenizer), "--train", "heads"]


@pytest.fixture(scope="module")
def trained(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Dataset, Path, Path]:
    """A dataset with texts, its tokenizer, and the folder of a run with texts.

    Llama is frozen: its prompt is computed once.
    """
    folder = tmp_path_factory.mktemp("tokens")
    texted = with_texts(dataset, folder / "d", TEXTS)
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    train.main(small(texted.path, folder / "run", *text_flags(tokenizer)))
    return texted, tokenizer, folder / "run"


def test_a_run_records_its_words_and_opens_with_them(
    trained: tuple[Dataset, Path, Path],
) -> None:
    dataset, tokenizer, run = trained
    manifest = read_manifest(run / "40")
    assert manifest.meta["config"]["flags"]["prompt"] == "Up"
    recommender = eqids.load(run)
    opened = recommender.opened
    assert opened.tokens is not None and len(opened.tokens.prompt) == 0
    assert opened.prefix is not None and opened.prefix.length > 0
    # Nano's 256 tokens are fewer than the tokenizer's.
    assert opened.model.config.llama.vocab == opened.tokens.vocab > 256
    history = dataset.history(0)[:9]
    batch = Batch.of(query_batch([history], [None], 32, opened.tokens))
    at = int(np.count_nonzero(batch.segment)) - 1
    scores = np.asarray(log_probs_at(opened.model, batch, at, opened.prefix))
    items = dataset.items().set_index("slot")["item"]
    found = recommender.recommend([items[history].tolist()], k=3, filter_seen=False)
    best = np.argsort(-scores)[:3]
    assert found["item"].tolist() == items[best].tolist()
    np.testing.assert_allclose(found["probability"], np.exp(scores[best]), rtol=1e-4)


def test_the_evaluate_command_measures_as_the_run_did(
    trained: tuple[Dataset, Path, Path], tmp_path: Path
) -> None:
    _, tokenizer, run = trained
    moved = shutil.copy(tokenizer, tmp_path / "mine.json")
    evaluate.main(
        ["--checkpoint", str(run), "--json", str(tmp_path / "r.json"),
         "--tokenizer", str(moved)]
    )  # fmt: skip
    result = json.loads((tmp_path / "r.json").read_text())
    said = json.loads((run / "result.json").read_text())
    assert result["nll"] == pytest.approx(said["nll"], rel=1e-6)
    assert result["filtered"] == said["filtered"]
    evaluate.main(
        ["--checkpoint", str(run), "--json", str(tmp_path / "r.json"),
         "--tokenizer", str(moved), "--eval_users", "7"]
    )  # fmt: skip
    assert json.loads((tmp_path / "r.json").read_text())["num_users"] == 7


def test_a_checkpoint_wants_its_own_tokenizer_and_texts(
    trained: tuple[Dataset, Path, Path], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    dataset, tokenizer, run = trained
    flags = ["--checkpoint", str(run)]
    other = write_tokenizer(tmp_path / "other.json", vocab=280)
    said = refused(evaluate.main, [*flags, "--tokenizer", str(other)], capsys)
    assert "is another tokenizer" in said and "see --tokenizer" in said
    away = tokenizer.with_name("away.json")
    tokenizer.rename(away)
    try:
        said = refused(evaluate.main, flags, capsys)
    finally:
        away.rename(tokenizer)
    assert f"the tokenizer {tokenizer}, which no longer exists: add --tokenizer" in said
    with_texts(dataset, tmp_path / "d", ["Other texts"])
    said = refused(evaluate.main, [*flags, "--data_dir", str(tmp_path / "d")], capsys)
    assert "was trained with other texts of items than" in said


def test_a_run_goes_on_with_its_own_texts_only(
    trained: tuple[Dataset, Path, Path], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    dataset, tokenizer, run = trained
    same = ["--tokenizer", str(tokenizer), "--train", "heads"]
    other = write_tokenizer(tmp_path / "other.json", vocab=300, texts=["else"])
    for more, said in (
        ([*TEXT[2:], *same], "--text_tokens_per_item 3, this run has 0"),
        ([*TEXT, *same, "--prompt", "No"], "--prompt Up, this run has No"),
        (text_flags(other), ", this run has "),
    ):
        message = refused(train.main, small(dataset.path, run, *more), capsys)
        assert said in message and "wanted the same" in message
    train.main(small(dataset.path, run, *TEXT, *same))
    assert "going on from step 40" in capsys.readouterr().out


def test_a_tokenizer_is_needed_for_texts_only(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    for more, said in (
        (TEXT, "texts of items need a tokenizer: wanted --tokenizer FILE"),
        (["--tokenizer", str(tokenizer)], "wanted --text_tokens_per_item or --prompt"),
        (["--text_tokens_per_item", "-1"], "--text_tokens_per_item is -1, wanted 0"),
        ([*TEXT, "--seq_len", "5", "--tokenizer", str(tokenizer)],
         "--seq_len is 5, wanted at least 6 positions"),
    ):  # fmt: skip
        flags = small(dataset.path, tmp_path / "run", *more)
        assert said in refused(train.main, flags, capsys)


def test_texts_follow_a_catalog_that_grows(
    trained: tuple[Dataset, Path, Path], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    dataset, _, run = trained
    shutil.copytree(dataset.path, tmp_path / "d")
    (tmp_path / "new.csv").write_text("item_id,title,text\nx,X,The Third Man\n")
    data = ["--data_dir", str(tmp_path / "d")]
    more = ["--checkpoint", str(run), "--output", str(tmp_path / "v2")]
    catalog.main(["add", *data, "--items", str(tmp_path / "new.csv"), *more])
    grown = open_dataset(tmp_path / "d")
    opened = eqids.load(tmp_path / "v2", tmp_path / "d").opened
    assert opened.tokens is not None
    (slot,) = grown.slot_of(["x"])
    assert opened.tokens.length[slot] == 3
    said = capsys.readouterr().out
    rows = [
        line.split() for line in said.splitlines() if line[:6] in ("before", "after ")
    ]
    # The items that were there read as before, whatever their slots are now.
    assert len(rows) == 2 and float(rows[0][2]) == pytest.approx(
        float(rows[1][2]), abs=0.1
    )


MESH = """
import sys; sys.path.insert(0, 'tests')
import dataclasses, json
from pathlib import Path
import equinox as eqx, jax, jax.numpy as jnp
from conftest import make_dataset
from test_words import random_words
from eqids.config import LlamaConfig, ModelConfig, NANO_RECIPE
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit.evaluation import evaluate, make_ranker
from eqids.fit.optimizer import make_optimizer
from eqids.runs.new_model import initial_model
from eqids.fit.step import make_step, split, start
from eqids.fit.step_config import StepConfig
from eqids.model import Batch
import sharding
from sharding import Placement

dataset = make_dataset(Path(FOLDER) / "mesh", num_clusters=7, num_items=40)
words = random_words(dataset, 3, 6, 2)
# Words all over the vocabulary, which some layouts split.
words = dataclasses.replace(words, ids=9 * words.ids, prompt=9 * words.prompt)
llama = LlamaConfig(32, 2, 4, 4, 8, 64, 64, tied=True)
sizes = ModelConfig(llama, 7, dataset.info.cluster_size, item_width=8)
batches = TrainingBatches(dataset, BatchConfig(32, 8), words)
FLOAT32 = jnp.dtype("float32")

def losses(put):
    with put.active():
        model = initial_model(sizes, dataset, None, jax.random.key(0))
        config = StepConfig("all", NANO_RECIPE)
        params, frozen = split(put(model), "all", FLOAT32)
        state = start(params, make_optimizer(config))
        step = make_step(config)
        out = []
        for k in range(4):
            batch = put(Batch.of(batches.batch(k)))
            state, metrics = step(state, frozen, batch, jax.random.key(1))
            out.append(float(metrics.loss))
        ranker = make_ranker(32, FLOAT32, put, words)
        result = evaluate(eqx.combine(state.params, frozen), dataset, "valid", ranker)
        return [*out, result["nll"]]

found = {"none": losses(Placement(None, None))}
for name in ("fsdp", "tensor"):
    layout = sharding.named_layout(name, 8)
    found[name] = losses(Placement(layout, sharding.make_mesh(layout)))
print(json.dumps(found))
"""


@pytest.mark.long
def test_losses_with_words_are_the_same_on_eight_devices(tmp_path: Path) -> None:
    found = json.loads(
        run_python(MESH.replace("FOLDER", repr(str(tmp_path)))).splitlines()[-1]
    )
    for losses in found.values():
        assert_close(losses, found["none"], "mesh")
    assert len(set(found["none"])) == 5
