"""The HTTP server answers what `recommend` answers, and says what is wrong."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from server_requests import JSON, MISTAKES, REQUEST, SOUND, WRONG_ADDRESSES, fits
from web_servers import Served, same, serving, until

import eqids
from eqids.data import Dataset
from eqids.inference.recommender import Recommender
from eqids.inference.server.openapi import openapi_document, statuses
from eqids.inference.server.operations import OPERATIONS


@pytest.fixture(scope="module")
def served(
    finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "filters.json").write_text('{"in stock": []}')
    with serving(
        finished / "40", events=folder / "events.sqlite",
        filters=folder / "filters.json", watch_every=0.01,
        max_batch=4, max_k=20, timeout=30.0,
    ) as one:  # fmt: skip
        yield one


@pytest.fixture(scope="module")
def recommender(finished: Path) -> Recommender:
    return eqids.load(finished / "40")


OPTIONS: list[dict[str, Any]] = [
    {"k": 5},
    {"k": 20, "keep_seen": True},
    {"k": 3, "allow": ["item 1", "item 2", "item 3", "item 9", "no item"]},
    {"k": 20, "deny": ["item 4", "item 5", "no item"]},
    {"k": 4, "allow": [f"item {i}" for i in range(9)], "deny": ["item 2"]},
    {"k": 20, "deny": [f"item {i % 9}" for i in range(600)]},
]


def test_answers_are_those_of_recommend(
    served: Served, recommender: Recommender, dataset: Dataset
) -> None:
    histories: list[list[str]] = [["item 1", "item 2"], ["item 7"], []]
    for options in OPTIONS:
        given = {**options, "filter_seen": not options.get("keep_seen", False)}
        given.pop("keep_seen", None)
        for history in histories:
            answer = served.post("/v1/recommend", {"history": history, **options})
            assert answer.status_code == 200, answer.text
            same(answer.json(), recommender.recommend([history], **given))
            assert answer.json().get("popularity", False) == (not history)
            unknown = "no item" in options.get("allow", [])
            assert answer.json().get("left_out", {}).get("allow", 0) == unknown
        for user in ("user 0", "user 7"):
            answer = served.post("/v1/recommend", {"user": user, **options})
            expected = recommender.recommend([recommender.of_user(user)], **given)
            same(answer.json(), expected)
    assert answer.json()["model"] == {
        "checkpoint": str(recommender.opened.path),
        "step": 40,
        "catalog_id": dataset.info.catalog_id,
        "catalog_version": 1,
    }


def test_times_order_a_history(served: Served, recommender: Recommender) -> None:
    given = [(30, "item 3"), (10, "item 1"), (20, "item 2"), (10, "item 4")]
    timed = [{"item": item, "time": 10**9 + time} for time, item in given]
    answer = served.post("/v1/recommend", {"history": timed, "k": 6})
    in_order = recommender.recommend(_table([given[i] for i in (1, 3, 2, 0)]), k=6)
    same(answer.json(), in_order)


def _table(events: list[tuple[int, str]]) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {
            "user": "one",
            "item": [item for _, item in events],
            "time": [10**9 + time for time, _ in events],
        }
    )


def test_several_requests_are_answered_in_order(served: Served) -> None:
    requests = [{"user": "user 3", "k": 2}, {"history": []}, {"history": ["item 5"]}]
    together = served.post("/v1/recommend", {"requests": requests}).json()
    for request, result in zip(requests, together["results"], strict=True):
        alone = served.post("/v1/recommend", request).json()
        assert alone.pop("model") == together["model"]
        assert [one["item"] for one in alone["items"]] == [
            one["item"] for one in result["items"]
        ]
        assert alone.get("popularity") == result.get("popularity")


def test_scores_are_the_probabilities_of_recommendations(served: Served) -> None:
    asked = {"history": ["item 1", "item 2"]}
    everything = served.post(
        "/v1/recommend", {**asked, "k": 20, "keep_seen": True}
    ).json()["items"]
    items = [one["item"] for one in everything][::-1]
    scored = served.post("/v1/score", {**asked, "items": items}).json()["items"]
    assert [one["item"] for one in scored] == items
    expected = [np.log(one["probability"]) for one in everything][::-1]
    found = [one["log_probability"] for one in scored]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_items_are_found_by_their_titles(served: Served, dataset: Dataset) -> None:
    table = dataset.items()
    for words, k in (("film 1", 20), ("1 FILM", 20), ("2", 2), ("", 5), ("none", 5)):
        answer = served.client.get("/v1/items", params={"q": words, "k": k}).json()
        fits = [
            all(word in title.lower() for word in words.lower().split())
            for title in table["title"]
        ]
        order = table[fits].sort_values(
            ["count", "slot"], ascending=[False, True], kind="stable"
        )
        assert [one["item"] for one in answer["items"]] == order["item"].tolist()[:k]


def test_stored_events_extend_histories(
    served: Served, recommender: Recommender, dataset: Dataset
) -> None:
    def items_of(user: str) -> list[str]:
        answer = served.client.get(f"/v1/users/{user}").json()
        return [one["item"] for one in answer["history"]]

    before, row = items_of("user 5"), dataset.user_index("user 5")
    last = int(dataset.times[dataset.offsets[row + 1] - 1])
    new = [
        {"user": "user 5", "item": "item 3", "time": last + 10},
        {"user": "a/new user", "item": "item 8", "time": 5},
        {"user": "user 5", "item": "item 6", "time": last + 5},
    ]
    answer = served.post("/v1/events", {"events": new})
    assert answer.json() == {"stored": 3, "new": 3}
    assert served.post("/v1/events", {"events": new}).json()["new"] == 0
    assert items_of("user 5") == [*before, "item 6", "item 3"]
    assert items_of("a%2Fnew user") == ["item 8"]
    # An event that the dataset holds, as after `prepare --source events:FILE`.
    item = dataset.items().set_index("slot")["item"]
    slot = dataset.slots[dataset.offsets[row + 1] - 1]
    held = {"user": "user 5", "item": item[slot], "time": last}
    assert served.post("/v1/events", {"events": [held]}).json()["new"] == 1
    assert items_of("user 5") == [*before, "item 6", "item 3"]
    answer = served.post("/v1/recommend", {"user": "a/new user", "k": 7})
    same(answer.json(), recommender.recommend([["item 8"]], k=7))


def test_an_event_of_an_unknown_item_stores_nothing(served: Served) -> None:
    new = [{"user": "late", "item": item, "time": 1} for item in ("item 1", "item x")]
    answer = served.post("/v1/events", {"events": new})
    assert answer.status_code == 404
    said = {"error": "events[1]: item 'item x' is not in the catalog"}
    assert answer.json() == said
    assert served.client.get("/v1/users/late").status_code == 404


@pytest.mark.parametrize(("path", "body", "status", "said"), MISTAKES)
def test_mistakes_are_named(
    path: str, body: Any, status: int, said: str, served: Served
) -> None:
    answer = served.post(f"/v1/{path}", body)
    assert answer.status_code == status, answer.text
    (name,) = answer.json()
    assert name == "error" and said in answer.json()["error"], answer.text
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(("path", "status", "said"), WRONG_ADDRESSES)
def test_mistakes_in_addresses_are_named(
    path: str, status: int, said: str, served: Served
) -> None:
    answer = served.client.get(path)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True)


def test_unknown_items_may_be_skipped(served: Served, recommender: Recommender) -> None:
    asked = {"history": ["item 1", "gone", "item 2"], "unknown": "skip", "k": 5}
    answer = served.post("/v1/recommend", asked).json()
    assert answer["left_out"] == {"history": 1}
    same(answer, recommender.recommend([["item 1", "item 2"]], k=5))


# beartype chooses the elements that it checks by `random`, in the server's threads.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@settings(max_examples=80)
@given(
    path=st.sampled_from(["recommend", "score"]),
    body=SOUND | REQUEST | JSON | st.lists(SOUND, max_size=5).map(
        lambda requests: {"requests": requests}
    ),
)  # fmt: skip
def test_no_request_is_answered_500_or_compiles(
    path: str, body: Any, served: Served
) -> None:
    answer = served.post(f"/v1/{path}", body)
    assert answer.status_code in (200, 400, 404), answer.text
    assert answer.status_code == 200 or list(answer.json()) == ["error"]
    assert served.service.engine.counters().compilations_after_ready == 0


def test_metrics_count_what_happened(served: Served) -> None:
    def value(name: str) -> float:
        lines = served.client.get("/metrics").text.splitlines()
        (found,) = (x.rpartition(" ")[2] for x in lines if x.startswith(f"{name} "))
        return float(found)

    ok = 'eqids_requests_total{outcome="ok"}'
    before, rows = value(ok), value("eqids_batch_size_sum")
    served.post("/v1/recommend", {"history": ["item 20", "item 21"], "k": 17})
    assert (
        value(ok)
        == before + 1
        == value("eqids_request_seconds_count")
        - sum(
            value(f'eqids_requests_total{{outcome="{name}"}}')
            for name in ("bad_request", "not_found", "bad_method", "refused")
        )
    )
    assert value("eqids_batch_size_sum") == rows + 1
    assert value('eqids_batch_size_bucket{le="+Inf"}') >= 1
    assert value("eqids_queue_depth") == 0
    assert value("eqids_compilations_after_ready_total") == 0
    assert value("eqids_device_seconds_total") > 0
    text = served.client.get("/metrics").text
    for name in ("eqids_cache_hits_total", "eqids_cache_misses_total"):
        assert f'{name}{{tier="answer"}}' in text
    assert "eqids_model_info{" in text and 'step="40"' in text


def test_named_filters_change_with_their_file(
    served: Served, recommender: Recommender
) -> None:
    path = served.service.config.filters
    assert path is not None
    asked = {"history": ["item 1"], "k": 20, "filter": "in stock"}
    lists = [[f"item {i}" for i in few] for few in ((2, 3, 4), (5, 6), ())]
    for items in lists:
        path.write_text(json.dumps({"in stock": [*items, "gone"], "none": []}))

        def found(items: list[str] = items) -> bool:
            answer = served.post("/v1/recommend", asked).json()
            return {one["item"] for one in answer["items"]} == set(items)

        until(found)
    assert "1 of 3 ids of filter 'in stock' are not in the catalog" in "".join(
        served.log
    )
    path.write_text("not JSON")
    until(lambda: "the filters stay as they are" in "".join(served.log))
    path.write_text(json.dumps({"in stock": lists[0]}))
    until(lambda: served.service.catalog.served.filters.keys() == {"in stock"})
    both = {**asked, "allow": ["item 3", "item 9"]}
    answer = served.post("/v1/recommend", both).json()
    same(answer, recommender.recommend([["item 1"]], k=20, allow=["item 3"]))


def test_the_log_has_no_histories_unless_they_are_wanted(served: Served) -> None:
    served.post("/v1/recommend", {"history": ["item 15", "secret"]})
    served.client.get("/v1/users/user%202")
    until(lambda: "users" in "".join(served.log[-3:]))
    lines = "".join(served.log).splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    last = next(one for one in records[::-1] if one["path"] == "/v1/recommend")
    assert (last["status"], last["method"]) == (404, "POST")
    assert last["client"] == "127.0.0.1" and last["seconds"] > 0
    assert "secret" not in "".join(lines) and "user 2" not in "".join(lines)


def test_the_openapi_document_is_that_of_the_server(served: Served) -> None:
    document = served.client.get("/openapi.json").json()
    assert document == json.loads(
        openapi_document(OPERATIONS, document["info"]["version"])
    )
    schemas = document["components"]["schemas"]
    asked: dict[str, Any] = {
        "/v1/recommend": {"user": "user 1"},
        "/v1/score": {"history": [], "items": ["item 1"]},
        "/v1/events": {"events": [{"user": "user 9", "item": "item 1", "time": 3}]},
        "/v1/similar": {"item": "item 1"},
        "/v1/users/{user}": {},
    }
    for operation in OPERATIONS:
        one = document["paths"][operation.path][operation.method.lower()]
        assert set(one["responses"]) == {"200", *map(str, statuses(operation))}
        if operation.path in ("/v1/reload", "/v1/compare"):  # see their own tests
            continue
        given = asked.get(operation.path, {})
        path = operation.path.replace("{user}", "user 1")
        if operation.method == "GET":
            answer = served.client.get(path, params=given)
        else:
            body = one["requestBody"]["content"]["application/json"]["schema"]
            assert fits(given, body, schemas)
            answer = served.post(path, given)
        content = one["responses"]["200"]["content"]["application/json"]
        assert answer.status_code == 200
        assert fits(answer.json(), content["schema"], schemas), answer.text


def test_accepted_requests_are_answered_after_a_signal(
    served: Served, finished: Path
) -> None:
    """The last test, because it stops the server."""
    engine, release = served.service.engine, threading.Event()
    blocked = engine.submit_call(release.wait)
    until(blocked.running)
    answers: list[httpx.Response] = []
    asked = {"history": ["item 16", "item 17"]}
    thread = threading.Thread(
        target=lambda: answers.append(served.post("/v1/recommend", asked))
    )
    thread.start()
    until(lambda: engine.counters().queue_depth == 1)
    served.stop()
    until(served.service.draining.is_set)
    for path in ("/health/ready", "/v1/model"):
        refused = served.client.get(path)
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert served.client.get("/health/live").status_code == 200
    release.set()
    thread.join()
    assert answers[0].status_code == 200
    assert served.ended.wait(30)
