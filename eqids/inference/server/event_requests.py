"""Answers `POST /v1/events`."""

import asyncio

from eqids.config import UserError
from eqids.data.ids import shown
from eqids.inference.events.event_store import Event
from eqids.inference.server.bodies import EventsAnswer, EventsRequest
from eqids.inference.server.http_errors import HttpError, expect
from eqids.inference.server.served_catalog import event_id
from eqids.inference.server.service import Service

_MOST = 10_000
"""Most events of a request."""


async def store_events(service: Service, asked: EventsRequest) -> EventsAnswer:
    """Stores events; returns when they are on the disk."""
    _, catalog = service.ready()
    given, store = asked.events, service.events
    if store is None:
        raise HttpError(404, "the server stores no events, start it with --events FILE")
    expect(
        1 <= len(given) <= _MOST,
        400,
        f"events holds {len(given)}, wanted 1 to {_MOST:,}",
    )
    slots = catalog.names.find([one.item for one in given])
    if (slots < 0).any():
        at = int((slots < 0).argmax())
        item = shown(given[at].item)
        raise HttpError(404, f"events[{at}]: item {item} is not in the catalog")
    events = []
    for number, (one, slot) in enumerate(zip(given, slots.tolist(), strict=True)):
        _, user = catalog.find_user(one.user)
        if user is None:
            raise HttpError(
                400,
                f"events[{number}]: user {shown(one.user)} cannot be a user's id, "
                "wanted one of the type that the dataset has",
            )
        events.append(Event(user, event_id(catalog.names.item(slot)), one.time))
    try:
        waiting = store.append(events)
    except UserError as error:  # an id that cannot be stored
        raise HttpError(400, str(error)) from None
    try:
        async with asyncio.timeout(service.config.timeout):
            new = await asyncio.wrap_future(waiting)
    except TimeoutError:
        raise HttpError(
            504,
            f"the events were not on the disk within {service.config.timeout:g} "
            "seconds, send them again: equal events are stored once",
        ) from None
    except UserError as error:  # a full disk
        raise HttpError(503, str(error)) from None
    return EventsAnswer(stored=len(events), new=new)
