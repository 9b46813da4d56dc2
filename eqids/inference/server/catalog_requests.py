"""Answers questions about items, users, the model and the server's health."""

import numpy as np

from eqids.data.ids import shown
from eqids.inference.server.bodies import (
    CatalogItem,
    HealthAnswer,
    ItemsAnswer,
    ItemsRequest,
    ModelAnswer,
    NothingMore,
    SimilarAnswer,
    SimilarItem,
    SimilarRequest,
    UserAnswer,
    UserEvent,
    UserRequest,
)
from eqids.inference.server.device_calls import device_call
from eqids.inference.server.http_errors import expect
from eqids.inference.server.service import Service
from eqids.inference.server.user_histories import user_history


async def similar(service: Service, asked: SimilarRequest) -> SimilarAnswer:
    """Returns the items whose vectors are nearest to one's."""
    engine, catalog = service.ready()
    names, served = catalog.names, catalog.served
    k = min(_checked(service, asked.k), served.shapes.ks[-1])
    (slot,) = names.find([asked.item]).tolist()
    expect(slot >= 0, 404, f"item {shown(asked.item)} is not in the catalog")
    slots = np.array([slot], np.int32)
    near, cosines = await device_call(
        engine, lambda: served.similar(slots, k), service.config.timeout
    )
    pairs = zip(near[0].tolist(), cosines[0].tolist(), strict=True)
    items = [
        SimilarItem(rank, names.item(other), names.title(other), cosine)
        for rank, (other, cosine) in enumerate(pairs, start=1)
        if other >= 0
    ]
    return SimilarAnswer(catalog.model, items)


async def items(service: Service, asked: ItemsRequest) -> ItemsAnswer:
    """Returns items whose titles hold all words, or the most popular ones."""
    _, catalog = service.ready()
    names = catalog.names
    slots = names.search(asked.q, _checked(service, asked.k)).tolist()
    return ItemsAnswer(
        [
            CatalogItem(names.item(slot), names.title(slot), names.count(slot))
            for slot in slots
        ]
    )


async def user(service: Service, asked: UserRequest) -> UserAnswer:
    """Returns a user's history."""
    _, catalog = service.ready()
    history, names = user_history(catalog, service.events, asked.user), catalog.names
    _, name = catalog.find_user(asked.user)
    assert name is not None  # it has a history
    slots = history.slots.tolist()
    times = [None] * len(slots) if history.times is None else history.times.tolist()
    events = [
        UserEvent(names.item(slot), names.title(slot), time)
        for slot, time in zip(slots, times, strict=True)
    ]
    return UserAnswer(name, events)


async def model(service: Service, asked: NothingMore) -> ModelAnswer:
    """Returns what is served."""
    _, catalog = service.ready()
    opened, config = catalog.served.opened, service.config
    return ModelAnswer(
        catalog.model,
        num_items=len(catalog.names),
        num_users=opened.dataset.num_users,
        max_k=config.max_k,
        max_batch=config.max_batch,
        seq_len=opened.config.recipe.seq_len,
        reads_request_time=opened.model.config.request_time,
        stores_events=service.events is not None,
        filters=list(catalog.served.filters),
        ndcg_at_10=opened.score,
        compared=None if service.compared is None else service.compared.model,
    )


async def live(service: Service, asked: NothingMore) -> HealthAnswer:
    """Says that the process answers."""
    return HealthAnswer("live")


async def ready(service: Service, asked: NothingMore) -> HealthAnswer:
    """Says whether requests are taken; 503 if not."""
    service.ready()
    return HealthAnswer("ready")


def _checked(service: Service, k: int) -> int:
    most = service.config.max_k
    expect(k <= most, 400, f"k is {k}, wanted 1 to {most} (--max_k)")
    return k
