"""What a query leaves out, by sorting and by marking all slots."""

import numpy as np
import pytest
from conftest import make_dataset
from hypothesis import given, settings, strategies as st
from served import opened_model

from eqids.inference.engine import prepared_query
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query
from eqids.inference.histories import History


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """A model that is not compiled."""
    return ServedModel(opened_model(make_dataset(tmp_path_factory.mktemp("d") / "d")))


SLOTS = st.lists(st.integers(0, 29), max_size=30)


@given(seen=SLOTS, deny=st.none() | SLOTS, keep=st.booleans(), share=st.booleans())
@settings(max_examples=50)
def test_left_out_slots_are_distinct_and_ascending(
    seen: list[int], deny: list[int] | None, keep: bool, share: bool,
    served: ServedModel,
) -> None:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_query, "_SHARE", 64 if share else 0)
        denied = None if deny is None else np.array(deny, np.int32)
        history = History(0, np.array(seen, np.int32))
        found = served.prepare(Query(history, 5, not keep, None, denied))
    wanted = {*([] if keep else seen), *(deny or [])}
    assert found.left_out.dtype == np.int32
    assert found.left_out.tolist() == sorted(wanted)
