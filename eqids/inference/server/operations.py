"""The endpoints: their paths, types and statuses, and the function of each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from eqids.inference.server.bodies import (
    CompareAnswer,
    EventsAnswer,
    EventsRequest,
    HealthAnswer,
    ItemsAnswer,
    ItemsRequest,
    MapAnswer,
    ModelAnswer,
    NothingMore,
    RecommendAnswer,
    RecommendAnswers,
    RecommendBatch,
    RecommendRequest,
    ReloadAnswer,
    ReloadRequest,
    ScoreAnswer,
    ScoreRequest,
    SimilarAnswer,
    SimilarRequest,
    UserAnswer,
    UserRequest,
)
from eqids.inference.server.catalog_requests import (
    items,
    live,
    model,
    ready,
    similar,
    user,
)
from eqids.inference.server.event_requests import store_events
from eqids.inference.server.map_requests import item_map
from eqids.inference.server.recommend_requests import compare, recommend, score
from eqids.inference.server.reload import reload
from eqids.inference.server.service import Service

Answering = Callable[[Service, Any], Awaitable[Struct]]


@dataclass(frozen=True)
class Operation:
    """One endpoint."""

    method: str
    """GET, whose parameters are in the query string and the path, or POST."""
    path: str
    """With the names of its parameters in braces."""
    does: str
    """A sentence for the OpenAPI document."""
    takes: Sequence[type[Struct]]
    """The type of the request; of two, the second is that of several requests."""
    answers: Sequence[type[Struct]]
    """The type of the answer to each."""
    function: Answering
    """Answers a request."""
    errors: Sequence[int] = ()
    """Statuses of its own, beside those of all of its method."""


OPERATIONS: Sequence[Operation] = (
    Operation(
        "POST", "/v1/recommend", "Recommends the most probable next items.",
        (RecommendRequest, RecommendBatch), (RecommendAnswer, RecommendAnswers),
        recommend, (404, 429, 504),
    ),
    Operation(
        "POST", "/v1/compare", "Recommends by the served model and that of --compare.",
        (RecommendRequest,), (CompareAnswer,), compare, (404, 429, 504),
    ),
    Operation(
        "POST", "/v1/score", "Returns the log-probability of items after a history.",
        (ScoreRequest,), (ScoreAnswer,), score, (404, 429, 504),
    ),
    Operation(
        "POST", "/v1/events", "Stores events, which their users' histories then hold.",
        (EventsRequest,), (EventsAnswer,), store_events, (404, 504),
    ),
    Operation(
        "POST", "/v1/reload", "Serves another checkpoint.",
        (ReloadRequest,), (ReloadAnswer,), reload, (409,),
    ),
    Operation(
        "GET", "/v1/similar", "Returns the items whose vectors are nearest to one's.",
        (SimilarRequest,), (SimilarAnswer,), similar, (404, 429, 504),
    ),
    Operation(
        "GET", "/v1/items", "Returns items by words of their titles.",
        (ItemsRequest,), (ItemsAnswer,), items,
    ),
    Operation(
        "GET", "/v1/map", "Returns positions of items on a map of the catalog.",
        (NothingMore,), (MapAnswer,), item_map, (429, 504),
    ),
    Operation(
        "GET", "/v1/users/{user}", "Returns a user's history.",
        (UserRequest,), (UserAnswer,), user, (404,),
    ),
    Operation(
        "GET", "/v1/model", "Returns what is served.",
        (NothingMore,), (ModelAnswer,), model,
    ),
    Operation(
        "GET", "/health/live", "Says that the process answers.",
        (NothingMore,), (HealthAnswer,), live,
    ),
    Operation(
        "GET", "/health/ready", "Says whether requests are answered.",
        (NothingMore,), (HealthAnswer,), ready,
    ),
)  # fmt: skip
"""All endpoints that speak JSON. Those below /v1 need a key, if there are keys."""
