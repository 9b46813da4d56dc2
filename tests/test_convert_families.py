"""Families of configs with settings stored twice, against their formats' loaders."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import transformers
from folders import TINY_HF
from ggufs import HEAD
from huggingface_hub.errors import StrictDataclassClassValidationError
from hypothesis import given, settings, strategies as st
from twice import (
    GB,
    gguf,
    theirs,
    write_config,
)

from convert import read_config
from convert.hf_write import hf_to_hf
from eqids.config import UserError
from eqids.model.rope import rope_frequencies

NUMBERS = st.sampled_from([1, 1.0, 2, 2.5, 8])
THETAS = st.sampled_from([100, 10_000.0, 500_000])
CONTEXTS = st.sampled_from([16, 64, 8192.0])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, in any order."""
    chosen = st.fixed_dictionaries({}, optional=fields)
    return chosen.flatmap(lambda d: st.permutations(list(d.items()))).map(dict)


def ropes(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Rotary settings of all kinds, by either name of the kind or both."""
    kinds = st.sampled_from(["default", "linear", "llama3"])
    return some(
        rope_type=kinds, type=kinds, rope_theta=THETAS, factor=NUMBERS,
        low_freq_factor=st.sampled_from([1, 1.0, 1.5]),
        high_freq_factor=st.sampled_from([2, 4.0]),
        original_max_position_embeddings=CONTEXTS, **more,
    )  # fmt: skip


WHOLE = some(
    rope_scaling=st.none() | ropes(),
    rope_parameters=st.none() | ropes(),
    rope_theta=THETAS,
    max_position_embeddings=st.sampled_from([32, 131_072]),
    original_max_position_embeddings=st.sampled_from([16, 128]),
)
ODD = st.sampled_from([None, True, "8", -1, 0, 0.5, [2.0], {"a": 1}, 1e400])
DAMAGED = some(
    rope_scaling=ODD | ropes(partial_rotary_factor=st.sampled_from([None, 0.5, 1])),
    rope_parameters=ODD | ropes().flatmap(
        lambda rope: st.sampled_from(sorted(rope) or ["factor"]).flatmap(
            lambda name: ODD.map(lambda odd: rope | {name: odd})
        )
    ),
    rope_theta=ODD | THETAS,
    max_position_embeddings=st.just(64),
    original_max_position_embeddings=ODD | st.just(16),
    partial_rotary_factor=ODD | st.just(1),
)  # fmt: skip


def outcome(read: Callable[[], np.ndarray], errors: Any) -> np.ndarray | None:
    """Returns frequencies; None if they are refused or not finite."""
    try:
        found = read()
    except errors:
        return None
    return found if np.isfinite(found).all() else None


@settings(max_examples=400, deadline=None)
@given(changes=WHOLE)
def test_any_two_spellings_are_read_as_transformers_reads_them(
    changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Valid values: what transformers reads is read, with the same result."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(TINY_HF | changes))
    wanted = outcome(lambda: theirs(folder), Exception)
    ours = outcome(lambda: rope_frequencies(read_config(folder)), UserError)
    assert (ours is None) == (wanted is None)
    if ours is not None and wanted is not None:
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)


@settings(max_examples=300, deadline=None)
@given(changes=DAMAGED)
def test_odd_values_are_refused_or_read_as_transformers_reads_them(
    changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(TINY_HF | changes))
    ours = outcome(lambda: rope_frequencies(read_config(folder)), UserError)
    if ours is None:
        return
    try:
        wanted = theirs(folder)
    except StrictDataclassClassValidationError as error:
        # Its validator compares some nulls with numbers; we read them as absent.
        assert isinstance(error.__cause__, TypeError) and None in _nested(changes)
        return
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)


def _nested(value: Any) -> list[Any]:
    """The values of an object and of the objects in it."""
    if not isinstance(value, dict):
        return [value]
    return [inner for one in value.values() for inner in _nested(one)]


@settings(max_examples=40, deadline=None)
@given(
    changes=WHOLE,
    dtypes=some(dtype=st.just("float32"), torch_dtype=st.just("float16")),
)
def test_what_we_write_has_every_setting_once(
    changes: dict[str, Any], dtypes: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    tmp_path = tmp_path_factory.mktemp("once")
    folder = write_config(tmp_path / "llama", **changes, **dtypes)
    wanted = outcome(lambda: theirs(folder), Exception)
    if wanted is None:
        return
    hf_to_hf(folder, tmp_path / "new", max_shard_bytes=GB)
    written = json.loads((tmp_path / "new/config.json").read_text())
    assert not {"rope_parameters", "dtype", "original_max_position_embeddings"} & set(
        written
    )
    assert not {"type", "rope_theta"} & set(written.get("rope_scaling") or {})
    np.testing.assert_allclose(theirs(tmp_path / "new"), wanted, rtol=1e-6)
    assert read_config(tmp_path / "new") == read_config(folder)
    if dtypes:
        found = transformers.LlamaConfig.from_pretrained(folder).dtype
        assert transformers.LlamaConfig.from_pretrained(tmp_path / "new").dtype == found


@settings(max_examples=30, deadline=None)
@given(
    changes=some(**{
        "rope.scaling.type": st.sampled_from(["none", "linear"]),
        "rope.scaling.factor": st.sampled_from([0.0, 1.0, 2.0, 4.5]),
        "rope.scale_linear": st.sampled_from([0.0, 1.0, 3.0]),
        "rope.freq_base": st.sampled_from([10_000.0, 500_000.0]),
    }),
    table=st.sampled_from([None, 1.0, 4.0]),
)  # fmt: skip
def test_any_scaling_of_gguf_is_read_as_llama_cpp_reads_it(
    changes: dict[str, Any], table: float | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    rows = None if table is None else np.full(HEAD // 2, table)
    gguf(changes, rows)(tmp_path_factory.mktemp("gguf"))
