"""Folders of `eqids-to-hf` on their way to the hub, which a local server plays."""

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as hub_constants
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from conftest import assert_close
from hubs import TOKEN, Hub, serving_hub, use_hub
from huggingface_hub import snapshot_download
from pairs import save_pair, write_bases
from pytest import CaptureFixture, MonkeyPatch
from runs import refused

import eqids
from convert import __main__ as command, load_llama
from convert.hf_eqids import check_pair, read_pair
from eqids.data import Dataset

# huggingface_hub gives a file to its HTTP client in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "shop/films"


@pytest.fixture(scope="module")
def made(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run over a frozen Llama, and what eqids-to-hf makes of it."""
    folder = tmp_path_factory.mktemp("made")
    bases = write_bases(folder)
    values = {"name_or_path": str(bases / "untied"), "eos_token": "</s>"}
    (bases / "untied/tokenizer_config.json").write_text(json.dumps(values))
    return save_pair(folder, "heads", bases, dataset)


@pytest.fixture
def pair(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A pair that a test may change."""
    return Path(shutil.copytree(made[1], tmp_path / "mine"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: MonkeyPatch) -> Iterator[Hub]:
    """A hub without a repository, and a user who is logged in."""
    stored = tmp_path / "stored"
    stored.mkdir()
    (stored / ".gitattributes").write_text("")
    hub = Hub(stored, NAME, "c0ffee" * 6 + "beef", exists=False, token=TOKEN)
    with serving_hub(hub, monkeypatch, tmp_path / "cache"):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def digests(folder: Path) -> dict[str, str]:
    paths = folder.iterdir()
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in paths}


def test_a_push_is_one_commit_that_names_no_folder_of_this_machine(
    hub: Hub, pair: Path, dataset: Dataset, capsys: CaptureFixture[str]
) -> None:
    was = digests(pair)
    (pair / "notes.txt").write_text("mine alone")
    command.main(["push", str(pair), NAME, "--private"])
    said = capsys.readouterr().out
    assert f"pushed to {hub.url}/{NAME} (private), commit {hub.revision}" in said
    assert "not pushed, because they are not of the model: notes.txt" in said
    assert hub.private and hub.summaries == ["EqIDs, step 4"]
    now = digests(hub.folder)
    assert now.keys() == {*was, ".gitattributes"}
    assert {name for name in was if now[name] != was[name]} == {
        "README.md", "eqids.json", "tokenizer_config.json",
    }  # fmt: skip
    assert digests(pair).items() > was.items()
    for one in hub.folder.iterdir():
        if one.suffix != ".safetensors":
            text = one.read_text()
            assert str(dataset.path.parent) not in text and "/tmp" not in text
    card = (hub.folder / "README.md").read_text()
    assert f'snapshot_download("{NAME}")' in card and "ORG/NAME" not in card


@pytest.mark.long
def test_what_was_pushed_is_the_model_on_another_machine(
    hub: Hub, pair: Path, dataset: Dataset
) -> None:
    import torch
    import transformers  # they take seconds, which quick tests do not have

    command.main(["push", str(pair), NAME])
    folder = snapshot_download(NAME)
    history = [[f"item {i}" for i in (1, 5, 2, 1)]]
    ours, theirs = (
        eqids.load(one, data_dir=dataset.path).recommend(history, k=27)
        for one in (pair, folder)
    )
    assert ours.equals(theirs)
    tokens = np.random.default_rng(0).integers(0, 12, (2, 7))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)).logits.numpy()
    assert_close(load_llama(pair).logits(jnp.asarray(tokens)), logits, "logits")


def test_a_push_replaces_weights_and_leaves_other_files(hub: Hub, pair: Path) -> None:
    hub.exists = True
    for name in ("model.safetensors", "model-00001-of-00009.safetensors", "photo.png"):
        (hub.folder / name).write_bytes(b"older")
    command.main(["push", str(pair), NAME])
    names = {one.name for one in hub.folder.iterdir()}
    assert names == {*digests(pair), "photo.png", ".gitattributes"}
    assert (hub.folder / "photo.png").read_bytes() == b"older"


def test_an_export_is_pushed_and_if_that_fails_one_command_pushes_it(
    hub: Hub, made: tuple[Path, Path], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    hub.error, hub.error_at = (403, ""), "/commit/"
    flags = ["eqids-to-hf", str(made[0]), str(out), "--license", "mit", "--push_to"]
    said = refused(command.main, [*flags, NAME, "--private"], capsys)
    assert f"the token may not write to {NAME} (403)" in said
    assert not hub.summaries and [one.name for one in hub.folder.iterdir()] == [
        ".gitattributes"
    ]
    check_pair(read_pair(out))
    again = shlex.split(said.partition("this pushes it: ")[2])
    assert again == ["python", "-m", "convert", "push", str(out), NAME, "--private"]
    hub.error = None
    command.main(again[3:])
    _, front, _ = (hub.folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"


def test_nothing_is_pushed_without_the_flag(
    hub: Hub, made: tuple[Path, Path], tmp_path: Path
) -> None:
    command.main(["eqids-to-hf", str(made[0]), str(tmp_path / "out")])
    assert hub.asked == []


@pytest.mark.parametrize(
    ("error", "at", "said"),
    [
        ((401, ""), "", "the hub does not accept the token (401): set HF_TOKEN"),
        ((403, ""), "create", "the token may not write to shop/films (403)"),
        ((404, "RepoNotFound"), "preupload", "may not write to shop/films (404)"),
        ((403, ""), "/lfs/", "the token may not write to shop/films (403)"),
        ((409, ""), "/commit/", "was changed while it was pushed (409): push again"),
        ((412, ""), "/commit/", "was changed while it was pushed (412): push again"),
        ((400, ""), "/commit/", "the hub refused the content of shop/films"),
        ((422, ""), "/commit/", "shop/films could not be pushed to http"),
    ],
)
def test_a_refusal_of_the_hub_is_one_sentence(
    hub: Hub,
    pair: Path,
    error: tuple[int, str],
    at: str,
    said: str,
    capsys: CaptureFixture[str],
) -> None:
    hub.error, hub.error_at = error, at
    found = refused(command.main, ["push", str(pair), NAME], capsys)
    assert said in found and found.count("\n") == 1
    assert f"this pushes it: python -m convert push {pair} {NAME}\n" in found
    assert hub.summaries == []


def test_mistakes_are_refused_before_the_hub_is_asked(
    hub: Hub,
    made: tuple[Path, Path],
    pair: Path,
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
    capsys: CaptureFixture[str],
) -> None:
    run, out = str(made[0]), tmp_path / "out"
    for name in ("films", "a/b/c", "shop/.films", "shop/a--b", "shop/fi lms", "/x"):
        said = refused(command.main, ["push", str(pair), name], capsys)
        assert f"{name!r} is no repository of the hub" in said
        flags = ["eqids-to-hf", run, str(out), "--push_to", name]
        assert "is no repository" in refused(command.main, flags, capsys)
    (pair / "eqids.json").unlink()
    assert "no eqids.json" in refused(command.main, ["push", str(pair), NAME], capsys)
    flags = ["eqids-to-hf", run, str(out)]
    for wrong, said in (
        (["--private"], "--private is about the repository of --push_to"),
        (["--license", "Apache 2"], "--license is 'Apache 2', wanted an identifier"),
    ):
        assert said in refused(command.main, [*flags, *wrong], capsys)
    monkeypatch.delenv("HF_TOKEN")
    said = refused(command.main, [*flags, "--push_to", NAME], capsys)
    assert "no token for the hub was found: set HF_TOKEN" in said
    assert hub.asked == [] and not out.exists()


def test_damaged_linked_and_public_folders_are_not_pushed(
    hub: Hub, pair: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    hub.exists = True
    said = refused(command.main, ["push", str(pair), NAME, "--private"], capsys)
    assert f"{NAME} exists and is public, and --private was given" in said
    (tmp_path / "secret").write_text("a secret")
    (pair / "tokenizer.json").symlink_to(tmp_path / "secret")
    said = refused(command.main, ["push", str(pair), NAME], capsys)
    assert "tokenizer.json is a link out of its folder" in said
    (pair / "tokenizer.json").unlink()
    data = bytearray((pair / "eqids.safetensors").read_bytes())
    data[-1] ^= 1
    (pair / "eqids.safetensors").write_bytes(data)
    said = refused(command.main, ["push", str(pair), NAME], capsys)
    assert "eqids.safetensors holds other weights" in said
    assert hub.summaries == [] and hub.objects == {}


def test_a_missing_network_is_one_sentence(
    hub: Hub, pair: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9", pair.parent / "cache")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    said = refused(command.main, ["push", str(pair), NAME], capsys)
    assert "could not be pushed to http://127.0.0.1:9 (ConnectError" in said
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    said = refused(command.main, ["push", str(pair), NAME], capsys)
    assert "HF_HUB_OFFLINE forbids pushing" in said
