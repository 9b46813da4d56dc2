"""`convert items`: a FAISS index, coordinates, and columns that databases load."""

import importlib.util
import json
from pathlib import Path

import faiss
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_dataset
from pytest import CaptureFixture, MonkeyPatch
from runs import refused, save_noisy
from safetensors.numpy import load_file

import eqids
from convert import __main__ as command, outputs
from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.inference.recommender import Recommender

NUM = 27


def exported(
    folder: Path, dataset: Dataset, *more: str
) -> tuple[Recommender, pd.DataFrame]:
    """Exports the items of a random model; returns it, and its items."""
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", seq_len=16, train="heads"
    )
    save_noisy(folder / "run", flags, dataset)
    command.main(["items", str(folder / "run"), str(folder / "items"), *more])
    items = pd.read_parquet(folder / "items/items.parquet")
    return eqids.load(folder / "run"), items


@pytest.mark.parametrize("num_clusters", [1, 5])
def test_the_index_ranks_by_the_logits_of_both_levels(
    num_clusters: int, tmp_path: Path
) -> None:
    dataset = make_dataset(
        tmp_path / "data", num_clusters=num_clusters, cluster_size=30 // num_clusters
    )
    recommender, items = exported(tmp_path, dataset, "--faiss")
    histories = [recommender.of_user(f"user {n}") for n in range(9)]
    users = recommender.user_vectors(histories).to_numpy()
    index = faiss.read_index(str(tmp_path / "items/items.faiss"))
    assert isinstance(index, faiss.IndexFlatIP) and index.ntotal == len(items) == NUM
    query = np.column_stack([users, np.ones(len(users), np.float32)])
    scores, rows = index.search(query, NUM)
    augmented = np.stack(list(items["augmented_vector"]))
    assert np.array_equal(index.reconstruct_n(0, NUM), augmented)
    arrays = load_file(tmp_path / "items/items.safetensors")
    cluster = items["cluster"].to_numpy()
    clusters = users @ arrays["cluster_vectors"].T + arrays["cluster_bias"]
    logits = users @ arrays["item_vectors"].T + arrays["item_bias"]
    expected = clusters[:, cluster] + logits
    order = np.argsort(-expected, axis=1)
    assert np.array_equal(rows, order)
    np.testing.assert_allclose(
        scores, np.take_along_axis(expected, order, axis=1), atol=1e-4
    )
    # The softmax has this order within each cluster.
    softmax = recommender.opened.model.softmax
    exact = np.asarray(softmax.log_probs(jnp.asarray(users)))[:, items["slot"]]
    for row, probable in zip(rows, exact, strict=True):
        for one in range(num_clusters):
            within = probable[[n for n in row if cluster[n] == one]]
            assert (np.diff(within) <= 0).all()
    note = json.loads((tmp_path / "items/items.json").read_text())
    assert ("within a cluster" in note["augmented_vector"]["order"]) == (
        num_clusters > 1
    )


def test_items_have_two_principal_components(dataset: Dataset, tmp_path: Path) -> None:
    _, items = exported(tmp_path, dataset)
    vectors = np.stack(list(items["vector"])).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    centered = vectors - vectors.mean(axis=0)
    rows, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    assert sizes[1] > 1.05 * sizes[2]  # or the axes could be any
    for name, axis in (("x", 0), ("y", 1)):
        expected = rows[:, axis] * sizes[axis]
        found = items[name].to_numpy()
        sign = np.sign(found @ expected)
        np.testing.assert_allclose(sign * found, expected, atol=5e-3)
    assert not (tmp_path / "items/items.faiss").exists()


def test_columns_have_types_that_databases_load(
    dataset: Dataset, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "PART_BYTES", 200)  # more than one chunk
    _, items = exported(tmp_path, dataset)
    table = pq.read_table(tmp_path / "items/items.parquet")
    # Milvus refused lists of a fixed size until 2026, and large strings.
    types = {field.name: field.type for field in table.schema}
    for name in ("vector", "augmented_vector"):
        assert types[name].equals(pa.list_(pa.field("element", pa.float32())))
    assert types["item"] == types["title"] == pa.string()
    assert types["x"] == types["y"] == types["bias"] == pa.float32()
    arrays = load_file(tmp_path / "items/items.safetensors")
    assert np.array_equal(np.stack(list(items["vector"])), arrays["item_vectors"])


def test_without_faiss_one_sentence_names_the_extra(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "faiss" else find(name),
    )
    flags = ["items", str(tmp_path), str(tmp_path / "out"), "--faiss"]
    said = refused(command.main, flags, capsys)
    assert "--faiss needs faiss-cpu: pip install 'eqids[faiss]'" in said
    assert not (tmp_path / "out").exists()
