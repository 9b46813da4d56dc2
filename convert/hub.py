"""Published Llamas on the Hugging Face hub, fetched once into its cache."""

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.hf_files import shard_paths
from convert.hf_write import COMPANIONS
from eqids.config import LlamaSize, UserError, require
from eqids.io.digests import file_sha256

PAGE = "https://huggingface.co"
_FILES = ("config.json", "*.safetensors", "model.safetensors.index.json", *COMPANIONS)
"""All that is fetched; other formats of the same weights are not."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """A published Llama."""

    name: str
    """On the hub."""
    revision: str
    """The commit, which pins every byte."""


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

    What comes from the hub is compared with its SHA-256 before it is used. Tokens are
    those of `huggingface_hub`: HF_TOKEN, or what `hf auth login` has stored; so are
    HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE. Many processes may call it at once.

    Args:
        size: a preset's name.
        report: hears of what is fetched.

    Raises:
        UserError: it needs a licence or a token, is not there, or could not be
            reached, written or trusted; the sentence says what to do.
    """
    # Imported here: whoever has a folder does not pay for it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = REPOSITORIES[size]

    def folder(offline: bool) -> Path:
        return Path(
            snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=list(_FILES),
                ignore_patterns=["*/*"],
                local_files_only=offline,
            )
        )

    try:
        path = folder(offline=True)
        shard_paths(path)
        return path
    except (LocalEntryNotFoundError, UserError):
        report(f"fetching {repository.name} at {repository.revision[:12]} from the hub")
    try:
        path = folder(offline=False)
    except Exception as error:  # the HTTP client's own errors differ by its version
        raise _told(error, repository) from error
    _check_digests(path, repository)
    return path


def _check_digests(path: Path, repository: Repository) -> None:
    """Requires that large files are what their names in the cache say: their SHA-256.

    A file that is not is removed, so that the next try fetches it again.
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
            f"{blob.name}; it was removed: try again, or look at what is between here "
            "and the hub",
        )


def _told(error: Exception, repository: Repository) -> UserError:
    """What went wrong with the hub, and what to do about it, in a sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        assert isinstance(error.__cause__, Exception)
        error = error.__cause__
    name, instead = repository.name, "give --llama_path DIR of a copy"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    login = "set HF_TOKEN, or run `hf auth login`"
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{name} is gated: accept its licence at {PAGE}/{name}, then {login} with "
            f"a token of that account, or {instead}"
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            f"{name} has no revision {repository.revision} any more: {instead}"
        )
    if status in (401, 403) and not isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"the hub refused the token for {name} ({status}): {login} with a valid "
            f"one, or {instead}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{name} is not on the hub, or not for you ({status}): if its licence is "
            f"accepted at {PAGE}/{name}, {login}; or {instead}"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk has no room for {name} ({error.strerror}): set HF_HOME to a "
            f"folder that has, or {instead}"
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
        return UserError(
            f"the hub's cache cannot be written ({error}): set HF_HOME to a folder "
            f"that can, or {instead}"
        )
    if constants.HF_HUB_OFFLINE:
        return UserError(
            f"{name} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch "
            f"it: unset it once, or {instead}"
        )
    lines = str(error).strip().splitlines()
    return UserError(
        f"{name} could not be fetched from the hub ({type(error).__name__}: "
        f"{lines[0] if lines else ''}): try again with a network, or {instead}"
    )
