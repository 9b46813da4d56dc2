"""What is printed of a user's data: one line, for any terminal, obeyed by none."""

import os
import shlex
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from pytest import CaptureFixture

from eqids import recommend
from eqids.cli import one_line, run, say, shell_word, visible, warn
from eqids.config import UserError
from eqids.data import Dataset
from eqids.recommend import listing

NASTY = {
    "a\nb": "a\\nb",
    "a\r\nb\tc": "a\\r\\nb\\tc",
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "bell\x07 back\x08 nul\x00 del\x7f": "bell\\x07 back\\x08 nul\\x00 del\\x7f",
    "csi\x9b31m next\x85": "csi\\x9b31m next\\x85",
    "\u202eevil\u202c \u2066x\u2069 \u200f": (
        "\\u202eevil\\u202c \\u2066x\\u2069 \\u200f"
    ),
    "line\u2028para\u2029": "line\\u2028para\\u2029",
    "name \udce9": "name \\udce9",
    "Amélie 東京 🎬 עברית नमस्ते": "Amélie 東京 🎬 עברית नमस्ते",
    "👩\u200d🚀 می\u200cخواهم": "👩\u200d🚀 می\u200cخواهم",
}


@pytest.mark.parametrize(("text", "shown"), NASTY.items())
def test_what_a_terminal_would_obey_is_spelled(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert visible(f"{text}\nnext") == "\n".join(map(one_line, text.split("\n"))) + (
        "\nnext"
    )


@given(st.text(st.characters()))
def test_any_text_is_one_line_without_controls(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    kinds = {unicodedata.category(c) for c in shown if c not in "\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert one_line(shown) == shown
    # Characters that a terminal shows are left alone.
    plain = "".join(c for c in text if one_line(c) == c)
    assert one_line(plain) == plain
    shown.encode()


@settings(max_examples=25)
@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=8))
def test_a_word_of_a_command_is_read_back_by_the_shell(text: str) -> None:
    word = shell_word(text)
    assert len(word.splitlines()) == 1
    try:
        expected = os.fsencode(text)
    except UnicodeEncodeError:  # half a pair of UTF-16, which no command line holds
        return
    script = f"printf %s {word}".encode(errors="surrogateescape")
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    found = subprocess.run([b"bash", b"-c", script], capture_output=True, env=env)
    assert found.stdout == expected
    if one_line(text) == text:
        assert shlex.split(word) == [text]


@given(
    st.lists(
        st.tuples(st.text(st.characters(), max_size=9), st.text(max_size=9)),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_a_listing_has_one_line_an_item(items: list[tuple[str, str]]) -> None:
    frame = pd.DataFrame(items, columns=["item", "title"], dtype=object)
    frame = frame.assign(rank=range(1, len(items) + 1), probability=0.25)
    lines = listing(frame).splitlines()
    assert len(lines) == len(items)
    for rank, (line, (item, title)) in enumerate(zip(lines, items, strict=True), 1):
        assert line == f"{rank:>4}  25.0000%  {one_line(item)}  {one_line(title)}"


@pytest.mark.parametrize(("text", "shown"), NASTY.items())
def test_messages_are_one_line(
    text: str, shown: str, capsys: CaptureFixture[str]
) -> None:
    def mistake() -> None:
        raise UserError(f"{text}: no such file")

    with pytest.raises(SystemExit) as exit_:
        run(mistake)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: {shown}: no such file\n"
    warn(one_line(text))
    say(text.replace("\n", " "))
    said = capsys.readouterr()
    assert said.err == f"warning: {shown}\n"
    assert said.out == f"{one_line(text.replace(chr(10), ' '))}\n"


@pytest.fixture(scope="module")
def titled(
    dataset: Dataset, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The dataset with titles that a terminal would obey, and its run."""
    from eqids.data.info import read_info
    from eqids.data.write import write_dataset

    path = tmp_path_factory.mktemp("titled") / "d"
    items = pq.read_table(dataset.path / "items.parquet")
    texts = [one for one in NASTY if "\udce9" not in one]
    titles = [texts[i % len(texts)] for i in range(len(items))]
    at = items.column_names.index("title")
    info = read_info(dataset.path / "dataset.json")
    users = pq.read_table(dataset.path / "users.parquet")
    vectors = dataset.item_vectors.reshape(dataset.num_slots, -1)
    histories = {"slots": dataset.slots, "offsets": dataset.offsets}
    write_dataset(
        path, info, {**histories, "times": dataset.times}, users,
        items.set_column(at, "title", pa.array(titles)),
        vectors[items["slot"].to_numpy()],
    )  # fmt: skip
    return path, finished


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "ascii:strict"])
def test_listings_come_through_on_any_terminal(
    encoding: str, titled: tuple[Path, Path]
) -> None:
    data, run_folder = titled
    flags = ["--checkpoint", str(run_folder), "--data_dir", str(data), "--history"]
    command = [sys.executable, "-m", "eqids.recommend", *flags, "", "--k", "27"]
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding.split(":")[0])
    assert len(said.splitlines()) == 27 and "\x1b" not in said
    assert "\\x1b[31mred" in said and "a\\nb" in said
    assert ("Amélie" in said) == ("ascii" not in encoding)
    assert ("東京" in said) == (encoding == "utf-8")
    assert "Am\\xe9lie" in said or "Amélie" in said


def test_names_and_ids_in_mistakes_are_visible(
    titled: tuple[Path, Path], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", str(titled[1]), "--data_dir", str(titled[0])]
    nasty = "x\n\x1b[2J\u202e"
    cases = [
        [*flags, "--user", nasty],
        [*flags, "--history", nasty.replace("\n", "\r")],
        [*flags, "--input", f"{tmp_path}/{nasty}.csv", "--output", "o.csv"],
        [*flags, "--input", f"{tmp_path}/a\udce9.csv", "--output", "o.csv"],
        ["--checkpoint", f"{tmp_path}/{nasty}", "--user", "1"],
    ]
    for case in cases:
        with pytest.raises(SystemExit) as exit_:
            run(lambda case=case: recommend.main(case))  # type: ignore[misc]
        said = capsys.readouterr().err
        assert exit_.value.code == 2
        assert said.startswith("error: ") and len(said.splitlines()) == 1
        assert said[:-1].isprintable()


def test_results_keep_what_listings_spell(
    titled: tuple[Path, Path], tmp_path: Path
) -> None:
    pd.DataFrame({"user": ["a"], "item": ["item 1"]}).to_csv(tmp_path / "in.csv")
    out = tmp_path / "out.parquet"
    flags = ["--checkpoint", str(titled[1]), "--data_dir", str(titled[0]), "--k", "27"]
    flags += ["--input", str(tmp_path / "in.csv"), "--output", str(out)]
    recommend.main(flags)
    assert "\x1b[31mred\x1b[0m" in set(pd.read_parquet(out)["title"])
    shutil.rmtree(tmp_path)
