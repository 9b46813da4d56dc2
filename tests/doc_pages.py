"""What the pages of the documentation hold: links, headings, and blocks that run."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
    + list((ROOT / "docs").glob("*.md"))
)

_MARK = re.compile(
    r"^(?P<indent> *)<!-- runs(?P<long>: long)?(?:\n(?P<setup>.*?))? ?-->\n\n"
    r"(?P<block>(?: *```(?:python|bash)\n.*?\n *```|(?:(?P=indent)    [^\n]*\n|\n)+))",
    re.S | re.M,
)


@dataclass(frozen=True)
class Block:
    """A block of a page that is marked as runnable, by a comment before it.

    `<!-- runs -->` marks a block that runs in seconds, `<!-- runs: long -->` one for
    the long tests. Further lines in the comment are commands that come first.
    """

    page: str
    line: int
    is_long: bool
    is_python: bool
    setup: str
    code: str


def blocks(path: Path) -> list[Block]:
    """Returns the runnable blocks of a page, in their order."""
    text, found = path.read_text() + "\n", []
    for match in _MARK.finditer(text):
        body = match["block"]
        is_python = body.lstrip().startswith("```python")
        lines = textwrap.dedent(body).strip("\n").splitlines()
        if lines[0].startswith("```"):
            lines = lines[1:-1]
        found.append(
            Block(
                page=path.relative_to(ROOT).as_posix(),
                line=text.count("\n", 0, match.start("block")) + 1,
                is_long=match["long"] is not None,
                is_python=is_python,
                setup=textwrap.dedent(match["setup"] or ""),
                code=textwrap.dedent("\n".join(lines)) + "\n",
            )
        )
    return found


def without_code(text: str) -> str:
    """Returns a page without its code, fenced, indented or within a line."""
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.S | re.M)
    text = re.sub(r"(?:(?<=\n\n)(?: {4,}.*\n|\n)+)", "\n", text)
    return re.sub(r"`[^`\n]*`", lambda m: re.sub(r"[\[\]()]", "x", m[0]), text)


def links(text: str) -> Iterator[str]:
    """Yields the targets of a page's links and pictures."""
    for match in re.finditer(r"\]\(\s*([^)\s]+)[^)]*\)", without_code(text)):
        yield match[1]
    yield from re.findall(r'(?:src|href)="([^"]+)"', without_code(text))


def anchors(text: str) -> set[str]:
    """Returns the anchors that a repository's page makes of the headings."""
    found: set[str] = set()
    bare = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.S | re.M)
    for heading in re.findall(r"^#+ +(.+?)\s*$", bare, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (named := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(named)
    return found
