"""A few cases of the fuzz of `prepare`; by hand it runs for minutes."""

import fuzz_prepare
import pytest


@pytest.mark.long
def test_each_case_ends_in_what_pandas_reads_or_in_a_sentence() -> None:
    ends = fuzz_prepare.run(range(60))
    assert ends.total() == 60
    # The cases are worth something: they end in either way, whole and damaged.
    assert ends["legal: dataset"] >= 10 and ends["damaged: refused"] >= 10
