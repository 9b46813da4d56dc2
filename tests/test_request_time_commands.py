"""The time of the request in commands: recommendations, runs and exports by it."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gaps import bucket
from models import log_probs_at
from pytest import CaptureFixture
from runs import refused, save_noisy, small
from web_servers import same, serving

import eqids
from convert import __main__ as convert_command
from eqids import evaluate, recommend, train
from eqids.config import TrainConfig, UserError
from eqids.data import Dataset
from eqids.data.batches.training_batches import query_batch
from eqids.inference.recommender import Recommender
from eqids.model import Batch

SEQ_LEN = 16


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model that reads the time of the request."""
    folder = tmp_path_factory.mktemp("timed") / "run"
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, seq_len=SEQ_LEN, request_time=True
    )
    save_noisy(folder, flags, dataset)
    return folder


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return eqids.load(run)


def longest(dataset: Dataset) -> tuple[int, np.ndarray, np.ndarray]:
    """The user with most events, their slots and times."""
    user = int(np.argmax(np.diff(dataset.offsets)))
    span = slice(dataset.offsets[user], dataset.offsets[user + 1])
    assert dataset.times is not None
    return user, dataset.slots[span], dataset.times[span]


def test_recommendations_are_those_of_the_evaluations_query(
    dataset: Dataset, recommender: Recommender
) -> None:
    user, slots, times = longest(dataset)
    model, asked = recommender.opened.model, int(times[-1]) + 5000
    host = query_batch([slots], [times], SEQ_LEN)
    gaps = np.append(host.gap[0, 1:], bucket(5000)).astype(np.int32)[None]
    batch = Batch.of(dataclasses.replace(host, request_gap=gaps))
    scores = log_probs_at(model, batch, SEQ_LEN - 1)
    history = recommender.of_user(f"user {user}")

    def probabilities(**more: Any) -> np.ndarray:
        found = recommender.recommend([history], 30, filter_seen=False, **more)
        slot = dataset.find_items(found["item"])
        return found["probability"].to_numpy()[np.argsort(slot)]

    expected = np.exp(np.asarray(scores)[dataset.item_valid.reshape(-1)])
    text = str(np.datetime64(asked, "s"))
    for times_given in (text, [text], pd.Timestamp(text), np.datetime64(text)):
        found = probabilities(request_times=times_given)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    named = dataclasses.replace(history, request_time=asked)
    found = recommender.recommend([named], 30, filter_seen=False)["probability"]
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-4)
    other = probabilities(request_times="1970-01-20")
    assert np.abs(other - expected).max() > 1e-3
    # By default it is now, many years after these events.
    now = probabilities()
    far = probabilities(request_times=1_704_067_200)
    np.testing.assert_allclose(now, far, rtol=1e-6)
    last = probabilities(request_times="last")
    same = str(np.datetime64(int(times[-1]), "s"))
    np.testing.assert_allclose(last, probabilities(request_times=same))
    assert np.abs(last - now).max() > 1e-3


def test_files_and_the_command_say_when_it_is_asked(
    dataset: Dataset, run: Path, recommender: Recommender, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    user, slots, times = longest(dataset)
    ids = dataset.items().set_index("slot")["item"]
    asked = str(np.datetime64(int(times[-1]) + 5000, "s"))
    frame = pd.DataFrame(
        {"user": "a", "item": ids.loc[slots].to_numpy(), "time": times}
    )
    expected = recommender.recommend(frame, 4, request_times=asked)
    timed = frame.assign(request_time=asked)
    timed.to_csv(tmp_path / "in.csv", index=False)
    given = ["--checkpoint", str(run), "--k", "4"]
    file = ["--input", str(tmp_path / "in.csv")]
    recommend.main([*given, *file, "--output", str(tmp_path / "out.parquet")])
    found = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-6)
    pd.testing.assert_frame_equal(recommender.recommend(timed, 4), found)
    capsys.readouterr()
    one = [*given, "--user", f"user {user}", "--request_time"]
    recommend.main([*one, asked])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[2:4] for line in shown] == [
        item.split() for item in expected["item"]
    ]
    output = ["--output", str(tmp_path / "o.csv")]
    both = [*given, *file, *output, "--request_time", asked]
    assert "wanted one of both" in refused(recommend.main, both, capsys)
    for text, said in (
        ("soon", "--request_time is 'soon', wanted unix seconds, a date and time"),
        ("5", "is at " + str(times[-1])),
    ):
        assert said in refused(recommend.main, [*one, text], capsys)
    ids_alone = [*given, "--history", "item 1", "--request_time", asked]
    assert "no times of events" in refused(recommend.main, ids_alone, capsys)


def test_request_times_that_do_not_fit_are_refused(
    dataset: Dataset, finished: Path, recommender: Recommender,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    _, slots, times = longest(dataset)
    ids = dataset.items().set_index("slot")["item"]
    frame = pd.DataFrame(
        {"user": "a", "item": ids.loc[slots].to_numpy(), "time": times}
    )
    late = int(times[-1]) + 5
    two = frame.assign(request_time=[late] * (len(frame) - 1) + [late + 1])
    with pytest.raises(UserError, match="has 2 values for user 'a', wanted the same"):
        recommender.recommend(two)
    with pytest.raises(UserError, match="request_times holds 2 times, wanted one for"):
        recommender.recommend(frame, request_times=[late, late])
    early = recommender.of_user("user 0")
    early = dataclasses.replace(early, request_time=int(early.times[-1]) - 1)
    with pytest.raises(UserError, match="wanted unix seconds that are not before it"):
        recommender.recommend([early])
    # A model that does not read it leaves a column of that name alone.
    plain = eqids.load(finished)
    with pytest.raises(UserError, match="was trained without --request_time; wanted"):
        plain.recommend(frame, request_times=late)
    pd.testing.assert_frame_equal(
        plain.recommend(frame), plain.recommend(frame.assign(request_time="x"))
    )
    given = ["--checkpoint", str(finished), "--user", "user 1", "--request_time", "9"]
    said = refused(recommend.main, given, capsys)
    assert "--request_time is given, and" in said


@pytest.mark.long
def test_a_run_is_trained_resumed_and_marked(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    flags = small(dataset.path, folder, "--num_steps", "6", "--eval_every", "3")
    train.main([*flags, "--request_time", "--stop_at", "3"])
    assert "--request_time" in refused(train.main, flags, capsys)
    train.main([*flags, "--request_time"])
    heading = "EqIDs knows when each target was requested (--request_time)"
    assert heading in capsys.readouterr().out
    table = eqids.load(folder).opened.model.request_table
    assert table is not None and not table[0].any() and table[bucket(50)].any()
    evaluate.main(["--checkpoint", str(folder), "--json", str(tmp_path / "r.json")])
    again = json.loads((tmp_path / "r.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    assert again == result and result["protocol"]["request_time"] is True
    plain = json.loads((finished / "result.json").read_text())
    assert "request_time" not in plain["protocol"]
    # Another run takes it over, and cannot begin to read it.
    start = [
        "--load_checkpoint",
        str(finished),
        "--checkpoint_dir",
        str(tmp_path / "x"),
    ]
    said = refused(train.main, [*start, "--request_time"], capsys)
    assert "was trained with --no_request_time, this run has --request_time" in said


def test_a_dataset_without_times_is_refused(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    untimed = without_times(dataset, tmp_path / "d")
    flags = small(untimed, tmp_path / "run", "--request_time")
    said = refused(train.main, flags, capsys)
    assert said.startswith(f"error: {untimed} has no times, wanted no --request_time")


def without_times(dataset: Dataset, path: Path) -> Path:
    """Writes the dataset without its times."""
    import pyarrow.parquet as pq

    from eqids.data import write_dataset
    from eqids.data.files import ITEMS_FILE, USERS_FILE

    users, items = (pq.read_table(dataset.path / n) for n in (USERS_FILE, ITEMS_FILE))
    vectors = dataset.item_vectors[dataset.item_valid]
    histories = {"slots": dataset.slots, "offsets": dataset.offsets}
    write_dataset(path, dataset.info, histories, users, items, vectors)
    return path


def test_an_export_reads_the_time_as_its_checkpoint_does(
    dataset: Dataset, run: Path, recommender: Recommender, tmp_path: Path
) -> None:
    convert_command.main(["eqids-to-hf", str(run), str(tmp_path / "pair")])
    pair = eqids.load(tmp_path / "pair")
    history = [recommender.of_user("user 0")]
    for times in ("last", "2024-01-01"):
        pd.testing.assert_frame_equal(
            pair.recommend(history, request_times=times),
            recommender.recommend(history, request_times=times),
        )


@pytest.mark.long
def test_models_read_when_the_next_item_is_requested(
    dataset: Dataset, tmp_path: Path
) -> None:
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, seq_len=16, request_time=True
    )
    save_noisy(tmp_path / "run", flags, dataset)
    expected = eqids.load(tmp_path / "run")
    user = expected.of_user("user 2")
    assert user.times is not None
    last, seen = int(user.times[-1]), []
    with serving(tmp_path / "run", max_batch=1, max_k=8, timeout=60.0) as one:
        for later in (0, 3600, 10**8):
            asked = {"user": "user 2", "k": 8, "request_time": last + later}
            answer = one.post("/v1/recommend", asked).json()
            timed = replace(user, request_time=last + later)
            same(answer, expected.recommend([timed], k=8))
            seen.append([item["probability"] for item in answer["items"]])
        early = one.post("/v1/recommend", {**asked, "request_time": last - 1})
        assert early.status_code == 400 and "not before it" in early.json()["error"]
        untimed = {"history": ["item 1"], "request_time": 5}
        assert one.post("/v1/recommend", untimed).status_code == 400
    assert seen[0] != seen[1] != seen[2]
