"""One name for one thing, short files and functions, and the words of the field."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pytest
from conftest import ROOT

OURS = ("eqids", "sharding", "convert", "bench")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for top in OURS
    for path in (ROOT / top).rglob("*.py")
)
TESTS = sorted(f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py"))
TEXTS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml"]
TEXTS = [name for name in TEXTS if (ROOT / name).exists()]
TEXTS += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))

LONGEST_FILE = 350
LONGEST_FUNCTION = 40

LONG_FUNCTIONS = frozenset({"eqids/model/levels.py:item_level"})
"""Functions that may be longer, as FILE:NAME: one loop fused by hand."""

WORDS: Mapping[str, str] = {
    r"doors?": "command",
    r"hous(e|es|ing)": "package, layout",
    r"rooms?": "package, place, cluster_size, memory or space",
    r"seat(s|ed|ing)?": "assign",
    r"guests?": "item, or what it is",
    r"wish(es|ed)?": "signal, requested",
    r"touch(es|ed|ing)?": "active, clusters that a batch uses",
    r"hears?( of)?": "receives",
    r"told": "given, reported, signaled",
    r"openings?": "prefix",
    r"moving": "remap",
    r"refit(s|ted|ting)?": "fit_new_clusters",
    r"Unread": "LazyArray",
    r"asked for": "requested, given",
    r"(is|are) there\b(?! (a|an|no|any)\b)": "exists",
    r"stands?": "is",
    r"likes": "similar items",
    r"no keeping": "needs pretrained weights",
}
"""Words that this project once used in its own sense, and what to say instead."""

ALLOWED: Sequence[str] = (
    r"https?://\S+",
    r"\bopening (a|an|the|it|them) \w+",  # the act: a file, a path
    r"[Ff]older opening",
    r"stands? for",
    r"stand-alone",
    r"moving average",
    r"[Mm]atmuls? in house",
    r"warehouse",
    r"\.touch\(\)",  # of a Path
    r"\bhas_touch\b",  # of Playwright
    r"[`\"\[, ]room[`\"\] ]",  # the name of cluster_size in old files
)
"""Contexts in which a word means itself."""


def _definitions(file: str) -> Iterator[str]:
    """The classes and the capitalised aliases at the top of a file."""
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            # NAMES in capitals are constants.
            if isinstance(target, ast.Name) and re.match(r"[A-Z]\w*[a-z]", target.id):
                yield target.id


def _listed(offenders: Sequence[str]) -> str:
    return f"{len(offenders)}:\n" + "\n".join(offenders)


def test_no_type_name_means_two_things() -> None:
    found = defaultdict(list)
    for file in FILES:
        for name in _definitions(file):
            found[name].append(file)
    twice = [f"{k}: {', '.join(v)}" for k, v in sorted(found.items()) if len(v) > 1]
    assert not twice, _listed(twice)


def test_no_file_name_stands_twice() -> None:
    found = defaultdict(list)
    for file in FILES:
        name = file.rpartition("/")[2]
        if not name.startswith("__"):
            found[name].append(file)
    twice = [f"{k}: {', '.join(v)}" for k, v in sorted(found.items()) if len(v) > 1]
    assert not twice, _listed(twice)


def test_files_are_short() -> None:
    lines = {file: len((ROOT / file).read_text().splitlines()) for file in FILES}
    long = [f"{k}: {v} lines" for k, v in lines.items() if v > LONGEST_FILE]
    assert not long, _listed(long)


def _lines_of_code(function: ast.FunctionDef, source: Sequence[str]) -> int:
    """The lines of a function's body but its docstring, comments and empty lines."""
    body = function.body
    first = body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    if is_text and len(body) == 1:
        return 0
    start = body[1].lineno if is_text else first.lineno
    lines = source[start - 1 : function.end_lineno]
    return sum(bool(re.match(r"\s*[^\s#]", line)) for line in lines)


def test_functions_are_short() -> None:
    long = []
    for file in FILES:
        text = (ROOT / file).read_text()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef):
                continue
            num = _lines_of_code(node, text.splitlines())
            if num > LONGEST_FUNCTION and f"{file}:{node.name}" not in LONG_FUNCTIONS:
                long.append(f"{file}:{node.lineno} {node.name}: {num} lines")
    assert not long, _listed(long)


def _old_words(text: str) -> Iterator[tuple[int, str, str]]:
    """The line of each old word, the word, and what to say instead."""
    for context in ALLOWED:
        text = re.sub(context, lambda m: " " * len(m[0]), text)
    # Identifiers consist of words, too: `_` and a capital begin one.
    for old, new in WORDS.items():
        start = r"(?<![a-zA-Z])" if old[0].islower() else r"(?<![A-Z])"
        first = f"[{old[0].upper()}{old[0]}]" if old[0].isalpha() else old[0]
        body = first + old[1:] if old[0].isalpha() else old
        for found in re.finditer(rf"{start}(?:{body})(?![a-z])", text):
            yield text.count("\n", 0, found.start()) + 1, found[0], new


@pytest.mark.parametrize("files", [FILES, TEXTS, TESTS], ids=["code", "texts", "tests"])
def test_words_are_of_the_field(files: Sequence[str]) -> None:
    wrong = [
        f"{file}:{line}: {word!r}, say: {new}"
        for file in files if file != "tests/test_names.py"
        for line, word, new in sorted(_old_words((ROOT / file).read_text()))
    ]  # fmt: skip
    wrong += [f"{file}: its name" for file in files if [*_old_words(file)]]
    assert not wrong, _listed(wrong)


def test_old_words_are_found() -> None:
    text = "a door\nFour rooms\nclass Seating:\nx.touched_rows = 1\nnum_guests\n"
    assert [line for line, *_ in sorted(_old_words(text))] == [1, 2, 3, 4, 5]
    assert not [*_old_words("indoor mushroom thousands\nstands for opening the file\n")]
