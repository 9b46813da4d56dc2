"""Published Llamas from a hub, which a local server serves."""

import errno
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest
from conftest import ROOT
from folders import write_hf
from hubs import LLAMA, TOKEN, Hub, serving_hub, use_hub
from runs import refused, small

from convert import load_llama
from convert.hub import fetch_llama
from eqids import train
from eqids.config import ML_100K, TrainConfig, UserError, recipe_for
from eqids.data import Dataset
from eqids.runs import pretrained_llama
from eqids.runs.recipe import resolved


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one Llama, and an empty cache."""
    write_hf(tmp_path / "served", shards=2)
    for name in ("tokenizer.json", "LICENSE", "pytorch_model.bin", "notes.md"):
        (tmp_path / "served" / name).write_text("{}")
    hub = Hub(tmp_path / "served")
    with serving_hub(hub, monkeypatch, tmp_path / "cache"):
        yield hub


def test_only_what_is_needed_is_fetched_and_only_once(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    path = fetch_llama("1b", said.append)
    load_llama(path)
    assert path.is_relative_to(tmp_path / "cache") and path.name == LLAMA.revision
    assert {file.name for file in path.iterdir()} == {
        "config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "LICENSE",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    }  # fmt: skip
    for file in path.iterdir():
        assert file.read_bytes() == (hub.folder / file.name).read_bytes()
    assert len(said) == 1 and LLAMA.name in said[0]
    hub.asked.clear()
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert fetch_llama("1b", said.append) == path
    assert hub.asked == [] and len(said) == 1


def test_an_interrupted_download_is_resumed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_constants, "DOWNLOAD_CHUNK_SIZE", 100)
    hub.cut = 1000
    path = fetch_llama("1b")
    assert hub.ranges == ["bytes=1000-"]
    for file in path.glob("*.safetensors"):
        assert file.read_bytes() == (hub.folder / file.name).read_bytes()


def test_weights_with_a_wrong_hash_are_refused_and_removed(
    hub: Hub, tmp_path: Path
) -> None:
    name = "model-00002-of-00002.safetensors"
    right = hashlib.sha256((hub.folder / name).read_bytes()).hexdigest()
    (tmp_path / f"{name}.claimed").write_text(right)
    data = bytearray((hub.folder / name).read_bytes())
    data[-1] ^= 1
    (hub.folder / name).write_bytes(data)
    for _ in range(2):  # nor is it taken from the cache the next time
        with pytest.raises(UserError, match=rf"{name} of {LLAMA.name} came with SHA"):
            fetch_llama("1b")
    data[-1] ^= 1
    (hub.folder / name).write_bytes(data)
    load_llama(fetch_llama("1b"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ((401, "GatedRepo"), "is gated: accept its licence at https://huggingface.co/"),
        ((403, "GatedRepo"), "meta-llama/Llama-3.2-1B, then set HF_TOKEN, or run `hf"),
        ((401, "RepoNotFound"), "is not on the hub, or not for you"),
        ((404, "RepoNotFound"), "is not on the hub, or not for you"),
        ((404, "RevisionNotFound"), f"no longer has revision {LLAMA.revision}"),
        ((403, ""), "the hub refused the token"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: Hub, error: tuple[int, str], said: str, tmp_path: Path
) -> None:
    hub.error = error
    with pytest.raises(UserError, match=said) as caught:
        fetch_llama("1b")
    assert "\n" not in str(caught.value) and "--llama_path" in str(caught.value)


def test_a_token_gives_access_to_a_gated_model(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = TOKEN
    with pytest.raises(UserError, match="is gated"):
        fetch_llama("1b")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load_llama(fetch_llama("1b"))


def test_missing_network_cache_and_space_are_distinguished(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not in the hub's cache, and HF_HUB_OFFLINE"):
        fetch_llama("1b")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match="could not be fetched from the hub .*network"):
        fetch_llama("1b")
    use_hub(monkeypatch, hub.url, tmp_path / "served/LICENSE/cache")
    with pytest.raises(UserError, match="could not be fetched|cannot be written"):
        fetch_llama("1b")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    use_hub(monkeypatch, hub.url, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(UserError, match="the disk has no space for .* set HF_HOME"):
        fetch_llama("1b")


def test_the_environment_is_the_hubs_own(hub: Hub, tmp_path: Path) -> None:
    hub.token = TOKEN
    code = "from convert.hub import fetch_llama; print(fetch_llama('1b'))"
    env = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN,
        "PATH": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")


def test_training_asks_the_hub_where_no_folder_is_given(
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = resolved(TrainConfig(llama_size="1b"), ML_100K)
    assert config.strategy == "heads"
    assert config.recipe == recipe_for(ML_100K, None, "heads")
    assert config.checkpoint_dir.name == "ml-100k-1b-heads-seed0"
    assert (
        resolved(TrainConfig(llama_size="1b", train="lora"), ML_100K).strategy == "lora"
    )
    write_hf(tmp_path / "llama")
    asked: list[str] = []

    def fetch(size: str, report: Callable[[str], None]) -> Path:
        asked.append(size)
        return tmp_path / "llama"

    monkeypatch.setattr(pretrained_llama, "fetch_llama", fetch)
    flags = small(dataset.path, tmp_path / "run", "--llama_size", "3b")
    assert "is not a Llama of --llama_size 3b" in refused(train.main, flags, capsys)
    assert asked == ["3b"]
