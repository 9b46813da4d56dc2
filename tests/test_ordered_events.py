"""Events that are read in order: repeats and ties, wherever parts are cut."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, strategies as st

from eqids.data.raw.ordered_events import read_parts

_EVENTS = st.lists(st.tuples(*(st.integers(0, 3) for _ in range(3))), max_size=40)


@given(_EVENTS, st.lists(st.integers(0, 40), max_size=6), st.booleans())
def test_the_first_of_equal_events_is_kept(
    events: list[tuple[int, int, int]], cuts: list[int], distinct: bool
) -> None:
    """Against a loop over (user, time, item), in the order of rows within ties."""
    rows = sorted(events, key=lambda event: event[:2])
    kept = rows if distinct else list(dict.fromkeys(rows))
    neighbours = [two for two in pairwise(kept) if two[0][:2] == two[1][:2]]
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    with tempfile.TemporaryDirectory() as folder:
        found = read_parts(
            [_batch(rows[a:b]) for a, b in pairwise(bounds)],
            ["user", "item", "time"],
            len(rows),
            4,
            4,
            Path(folder),
            distinct,
        )
    assert found.time is not None
    np.testing.assert_array_equal(found.item, [item for *_, item in kept])
    np.testing.assert_array_equal(found.time, [time for _, time, _ in kept])
    users = [user for user, *_ in kept]
    assert found.per_user.tolist() == [users.count(user) for user in range(4)]
    assert set(np.flatnonzero(found.has_events)) == {item for *_, item in kept}
    assert found.num_repeated == len(rows) - len(kept)
    assert found.tied == len(neighbours)
    assert found.ascending == sum(one[2] < next_[2] for one, next_ in neighbours)


def _batch(rows: list[tuple[int, int, int]]) -> pa.RecordBatch:
    user, time, item = np.array(rows, np.int64).reshape(-1, 3).T
    columns = {"user": user.astype(np.int32), "item": item.astype(np.int32)}
    return pa.RecordBatch.from_pydict({**columns, "time": time})
