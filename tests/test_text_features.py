"""Runs whose items have text columns: where they come from, and where they go."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from models import FLOAT32, NOWHERE, log_probs_at, queries
from plays import write_csv
from pytest import CaptureFixture, MonkeyPatch
from runs import refused
from safetensors.numpy import load, load_file
from text_runs import (
    KINDS,
    LEARNED,
    TEXT,
    add_items,
    flags_of,
    write_llama,
)

from convert import __main__ as convert_command
from eqids import catalog, train
from eqids.checkpoints import read_manifest
from eqids.config import TrainConfig, UserError
from eqids.data import Dataset, open_dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.batches.training_batches import query_batch
from eqids.fit.evaluation import evaluate, make_ranker
from eqids.fit.gate import evaluate_with_best_gates, gates, with_lift
from eqids.inference.open import Opened, open_checkpoint, open_pair
from eqids.inference.recommender import Recommender
from eqids.model import Batch, Llama
from eqids.runs import text_features as features


@pytest.fixture(scope="module")
def trained(
    loyal: Dataset, text_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train.main(flags_of(loyal.path, folder, text_llama))
    return folder


def scores(opened: Opened, users: list[int]) -> np.ndarray:
    """Log-probabilities of all slots after the whole histories of users."""
    found = []
    for user in users:
        start, stop = opened.dataset.offsets[user : user + 2]
        slots = opened.dataset.slots[start:stop][None].astype(np.int32)
        zeros = np.zeros_like(slots)
        position = np.arange(slots.shape[1], dtype=np.int32)[None]
        arrays = zeros, slots, zeros, zeros + 1, position, zeros - 1
        batch = Batch(*map(jnp.asarray, arrays))
        query = queries(opened.model, batch)[:, -1]
        found.append(np.asarray(opened.model.softmax.log_probs(query))[0])
    return np.array(found)


def slots_of(dataset: Dataset, items: list[int]) -> np.ndarray:
    by_id = dataset.items().set_index("item")["slot"]
    return by_id.loc[items].to_numpy()


def test_an_unused_item_copies_what_its_text_lacks_and_ranks_with_its_kind(
    trained: Path, loyal: Dataset, text_llama: Path
) -> None:
    opened = open_checkpoint(trained, None, None, NOWHERE)
    softmax, sizes = opened.model.softmax, opened.model.config
    assert (sizes.item_width, sizes.text_width) == (LEARNED + TEXT, TEXT)
    assert opened.config.flags.text_features and opened.config.strategy == "all"
    text = np.asarray(softmax.text).reshape(-1, TEXT)
    learned = np.asarray(softmax.table).reshape(-1, LEARNED)
    items = loyal.items()
    slot, count = items["slot"].to_numpy(), items["count"].to_numpy()
    size, bias = loyal.info.cluster_size, np.asarray(softmax.bias).reshape(-1)
    for unused in slot[count == 0]:
        # Items of its cluster with the same text are the most similar.
        others = slot[(slot // size == unused // size) & (count > 0)]
        distance = np.linalg.norm(text[others] - text[unused], axis=1)
        copied = (learned[others] == learned[unused]).all(axis=1)
        copied &= bias[others] == bias[unused]
        assert copied.any() and distance[copied].min() < distance.min() + 1e-6
    assert (count == 0).sum() == 4
    # Equal texts have equal columns, and the size of columns is the documented one.
    for kind in range(4):
        same = slots_of(loyal, [*range(kind, 48, 4), 48 + kind])
        assert text[same].any() and np.ptp(text[same], axis=0).max() < 1e-6
    assert_close(np.std(text[slot]), features.TEXT_STD, "float32")
    # Users of a kind are recommended the unused item of their kind.
    found = scores(opened, list(range(8)))
    cold = slots_of(loyal, [48, 49, 50, 51])
    own = found[np.arange(8), cold[np.arange(8) % 4]]
    above = (found[:, slot] > own[:, None]).mean(axis=1)
    assert above.mean() < 0.4, above
    others = np.sort(found[:, cold], axis=1)[:, :3].mean(axis=1)
    assert (own > others).all()
    assert np.isfinite(found[:, cold]).all()


def test_answers_are_lifted_by_the_texts_as_validation_chose(
    trained: Path, loyal: Dataset
) -> None:
    opened = open_checkpoint(trained, None, None, NOWHERE)
    recorded = read_manifest(opened.path).meta["validation"]
    ranker = make_ranker(opened.config.recipe.seq_len, opened.dtype, NOWHERE)
    found = evaluate(opened.model, loyal, "valid", ranker)
    assert found["filtered"] == pytest.approx(recorded["filtered"], rel=1e-6)
    assert recorded["text_lift"] == float(gates(opened.model)[-1])
    chosen, best = evaluate_with_best_gates(opened.model, loyal, ranker)
    assert best["filtered"] == pytest.approx(recorded["filtered"], rel=1e-6)
    assert [float(x) for x in gates(chosen)] == [float(x) for x in gates(opened.model)]
    # A lift changes answers, and they are those of the lifted queries.
    model = with_lift(opened.model, 4.0)
    recommender = Recommender(dataclasses.replace(opened, model=model))
    history = recommender.of_user(3)
    table = recommender.recommend([history], k=6)
    slots, num = history.slots, len(history.slots)
    batch = Batch.of(query_batch([slots], [history.times], num))
    prob = np.exp(np.array(log_probs_at(model, batch, num - 1)))
    prob[slots] = 0
    best_six = np.sort(prob)[::-1][:6]
    np.testing.assert_allclose(table["probability"], best_six, rtol=1e-4)
    plain = np.exp(np.array(log_probs_at(with_lift(model, 0.0), batch, num - 1)))
    left = prob > 0
    assert np.abs(prob[left] / plain[left] - 1).max() > 0.1


def test_texts_are_encoded_once(
    trained: Path,
    loyal: Dataset,
    text_llama: Path,
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
) -> None:
    made, encode = list[int](), features.text_vectors

    def counted(llama: Llama, tokens: ItemTokens, *more: object) -> np.ndarray:
        made.append(int(np.count_nonzero(tokens.length)))
        return encode(llama, tokens, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "text_vectors", counted)
    shutil.copytree(loyal.path, tmp_path / "d")
    data = open_dataset(tmp_path / "d")
    flags = TrainConfig(data_dir=data.path, text_llama_path=text_llama)
    encoder = features.LlamaEncoder.of_run(flags, None, None)

    def encodings(dataset: Dataset) -> np.ndarray:
        return encoder.encodings(dataset, FLOAT32, NOWHERE, print)

    first = encodings(data)
    assert made == []  # `trained` left them in the dataset folder
    (cache,) = data.path.glob("encodings-*.safetensors")
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-9] + bytes(9))
    assert np.array_equal(encodings(data), first) and made == [4]  # distinct texts
    for name, array in load(whole).items():
        np.testing.assert_array_equal(load_file(cache)[name], array)
    # A new version of the catalog keeps them, and encodings follow their items.
    add_items(
        data.path, [(60, "red stone", 0), (61, KINDS[0], 0), (62, "red stone", 3)]
    )
    data = open_dataset(data.path)
    then = encodings(data)
    assert made == [4, 1]
    slots = slots_of(data, [60, 61, 62, 4])
    assert np.array_equal(then[slots[0]], then[slots[2]])
    assert np.array_equal(then[slots[1]], then[slots[3]])
    assert not np.array_equal(then[slots[0]], then[slots[1]])
    # Another Llama has encodings of its own; without a cache nothing else differs.
    other = dataclasses.replace(
        flags, text_llama_path=write_llama(tmp_path / "other", 1)
    )
    said = list[str]()
    monkeypatch.setattr("eqids.io.cached_arrays.new_file", _refuses)
    found = features.LlamaEncoder.of_run(other, None, None).encodings(
        data, FLOAT32, NOWHERE, said.append
    )
    assert made == [4, 1, 5] and not np.allclose(found, then)
    assert len(said) == 1 and "every run encodes the texts again" in said[0]


def _refuses(path: Path) -> None:
    raise UserError(f"{path} could not be written: no space")


@pytest.mark.long
def test_a_checkpoint_opens_without_the_llama_and_a_run_goes_on(
    loyal: Dataset, text_llama: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    gone = shutil.copytree(text_llama, tmp_path / "gone")
    flags = flags_of(loyal.path, tmp_path / "run", gone, "--num_steps", "4")
    flags[flags.index("--eval_every") + 1] = "2"
    train.main([*flags, "--stop_at", "2"])
    shutil.rmtree(gone)
    before = open_checkpoint(tmp_path / "run", None, None, NOWHERE)
    text = np.asarray(before.model.softmax.text)
    assert text.any()
    train.main(flags)
    after = open_checkpoint(tmp_path / "run" / "4", None, None, NOWHERE)
    np.testing.assert_array_equal(after.model.softmax.text, text)
    assert after.config.text_encoder == before.config.text_encoder is not None
    # A second stage keeps the columns; a run of its own needs the Llama.
    more = ["--load_checkpoint", str(tmp_path / "run" / "4"), "--num_steps", "1"]
    train.main([*more, "--checkpoint_dir", str(tmp_path / "2"), "--batch_size", "4"])
    said = capsys.readouterr().out
    assert f"--text_width {TEXT}" in said
    stage = open_checkpoint(tmp_path / "2", None, None, NOWHERE)
    np.testing.assert_array_equal(stage.model.softmax.text, text)
    assert stage.config.text_encoder == before.config.text_encoder
    _ = refused(train.main, flags_of(loyal.path, tmp_path / "3", gone), capsys)


def test_a_pair_and_its_checkpoint_are_one_model(
    trained: Path, text_llama: Path, tmp_path: Path
) -> None:
    convert_command.main(["eqids-to-hf", str(trained), str(tmp_path / "pair")])
    ours = open_checkpoint(trained, None, None, NOWHERE)
    theirs = open_pair(tmp_path / "pair", None, NOWHERE)
    leaves = (jax.tree.leaves(opened.model) for opened in (ours, theirs))
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_array_equal(one, other)
    assert theirs.model.text_axes is not None
    convert_command.main(["items", str(trained), str(tmp_path / "items")])
    about = json.loads((tmp_path / "items" / "items.json").read_text())
    assert about["step"] == ours.step
    flags = ["--init_from", str(tmp_path / "pair"), "--num_steps", "1"]
    train.main([*flags, "--checkpoint_dir", str(tmp_path / "run"), "--train", "all"])
    again = open_checkpoint(tmp_path / "run", None, None, NOWHERE)
    np.testing.assert_array_equal(again.model.softmax.text, ours.model.softmax.text)


def test_new_items_of_a_catalog_get_the_columns_of_their_texts(
    trained: Path, loyal: Dataset, text_llama: Path, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    data = shutil.copytree(loyal.path, tmp_path / "d")
    run = shutil.copytree(trained, tmp_path / "run")
    rows = [(70, KINDS[1]), (71, "")]
    flags = ["--checkpoint", str(run), "--output", str(tmp_path / "run2")]
    file = write_csv(tmp_path / "new.csv", rows, ("item_id", "title"))
    command = ["add", "--data_dir", str(data), "--items", str(file), *flags]
    command += ["--text", "{title}"]
    other = write_llama(tmp_path / "other", 1)
    said = refused(catalog.main, [*command, "--text_llama_path", str(other)], capsys)
    assert "holds another Llama or tokenizer" in said
    none = str(tmp_path / "none")
    said = refused(catalog.main, [*command, "--text_llama_path", none], capsys)
    assert "no longer exists: add --text_llama_path DIR" in said
    assert open_dataset(data).info.num_items == 52
    catalog.main(command)
    before = open_checkpoint(run, loyal.path, None, NOWHERE)
    after = open_checkpoint(tmp_path / "run2", data, None, NOWHERE)
    now = open_dataset(data)
    text, learned = (
        np.asarray(table).reshape(-1, table.shape[-1])
        for table in (after.model.softmax.text, after.model.softmax.table)
    )
    new, mute, twin = slots_of(now, [70, 71, 1])
    assert_close(text[new], text[twin], "float32")
    size = now.info.cluster_size
    used = now.items()["slot"].to_numpy()
    used = used[(used // size == new // size) & (used != new) & (used != mute)]
    cosine = text[used] @ text[new] / np.linalg.norm(text[used], axis=1)
    np.testing.assert_array_equal(learned[new], learned[used[cosine.argmax()]])
    assert text[new].any() and not text[mute].any() and learned[mute].any()
    for item in (3, 17, 50):
        (then,), (here,) = slots_of(loyal, [item]), slots_of(now, [item])
        for name, width in (("text", TEXT), ("table", LEARNED)):
            was = np.asarray(getattr(before.model.softmax, name)).reshape(-1, width)
            mine = {"text": text, "table": learned}[name]
            np.testing.assert_array_equal(mine[here], was[then])
    found = scores(after, [1, 5])
    assert np.isfinite(found[:, new]).all()
