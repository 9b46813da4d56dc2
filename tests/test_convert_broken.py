"""Broken folders of weights: one sentence each, nothing written, nothing run."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from broken import SINGLE, corpus, write_sound
from folders import random_tensors, write_hf
from hypothesis import given, settings, strategies as st
from pytest import CaptureFixture, TempPathFactory
from runs import refused

from convert import __main__ as command, load_llama
from eqids.config import UserError

CORPUS = corpus()
_MOST_BYTES = 8 << 20
"""Of Python's memory, for a model of 30 kB."""


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(CORPUS) >= 100


@pytest.mark.parametrize("name", CORPUS)
def test_a_broken_folder_is_refused(
    name: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """By loading and by the command, in one sentence that names the folder."""
    shards, breaks = CORPUS[name]
    folder = tmp_path / "llama"
    write_sound(folder, shards)
    breaks(folder)
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=str(folder)) as refusal:
            load_llama(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < _MOST_BYTES
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 800
    if not name.endswith(("nan", "inf")):  # a change of dtype carries what it is given
        said = refused(
            command.main, ["hf-to-hf", str(folder), f"{tmp_path}/new"], capsys
        )
        assert str(folder) in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shards", [1, 3])
def test_sound_folders_of_the_corpus_load(shards: int, tmp_path: Path) -> None:
    write_sound(tmp_path / "llama", shards)
    loaded = load_llama(tmp_path / "llama")
    wanted = random_tensors(tied=False)["model.embed_tokens.weight"]
    np.testing.assert_array_equal(loaded.embedding, wanted)


def test_links_inside_the_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "models--x--y" / "snapshots" / "abc"
    folder.parent.mkdir(parents=True)
    wanted = write_hf(folder)["model.embed_tokens.weight"]
    blobs = tmp_path / "models--x--y" / "blobs"
    blobs.mkdir()
    (folder / SINGLE).rename(blobs / "123")
    (folder / SINGLE).symlink_to("../../blobs/123")
    np.testing.assert_array_equal(load_llama(folder).embedding, wanted)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sound") / "llama"
    write_hf(folder)
    return (folder / SINGLE).read_bytes()


@settings(max_examples=60)
@given(data=st.data())
def test_any_bytes_in_a_header_are_refused_or_harmless(
    data: st.DataObject, sound: bytes, tmp_path_factory: TempPathFactory
) -> None:
    """Some bytes of the length and of the JSON are others."""
    folder = tmp_path_factory.mktemp("bytes") / "llama"
    write_hf(folder)
    changed = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 2500))
        changed[at] = data.draw(st.integers(0, 255))
    (folder / SINGLE).write_bytes(changed)
    try:
        llama = load_llama(folder)
    except UserError as error:
        assert str(folder) in str(error)
    else:
        assert llama.config.num_layers == 2
