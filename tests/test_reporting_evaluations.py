"""Evaluation by flags: cut times, cold and new users, candidates, metrics of lists."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import make_dataset
from pytest import CaptureFixture
from runs import refused, save_noisy

import eqids
from eqids import evaluate
from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.data.files import read_parquet
from eqids.data.raw.splits import temporal
from eqids.data.write import write_dataset
from eqids.fit.baselines import markov
from eqids.fit.cut_times import at_cut, cut_times, new_users
from eqids.fit.evaluation import targets_of
from eqids.fit.list_metrics import LIST_METRICS
from eqids.fit.ranking import metrics
from eqids.fit.top_lists import lists_by


def write_temporal(path: Path) -> Dataset:
    """The users of `make_dataset`, spread over time and split at two times."""
    plain = make_dataset(path.parent / "plain", num_users=60, max_length=24)
    length = np.diff(plain.offsets)
    rng = np.random.default_rng(5)
    begins = rng.integers(0, 2_000, len(length))
    begins[-4:] = 100_000  # new users, whose first event is after the split
    start = np.repeat(begins, length)
    assert plain.times is not None
    times = plain.times + start - 1_000_000 + 900_000_000
    split = temporal(plain.offsets, times)
    assert split.valid_from is not None
    users, items = (read_parquet(plain.path / f"{name}.parquet")
                    for name in ("users", "items"))  # fmt: skip
    for name in ("train_length", "valid_at", "test_at"):
        at = users.schema.get_field_index(name)
        users = users.set_column(at, name, pa.array(getattr(split, name)))
    training = split.in_training(plain.offsets)
    own = np.bincount(plain.slots[training], minlength=plain.num_slots)
    items = items.set_column(
        items.schema.get_field_index("count"), "count",
        pa.array(own[items["slot"].to_numpy()]),
    )  # fmt: skip
    protocol = replace(plain.info.protocol, split="temporal",
                       valid_from=split.valid_from,
                       test_from=split.test_from)  # fmt: skip
    counts = replace(plain.info.counts, users_valid=int((split.valid_at > 0).sum()),
                     users_test=int((split.test_at > 0).sum()))  # fmt: skip
    info = replace(plain.info, protocol=protocol, counts=counts)
    histories = {"slots": plain.slots, "times": times, "offsets": plain.offsets}
    slot = items["slot"].to_numpy()
    vectors = plain.item_vectors.reshape(plain.num_slots, -1)[slot]
    columns = ["user", "train_length", "valid_at", "test_at"]
    return write_dataset(path, info, histories, users.select(columns),
                         items.select(["item", "slot", "title", "text", "count"]),
                         vectors)  # fmt: skip


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_temporal(tmp_path_factory.mktemp("timed") / "data")


@pytest.fixture(scope="module")
def timed_run(timed: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "timed"
    flags = TrainConfig(data_dir=timed.path, item_width=8, seq_len=16)
    save_noisy(run, flags, timed, score=0.5)
    return run


def measured(file: Path, *flags: str) -> dict[str, Any]:
    evaluate.main([*flags, "--json", str(file)])
    return json.loads(file.read_bytes())


def test_targets_at_a_cut_are_the_first_events_from_it_on(timed: Dataset) -> None:
    cuts = cut_times(timed, [])
    assert cuts[0] == timed.info.protocol.test_from and len(cuts) == 3
    assert timed.times is not None
    for cut in cuts:
        found, new = at_cut(timed, cut).test_at, new_users(timed, cut)
        for user in range(timed.num_users):
            times = timed.times[timed.offsets[user] : timed.offsets[user + 1]]
            later = [i for i, time in enumerate(times) if time >= cut]
            first = later[0] if later else -1
            assert found[user] == (first if first > 0 else -1)
            assert new[user] == (first == 0)
    # The split's own test time gives the split's own targets.
    np.testing.assert_array_equal(at_cut(timed, cuts[0]).test_at, timed.test_at)


def test_cut_times_in_one_result(
    timed: Dataset, timed_run: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    model = ["--checkpoint", str(timed_run)]
    plain = measured(tmp_path / "r.json", *model)
    _, positions = targets_of(timed, "test")
    few = int(np.median(positions)) + 1
    both = measured(tmp_path / "r.json", *model, "--split", "temporal",
                    "--cold_history", str(few))  # fmt: skip
    said = capsys.readouterr().out
    assert both["split"] == "temporal" and len(both["cuts"]) == 3
    first, *_, last = both["cuts"]
    for side in ("filtered", "unfiltered"):
        assert first[side] == plain[side] and first["markov"] == plain["markov"]
    assert first["protocol"]["cut_time"] == timed.info.protocol.test_from
    assert last["num_users"] == (at_cut(timed, last["protocol"]["cut_time"]).test_at
                                 > 0).sum()  # fmt: skip
    assert "by what was before" in said and f"cold, under {few} events" in said
    groups = first["by_history"]
    cold, warm = groups["cold"], groups["warm"]
    assert cold["num_users"] + warm["num_users"] == first["num_users"]
    assert cold["num_users"] == (positions < few).sum() > 0
    for name in ("recall@10", "ndcg@5"):
        whole = sum(one["num_users"] * one["filtered"][name] for one in (cold, warm))
        assert whole / first["num_users"] == pytest.approx(first["filtered"][name])
    _check_new(timed, first)


def _check_new(dataset: Dataset, result: dict[str, Any]) -> None:
    """Users without history get the most popular items: their ranks by a loop."""
    new = result["by_history"]["new"]
    users = np.flatnonzero(new_users(dataset, result["protocol"]["cut_time"]))
    counts = dataset.item_counts.reshape(-1)
    valid = np.flatnonzero(dataset.item_valid)
    ranks = []
    for user in users.tolist():
        target = dataset.history(user)[0]
        others = [int(s) for s in valid if s != target]
        above = sum(counts[s] > counts[target] for s in others)
        ranks.append(1 + above + sum(counts[s] == counts[target] for s in others) / 2)
    assert new["num_users"] == len(users) > 0
    assert new["filtered"] == pytest.approx(metrics(np.array(ranks)))


def test_cuts_that_leak_are_refused(
    dataset: Dataset, finished: Path, timed: Dataset, timed_run: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    def refusal(run: Path, *flags: str) -> str:
        given = ["--checkpoint", str(run), *flags]
        said = refused(evaluate.main, given, capsys)
        assert said.count("\n") == 1
        return said

    temporal_flags = ("--split", "temporal")
    said = refusal(finished, *temporal_flags)
    assert "has the split leave_one_out" in said and "--split temporal" in said
    said = refusal(finished, *temporal_flags, "--cut_times", "1970-01-12")
    assert "training events" in said and "go on until" in said
    wanted = "wanted unix seconds, or dates"
    assert wanted in refusal(timed_run, *temporal_flags, "--cut_times", "soon")
    said = refusal(timed_run, *temporal_flags, "--cut_times", "2100-01-01")
    assert "no user of" in said and "2100-01-01" in said
    assert "is for --split temporal" in refusal(timed_run, "--cut_times", "1")
    said = refusal(timed_run, *temporal_flags, "--per_user", "x.parquet")
    assert "wanted one of --cut_times" in said


@pytest.fixture(scope="module")
def candidates(dataset: Dataset) -> pd.DataFrame:
    """Nine items for most users; the target is among those of some."""
    users, positions = targets_of(dataset, "test")
    rng, names = np.random.default_rng(2), dataset.items().set_index("slot")["item"]
    ids, rows = dataset.users()["user"], []
    for user, at in zip(users.tolist(), positions, strict=True):
        if user % 7 == 3:
            continue
        chosen = rng.choice(names.index, 9, replace=False)
        if user % 3:
            chosen[0] = dataset.history(user)[at]
        rows += [(ids[user], names[slot]) for slot in dict.fromkeys(chosen.tolist())]
    return pd.DataFrame(rows, columns=["user", "item"])


def test_ranks_among_candidates_are_those_of_a_loop(
    dataset: Dataset, finished: Path, candidates: pd.DataFrame, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    candidates.to_csv(tmp_path / "c.csv", index=False)
    flags = ["--checkpoint", str(finished), "--candidates", str(tmp_path / "c.csv"),
             "--per_user", str(tmp_path / "u.parquet")]  # fmt: skip
    found = measured(tmp_path / "r.json", *flags)
    said = capsys.readouterr().out
    assert "not the full catalog" in found["protocol"]["candidates"]
    assert "not comparable" in said.splitlines()[-12] or "not comparable" in said
    assert "targets are not among their user's candidates" in said
    assert "have no candidates, and are left out" in said
    per_user = pd.read_parquet(tmp_path / "u.parquet").set_index("user")
    assert set(per_user.index) == set(candidates["user"]) & set(per_user.index)
    assert len(per_user) == found["num_users"] == candidates["user"].nunique()
    recommender = eqids.load(finished, compilation_cache=False)
    names = dataset.items().set_index("slot")["item"]
    assert dataset.times is not None
    counts = dataset.item_counts.reshape(-1)
    slot_of = {name: slot for slot, name in names.items()}
    for user, own in list(candidates.groupby("user"))[:8]:
        row = dataset.user_index(user)
        at = dataset.test_at[row]
        past = slice(dataset.offsets[row], dataset.offsets[row] + at)
        frame = pd.DataFrame({"user": "x", "item": names.loc[dataset.slots[past]],
                              "time": dataset.times[past]})  # fmt: skip
        seen, goal = set(frame["item"]), names[dataset.history(row)[at]]
        table = recommender.recommend(frame, k=40, filter_seen=False)
        p = dict(zip(table["item"], table["probability"], strict=True))
        for column, left in (("rank", [i for i in own["item"] if i not in seen]),
                             ("rank_unfiltered", list(own["item"]))):  # fmt: skip
            others = [i for i in left if i != goal]
            wanted = 1 + sum(p[i] > p[goal] for i in others) if goal in left else np.inf
            assert per_user.loc[user, column] == wanted
        unseen = [i for i in own["item"] if i not in seen and i != goal]
        mine = counts[slot_of[goal]]
        by_count = 1 + sum(counts[slot_of[i]] > mine for i in unseen)
        by_count += sum(counts[slot_of[i]] == mine for i in unseen) / 2
        listed = goal in set(own["item"]) - seen
        assert per_user.loc[user, "popularity_rank"] == (by_count if listed else np.inf)


def test_metrics_of_lists_are_beside_those_of_ranks(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", str(finished)]
    plain = measured(tmp_path / "r.json", *flags)
    found = measured(tmp_path / "r.json", *flags, "--metrics", "all")
    said = capsys.readouterr().out
    assert "calibration: the 10 most probable items" in said and "serendipity" in said
    for side in ("filtered", "unfiltered"):
        for name, value in plain[side].items():
            assert found[side][name] == pytest.approx(value)
        for name in [*LIST_METRICS, "ece", "confidence"]:
            assert np.isfinite(found[side][f"{name}@10"]), name
        # One target a user: these are the same metric by other names.
        assert found[side]["hit_rate@10"] == pytest.approx(plain[side]["recall@10"])
        assert found[side]["map@10"] == pytest.approx(plain[side]["mrr@10"])
        assert found[side]["precision@10"] == pytest.approx(
            plain[side]["recall@10"] / 10
        )
    assert np.isfinite(found["ease"]["filtered"]["gini@5"])
    some = measured(tmp_path / "r.json", *flags, "--metrics", "coverage", "gini")
    assert some["filtered"]["coverage@20"] == found["filtered"]["coverage@20"]
    assert "novelty@10" not in some["filtered"] and "ece@10" not in some["filtered"]
    said = refused(evaluate.main, [*flags, "--metrics", "auc"], capsys)
    assert "wanted some of hit_rate, precision" in said


def test_lists_of_a_baseline_as_anothers_have_its_metrics(
    dataset: Dataset, tmp_path: Path
) -> None:
    """A file with what the Markov chain recommends has its metrics, in both rows."""
    users, _ = targets_of(dataset, "test")
    names, ids = dataset.items().set_index("slot")["item"], dataset.users()["user"]
    lists = lists_by(markov(dataset), dataset, "test").slots
    rows = [
        (ids[user], names[slot], place)
        for user, own in zip(users.tolist(), lists.tolist(), strict=True)
        for place, slot in enumerate(own)
        if slot >= 0
    ]
    frame = pd.DataFrame(rows, columns=["user", "item", "rank"])
    frame.to_parquet(tmp_path / "lists.parquet")
    given = ["--recommendations", str(tmp_path / "lists.parquet"), "--metrics", "all"]
    found = measured(tmp_path / "r.json", *given, "--data_dir", str(dataset.path))
    for side in ("filtered", "unfiltered"):
        for name in LIST_METRICS:
            wanted = found["markov"]["filtered"][f"{name}@10"]
            assert found[side][f"{name}@10"] == pytest.approx(wanted), name
    assert "ece@10" not in found["filtered"] and "hit_rate@50" not in found["filtered"]
