"""Say what a path holds that should be a Hugging Face Llama, and how to get one.

Every reader of such a folder calls this first, so that another kind of folder is
named before a file is reported as missing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from convert.formats import FROM_GGUF, check_formats
from eqids.config import UserError, check_content

ARCHITECTURE = "LlamaForCausalLM"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ITEMS = "eqids.safetensors"
"""The rest of an EqIDs model, which eqids-to-hf writes beside the Llama."""
EQIDS_FILES: Mapping[str, str] = {
    "manifest.json": "a checkpoint of EqIDs, wanted a Hugging Face Llama: give it to "
    "--checkpoint or --load_checkpoint, or write its Llama with `python -m convert "
    "eqids-to-hf {path} DIR`",
    "dataset.json": "a dataset of EqIDs, wanted a Hugging Face Llama: give it to "
    "--data_dir",
}
"""Files that only folders of EqIDs have, and what they are."""
_PARTIAL = ("*.incomplete", "*.part", "*.crdownload", "*.aria2", "*.download",
            ".cache/huggingface/download/*.incomplete")  # fmt: skip
"""What downloads that did not end leave behind."""


def check_folder(folder: Path) -> None:
    """Requires that a path is a folder with a config.json that holds text.

    Raises:
        UserError: it is something else; the message says what, and what to do.
    """
    _check_kind(folder)
    config = folder / CONFIG
    _check_adapter(folder)
    if config.exists() or config.is_symlink():
        check_content(config)
        return
    _check_download(folder)
    _check_links(folder, [CONFIG])
    _check_below(folder)
    check_formats(folder)
    found = "weights, but " if list(folder.glob("*.safetensors")) else ""
    raise UserError(
        f"{folder} is no Hugging Face folder: it has {found}no {CONFIG}, wanted one of "
        "a Llama: download it as well, or give the folder that has it"
    )


def check_weights(folder: Path, names: Sequence[str]) -> None:
    """Requires that files of weights exist, and are not pointers to other files.

    Args:
        folder: of a Hugging Face Llama.
        names: the files: one, or the shards of an index.

    Raises:
        UserError: a file is missing or a pointer; the message says what the folder
            holds instead, and what to do.
    """
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        _check_links(folder, missing)
        _check_download(folder)
        if names == [SINGLE]:
            for check in (_check_shards, _check_adapter, check_formats, _check_names):
                check(folder)
            raise UserError(
                f"{folder} has no {SINGLE} and no {INDEX}: it holds no weights, wanted "
                "those of a Llama; download them as well"
            )
        raise UserError(
            f"{folder} has no {missing[0]}: of {len(names)} files that {INDEX} names, "
            f"{len(missing)} are missing; download them again"
        )
    for name in names:
        check_content(folder / name, binary=True)


def check_architecture(path: Path, names: object, model_type: object) -> None:
    """Requires that a config.json is that of a Llama for causal language modelling.

    Args:
        path: of the config.json.
        names: its `architectures`.
        model_type: its `model_type`.

    Raises:
        UserError: it belongs to another model; the message says what was wanted.
    """
    if names in (None, [], [ARCHITECTURE]) and model_type in (None, "llama"):
        return
    remedy = (
        f"give the folder of a {ARCHITECTURE}, such as Llama 2, Llama 3 or SmolLM2; "
        "other models compute something else"
    )
    if model_type == "llama":
        remedy = (
            f"give the {ARCHITECTURE} that it was made from, or write its Llama with "
            f"transformers: {ARCHITECTURE}.from_pretrained('{path.parent}')"
            ".save_pretrained(DIR)"
        )
    raise UserError(
        f"{path}: architectures is {names!r} and model_type {model_type!r}, wanted "
        f"['{ARCHITECTURE}'] and 'llama': {remedy}"
    )


def _check_kind(path: Path) -> None:
    """Requires a folder that is not a run, checkpoint or dataset of EqIDs."""
    if not path.exists() and not path.is_symlink():
        on_hub = len(path.parts) == 2 and not path.parent.exists()
        download = f"; if it is a name on the hub: `hf download {path} --local-dir "
        raise UserError(
            f"{path}: no such folder, wanted a Hugging Face Llama"
            + (f"{download}{path}`" if on_hub else "")
        )
    if not path.is_dir():
        raise _is_file(path)
    for name, what in EQIDS_FILES.items():
        if (path / name).is_file() and not (path / CONFIG).exists():
            raise UserError(f"{path} is {what.format(path=path)}")
        if any(
            (one / name).is_file() for one in path.iterdir() if one.name.isdecimal()
        ):
            raise UserError(
                f"{path} is a run of EqIDs, wanted a Hugging Face Llama: give it to "
                "--checkpoint or --load_checkpoint, or write its Llama with `python "
                f"-m convert eqids-to-hf {path} DIR`"
            )


def _is_file(path: Path) -> UserError:
    """Returns the error of a file that should be a folder."""
    check_content(path)
    with path.open("rb") as file:
        gguf = file.read(4) == b"GGUF"
    remedy = f"give its folder, {path.parent}"
    if gguf:
        remedy = FROM_GGUF.format(file=path)
    elif not (path.parent / CONFIG).is_file():
        remedy = f"one that has {CONFIG} and *.safetensors"
    kind = "a GGUF file" if gguf else "a file"
    return UserError(f"{path} is {kind}, wanted the folder of a Llama: {remedy}")


def _check_adapter(folder: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).exists():
            continue
        try:
            settings = json.loads((folder / "adapter_config.json").read_text())
            base = f" of {settings['base_model_name_or_path']}"
        except (OSError, ValueError, KeyError, TypeError):
            base = ""
        raise UserError(
            f"{folder} has {name}: it is an adapter of PEFT{base}, wanted a whole "
            "Llama: write one with AutoPeftModelForCausalLM.from_pretrained"
            f"('{folder}').merge_and_unload().save_pretrained(DIR)"
        )


def _check_download(folder: Path) -> None:
    found = [path for pattern in _PARTIAL for path in folder.glob(pattern)]
    if folder.parent.name == "snapshots":
        found += (folder.parent.parent / "blobs").glob("*.incomplete")
    if found:
        raise UserError(
            f"the download of {folder} is incomplete ({found[0].name} is left of it): "
            "run the same download again, it continues where it stopped"
        )


def _check_links(folder: Path, names: Sequence[str]) -> None:
    """Requires that missing files are neither broken links nor pointers of DVC."""
    for name in names:
        path = folder / name
        if path.is_symlink() or path.with_name(f"{name}.dvc").exists():
            check_content(path)


def _check_below(folder: Path) -> None:
    """Requires that no folder below holds a Llama."""
    below = [folder / "snapshots" / revision for revision in _revisions(folder)]
    patterns = ("*", "snapshots/*", "models--*/snapshots/*", "*/*")
    for pattern in patterns:
        below += sorted(path.parent for path in folder.glob(f"{pattern}/{CONFIG}"))
    found = list(dict.fromkeys(path for path in below if (path / CONFIG).exists()))
    if found:
        more = f" ({len(found) - 1} more are below it)" if found[1:] else ""
        raise UserError(
            f"{folder} has no {CONFIG}, wanted a Hugging Face Llama: the folder is "
            f"{found[0]}{more}, give that"
        )


def _revisions(folder: Path) -> Iterator[str]:
    """Yields the commits that refs in the hub's cache of a model name."""
    for path in sorted(folder.glob("refs/*")):
        if path.is_file() and path.stat().st_size < 100:
            yield path.read_text(errors="replace").strip()


def _check_shards(folder: Path) -> None:
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    if shards:
        raise UserError(
            f"{folder} has {len(shards)} shards ({shards[0].name} is one) and no "
            f"{INDEX}: download the index as well"
        )


def _check_names(folder: Path) -> None:
    found = sorted(folder.glob("*.safetensors"))
    others = [path for path in found if path.name != ITEMS]
    if others:
        raise UserError(
            f"{folder} has {others[0].name} and neither {SINGLE} nor {INDEX}: rename "
            f"it to {SINGLE} if it holds all weights of the Llama"
        )
