"""The JSON of requests and answers, as types that msgspec reads and writes."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

ItemId = int | float | str
RawIds = Annotated[
    Raw | UnsetType,
    Meta(
        extra_json_schema={
            "type": ["array", "null"],
            "items": {"type": ["integer", "number", "string"]},
        }
    ),
]
"""Ids of items as the bytes of their JSON, which `SentLists` reads."""
UserId = int | float | str
Seconds = Annotated[
    int, Meta(ge=-(2**62), le=2**62, description="Unix time in seconds.")
]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class TimedItem(Struct, forbid_unknown_fields=True, frozen=True):
    """An item of a history, and when the user used it."""

    item: ItemId
    time: Seconds


class HistoryFields(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Whose next item is predicted: a user, or a history."""

    user: UserId | None = None
    history: list[ItemId | TimedItem] | None = None
    unknown: Literal["refuse", "skip"] = "refuse"
    request_time: Seconds | None = None


class RecommendRequest(HistoryFields, frozen=True, kw_only=True):
    """A user or a history, and which items to recommend.

    `history` is oldest first if its items have no times. `unknown` says what to do with
    items of the history that the catalog does not hold. `allow` and `deny` hold ids,
    `filter` names a list of `--filters`. `request_time` is for models that were
    trained with `--request_time`, by default now. With `explain`, each recommended item
    comes with the items of the history whose vectors are nearest to its own.
    """

    k: Count = 10
    keep_seen: bool = False
    explain: bool = False
    allow: RawIds = UNSET
    deny: RawIds = UNSET
    filter: str | None = None


class RecommendBatch(Struct, forbid_unknown_fields=True, frozen=True):
    """Several requests, which are answered in their order."""

    requests: list[RecommendRequest]


class ScoreRequest(HistoryFields, frozen=True, kw_only=True):
    """A user or a history, and the items to score."""

    items: list[ItemId]


class SimilarRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Asks for items near to one."""

    item: str
    k: Count = 10


class ItemsRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Asks for items by words of their titles; without, for the most popular."""

    q: str = ""
    k: Count = 20


class UserRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Asks for a user's history."""

    user: str


class NothingMore(Struct, forbid_unknown_fields=True, frozen=True):
    """A request without parameters."""


class NewEvent(Struct, forbid_unknown_fields=True, frozen=True):
    """A user used an item."""

    user: UserId
    item: ItemId
    time: Seconds


class EventsRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Events to store, all or none."""

    events: list[NewEvent]


class ReloadRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """The checkpoint to serve: DIR/STEP, or a run's DIR for its best step.

    `data_dir` is its dataset folder, by default `--data_dir`, or else that of the run.
    """

    checkpoint: str
    data_dir: str | None = None


class ModelName(Struct, frozen=True):
    """The one version of the model that an answer comes from."""

    checkpoint: str
    step: int
    catalog_id: str
    catalog_version: int


class NearItem(Struct, frozen=True):
    """An item of a history, and the cosine of its vector and a recommended one's."""

    item: ItemId
    title: str
    similarity: float


class RecommendedItem(Struct, frozen=True, omit_defaults=True):
    """An item, and the probability that it is the next."""

    rank: int
    item: ItemId
    title: str
    probability: float
    near: list[NearItem] = []


class LeftOut(Struct, frozen=True, omit_defaults=True):
    """How many ids were left out because the catalog does not hold them."""

    history: int = 0
    allow: int = 0
    deny: int = 0


class RecommendResult(Struct, frozen=True, omit_defaults=True):
    """The recommendations of one request of several."""

    items: list[RecommendedItem]
    popularity: bool = False
    left_out: LeftOut | None = None


class RecommendAnswer(Struct, frozen=True, omit_defaults=True):
    """The most probable next items, best first.

    `popularity` is true if the history is empty: these are the most popular items, and
    their shares of the training events.
    """

    model: ModelName
    items: list[RecommendedItem]
    popularity: bool = False
    left_out: LeftOut | None = None


class RecommendAnswers(Struct, frozen=True):
    """The recommendations of several requests, in their order."""

    model: ModelName
    results: list[RecommendResult]


class CompareAnswer(Struct, frozen=True):
    """The recommendations of the served model, and of the one of `--compare`."""

    served: RecommendAnswer
    compared: RecommendAnswer


class ScoredItem(Struct, frozen=True):
    """An item and its log-probability; null for one that is not recommended."""

    item: ItemId
    title: str
    log_probability: float | None


class ScoreAnswer(Struct, frozen=True):
    """The log-probability of each item, in the order of the request."""

    model: ModelName
    items: list[ScoredItem]


class SimilarItem(Struct, frozen=True):
    """An item, and the cosine of its vector and the given item's."""

    rank: int
    item: ItemId
    title: str
    similarity: float


class SimilarAnswer(Struct, frozen=True):
    """The items whose vectors are nearest, nearest first."""

    model: ModelName
    items: list[SimilarItem]


class CatalogItem(Struct, frozen=True):
    """An item, with its number of training events."""

    item: ItemId
    title: str
    count: int


class ItemsAnswer(Struct, frozen=True):
    """Items by their titles, most popular first."""

    items: list[CatalogItem]


class UserEvent(Struct, frozen=True):
    """An event of a history; its time is null if the dataset has none."""

    item: ItemId
    title: str
    time: int | None


class UserAnswer(Struct, frozen=True):
    """A user's history, oldest first: the dataset's, and the stored events."""

    user: UserId
    history: list[UserEvent]


class EventsAnswer(Struct, frozen=True):
    """How many of the events are on the disk now, and how many of these are new."""

    stored: int
    new: int


class ModelAnswer(Struct, frozen=True):
    """What is served."""

    model: ModelName
    num_items: int
    num_users: int
    max_k: int
    max_batch: int
    seq_len: int
    reads_request_time: bool
    stores_events: bool
    filters: list[str]
    ndcg_at_10: float | None
    """On validation, if the run measured it on this dataset."""
    compared: ModelName | None
    """The model of `--compare`."""


class MapAnswer(Struct, frozen=True):
    """Where the most popular items are on a map of the catalog.

    Neighbours on the map have similar vectors: the axes are the first two principal
    components. `x` and `y` are base64 of 16-bit integers without sign, `cluster` of
    32-bit integers, little-endian, one for each item. `clusters_of` says whether the
    clusters are the model's, or made for the map because the model has only one.
    """

    model: ModelName
    num_items: int
    """Of the whole catalog."""
    items: list[ItemId]
    titles: list[str]
    x: bytes
    y: bytes
    cluster: bytes
    clusters_of: Literal["model", "map"]


class ReloadAnswer(Struct, frozen=True):
    """What is served now, and what was served before."""

    model: ModelName
    before: ModelName


class HealthAnswer(Struct, frozen=True):
    """How the server is."""

    status: str


class ErrorAnswer(Struct, frozen=True):
    """Why a request was refused, in one sentence."""

    error: str
