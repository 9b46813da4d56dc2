"""Push a folder of `eqids-to-hf` to the Hugging Face hub, without paths of machines."""

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    disable_progress_bars,
    validate_repo_id,
)

from convert.diagnosis import CONFIG, INDEX, SINGLE
from convert.hf_eqids import INFO_FILE, TENSORS_FILE, Pair, check_pair, read_pair
from convert.hf_files import check_inside, shard_paths
from convert.hf_write import COMPANIONS
from convert.json_file import read_object
from eqids.config import ProcessesConfig, PushConfig, UserError, require, to_json

CARD = "README.md"
"""The model card."""
PLACEHOLDER = "ORG/NAME"
"""The repository, in a card that is not pushed yet."""
_LOGIN = "set HF_TOKEN to a token that may write, or run `hf auth login`"
_PATHS = ("_name_or_path", "name_or_path")
"""Fields in which transformers records the folder of a model."""

Config = TypeVar("Config")


def check_push(config: PushConfig) -> None:
    """Checks the name of the repository, and that there is a token.

    Raises:
        UserError: the name cannot be one of the hub, or there is no token.
    """
    name = config.repository
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        said = str(error).rstrip(".")
        raise UserError(f"{name!r} is no repository of the hub: {said}") from error
    require(
        name.count("/") == 1,
        f"{name!r} is no repository of the hub, wanted ORG/NAME: the user or the "
        "organisation that it belongs to, and its name",
    )
    require(get_token() is not None, f"no token for the hub was found: {_LOGIN}")


def push_pair(config: PushConfig, report: Callable[[str], None]) -> None:
    """Pushes a folder of `eqids-to-hf` in one commit; creates the repository.

    Only the files of a pair are pushed. Paths of this machine are reduced to their
    last names. Weights in the repository that the folder does not have are deleted, so
    that two models are never mixed. The folder itself stays as it is.

    Args:
        config: the folder and the repository.
        report: receives messages: what is left out, and where the model is.

    Raises:
        UserError: the folder is no pair or is damaged, the repository is public and a
            private one is wanted, or the hub refuses; the message has the command
            that pushes the folder.
    """
    check_push(config)
    pair = read_pair(config.folder)
    check_pair(pair)
    names = _names(pair.folder)
    others = sorted({one.name for one in pair.folder.iterdir()} - set(names))
    if others:
        report(f"not pushed, because they are not of the model: {', '.join(others)}")
    try:
        report(_pushed(config, pair, names))
    except UserError as error:
        raise UserError(f"{error}; {_again(config)}") from error
    except Exception as error:  # the HTTP client's own errors differ by its version
        raise UserError(f"{_explained(error, config)}; {_again(config)}") from error


def _pushed(config: PushConfig, pair: Pair, names: list[str]) -> str:
    """Pushes files, and returns where they are."""
    if not sys.stderr.isatty():
        disable_progress_bars()
    api, name = HfApi(), config.repository
    url = api.create_repo(name, private=config.private or None, exist_ok=True)
    info = api.model_info(name)
    require(
        bool(info.private) or not config.private,
        f"{name} exists and is public, and --private was given: make it private on the "
        "hub, or name another",
    )
    there = {one.rfilename for one in info.siblings or ()}
    stale = sorted(one for one in there - set(names) if _is_weights(one))
    commit = api.create_commit(
        name,
        [
            *(CommitOperationAdd(one, _content(pair, one, name)) for one in names),
            *(CommitOperationDelete(one) for one in stale),
        ],
        commit_message=f"EqIDs, step {pair.step}",
        parent_commit=info.sha,
    )
    visibility = "private" if info.private else "public"
    return f"pushed to {url} ({visibility}), commit {commit.oid}"


def _names(folder: Path) -> list[str]:
    """Returns the files of a pair: Llama, the rest of the model, tokenizer and card.

    Raises:
        UserError: one of them is a link out of the folder.
    """
    shards = [path.name for path in shard_paths(folder)]
    index = [] if shards == [SINGLE] else [INDEX]
    beside = [name for name in COMPANIONS if (folder / name).is_file()]
    names = [CONFIG, *shards, *index, INFO_FILE, TENSORS_FILE, *beside]
    for name in names:
        check_inside(folder, folder / name)
    return names


def _is_weights(name: str) -> bool:
    """Returns whether a file of a repository would be read as a part of Llama."""
    shard = name.startswith("model-") and name.endswith(".safetensors")
    return shard or name in (SINGLE, INDEX)


def _content(pair: Pair, name: str, repository: str) -> Path | bytes:
    """Returns a file's path, or what is pushed in its place."""
    path = pair.folder / name
    if name == INFO_FILE:
        config = _without_folders(pair.config)
        return _json({**pair.meta, "config": to_json(config)})
    if name in (CONFIG, "tokenizer_config.json"):
        values = read_object(path)
        named = {key: Path(str(values[key])) for key in _PATHS if values.get(key)}
        short = {key: one.name for key, one in named.items() if one.is_absolute()}
        return _json({**values, **short}) if short else path
    if name == CARD:
        text = path.read_text(encoding="utf-8")
        return text.replace(PLACEHOLDER, repository).encode()
    return path


def _without_folders(config: Config) -> Config:
    """Returns a config whose paths are reduced to their last names, and which says
    nothing of the processes and their addresses."""
    changed: dict[str, Any] = {}
    for field in fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if isinstance(value, ProcessesConfig):
            changed[field.name] = ProcessesConfig()
        elif isinstance(value, Path):
            changed[field.name] = Path(value.name)
        elif is_dataclass(value):
            changed[field.name] = _without_folders(value)
    return replace(config, **changed)  # type: ignore[type-var]


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _again(config: PushConfig) -> str:
    """Returns the command that pushes a folder, after a failure."""
    words = ["python", "-m", "convert", "push", str(config.folder), config.repository]
    words += ["--private"] if config.private else []
    return f"the folder is complete, and this pushes it: {shlex.join(words)}"


def _explained(error: Exception, config: PushConfig) -> str:
    """Returns what went wrong with the hub, and what to do."""
    name = config.repository
    # The upload of a large file wraps the answer of the hub.
    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    said = f"{type(cause).__name__}: {lines[-1] if lines else ''}"
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else 0
    if status == 401:
        return f"the hub does not accept the token (401): {_LOGIN}"
    if status in (403, 404):
        return f"the token may not write to {name} ({status}): check both, or {_LOGIN}"
    if status in (409, 412):
        return f"{name} was changed while it was pushed ({status}): push again"
    if status == 400:
        return f"the hub refused the content of {name} ({said})"
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE forbids pushing to {name}: unset it"
    return f"{name} could not be pushed to {constants.ENDPOINT} ({said})"
