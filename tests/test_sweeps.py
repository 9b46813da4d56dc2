"""A part of each sweep, with another seed every time."""

import random
from pathlib import Path

import pytest
from corruptions import CASES, corruption_sweep
from kills import Kill, kill_sweep
from sweep_checkpoints import Sweeps, page
from sweep_requests import compare_answers, random_requests
from sweep_server import kill_servers, stop_servers
from sweep_server_load import make_run, mixed_load
from sweep_shutdown import shutdown_sweep

from eqids.data import Dataset


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again(dataset: Dataset, tmp_path: Path) -> None:
    kills = kill_sweep(dataset.path, tmp_path, 8, random.randrange(10**6))
    assert len(kills) == 8 and any(kill.moment != "before any save" for kill in kills)


@pytest.mark.long
def test_damage_is_detected_and_an_older_step_serves(
    dataset: Dataset, tmp_path: Path
) -> None:
    seed, num = random.randrange(10**6), 2 * len(CASES)
    found = corruption_sweep(dataset.path, tmp_path, num, 4, seed)
    for kind, damage in CASES:
        assert sum((row.kind, row.damage) == (kind, damage) for row in found) == 2
    text = page(Sweeps(seed=seed), {"one": [Kill("during a save", 17)]}, found, 3.0)
    assert "| OCDBT manifest | deleted | 2 of 2 |" in text


@pytest.mark.long
def test_two_processes_that_are_stopped_both_exit_with_143(
    dataset: Dataset, tmp_path: Path
) -> None:
    stops = shutdown_sweep(dataset.path, tmp_path, 2, random.randrange(10**6))
    assert [stop.codes for stop in stops] == 2 * [(143, 143)]


@pytest.mark.long
def test_servers_that_are_killed_lose_no_acknowledged_event(
    finished: Path, tmp_path: Path
) -> None:
    kills = kill_servers(finished, tmp_path, 3, random.randrange(10**6))
    assert len(kills) == 3


@pytest.mark.long
def test_servers_that_are_stopped_answer_what_they_accepted(
    finished: Path, tmp_path: Path
) -> None:
    stops = stop_servers(finished, tmp_path, 3, random.randrange(10**6))
    assert all(stop.answered + stop.refused for stop in stops)


@pytest.mark.long
def test_random_requests_get_the_answers_of_recommend_and_never_500(
    finished: Path, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    compare_answers(finished, tmp_path, 1000, seed)
    statuses, _ = random_requests(finished, tmp_path, 300, seed)
    assert statuses.total() >= 300 and statuses[200] and statuses[400]


@pytest.mark.long
def test_mixed_load_fails_no_request(tmp_path: Path) -> None:
    _, good, failures = mixed_load(
        make_run(tmp_path), tmp_path, seconds=15, reload_every=4
    )
    assert not failures and good["reload"] and good["recommend"] > 20
