"""The pages: links lead somewhere, messages are those of the code, blocks run."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import ROOT
from doc_pages import PAGES, Block, anchors, blocks, links
from printed_texts import patterns

TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
BLOCKS = [block for page in PAGES for block in blocks(page)]
LONG_PAGES = sorted({block.page for block in BLOCKS if block.is_long})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    wrong = []
    for link in links(page.read_text()):
        if re.match(r"(https?|mailto):", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target.read_text()):
            wrong.append(f"{link}: no such heading")
    assert not wrong, "\n".join(wrong)


def test_links_and_headings_are_found() -> None:
    text = (
        "# A, `b` c\n\n[x](a.md#b) `[y](z)`\n\n    [no](p)\n\n![p](q.png)\n## D\n## D\n"
    )
    assert list(links(text)) == ["a.md#b", "q.png"]
    assert anchors(text) == {"a-b-c", "d", "d-1"}


def _documented() -> list[tuple[str, str]]:
    """Files and messages on the page about troubles; `…` is any value."""
    found = re.findall(
        r"^<!-- message: (\S+) -->\n\n {4}(.+)$", TROUBLESHOOTING.read_text(), re.M
    )
    return [(file, message) for file, message in found]


def test_every_message_of_the_page_is_compared() -> None:
    code = re.findall(r"^ {4}\S.*$", TROUBLESHOOTING.read_text(), re.M)
    assert len(_documented()) == len(code) > 15


@pytest.mark.parametrize(("file", "message"), _documented())
def test_documented_messages_are_those_of_the_code(file: str, message: str) -> None:
    parts = [part for part in re.split("; …$|^… ", message) if part]
    said = parts[0].removeprefix("warning: ")
    found = patterns(ROOT / file)
    for text in (message, said):
        if any(one.search(text) for one in found):
            return
    near = [one.pattern for one in found if one.pattern[:12] in said]
    pytest.fail(f"{file} prints no {message!r}; near: {near}")


def test_messages_are_compared_word_for_word(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text(
        'login = "log in to the hub"\n'
        'print(f"{name} is gated: accept its " f"licence, then {login} again")\n'
    )
    (_, one) = patterns(file) if len(patterns(file)) == 2 else (None, patterns(file)[0])
    assert one.search("… is gated: accept its licence, then log in to the hub again")
    assert not one.search(
        "… is gated: accept the licence, then log in to the hub again"
    )


def run_block(block: Block, folder: Path) -> None:
    """Runs a block, and the commands before it, in a folder.

    `python` is the interpreter of the tests, which has `listening_data` of the
    examples on its path.
    """
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "python").unlink(missing_ok=True)
    (tools / "python").symlink_to(sys.executable)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}", "PATH": path}
    code = block.code
    if block.is_python:
        (folder / "block.py").write_text(code)
        code = "python block.py"
    script = f"set -euo pipefail\n{block.setup}\n{code}\n"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True
    )
    where = f"{block.page}:{block.line}"
    assert done.returncode == 0, (
        f"{where}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if not block.is_long],
    ids=lambda block: f"{block.page}:{block.line}",
)
def test_short_blocks_run(block: Block, tmp_path: Path) -> None:
    run_block(block, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("page", LONG_PAGES)
def test_all_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    for block in BLOCKS:
        if block.page == page:
            run_block(block, tmp_path)


def test_marks_of_blocks_are_read() -> None:
    (nested,) = [b for b in BLOCKS if b.page == "docs/many-gpus.md"]
    assert nested.is_long and not nested.is_python
    assert nested.code == (
        "python -m sharding plan --llama_size 8b --hardware h100-80gb --devices 8 "
        "--train lora\n"
    )
    texts = [page.read_text() for page in PAGES]
    marks = sum(len(re.findall("^ *<!-- runs", text, re.M)) for text in texts)
    assert marks == len(BLOCKS) >= 10
