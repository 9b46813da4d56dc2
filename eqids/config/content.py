"""Files whose content is not what their name says: pointers, web pages, archives."""

from pathlib import Path

from eqids.config.errors import UserError, require

_FIRST_BYTES = 512
"""Bytes read of a file; enough to recognise pointers and web pages."""
_GIT_LFS = "version https://git-lfs.github.com/spec"
_HUB_XET = "# xet version"
_GIT_ANNEX = "/annex/objects/"
_PAGES = ("<!doctype", "<html", "<?xml", "<head", "<error")
_ARCHIVES = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2",
    b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z",
    b"PK\x03\x04": "zip (which PyTorch's own files are, too)",
}  # fmt: skip
_AGAIN = "download the file again"


def check_content(path: Path, *, binary: bool = False) -> None:
    """Requires that a file is not a pointer, a web page, an archive or empty.

    Only the first bytes are read. Its reader checks the format itself.

    Args:
        path: the file.
        binary: whether its format is binary; then text is refused too.

    Raises:
        UserError: the file is one of these, or missing, or a link whose target is
            missing. The message says how to get the file itself.
    """
    _check_exists(path)
    with path.open("rb") as file:
        start = file.read(_FIRST_BYTES)
    require(bool(start), f"{path} is empty, wanted its content: {_AGAIN}")
    text = start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    _check_pointer(path, text)
    # safetensors begin with the length of their header, which may look like a mark.
    safetensors = start[4:9] == b"\0\0\0\0{"
    for magic, name in _ARCHIVES.items():
        require(
            safetensors or not start.startswith(magic),
            f"{path} is packed as {name}, wanted the file itself: unpack it, or "
            f"{_AGAIN}",
        )
    if binary:
        _check_binary(path, start, text, safetensors)


def _check_binary(path: Path, start: bytes, text: str, safetensors: bool) -> None:
    """Refuses zeros, a pickle and text, by the first bytes of a binary file."""
    require(
        any(start),
        f"{path} begins with {len(start)} bytes of zero, like an unfinished download: "
        f"{_AGAIN}",
    )
    require(
        safetensors or not (start[:1] == b"\x80" and start[1:2] <= b"\x05"),
        f"{path} is a pickle of Python, as old PyTorch wrote, wanted safetensors: "
        "write it again with transformers: save_pretrained(DIR)",
    )
    require(
        not (start[:32].isascii() and start[:32].decode().isprintable()),
        f"{path} holds text (it begins with {text[:40]!r}), wanted a binary file: "
        f"{_AGAIN}",
    )


def _check_pointer(path: Path, text: str) -> None:
    """Refuses a pointer or a web page, by the first characters of the file."""
    ways = {
        _GIT_LFS: ("a Git LFS", f"run `git lfs pull` in {path.parent}"),
        _GIT_ANNEX: (
            "a git-annex",
            f"run `git annex get {path.name}` in {path.parent}",
        ),
        _HUB_XET: ("a Xet", f"{_AGAIN} with `hf download`"),
    }
    for mark, (kind, way) in ways.items():
        require(
            not text.startswith(mark),
            f"{path} is {kind} pointer, wanted the file that it points to: {way}",
        )
    require(
        not text.lower().startswith(_PAGES),
        f"{path} is a web page (it begins with {text[:15]!r}), wanted the file itself: "
        f"{_AGAIN}, from its download link and signed in if the site requires it",
    )


def _check_exists(path: Path) -> None:
    """Requires that a file exists; a broken link or a DVC pointer is named."""
    if path.is_symlink() and not path.exists():
        target = path.readlink()
        annex = "annex/objects" in str(target)
        way = f"run `git annex get {path.name}` in {path.parent}" if annex else _AGAIN
        raise UserError(f"{path} is a link to {target}, which does not exist: {way}")
    pointer = path.with_name(path.name + ".dvc")
    require(
        path.exists() or not pointer.exists(),
        f"{path} does not exist, only {pointer.name} of DVC: run `dvc pull "
        f"{pointer.name}` in {path.parent}",
    )
    require(path.exists(), f"{path} does not exist: {_AGAIN}")
    require(path.is_file(), f"{path} is a folder, wanted a file")
