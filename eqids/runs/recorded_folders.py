"""The folders that a run recorded: its dataset and its Llama, where they are now."""

from pathlib import Path

from convert.hub import REPOSITORIES, fetch_llama
from eqids.config import RunConfig, require
from eqids.data import Dataset, open_dataset
from eqids.data.info import INFO_FILE


def dataset_of(path: Path, config: RunConfig, data_dir: Path | None = None) -> Dataset:
    """Opens the dataset that a model is used with.

    Args:
        path: the path of the checkpoint or the pair, for messages.
        config: the config of its run.
        data_dir: the dataset's folder, by default the one that the run recorded.

    Raises:
        UserError: the run's dataset no longer exists; see `open_dataset` too.
    """
    if data_dir is None:
        check_dataset_exists(path, config)
    return open_dataset(data_dir or config.data_dir)


def check_dataset_exists(path: Path, config: RunConfig) -> None:
    """Raises UserError if the dataset of a run is no longer where the run found it.

    Args:
        path: the path of the run's checkpoint, for messages.
        config: the config of the run.
    """
    require(
        (config.data_dir / INFO_FILE).is_file(),
        f"{path} was trained on the dataset {config.data_dir}, which no longer exists; "
        "if it was moved, give its new path: --data_dir DIR",
    )


def llama_of_run(
    path: Path, config: RunConfig, llama_path: Path | None = None
) -> Path | None:
    """Returns the folder of a model's Llama, or None if the run has none in files.

    Args:
        path: the path of the checkpoint or the pair, for messages.
        config: the config of its run.
        llama_path: the folder, by default the one of the run.

    Raises:
        UserError: the run's Llama no longer exists; see `llama_folder` too.
    """
    folder = llama_folder(config, llama_path)
    if llama_path is None and folder is not None:
        check_llama_exists(path, folder)
    return folder


def llama_folder(config: RunConfig, llama_path: Path | None = None) -> Path | None:
    """Returns the folder of a run's Llama, fetched again if the hub's cache lost it.

    Args:
        config: the run's config.
        llama_path: the folder, by default the one of the run.

    Raises:
        UserError: the hub cannot be reached, or refuses the download; see
            `fetch_llama`.
    """
    flags = config.flags
    folder = llama_path or flags.llama_path
    if folder is None or folder.exists():
        return folder
    size = flags.llama_size
    published = None if size is None else REPOSITORIES.get(size)
    # Folders in the hub's cache are named by revision; others are the user's own.
    if size is None or published is None or folder.name != published.revision:
        return folder
    return fetch_llama(size)


def check_llama_exists(path: Path, folder: Path, flag: str = "--llama_path") -> None:
    """Raises UserError if the Llama of a run is no longer where the run found it.

    Args:
        path: the path of the run's checkpoint, for messages.
        folder: where the run found its Llama.
        flag: the flag that gives its new path.
    """
    now = "is now empty" if folder.is_dir() else "no longer exists"
    require(
        folder.is_dir() and any(folder.iterdir()),
        f"{path} was trained over the Llama in {folder}, which {now}; if it was moved, "
        f"give its new path: {flag} DIR",
    )
