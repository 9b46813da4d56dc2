"""Answers `POST /v1/recommend` and `POST /v1/score`."""

import asyncio
import functools
import math
import operator
from collections.abc import Sequence

from msgspec import UNSET

from eqids.data.ids import shown
from eqids.inference.engine.inference_engine import InferenceEngine
from eqids.inference.engine.values import Query, Recommendations, SlotFilter
from eqids.inference.server.bodies import (
    CompareAnswer,
    LeftOut,
    NearItem,
    RecommendAnswer,
    RecommendAnswers,
    RecommendBatch,
    RecommendedItem,
    RecommendRequest,
    RecommendResult,
    ScoreAnswer,
    ScoredItem,
    ScoreRequest,
)
from eqids.inference.server.device_calls import device_call, recommendations
from eqids.inference.server.http_errors import HttpError, expect
from eqids.inference.server.map_requests import near_items
from eqids.inference.server.served_catalog import ServedCatalog
from eqids.inference.server.service import Service
from eqids.inference.server.user_histories import requested_history

_MANY = 5_000
"""More ids than this are looked up in another thread, so that others need not wait."""
_ID_BYTES = 7
"""Bytes of an id in a list that is not read yet, about."""
_LISTED = 512
"""A longer list of items to leave out becomes a filter, which equal lists share."""


async def recommend(
    service: Service, asked: RecommendRequest | RecommendBatch
) -> RecommendAnswer | RecommendAnswers:
    """Returns the most probable next items of one history, or of several."""
    engine, catalog = service.ready()
    if not isinstance(asked, RecommendBatch):
        return await _answer(service, engine, catalog, asked)
    most = service.config.max_batch
    expect(
        1 <= len(asked.requests) <= most,
        400,
        f"requests holds {len(asked.requests)}, wanted 1 to {most} (--max_batch)",
    )
    given = [(one, f"requests[{i}].") for i, one in enumerate(asked.requests)]
    results = await _results(service, engine, catalog, given)
    return RecommendAnswers(catalog.model, results)


async def compare(service: Service, asked: RecommendRequest) -> CompareAnswer:
    """Returns the most probable next items by the served model and the compared one."""
    engine, catalog = service.ready()
    other = service.compared
    if other is None:
        raise HttpError(404, "there is no other model: start the server with --compare")
    return CompareAnswer(
        await _answer(service, engine, catalog, asked),
        await _answer(service, engine, other, asked),
    )


async def score(service: Service, asked: ScoreRequest) -> ScoreAnswer:
    """Returns the log-probability of each item after a history."""
    engine, catalog = service.ready()
    config, served = service.config, catalog.served
    expect(
        1 <= len(asked.items) <= config.max_k,
        400,
        f"items holds {len(asked.items)}, wanted 1 to {config.max_k} (--max_k)",
    )
    slots = catalog.names.find(asked.items)
    if (slots < 0).any():
        at = int((slots < 0).argmax())
        item = shown(asked.items[at])
        raise HttpError(404, f"items[{at}]: item {item} is not in the catalog")
    history, _ = requested_history(catalog, service.events, asked, "")
    found = await device_call(
        engine, lambda: served.log_probs([history], slots)[0], config.timeout
    )
    scored = [
        ScoredItem(
            catalog.names.item(slot),
            catalog.names.title(slot),
            value if math.isfinite(value) else None,
        )
        for slot, value in zip(slots.tolist(), found.tolist(), strict=True)
    ]
    return ScoreAnswer(catalog.model, scored)


async def _answer(
    service: Service,
    engine: InferenceEngine,
    catalog: ServedCatalog,
    asked: RecommendRequest,
) -> RecommendAnswer:
    (one,) = await _results(service, engine, catalog, [(asked, "")])
    return RecommendAnswer(catalog.model, one.items, one.popularity, one.left_out)


async def _results(
    service: Service,
    engine: InferenceEngine,
    catalog: ServedCatalog,
    given: Sequence[tuple[RecommendRequest, str]],
) -> list[RecommendResult]:
    """Returns the results of requests; with each comes how messages about it begin."""

    def prepared() -> list[tuple[Query, LeftOut | None]]:
        return [_query(service, catalog, one, where) for one, where in given]

    many = sum(_num_ids(one) for one, _ in given) > _MANY
    pairs = await asyncio.to_thread(prepared) if many else prepared()
    queries = [query for query, _ in pairs]
    seconds = service.config.timeout
    answers = await recommendations(engine, catalog.served, queries, seconds)
    results = []
    for (one, _), (query, left_out), answer in zip(given, pairs, answers, strict=True):
        near: Sequence[list[NearItem]] = [[]] * len(answer.slots)
        if one.explain and not answer.popularity:
            seen = query.history.slots
            near = await near_items(service, engine, catalog, answer.slots, seen)
        items = _items(catalog, answer, near)
        results.append(RecommendResult(items, answer.popularity, left_out))
    return results


def _num_ids(asked: RecommendRequest) -> int:
    """Returns about how many ids have to be looked up."""
    lists = (asked.allow, asked.deny)
    unread = sum(len(memoryview(one)) for one in lists if one is not UNSET)
    return len(asked.history or ()) + unread // _ID_BYTES


def _query(
    service: Service, catalog: ServedCatalog, asked: RecommendRequest, where: str
) -> tuple[Query, LeftOut | None]:
    """Returns a request as the engine reads it, and how many ids were left out."""
    most = service.config.max_k
    expect(asked.k <= most, 400, f"{where}k is {asked.k}, wanted 1 to {most} (--max_k)")
    history, num_unknown = requested_history(catalog, service.events, asked, where)
    filters = [_named_filter(catalog, asked.filter, where)]
    allow = catalog.lists.read(asked.allow, f"{where}allow")
    if allow is not None:
        expect(
            bool(allow.allowed.allowed.any()),
            400,
            f"{where}allow names no item that can be recommended, wanted at least one "
            "that the catalog holds and that is not retired",
        )
        filters.append(allow.allowed)
    deny, slots = catalog.lists.read(asked.deny, f"{where}deny"), None
    if deny is not None and len(deny.slots) > _LISTED:
        filters.append(deny.others)
    elif deny is not None:
        slots = deny.slots
    k = min(asked.k, catalog.served.shapes.ks[-1])
    query = Query(history, k, not asked.keep_seen, _all_of(filters), slots)
    left_out = LeftOut(
        num_unknown,
        0 if allow is None else allow.num_unknown,
        0 if deny is None else deny.num_unknown,
    )
    return query, None if left_out == LeftOut() else left_out


def _named_filter(
    catalog: ServedCatalog, name: str | None, where: str
) -> SlotFilter | None:
    """Returns a filter of `--filters`; None for no name."""
    if name is None:
        return None
    filters = catalog.served.filters
    names = ", ".join(map(shown, filters)) or "none, see --filters"
    expect(
        name in filters,
        404,
        f"{where}filter {shown(name)} is unknown, the filters are {names}",
    )
    return filters[name]


def _all_of(filters: Sequence[SlotFilter | None]) -> SlotFilter | None:
    """Returns what all filters allow; None if there are none."""
    given = [one for one in filters if one is not None]
    return functools.reduce(operator.and_, given) if given else None


def _items(
    catalog: ServedCatalog, answer: Recommendations, near: Sequence[list[NearItem]]
) -> list[RecommendedItem]:
    slots, probabilities = answer.slots.tolist(), answer.probabilities.tolist()
    rows, names = zip(slots, probabilities, near, strict=True), catalog.names
    return [
        RecommendedItem(rank, names.item(slot), names.title(slot), probability, hints)
        for rank, (slot, probability, hints) in enumerate(rows, start=1)
    ]
