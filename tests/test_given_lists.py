"""Lists of another system, and ranks of every user, by the protocol of a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import CaptureFixture
from runs import refused

import eqids
from eqids import evaluate
from eqids.config import UserError
from eqids.data import Dataset
from eqids.data.raw.id_files import read_table
from eqids.fit.evaluation import targets_of
from eqids.fit.ranking import user_metrics


def measured(folder: Path, *flags: str) -> dict[str, Any]:
    file = folder / "result.json"
    evaluate.main([*flags, "--json", str(file)])
    return json.loads(file.read_bytes())


@pytest.fixture(scope="module")
def top(dataset: Dataset, finished: Path) -> pd.DataFrame:
    """What the finished run recommends for the test targets, seen items kept."""
    users, positions = targets_of(dataset, "test")
    names = dataset.items().set_index("slot")["item"]
    assert dataset.times is not None
    parts, ids = [], dataset.users()["user"]
    for user, at in zip(users.tolist(), positions.tolist(), strict=True):
        span = slice(dataset.offsets[user], dataset.offsets[user] + at)
        own = {"item": names.loc[dataset.slots[span]], "time": dataset.times[span]}
        parts.append(pd.DataFrame({"user": ids[user], **own}))
    recommender = eqids.load(finished, compilation_cache=False)
    frame = recommender.recommend(pd.concat(parts), k=27, filter_seen=False)
    return frame[["user", "item", "rank"]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_of_ids_may_have_any_delimiter(delimiter: str, tmp_path: Path) -> None:
    wanted = pd.DataFrame(
        {"name": ["é b", ""], "user": ["007", "a,b;c"], "x": ["", "NA"]}
    )
    path = tmp_path / "table.csv"
    wanted.to_csv(path, index=False, sep=delimiter)
    found = read_table(path, ["user"])
    assert found.to_dict("list") == wanted.to_dict("list")
    with pytest.raises(UserError, match="no column 'item', .* it has name, user, x"):
        read_table(path, ["user", "item"])


def test_targets_have_the_ranks_of_the_model_in_its_lists(
    dataset: Dataset, finished: Path, top: pd.DataFrame, tmp_path: Path
) -> None:
    """Of histories that fit into the model's 16 positions."""
    file = tmp_path / "users.parquet"
    per_user = ["--per_user", str(file)]
    model = measured(tmp_path, "--checkpoint", str(finished), *per_user)
    wanted = pd.read_parquet(file)
    fits = wanted["history_length"] <= 16
    assert 10 < fits.sum() < len(wanted)
    shuffled = top.sample(frac=1, random_state=0)
    shuffled.to_parquet(tmp_path / "lists.parquet")
    top.drop(columns="rank").to_csv(tmp_path / "lists.csv", index=False)
    for name in ("lists.parquet", "lists.csv"):
        flags = ["--recommendations", str(tmp_path / name), *per_user]
        found = measured(tmp_path, *flags, "--data_dir", str(dataset.path))
        ranks = pd.read_parquet(file)
        for column in ("user", "item", "rank", "rank_unfiltered", "markov_rank"):
            assert ranks[column][fits].equals(wanted[column][fits])
        for side, column in (("filtered", "rank"), ("unfiltered", "rank_unfiltered")):
            gains = user_metrics(ranks[column].to_numpy(), [1, 5, 10, 20])
            assert found[side] == {n: pytest.approx(x.mean()) for n, x in gains.items()}
        assert found["seen_target_share"] == model["seen_target_share"]
        assert found["markov"] == model["markov"] and found["step"] is None
        assert found["protocol"]["recommendations"] == str(tmp_path / name)


def test_short_and_foreign_lists_are_counted_and_said(
    dataset: Dataset, top: pd.DataFrame, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    users, _ = targets_of(dataset, "test")
    some = top[top["rank"] <= 6]
    some = some[some["user"] != top["user"].iloc[0]]
    foreign = pd.DataFrame({"user": ["nobody", some["user"].iloc[0]],
                            "item": ["item 1", "no such"], "rank": [1, 0]})  # fmt: skip
    twice = some[some["rank"] == 1].assign(rank=6.5)
    pd.concat([some, foreign, twice]).to_parquet(tmp_path / "lists.parquet")
    flags = ["--recommendations", str(tmp_path / "lists.parquet")]
    found = measured(tmp_path, *flags, "--data_dir", str(dataset.path))
    said = capsys.readouterr().out
    names = "unknown_users unknown_items users_without_list longest_list".split()
    counts = [found[name] for name in names]
    assert counts == [1, 1, 1, 7] and found["seen_items"] > 0
    assert set(found["filtered"]) == {
        f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (1, 5)
    }
    assert "1 evaluated users have no list" in said and "larger K are not known" in said
    assert "          -" in said and "given lists" in said
    # By hand: the place of the target, one lower where an unknown item is first.
    item_of = dataset.items().set_index("slot")["item"]
    ids = dataset.users()["user"]
    ranks = []
    for user in users.tolist():
        own = some.loc[some["user"] == ids[user], "item"].tolist()
        if ids[user] == some["user"].iloc[0]:
            own.insert(0, "no such")
        target = item_of[dataset.history(user)[dataset.test_at[user]]]
        ranks.append(own.index(target) + 1 if target in own else np.inf)
    wanted = user_metrics(np.array(ranks), [5])["recall@5"].mean()
    assert found["unfiltered"]["recall@5"] == pytest.approx(wanted)


def test_a_row_for_every_user_gives_the_metrics(
    dataset: Dataset, finished: Path, tmp_path: Path
) -> None:
    file = tmp_path / "users.parquet"
    found = measured(tmp_path, "--checkpoint", str(finished), "--per_user", str(file))
    frame = pd.read_parquet(file)
    assert len(frame) == found["num_users"]
    for column, side in (("rank", "filtered"), ("rank_unfiltered", "unfiltered")):
        for metric, values in user_metrics(frame[column].to_numpy()).items():
            assert values.mean() == pytest.approx(found[side][metric])
    assert -frame["log_prob"].mean() == pytest.approx(found["nll"])
    markov = user_metrics(frame["markov_rank"].to_numpy())["ndcg@10"].mean()
    assert markov == pytest.approx(found["markov"]["filtered"]["ndcg@10"])
    row = frame.iloc[3]
    user = dataset.user_index(row["user"])
    history = dataset.history(user)
    names = dataset.items().set_index("slot")["item"]
    assert names[history[dataset.test_at[user]]] == row["item"]
    assert row["history_length"] == dataset.test_at[user]


def test_wrong_lists_are_one_sentence(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    def refusal(text: str) -> str:
        file = tmp_path / "lists.csv"
        file.write_text(text)
        flags = ["--recommendations", str(file), "--data_dir", str(dataset.path)]
        said = refused(evaluate.main, flags, capsys)
        assert said.count("\n") == 1 and str(file) in said
        return said

    user = dataset.users()["user"].iloc[0]
    assert "has no column 'item'" in refusal(f"user,rank\n{user},1\n")
    assert "row 2: column 'item' is empty" in refusal(f"user,item\n{user},a\n{user},\n")
    assert "rank is 'x', wanted a number" in refusal(f"user,item,rank\n{user},a,x\n")
    assert "none of its 1 users is in" in refusal("user,item\nnobody,item 1\n")
    assert "lists.csv is empty" in refusal("")
    said = refused(evaluate.main, ["--recommendations", "x.csv"], capsys)
    assert "needs --data_dir" in said
    more = ["--checkpoint", "runs/x", "--data_dir", "d"]
    said = refused(evaluate.main, ["--recommendations", "x.csv", *more], capsys)
    assert "wanted neither --checkpoint nor --init_from" in said
    said = refused(evaluate.main, [], capsys)
    assert "wanted one of --checkpoint and --init_from" in said
