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
from models import FLOAT32, NOWHERE, TINY
from plays import prepared, write_csv
from pytest import CaptureFixture, MonkeyPatch
from runs import refused, small
from safetensors.numpy import load, load_file
from test_cold_start import KINDS
from tokens import with_texts, write_tokenizer

from convert import __main__ as convert_command, save_llama
from eqids import catalog, train
from eqids.checkpoints import read_manifest, resolve
from eqids.config import (
    LLAMA_PRESETS,
    NANO_RECIPE,
    RunConfig,
    TrainConfig,
    UserError,
    from_json,
)
from eqids.data import Dataset, open_dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.facts import facts_of
from eqids.inference.open import Opened, open_checkpoint, open_pair
from eqids.model import Batch, Llama
from eqids.planning.abstract import abstract_run, job_of_run
from eqids.planning.memory import estimate
from eqids.runs import text_features as features
from eqids.runs.new_model import model_config
from eqids.runs.recipe import resolved
from eqids.runs.text_features import with_text_features
from eqids.runs.text_vectors import Projection

LEARNED, TEXT = 8, 6


def write_llama(folder: Path, seed: int = 0) -> Path:
    """Writes a random Llama that has the tokens of `KINDS`."""
    config = dataclasses.replace(TINY, vocab=300)
    save_llama(Llama(config, key=jax.random.key(seed)), folder)
    write_tokenizer(folder / "tokenizer.json", KINDS)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "hf")


def add_items(data: Path, rows: list[tuple[int, str, int]], *more: str) -> None:
    """Adds items to a catalog: id, title, and a similar item, beside which it goes."""
    columns = ("item_id", "title", "near")
    file = write_csv(data.parent / f"new{rows[0][0]}.csv", rows, columns)
    flags = ["--data_dir", str(data), "--items", str(file), "--text", "{title}"]
    flags += ["--similar_column", "near"]
    catalog.main(["add", *flags, *more])


@pytest.fixture(scope="module")
def loyal(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users who use items of one kind, which titles tell; one unused item a kind."""
    folder, rng = tmp_path_factory.mktemp("loyal"), np.random.default_rng(0)
    titles = [(n, KINDS[n % 4]) for n in range(48)]
    items = write_csv(folder / "items.csv", titles, ("item_id", "title"))
    plays = [
        (user, 4 * item + user % 4, time)
        for user in range(120)
        for time, item in enumerate(rng.permutation(12)[:10])
    ]
    source = write_csv(folder / "plays.csv", plays)
    dataset = prepared(folder, f"csv:{source}", items=items, text="{title}")
    add_items(dataset.path, [(48 + n, KINDS[n], n) for n in range(4)])
    return open_dataset(dataset.path)


def flags_of(data: Path, folder: Path, llama: Path, *more: str) -> list[str]:
    widths = ("--item_width", str(LEARNED + TEXT), "--text_width", str(TEXT))
    sizes = "--batch_size 16 --num_steps 60 --eval_every 60 --adapter linear".split()
    return small(data, folder, "--text_llama_path", str(llama), *widths, *sizes, *more)


@pytest.fixture(scope="module")
def trained(
    loyal: Dataset, llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train.main(flags_of(loyal.path, folder, llama))
    return folder


def opened_config(folder: Path) -> RunConfig:
    path = resolve(folder)
    return from_json(RunConfig, read_manifest(path).meta["config"], str(path))


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
        query = opened.model.queries(batch)[:, -1]
        found.append(np.asarray(opened.model.softmax.log_probs(query))[0])
    return np.array(found)


def slots_of(dataset: Dataset, items: list[int]) -> np.ndarray:
    by_id = dataset.items().set_index("item")["slot"]
    return by_id.loc[items].to_numpy()


def test_an_unused_item_copies_what_its_text_lacks_and_ranks_with_its_kind(
    trained: Path, loyal: Dataset, llama: Path
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


def test_texts_are_encoded_once(
    trained: Path, loyal: Dataset, llama: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    made, encode = list[int](), features.text_vectors

    def counted(llama: Llama, tokens: ItemTokens, *more: object) -> np.ndarray:
        made.append(int(np.count_nonzero(tokens.length)))
        return encode(llama, tokens, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "text_vectors", counted)
    shutil.copytree(loyal.path, tmp_path / "d")
    data = open_dataset(tmp_path / "d")
    flags = TrainConfig(data_dir=data.path, text_llama_path=llama)
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
    monkeypatch.setattr("eqids.runs.text_encodings.new_file", _refuses)
    found = features.LlamaEncoder.of_run(other, None, None).encodings(
        data, FLOAT32, NOWHERE, said.append
    )
    assert made == [4, 1, 5] and not np.allclose(found, then)
    assert len(said) == 1 and "every run encodes the texts again" in said[0]


def _refuses(path: Path) -> None:
    raise UserError(f"{path} could not be written: no space")


def test_a_checkpoint_opens_without_the_llama_and_a_run_goes_on(
    loyal: Dataset, llama: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    gone = shutil.copytree(llama, tmp_path / "gone")
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
    trained: Path, llama: Path, tmp_path: Path
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
    trained: Path, loyal: Dataset, llama: Path, tmp_path: Path,
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


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--no_text_features"], "--text_llama_path is for text columns"),
        (["--init_items", "text", "--llama_path", "{llama}"], "--init_items text"),
        (["--text_width", "14"], "there are 14 text columns, wanted an item width"),
    ],
)
def test_flags_that_contradict_text_features_are_refused(
    more: list[str], said: str, loyal: Dataset, llama: Path, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    more = [word.replace("{llama}", str(llama)) for word in more]
    flags = flags_of(loyal.path, tmp_path / "run", llama, *more)
    assert said in refused(train.main, flags, capsys)


def test_text_features_need_texts_a_llama_and_a_tokenizer(
    loyal: Dataset, llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    mute = with_texts(dataset, tmp_path / "mute", [""])
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(llama / name, bare)

    def decided(data: Dataset, **flags: object) -> RunConfig:
        given = TrainConfig(data_dir=data.path, **flags)  # type: ignore[arg-type]
        return with_text_features(resolved(given, facts_of(data)), data, None)

    on = decided(loyal, llama_path=llama)
    assert on.flags.text_features and on.encoding_width == TINY.width
    assert (on.recipe.item_width, on.recipe.text_width) == (384 + 128, 128)
    on = decided(loyal, text_llama_path=llama)
    assert on.recipe.item_width == NANO_RECIPE.item_width + 128
    on = decided(loyal, text_llama_path=llama, item_width=20)
    assert (on.recipe.item_width, on.recipe.text_width) == (20, 10)
    for off in (
        decided(loyal),
        decided(mute, llama_path=llama),
        decided(loyal, llama_path=bare),
        decided(loyal, llama_path=llama, text_features=False),
        decided(loyal, llama_path=llama, init_items="text"),
    ):
        assert not off.flags.text_features and off.recipe.text_width == 0
        assert off.encoding_width == 0
    for data, folder, said in (
        (mute, llama, "no item of"),
        (loyal, bare, "has no tokenizer.json"),
    ):
        with pytest.raises(UserError, match=said):
            decided(data, text_llama_path=folder)
        with pytest.raises(UserError, match=f"--text_features is for .*{said}"):
            decided(data, llama_path=folder, text_features=True)


def test_text_features_that_are_asked_for_need_a_pretrained_llama(
    loyal: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    flags = small(loyal.path, tmp_path / "run", "--text_features")
    assert refused(train.main, flags, capsys) == (
        "error: --text_features is for text columns of items, and there is no "
        "pretrained Llama; wanted --text_llama_path DIR\n"
    )


def test_later_texts_are_projected_as_the_first_ones() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 9)).astype(np.float32)
    vectors[7] = 0
    axes = Projection.of(vectors, 4)
    found = axes(vectors)
    assert_close(axes(vectors[[3, 7]]), found[[3, 7]], "float32")
    assert not found[7].any()
    centred = vectors[3] - np.delete(vectors, 7, axis=0).mean(axis=0)
    expected = axes.axes @ (centred / np.linalg.norm(centred))
    assert_close(found[3], expected, "float32")


def test_whitened_axes_vary_equally_and_few_vectors_change_little() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([9.0, 5.0, 3.0, 1.0, 0.5, 0.2])
    many = (rng.standard_normal((6_000, 6)) * spread).astype(np.float32)
    found = Projection.of(many, 5).whitened(many)(many)
    np.testing.assert_allclose(np.square(found).mean(axis=0), np.ones(5), rtol=0.02)
    products = found.T @ found / len(found)
    assert np.abs(products - np.diag(np.diag(products))).max() < 0.01
    # Few vectors say next to nothing of many variances, which are equal here.
    few = rng.standard_normal((30, 60)).astype(np.float32)
    plain = Projection.of(few, 20)
    scale = np.linalg.norm(plain.whitened(few).axes, axis=1)
    spread = np.square(plain(few)).mean(axis=0) ** 0.5
    assert scale.max() / scale.min() < 1.5 < spread.max() / spread.min()
    # An axis that no vector has stays finite.
    flat = np.zeros((5, 3), np.float32)
    flat[:, 0] = [1, -1, 2, -2, 3]
    assert np.isfinite(Projection.of(flat, 3).whitened(flat)(flat)).all()


def test_memory_is_estimated_to_the_byte_of_the_arguments(
    loyal: Dataset, llama: Path
) -> None:
    given = TrainConfig(
        data_dir=loyal.path, text_llama_path=llama, batch_size=4, seq_len=8,
        item_width=14, text_width=6, item_optimizer="lazy_adam", counts=False,
    )  # fmt: skip
    config = with_text_features(resolved(given, facts_of(loyal)), loyal, None)
    sizes = model_config(config, loyal, LLAMA_PRESETS["nano"])
    job = job_of_run(config, sizes)
    run = abstract_run(job, NOWHERE)
    memory = estimate(job, run)
    compiled = run.step.lower(*run.args).compile().memory_analysis()
    assert memory.arguments == compiled.argument_size_in_bytes
    places = loyal.item_valid.size
    assert memory.frozen == places + 4 * (places * 6 + TINY.width * (6 + 1))
