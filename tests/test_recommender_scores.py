"""Scores, similar items, vectors, lists in files, and programs kept on disk."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from pytest import CaptureFixture
from runs import refused
from test_counts_runs import mixed_by_hand

import eqids
from eqids import recommend
from eqids.config import UserError
from eqids.data import Dataset
from eqids.inference.engine.named_filters import read_filters
from eqids.inference.recommender import History, Recommender


@pytest.fixture(scope="module")
def recommender(finished: Path) -> Recommender:
    return eqids.load(finished)


def test_scores_are_those_of_the_mixture(
    recommender: Recommender, dataset: Dataset
) -> None:
    """By the dataset's own counts; all items together have probability 1."""
    names = dataset.items()["item"].tolist()
    histories = [recommender.of_user("user 0"), History("nobody", dataset.slots[:0])]
    found = recommender.score(histories, names)
    assert found["user"].tolist() == ["user 0"] * 27 + ["nobody"] * 27
    assert found["item"].tolist() == names * 2
    assert found["title"][0] == dataset.items()["title"][0]
    for _, rows in found.groupby("user"):
        assert np.exp(rows["log_probability"]).sum() == pytest.approx(1, abs=1e-5)
    prob = mixed_by_hand(recommender.opened, histories[0].slots, histories[0].times)
    own = np.exp(found["log_probability"][:27])
    np.testing.assert_allclose(own, prob[dataset.slot_of(names)], rtol=1e-4)
    table = recommender.recommend(histories, k=4)
    for user, rows in table.groupby("user"):
        scores = found[found["user"] == user].set_index("item")["log_probability"]
        scores = np.exp(scores.loc[rows["item"]])
        np.testing.assert_allclose(scores, rows["probability"], rtol=1e-5)
    with pytest.raises(UserError, match="item 'x' is not in the catalog"):
        recommender.score(histories, ["item 1", "x"])


def test_vectors_say_which_items_are_similar(
    recommender: Recommender, dataset: Dataset
) -> None:
    vectors = recommender.item_vectors()
    assert vectors.index.tolist() == dataset.items()["item"].tolist()
    found = recommender.similar(["item 3", "item 9"], k=5)
    assert found["item"].tolist() == ["item 3"] * 5 + ["item 9"] * 5
    assert found["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    lengths = np.linalg.norm(vectors, axis=1)
    for item, rows in found.groupby("item"):
        cosines = (
            (vectors @ vectors.loc[item]) / lengths / lengths[vectors.index == item]
        )
        nearest = cosines.drop(item).nlargest(5)
        assert rows["similar_item"].tolist() == nearest.index.tolist()
        np.testing.assert_allclose(rows["similarity"], nearest, rtol=1e-5)
        titles = dataset.items().set_index("item")["title"]
        assert rows["title"].tolist() == titles.loc[nearest.index].tolist()
    with pytest.raises(UserError, match="items is empty"):
        recommender.similar([])


def test_vectors_of_users_order_the_items_of_a_cluster(
    recommender: Recommender, dataset: Dataset
) -> None:
    users = recommender.user_vectors(
        [recommender.of_user("user 0"), History("b", dataset.slots[:0])]
    )
    assert users.index.tolist() == ["user 0", "b"] and not users.loc["b"].any()
    softmax = recommender.opened.model.softmax
    items, slots = recommender.item_vectors(), dataset.items()["slot"].to_numpy()
    logits = items.to_numpy() @ users.loc["user 0"].to_numpy()
    logits += np.asarray(softmax.bias).reshape(-1)[slots]
    cluster = slots // dataset.info.cluster_size
    query = np.asarray(users.loc["user 0"], np.float32)
    # Without counts, the logs of two P of a cluster differ as the logits do.
    log_prob = np.asarray(softmax.log_probs(jax.numpy.asarray(query)))[slots]
    for one in np.unique(cluster):
        own = cluster == one
        differences = log_prob[own] - logits[own]
        np.testing.assert_allclose(differences, differences[0], atol=1e-4)


@pytest.mark.long
def test_warmup_compiles_what_later_calls_run(
    recommender: Recommender, dataset: Dataset
) -> None:
    reports: list[tuple[int, int]] = []
    recommender.warmup(5, lambda *numbers: reports.append(numbers))
    served = recommender._served
    number = served.num_programs
    assert reports[-1][0] == reports[-1][1] == len(reports) <= number
    histories = [History(u, dataset.history(u)[: u + 1]) for u in range(9)]
    for some in (1, 3, 9):
        recommender.recommend(histories[:some], k=5)
    recommender.score(histories, ["item 1"])
    recommender.similar(["item 1"], k=3)
    assert served.num_programs == number


def test_flags_score_compare_and_filter(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str],
    recommender: Recommender,
) -> None:  # fmt: skip
    def said(*flags: str) -> list[list[str]]:
        recommend.main(["--checkpoint", str(finished), *flags])
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    one = [["item 1", "item 4"]]
    found = said("--history", "item 1,item 4", "--score", "item 9,item 2")
    assert [words[1:3] for words in found] == [["item", "9"], ["item", "2"]]
    scores = np.exp(recommender.score(one, ["item 9", "item 2"])["log_probability"])
    shown = [float(words[0].rstrip("%")) / 100 for words in found]
    np.testing.assert_allclose(shown, scores, atol=1e-7)
    found = said("--similar", "item 9", "--k", "3")
    assert found[0] == ["similar", "to", "item", "9:"]
    near = recommender.similar(["item 9"], 3)["similar_item"]
    assert [" ".join(words[2:4]) for words in found[1:]] == near.tolist()

    (tmp_path / "allow.txt").write_text("item 5\n\n item 6 \nitem 7\n")
    pd.DataFrame({"item": ["item 6"]}).to_csv(tmp_path / "deny.csv", index=False)
    pd.DataFrame({"item": ["item 5", "item 7"]}).to_parquet(tmp_path / "two.parquet")
    (tmp_path / "other.csv").write_text("name\nx\n")
    given = "--history", "item 1"
    for flags in (
        ("--allow", "allow.txt", "--deny", "deny.csv"),
        ("--allow", "two.parquet"),
    ):
        words = [str(tmp_path / x) if "." in x else x for x in flags]
        found = said(*given, *words)
        expected = recommender.recommend([["item 1"]], allow=["item 5", "item 7"])
        assert [" ".join(one[2:4]) for one in found] == expected["item"].tolist()
    start = ["--checkpoint", str(finished), *given]
    for more, message in (
        (["--allow", str(tmp_path / "other.csv")], "has no column 'item'"),
        (["--similar", "item 1"], "wanted one of --user, --history, --input and"),
        (["--deny", str(tmp_path / "none.txt")], "none.txt"),
    ):
        assert message in refused(recommend.main, [*start, *more], capsys)


def test_named_filters_are_lists_of_the_catalog(
    dataset: Dataset, tmp_path: Path
) -> None:
    path, warnings = tmp_path / "filters.json", list[str]()
    path.write_text(json.dumps({"in stock": ["item 3", "gone"], "none": []}))
    found = read_filters(path, dataset, warnings.append)
    (slot,) = dataset.slot_of(["item 3"])
    assert np.flatnonzero(found["in stock"].allowed).tolist() == [slot]
    assert not found["none"].allowed.any() and len(found) == 2
    assert [w.split(": ", 1)[1] for w in warnings] == [
        "1 of 2 ids of filter 'in stock' are not in the catalog of "
        f"{dataset.path}, the first is 'gone'"
    ]
    for text, message in (
        ("{", "cannot be read as JSON"), ("[1]", "holds no named lists"),
        ('{"a": 1}', "holds no named lists"), ('{"a": [[1]]}', "wanted one item id"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_filters(path, dataset, warnings.append)


PROGRAMS = """
import sys
import jax, jax.numpy as jnp
jnp.zeros(3) + 1  # before a folder is chosen
from eqids.inference.compilation_cache import keep_compiled_programs
keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4))).block_until_ready()
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.long
@pytest.mark.parametrize("chosen", [False, True])
def test_compiled_programs_are_kept(chosen: bool, tmp_path: Path) -> None:
    env = {"EQIDS_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu", "HOME": "/"}
    folder = tmp_path / "cache" / "programs"
    if chosen:
        folder = tmp_path / "mine"
        env["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS], env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(folder), done.stderr
    assert [*folder.glob("jit_*")]
