"""Requests to the server, sound and wrong; and values of JSON schemas."""

from typing import Any

from hypothesis import strategies as st

IDS = st.sampled_from(["item 1", "item 2", "item 26", 3, 2.5, "", "x", 10**25])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS: dict[str, Any] = {
    "user": st.sampled_from(["user 0", "user 3", "x", 1]) | JSON,
    "history": st.lists(IDS, max_size=40)
    | st.lists(st.fixed_dictionaries({"item": IDS, "time": st.integers()}), max_size=9)
    | JSON,
    "k": st.integers(-1, 22) | JSON,
    "keep_seen": st.booleans() | JSON,
    "allow": st.lists(IDS, max_size=9) | JSON,
    "deny": st.lists(IDS, max_size=9) | JSON,
    "unknown": st.sampled_from(["refuse", "skip", "x"]),
    "request_time": st.integers() | JSON,
    "items": st.lists(IDS, max_size=9),
}
REQUEST = st.fixed_dictionaries({}, optional=FIELDS)
SOUND = st.fixed_dictionaries(
    {
        "history": st.lists(st.integers(0, 26).map("item {}".format), max_size=40),
        "k": st.integers(1, 20),
        "keep_seen": st.booleans(),
    },
    optional={
        "deny": st.lists(st.integers(0, 30).map("item {}".format), max_size=40),
        "allow": st.lists(st.integers(0, 26).map("item {}".format), min_size=1),
    },
)


def fits(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Whether a value is of a JSON schema; of the parts of schemas that ours have."""
    if "$ref" in schema:
        return fits(value, schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for name, enough in (("anyOf", any), ("oneOf", lambda x: sum(x) == 1)):
        if name in schema:
            return enough([fits(value, one, schemas) for one in schema[name]])
    if "enum" in schema:
        return value in schema["enum"]
    match schema["type"]:
        case "object":
            known = schema["properties"]
            return (
                isinstance(value, dict)
                and set(schema["required"]) <= set(value)
                and all(
                    name in known and fits(one, known[name], schemas)
                    for name, one in value.items()
                )
            )
        case "array":
            return all(fits(one, schema["items"], schemas) for one in value)
        case "integer":
            return type(value) is int and value >= schema.get("minimum", value)
        case "number":
            return type(value) in (int, float)
    kinds = {"string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, kinds[schema["type"]])


MISTAKES: list[tuple[Any, ...]] = [
    ("recommend", {"user": "nobody"}, 404, "user 'nobody' is unknown"),
    ("recommend", {"history": ["item 1", 7]}, 404, "history[1]: item 7 is not in"),
    ("recommend", {}, 400, "wanted one of user and history"),
    ("recommend", {"user": "user 1", "history": []}, 400, "wanted one of user"),
    ("recommend", {"user": "user 1", "k": 0}, 400, "k: expected int >= 1"),
    ("recommend", {"user": "user 1", "k": 21}, 400, "k is 21, wanted 1 to 20"),
    ("recommend", {"user": "user 1", "k": 10**30}, 400, "k"),
    ("recommend", {"user": "user 1", "k": 1.5}, 400, "k: expected int, got float"),
    ("recommend", {"user": ["user 1"]}, 400, "user: expected int | float | str"),
    ("recommend", {"user": "user 1", "keepseen": True}, 400, "keepseen"),
    ("recommend", {"user": "user 1", "allow": ["no"]}, 400, "allow names no item"),
    ("recommend", {"user": "user 1", "filter": "no"}, 404, "filter 'no' is unknow"),
    ("recommend", {"user": 10**40}, 404, "is unknown"),
    ("recommend", {"user": "user 1", "request_time": 5}, 400, "request_time is gi"),
    (
        "recommend",
        {"history": ["item 1", {"item": "item 2", "time": 1}]},
        400,
        "history has 1 items with a time and 1 without",
    ),
    (
        "recommend",
        {"history": [{"item": "item 2", "time": 10**30}]},
        400,
        "history[0].time: expected int",
    ),
    ("recommend", {"requests": []}, 400, "requests holds 0, wanted 1 to 4"),
    ("recommend", {"requests": [{"user": "user 1"}] * 5}, 400, "requests holds 5"),
    ("recommend", {"requests": [{"user": "user 1"}], "k": 2}, 400, "field k"),
    (
        "recommend",
        {"requests": [{"user": "user 1"}, {"user": "x"}]},
        404,
        "user 'x' is unknown",
    ),
    ("recommend", [], 400, "the body: expected object, got array"),
    ("score", {"user": "user 1", "items": []}, 400, "items holds 0"),
    ("score", {"user": "user 1", "items": ["x"]}, 404, "items[0]: item 'x'"),
    ("events", {"events": []}, 400, "events holds 0, wanted 1 to 10,000"),
    ("reload", {"checkpoint": "/no/such/9"}, 409, "no such folder"),
    ("reload", {"checkpoint": "a\0b"}, 400, "null character"),
    ("reload", {"checkpoint": "x" * 5000}, 409, "x"),
]
"""Paths below /v1/, bodies, and the status and what the answer says."""


WRONG_ADDRESSES: list[tuple[Any, ...]] = [
    ("/v1/users/nobody", 404, "user 'nobody' is unknown"),
    ("/v1/similar?item=nothing", 404, "item 'nothing' is not in the catalog"),
    ("/v1/similar", 400, "missing required field item"),
    ("/v1/similar?item=item+1&k=x", 400, "k: expected int, got str"),
    ("/v1/items?q=a&q=b", 400, "a parameter repeats"),
    ("/v1/items?k=99", 400, "k is 99, wanted 1 to 20"),
    ("/v1/nothing", 404, "there is no such path"),
    ("/v1/recommend", 405, "the path has no such method"),
    ("/v1/../../etc/passwd", 404, "there is no such path"),
]
"""Addresses, and the status and what the answer says."""
