"""The models of a server: side by side, reloaded, queued for, behind keys; the map."""

import asyncio
import base64
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_dataset
from runs import save_noisy
from web_servers import Served, application, ask, same, serving, until

import eqids
from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.inference.engine.values import QueueFull
from eqids.inference.server.shared_result import SharedResult


def test_a_shared_result_is_computed_once() -> None:
    calls: list[str] = []

    async def run() -> None:
        shared: SharedResult[str] = SharedResult()
        go = asyncio.Event()

        async def fails() -> str:
            calls.append("fails")
            await go.wait()
            raise ValueError("no")

        async def works() -> str:
            calls.append("works")
            await go.wait()
            return "value"

        waiting = [asyncio.create_task(shared.get(fails)) for _ in range(3)]
        await asyncio.sleep(0)
        go.set()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(error) for error in errors] == ["no"] * 3
        go.clear()
        gone, stays = [asyncio.create_task(shared.get(works)) for _ in range(2)]
        await asyncio.sleep(0)
        gone.cancel()  # a client goes away
        go.set()
        assert await stays == "value"
        assert await shared.get(fails) == "value"

    asyncio.run(run())
    assert calls == ["fails", "works"]


@pytest.fixture(scope="module")
def served(finished: Path) -> Iterator[Served]:
    flags: dict[str, Any] = {"max_batch": 1, "max_k": 16, "timeout": 30.0}
    with serving(finished / "40", compare=finished, **flags) as one:
        yield one


def test_the_map_has_all_items(served: Served, dataset: Dataset) -> None:
    found = served.client.get("/v1/map").json()
    items = dataset.items().set_index("item")
    assert {*found["items"]} == {*items.index} and found["num_items"] == len(items)
    assert found["titles"] == items["title"].loc[found["items"]].tolist()
    clusters = np.frombuffer(base64.b64decode(found["cluster"]), "<i4")
    slots = items["slot"].loc[found["items"]].to_numpy()
    assert found["clusters_of"] == "model"
    np.testing.assert_array_equal(clusters, slots // dataset.info.cluster_size)
    assert served.client.get("/v1/map").json() == found
    assert found["model"] == served.client.get("/v1/model").json()["model"]


def test_hints_are_given_when_wanted(served: Served) -> None:
    asked = {"history": ["item 1", "item 2", "item 1"], "k": 4}
    plain = served.post("/v1/recommend", asked).json()
    explained = served.post("/v1/recommend", {**asked, "explain": True}).json()
    assert "near" not in plain["items"][0]
    for one in explained["items"]:
        hints = one.pop("near")
        assert {hint["item"] for hint in hints} == {"item 1", "item 2"}
        assert hints[0]["similarity"] >= hints[1]["similarity"]
    assert explained == plain
    empty = served.post("/v1/recommend", {"history": [], "explain": True}).json()
    assert empty["popularity"] and "near" not in empty["items"][0]
    several = [{**asked, "explain": True}]
    (result,) = served.post("/v1/recommend", {"requests": several}).json()["results"]
    assert result["items"][0]["near"]


def test_two_models_answer_a_request(served: Served, finished: Path) -> None:
    answer = served.post("/v1/compare", {"history": ["item 3"], "k": 5}).json()
    for name, path in (("served", finished / "40"), ("compared", finished)):
        expected = eqids.load(path).recommend([["item 3"]], k=5)
        found = answer[name]["items"]
        assert [one["item"] for one in found] == expected["item"].tolist()
        probability = [one["probability"] for one in found]
        np.testing.assert_allclose(probability, expected["probability"], atol=1e-6)
    counters = served.service.engine.counters()  # type: ignore[union-attr]
    assert counters.compilations_after_ready == 0


def test_without_compare_there_is_no_second_model(served: Served) -> None:
    other, served.service.compared = served.service.compared, None
    try:
        refused = served.post("/v1/compare", {"history": []})
        assert refused.status_code == 404 and "--compare" in refused.json()["error"]
        assert served.client.get("/v1/model").json()["compared"] is None
    finally:
        served.service.compared = other


def test_a_reload_serves_the_other_checkpoint(
    served: Served, finished: Path, tmp_path: Path
) -> None:
    asked = {"history": ["item 1", "item 2"], "k": 9}
    for step in (20, 40):
        answer = served.post("/v1/reload", {"checkpoint": str(finished / str(step))})
        assert answer.json()["model"]["step"] == step
        assert answer.json()["before"]["step"] == 60 - step
        found = served.post("/v1/recommend", asked).json()
        assert found["model"]["step"] == step
        other = eqids.load(finished / str(step))
        same(found, other.recommend([asked["history"]], k=9))
    assert served.service.engine.counters().compilations_after_ready == 0


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A checkpoint of another catalog."""
    other = make_dataset(tmp_path / "other", seed=1)
    flags = TrainConfig(data_dir=other.path, item_width=8, seq_len=16)
    save_noisy(tmp_path / "elsewhere", flags, other)
    return tmp_path / "elsewhere" / "4"


def test_unsound_and_foreign_checkpoints_are_refused(
    served: Served, finished: Path, elsewhere: Path, tmp_path: Path
) -> None:
    files = [one for one in (finished / "20").rglob("*") if one.is_file()]
    largest = max(files, key=lambda one: one.stat().st_size)
    name = largest.relative_to(finished / "20")
    for kind in ("flipped", "truncated", "missing"):
        damaged = tmp_path / kind / "20"
        shutil.copytree(finished / "20", damaged)
        content = bytearray((damaged / name).read_bytes())
        content[len(content) // 2] ^= 1
        if kind == "missing":
            (damaged / name).unlink()
        else:
            size = len(content) - (kind == "truncated")
            (damaged / name).write_bytes(content[:size])
        answer = served.post("/v1/reload", {"checkpoint": str(damaged)})
        assert answer.status_code == 409, (kind, answer.text)
        assert str(name.name) in answer.text or "20" in answer.text
    answer = served.post("/v1/reload", {"checkpoint": str(elsewhere)})
    assert answer.status_code == 409
    assert "wanted a checkpoint of the same catalog" in answer.json()["error"]
    assert served.client.get("/v1/model").json()["model"]["step"] == 40
    good = served.post("/v1/recommend", {"user": "user 1"})
    assert (good.status_code, good.json()["model"]["step"]) == (200, 40)


def test_the_queue_is_bounded_and_requests_have_a_deadline(served: Served) -> None:
    app, engine = application(served, max_queue=2, timeout=0.2)
    release = threading.Event()
    blocked = engine.submit_call(release.wait)
    until(blocked.running)
    asked: dict[str, Any] = {"json": {"history": ["item 11", "item 12"], "k": 3}}
    late = ask(app, "POST", "/v1/recommend", **asked)
    assert (late.status_code, "within 0.2 seconds" in late.text) == (504, True)
    waiting = []
    with pytest.raises(QueueFull):
        while True:
            waiting.append(engine.submit_call(lambda: None))
    full = ask(app, "POST", "/v1/recommend", **asked)
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert "the queue is full" in full.json()["error"]
    release.set()
    for one in waiting:
        one.result()
    assert ask(app, "POST", "/v1/recommend", **asked).status_code == 200
    engine.close()
    asked["json"]["k"] = 4  # which no cache answers
    closed = ask(app, "POST", "/v1/recommend", **asked)
    assert (closed.status_code, closed.headers["connection"]) == (503, "close")


def test_a_client_that_goes_away_cancels_its_query(served: Served) -> None:
    engine, release = served.service.engine, threading.Event()
    blocked = engine.submit_call(release.wait)
    until(blocked.running)
    batches = engine.counters().batches
    body = b'{"history": ["item 13", "item 14"]}'
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(head % len(body) + body)
        until(lambda: engine.counters().queue_depth == 1)
    cancelled = 'eqids_requests_total{outcome="cancelled"} 1.0'
    until(lambda: cancelled in served.client.get("/metrics").text)
    release.set()
    engine.submit_call(lambda: None).result()
    assert engine.counters().batches == batches


def test_only_keys_of_the_file_open_v1(served: Served) -> None:
    app, engine = application(served, keys=[b"first-key", b"second"])
    good = {"authorization": "Bearer second"}
    assert ask(app, "GET", "/v1/model", headers=good).status_code == 200
    for bad in ("", "second", "Bearer", "Bearer sec", "Bearer second2", "Basic second"):
        answer = ask(app, "GET", "/v1/model", headers={"authorization": bad})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "second" not in answer.text
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
        assert ask(app, "GET", path).status_code == 200
    engine.close()


def test_pages_of_other_sites_are_refused(served: Served) -> None:
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        headers = {"sec-fetch-site": site}
        answer = served.client.get("/v1/model", headers=headers)
        assert answer.status_code == status


def test_similar_items_have_the_nearest_vectors(
    served: Served, dataset: Dataset
) -> None:
    model = served.service.catalog.served
    vectors = np.asarray(model.item_vectors(), np.float64)
    vectors = vectors.reshape(dataset.num_slots, -1)
    items = dataset.items()
    rows = vectors[items["slot"]]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows[4]
    order = [i for i in np.argsort(-cosines, kind="stable") if i != 4][:6]
    answer = served.client.get("/v1/similar", params={"item": "item 4", "k": 6}).json()
    assert [one["item"] for one in answer["items"]] == items["item"][order].tolist()
    found = [one["similarity"] for one in answer["items"]]
    np.testing.assert_allclose(found, cosines[order], rtol=0, atol=1e-5)
