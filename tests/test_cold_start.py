"""Items that start from texts: their vectors, and items that are not used yet."""

import dataclasses
import json
import shutil
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, run_python
from models import FLOAT32, NOWHERE, TINY, tiny_model
from pytest import CaptureFixture
from runs import refused, small
from text_runs import KINDS, loyal_users, write_llama
from tokens import with_texts

from bench import cold as bench
from eqids import prepare, train
from eqids.config import NANO_RECIPE, PrepareConfig, UserError
from eqids.data import Dataset, open_dataset
from eqids.data.batches.tokens import ItemTokens, tokens_by_slot
from eqids.fit.cold_start import ColdItems
from eqids.fit.optimizer import make_optimizer
from eqids.fit.step import split, start
from eqids.fit.step_config import StepConfig
from eqids.model import Llama
from eqids.runs import text_vectors as reading
from eqids.runs.text_vectors import principal, text_vectors


def some_tokens(lengths: list[int], prefix: int = 0, seed: int = 0) -> ItemTokens:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(0, TINY.vocab, offsets[-1]).astype(np.int32)
    prompt = rng.integers(0, TINY.vocab, prefix).astype(np.int32)
    return tokens_by_slot(ids, offsets, prompt, 99)


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_text_is_the_weighted_mean_of_its_hidden_states(
    prefix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = Llama(TINY, key=jax.random.key(0))
    tokens = some_tokens([3, 0, 1, 12, 3, 7, 2, 5], prefix)
    same = tokens.ids.copy()
    same[tokens.first[4] :][:3] = same[:3]
    tokens = dataclasses.replace(tokens, ids=same)
    vectors = text_vectors(llama, tokens, FLOAT32, NOWHERE)
    # A third of two blocks is one; what follows a token changes nothing of its state.
    blocks = jax.tree.map(lambda x: x[:1], llama.blocks)
    lower = eqx.tree_at(lambda m: m.blocks, llama, blocks)
    token_ids = np.zeros((len(tokens.length), 16), np.int32)
    for slot, length in enumerate(tokens.length):
        own = tokens.ids[tokens.first[slot] :][:length]
        token_ids[slot, : prefix + length] = np.concatenate([tokens.prompt, own])
    text, position = jnp.asarray(token_ids), jnp.asarray(np.arange(16) + 0 * token_ids)
    hidden = lower.hidden(llama.embed(text), jnp.ones_like(text), position)
    for slot, length in enumerate(tokens.length):
        expected = np.zeros(TINY.width)
        if length:
            weight = np.arange(1, length + 1)[:, None]
            own = np.asarray(hidden, np.float64)[slot, prefix:][:length]
            expected = (weight * own).sum(axis=0) / weight.sum()
        assert_close(vectors[slot], expected, "float32")
    assert_close(vectors[0], vectors[4], "float32")
    monkeypatch.setattr(reading, "_POSITIONS", 24)
    assert_close(text_vectors(llama, tokens, FLOAT32, NOWHERE), vectors, "float32")


def test_principal_axes_keep_angles_and_know_nothing_of_the_unknown() -> None:
    rng = np.random.default_rng(0)
    vectors = 5 + rng.standard_normal((9, 6)).astype(np.float32)
    vectors[3] = vectors[7]
    vectors[5] = 0
    known = np.delete(np.arange(9), 5)
    found = principal(vectors, 8)
    centred = vectors[known] - vectors[known].mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    assert_close(found[known] @ found[known].T, centred @ centred.T, "float32")
    sizes = (found**2).sum(axis=0)
    assert (np.diff(sizes) <= 1e-6).all() and not found[:, 6:].any()
    assert not found[5].any()
    np.testing.assert_array_equal(found[3], found[7])
    assert_close(principal(vectors, 2), found[:, :2], "float32")


def some_cold(dataset: Dataset, width: int = 8) -> ColdItems:
    """A third of the items unused, all of cluster 0 among them; one without a text."""
    rng = np.random.default_rng(1)
    text = rng.standard_normal((*dataset.item_valid.shape, width)).astype(np.float32)
    unused = rng.random(dataset.item_valid.shape) < 0.3
    unused[0] = True
    text.reshape(-1, width)[np.flatnonzero(dataset.item_valid & unused)[-1]] = 0
    counts = np.where(dataset.item_valid & ~unused, 3, 0)
    return ColdItems.of(dataclasses.replace(dataset, item_counts=counts), text)


def test_unused_items_copy_the_most_similar_used_item(dataset: Dataset) -> None:
    model, items = tiny_model(dataset, tied_items=False), some_cold(dataset)
    noise = jax.random.normal(jax.random.key(2), model.softmax.bias.shape)
    model = eqx.tree_at(lambda m: m.softmax.bias, model, noise)
    params, frozen = split(model, "all", FLOAT32)
    state = start(params, make_optimizer(StepConfig("all", NANO_RECIPE)))
    placed = items.filled(state)
    text, used, unused = (np.asarray(x) for x in (items.text, items.used, items.unused))
    num_moved = 0
    for of in (
        lambda p: p.softmax.table,
        lambda p: p.softmax.bias,
        lambda p: p.input_table,
    ):
        expected = np.array(of(params))
        for c, place in zip(*np.nonzero(unused), strict=True):
            similar = np.flatnonzero(used[c])
            if len(similar):
                angle = text[c, similar] @ text[c, place]
                angle /= np.linalg.norm(text[c, similar], axis=1)
                if text[c, place].any():
                    expected[c, place] = of(params)[c, similar[np.argmax(angle)]]
                    num_moved += 1
        np.testing.assert_array_equal(of(placed.params), expected)
    assert num_moved > 9 and unused[0].any() and not used[0].any()
    # Nothing else changes, and where they stood does not matter.
    changed = [
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True)
    ]
    assert sum(changed) == 3
    again = jax.tree.leaves(items.filled(placed))
    assert all(map(np.array_equal, again, jax.tree.leaves(placed)))

    query = jax.random.normal(jax.random.key(3), (4, 8))
    trained = eqx.combine(params, items.without_unused(frozen)).softmax
    share = np.exp(np.asarray(trained.log_probs(query)))
    assert not share[:, unused.reshape(-1)].any()
    assert_close(share.sum(axis=1), np.ones(4), "float32")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "hf")


@pytest.fixture(scope="module")
def loyal(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users who use items of one kind each, which their titles tell."""
    titles = [f"{n} {KINDS[n % 4]}" for n in range(48)]
    return loyal_users(tmp_path_factory.mktemp("loyal"), titles)


@pytest.mark.long
def test_withheld_items_are_found_by_their_words(
    loyal: Dataset, llama: Path, tmp_path: Path
) -> None:
    sizes = "--train all --batch_size 16 --seq_len 16 --item_width 8 --adapter linear"
    options = bench.ColdOptions(
        llama_path=llama,
        folder=tmp_path,
        data_dir=loyal.path,
        share=0.2,
        starts=("random", "copy", "text", "features"),
        train=f"{sizes} --num_steps 60 --eval_every 60 --learning_rate 1e-2",
    )
    found = bench.measure(options)
    assert found["random"]["events"] == found["text"]["events"] > 100
    rest = open_dataset(tmp_path / "data")
    assert (rest.item_counts[rest.item_valid] == 0).sum() == 10
    # Of 48 items, 12 are of a user's kind, about 2 of them withheld.
    assert found["random"]["recall@10"] < 0.2
    assert found["text"]["recall@10"] > 0.5
    assert found["copy"]["recall@10"] > 0.2 > found["random"]["recall@10"]


def test_texts_are_read_by_a_llama_that_has_read(
    loyal: Dataset, llama: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(llama / name, bare)
    mute = with_texts(loyal, tmp_path / "mute", [""])
    for data, more, said in (
        (loyal, [], "--init_items text needs --llama_path DIR or a published"),
        (loyal, ["--llama_path", str(bare)], "has no tokenizer.json"),
        (mute, ["--llama_path", str(llama)], "no item has a text"),
    ):
        flags = small(data.path, tmp_path / "run", "--init_items", "text", *more)
        assert said in refused(train.main, flags, capsys)


def test_clusters_are_made_of_texts(
    loyal: Dataset, llama: Path, tmp_path: Path
) -> None:
    folder = loyal.path.parent
    flags = {
        "source": f"csv:{folder / 'plays.csv'}",
        "items": str(folder / "items.csv"),
        "data_dir": str(tmp_path / "d"),
        "cluster_vectors": "text",
        "llama_path": str(llama),
        "num_clusters": "4",
        "vector_width": "8",
    }
    prepare.main([word for name, of in flags.items() for word in (f"--{name}", of)])
    found = open_dataset(tmp_path / "d")
    kinds = found.items()["title"].str.split().str[-1]
    cluster = found.items()["slot"] // found.info.cluster_size
    assert set(kinds.groupby(cluster).nunique()) == {1}
    assert found.info.clusters.vectors == "text" and found.item_vectors.shape[2] == 8
    for vectors, path in (("text", None), ("words", llama)):
        with pytest.raises(UserError, match="--llama_path DIR go together"):
            PrepareConfig(cluster_vectors=vectors, llama_path=path)


MESH = """
import sys; sys.path.insert(0, 'tests')
import json
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from conftest import make_dataset
from test_cold_start import some_cold, some_tokens
from eqids.config import LlamaConfig, ModelConfig
from eqids.runs.new_model import initial_model
from eqids.fit.step import State, split
from eqids.runs.text_vectors import text_vectors
from eqids.model import Llama
import sharding
from sharding import Placement

dataset = make_dataset(Path(FOLDER) / "mesh", num_clusters=7, num_items=40)
config = LlamaConfig(32, 3, 4, 4, 8, 64, 64, tied=True)
llama, tokens = Llama(config, key=jax.random.key(0)), some_tokens([5, 0, 1, 12, 7], 1)
sizes = ModelConfig(config, 7, dataset.info.cluster_size, item_width=8)
model = initial_model(sizes, dataset, None, jax.random.key(0))
items = some_cold(dataset)

def found(put):
    with put.active():
        vectors = text_vectors(put(llama), tokens, jnp.float32, put)
        params, _ = split(put(model), "all", jnp.float32)
        placed = put(items).filled(State(jnp.zeros((), int), params, None)).params
        table = np.asarray(placed.softmax.table)[:7]
        assert placed.softmax.table.sharding == params.softmax.table.sharding
    return [vectors.tolist(), table.tolist()]

out = [found(Placement(None, None))]
for name in ("fsdp", "tensor"):
    layout = sharding.named_layout(name, 8)
    out.append(found(Placement(layout, sharding.make_mesh(layout))))
print(json.dumps(out))
"""


@pytest.mark.long
def test_eight_devices_read_and_place_as_one(tmp_path: Path) -> None:
    printed = run_python(MESH.replace("FOLDER", repr(str(tmp_path))))
    alone, *others = json.loads(printed.splitlines()[-1])
    for other in others:
        assert_close(other[0], alone[0], "mesh")
        np.testing.assert_array_equal(other[1], alone[1])
