"""Fetch published Llamas from the Hugging Face hub, once, into its cache."""

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from convert.hf_files import shard_paths
from convert.hf_write import COMPANIONS
from eqids.config import LlamaSize, UserError, require
from eqids.io.digests import file_sha256

PAGE = "https://huggingface.co"
_FILES = ("config.json", "*.safetensors", "model.safetensors.index.json", *COMPANIONS)
"""The files to fetch; other formats of the same weights are left out."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """A published Llama."""

    name: str
    """Its name on the hub."""
    revision: str
    """The commit, which fixes every byte."""


REPOSITORIES: Mapping[LlamaSize, Repository] = {
    "smollm2-135m": Repository(
        "HuggingFaceTB/SmolLM2-135M", "93efa2f097d58c2a74874c7e644dbc9b0cee75a2"
    ),
    "1b": Repository(
        "meta-llama/Llama-3.2-1B", "4e20de362430cd3b72f300e6b0f18e50e7166e08"
    ),
    "3b": Repository(
        "meta-llama/Llama-3.2-3B", "13afe5124825b4f3751f836b40dafda64c1ed062"
    ),
    "8b": Repository(
        "meta-llama/Meta-Llama-3-8B", "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920"
    ),
}


def fetch_llama(
    size: LlamaSize, report: Callable[[str], None] = lambda _: None
) -> Path:
    """Returns the folder of a published Llama, from the hub's cache or the hub.

    Downloads are compared with their SHA-256 before they are used. `huggingface_hub`
    finds the token (HF_TOKEN, or what `hf auth login` stored) and reads HF_HOME,
    HF_ENDPOINT and HF_HUB_OFFLINE. Several processes may call this at once.

    Args:
        size: a preset's name.
        report: called with a message when a download begins.

    Raises:
        UserError: the model needs a licence or a token, does not exist, or could not
            be downloaded, stored or verified; the message says what to do.
    """
    repository = REPOSITORIES[size]
    try:
        path = _snapshot(repository, offline=True)
        shard_paths(path)
        return path
    except (LocalEntryNotFoundError, UserError):
        report(f"fetching {repository.name} at {repository.revision[:12]} from the hub")
    try:
        path = _snapshot(repository, offline=False)
    except Exception as error:  # the HTTP client's own errors differ by its version
        raise _explained(error, repository) from error
    _check_digests(path, repository)
    return path


def repository_of(folder: Path) -> str | None:
    """Returns the hub's name of a model whose folder is in the hub's cache, or None."""
    cached = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not cached.startswith("models--"):
        return None
    return cached.removeprefix("models--").replace("--", "/")


def _snapshot(repository: Repository, offline: bool) -> Path:
    return Path(
        snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=list(_FILES),
            ignore_patterns=["*/*"],
            local_files_only=offline,
        )
    )


def _check_digests(path: Path, repository: Repository) -> None:
    """Requires that large files have the SHA-256 that is their name in the cache.

    A file with another one is removed, so that the next call fetches it again.
    """
    for file in shard_paths(path):
        blob = file.resolve()
        if not _SHA256.fullmatch(blob.name):
            continue
        found = file_sha256(blob)
        if found != blob.name:
            file.unlink()
            blob.unlink(missing_ok=True)
        require(
            found == blob.name,
            f"{file.name} of {repository.name} came with SHA-256 {found}, wanted "
            f"{blob.name}; it was removed: try again, and check the proxy if it fails "
            "again",
        )


def _explained(error: Exception, repository: Repository) -> UserError:
    """Returns an error that says what went wrong with the hub, and what to do."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        assert isinstance(error.__cause__, Exception)
        error = error.__cause__
    name, instead = repository.name, "give --llama_path DIR of a copy"
    found = _of_access(error, repository) or _of_disk(error, repository)
    if found is not None:
        return UserError(f"{found}, or {instead}")
    if constants.HF_HUB_OFFLINE:
        return UserError(
            f"{name} is not in the hub's cache, and HF_HUB_OFFLINE forbids fetching "
            f"it: unset it once, or {instead}"
        )
    lines = str(error).strip().splitlines()
    return UserError(
        f"{name} could not be fetched from the hub ({type(error).__name__}: "
        f"{lines[0] if lines else ''}): try again with a network, or {instead}"
    )


def _of_access(error: Exception, repository: Repository) -> str | None:
    """Returns what to do about an answer of the hub, if the error is one."""
    name, login = repository.name, "set HF_TOKEN, or run `hf auth login`"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated: accept its licence at {PAGE}/{name}, then {login} with "
            "a token of that account"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name} no longer has revision {repository.revision}: update EqIDs"
    if status in (401, 403) and not isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub refused the token for {name} ({status}): {login} with a valid one"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name} is not on the hub, or not for you ({status}): if its licence is "
            f"accepted at {PAGE}/{name}, {login}"
        )
    return None


def _of_disk(error: Exception, repository: Repository) -> str | None:
    """Returns what to do about an error of the disk, if it is one."""
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk has no space for {repository.name} ({error.strerror}): set "
            "HF_HOME to a folder on a larger disk"
        )
    if error.errno in (errno.EACCES, errno.EROFS):
        return (
            f"the hub's cache cannot be written ({error}): set HF_HOME to a folder "
            "that can be written"
        )
    return None
