"""Files that hold something else than their name says: pointers, pages, archives."""

from pathlib import Path

from eqids.config.errors import UserError, require

_FIRST_BYTES = 512
"""What is read of a file: pointers and pages show themselves there."""
_GIT_LFS = "version https://git-lfs.github.com/spec"
_HUB_XET = "# xet version"
_GIT_ANNEX = "/annex/objects/"
_PAGES = ("<!doctype", "<html", "<?xml", "<head", "<error")
_ARCHIVES = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2",
             b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z",
             b"PK\x03\x04": "zip (which PyTorch's own files are, too)"}  # fmt: skip
_AGAIN = "download the file again"


def check_content(path: Path, *, binary: bool = False) -> None:
    """Requires that a file holds content of its own.

    Only the first bytes are read. The format itself is the reader's to check.

    Args:
        path: the file.
        binary: whether its format is binary, so that text cannot be right.

    Raises:
        UserError: it is missing, a link whose target is missing, a pointer of Git LFS,
            git-annex, Xet or DVC, a web page, an archive or empty; the sentence says
            how to get the file itself.
    """
    _check_there(path)
    with path.open("rb") as file:
        start = file.read(_FIRST_BYTES)
    require(bool(start), f"{path} is empty, wanted its content: {_AGAIN}")
    text = start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    require(
        not text.startswith(_GIT_LFS),
        f"{path} is a Git LFS pointer, wanted the file that it stands for: run "
        f"`git lfs pull` in {path.parent}",
    )
    require(
        not text.startswith(_GIT_ANNEX),
        f"{path} is a git-annex pointer, wanted the file that it stands for: run "
        f"`git annex get {path.name}` in {path.parent}",
    )
    require(
        not text.startswith(_HUB_XET),
        f"{path} is a Xet pointer, wanted the file that it stands for: {_AGAIN} with "
        "`hf download`",
    )
    require(
        not text.lower().startswith(_PAGES),
        f"{path} is a web page (it begins with {text[:15]!r}), wanted the file itself: "
        f"{_AGAIN}, from its download link and signed in where that is asked for",
    )
    # safetensors begin with the length of their header, which may look like a mark.
    safetensors = start[4:9] == b"\0\0\0\0{"
    for magic, name in _ARCHIVES.items():
        require(
            safetensors or not start.startswith(magic),
            f"{path} is packed as {name}, wanted the file itself: unpack it, or "
            f"{_AGAIN}",
        )
    require(
        not binary or any(start),
        f"{path} begins with {len(start)} bytes of zero, as a download does that did "
        f"not end: {_AGAIN}",
    )
    require(
        safetensors or not (binary and start[:1] == b"\x80" and start[1:2] <= b"\x05"),
        f"{path} is a pickle of Python, as old PyTorch wrote, wanted safetensors: "
        "write it anew with transformers: save_pretrained(DIR)",
    )
    require(
        not (binary and start[:32].isascii() and start[:32].decode().isprintable()),
        f"{path} holds text (it begins with {text[:40]!r}), wanted a binary file: "
        f"{_AGAIN}",
    )


def _check_there(path: Path) -> None:
    """Requires that a file is there, and names what is instead of it."""
    if path.is_symlink() and not path.exists():
        target = path.readlink()
        annex = "annex/objects" in str(target)
        way = f"run `git annex get {path.name}` in {path.parent}" if annex else _AGAIN
        raise UserError(f"{path} is a link to {target}, which is not there: {way}")
    pointer = path.with_name(path.name + ".dvc")
    require(
        path.exists() or not pointer.exists(),
        f"{path} is not there, only {pointer.name} of DVC: run `dvc pull "
        f"{pointer.name}` in {path.parent}",
    )
    require(path.exists(), f"{path} is not there: {_AGAIN}")
    require(path.is_file(), f"{path} is a folder, wanted a file")
