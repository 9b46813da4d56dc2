"""Flags are read as tyro reads them, and every mistake is one sentence."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
from command_lines import EVERY, Typed
from hypothesis import given, settings, strategies as st
from pytest import CaptureFixture

from eqids.cli import parse, run
from eqids.cli.command_line import read
from eqids.cli.flags import Flag, flags_of
from eqids.config import (
    GROUPS,
    ExportConfig,
    PrepareConfig,
    TrainConfig,
    UserError,
    group_of,
    negation_of,
)

each_command = pytest.mark.parametrize("typed", EVERY, ids=lambda typed: typed.text)


def bare(kind: type[Any]) -> type[Any]:
    """The class without its own checks, so that any combination of flags is legal.

    To tyro, a switch that is on by default is a bool that is True.
    """
    on = [f.name for f in dataclasses.fields(kind) if negation_of(f) is not None]
    return dataclasses.make_dataclass(
        kind.__name__,
        [(name, bool, dataclasses.field(default=True)) for name in on],
        bases=(kind,),
        namespace={"__post_init__": lambda self: None},
        frozen=True,
    )


def one_value(flag: Flag, number: int = 0) -> str:
    """A legal value; another for each number, where there is more than one."""
    if flag.choices:
        return flag.choices[number % len(flag.choices)]
    values = {int: str(number + 1), float: f"{number + 1}.5"}
    return values.get(flag.kind, f"some{number}")


def needed(typed: Typed) -> list[str]:
    """Legal words for all that a command requires."""
    tokens = []
    for flag in flags_of(typed.kind, typed.positional):
        if flag.required:
            tokens += [] if flag.positional else [flag.name]
            tokens.append(one_value(flag))
    return tokens


def named(typed: Typed) -> list[Flag]:
    return [f for f in flags_of(typed.kind, typed.positional) if not f.positional]


def legal_line(
    draw: Callable[[st.SearchStrategy[Any]], Any], typed: Typed
) -> list[str]:
    """Returns legal words for a command, flags in any order and spelling."""
    places, tokens = [], []
    for flag in draw(st.permutations(flags_of(typed.kind, typed.positional))):
        numbers = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
        values = [one_value(flag, n) for n in numbers]
        if flag.optional and draw(st.booleans()):
            values[0] = "None"
        if flag.positional:
            places.append(values[0])
        elif flag.required or draw(st.booleans()):
            dashes = draw(st.booleans())
            name = "--" + flag.name[2:].replace("_", "-") if dashes else flag.name
            if flag.switch is not None:
                tokens.append([name])
            elif flag.several:
                tokens.append([name, *values])
            elif draw(st.booleans()):
                tokens.append([f"{name}={values[0]}"])
            else:
                tokens.append([name, values[0]])
    # A positional word after several values would be one more of them.
    return places + [word for group in tokens for word in group]


@settings(max_examples=150)
@given(st.data())
def test_legal_lines_mean_what_tyro_takes_them_for(data: st.DataObject) -> None:
    typed = data.draw(st.sampled_from(EVERY))
    tokens = legal_line(data.draw, typed)
    markers: list[Any] = [tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes]
    if typed.positional:
        markers.append(tyro.conf.PositionalRequiredArgs)
    kind = bare(typed.kind)
    theirs = tyro.cli(kind, args=tokens, use_underscores=True, config=markers)
    ours = read(kind, tokens, "it", positional=typed.positional)
    for field in dataclasses.fields(typed.kind):
        found, wanted = getattr(ours, field.name), getattr(theirs, field.name)
        assert (found, type(found)) == (wanted, type(wanted)), (field.name, tokens)


@each_command
def test_a_flag_given_twice_is_refused(typed: Typed) -> None:
    for flag in named(typed):
        first, second = one_value(flag, 0), one_value(flag, 1)
        dashed = "--" + flag.name[2:].replace("_", "-")
        if flag.switch is not None:
            lines = [[flag.name, flag.name], [dashed, flag.name]]
            said = f"{flag.name} is given twice, wanted once"
        else:
            lines = [
                [flag.name, first, flag.name, second],
                [flag.name, first, f"{flag.name}={second}"],
                [f"{dashed}={first}", flag.name, second],
            ]
            said = f"{flag.name} is given twice ({first}, {second}), wanted once"
        for line in lines:
            assert typed.refusal(*line).startswith(said)
    if named(typed):
        flag = named(typed)[0]
        group = [flag.name] if flag.switch is not None else [flag.name, "x"]
        assert f"{flag.name} is given 3 times" in typed.refusal(*group * 3)


def test_a_value_that_looks_like_a_flag_is_not_counted() -> None:
    tokens = ["--seed", "3", "--prompt=--seed", "--layout", "none"]
    config = read(TrainConfig, tokens, "it")
    assert (config.seed, config.prompt, config.layout) == (3, "--seed", "none")
    text = "--seed is what I want"
    assert read(TrainConfig, ["--prompt", text, "--seed", "4"], "it").prompt == text
    with pytest.raises(UserError) as error:
        read(TrainConfig, ["--prompt", "--seed", "--seed", "4"], "it")
    assert str(error.value) == (
        "--prompt has no value, wanted a text; if --seed is the value, write "
        "--prompt=--seed"
    )
    found = read(ExportConfig, ["--", "--a", "-b"], "it", positional=True)
    assert found == ExportConfig(Path("--a"), Path("-b"))
    assert read(TrainConfig, ["--lora_targets", "q", "k"], "it").lora_targets == (
        "q", "k",
    )  # fmt: skip


@each_command
def test_wrong_values_name_flag_value_and_what_was_wanted(typed: Typed) -> None:
    for flag in named(typed):
        if flag.switch is not None:
            for tokens in (["yes"], ["True"], ["false"]):
                said = typed.refusal(flag.name, *tokens)
                assert f"{flag.name} takes no value and {tokens[0]!r} is given" in said
            assert "takes no value" in typed.refusal(f"{flag.name}=1")
            continue
        wrong = {int: "ten", float: "fast", Path: ""}.get(flag.kind)
        if flag.choices:
            said = typed.refusal(*needed(typed), flag.name, "nonsense")
            assert all(choice in said for choice in flag.choices)
            wrong = "nonsense"
        if wrong is not None:
            said = typed.refusal(*needed_without(typed, flag), flag.name, wrong)
            start = f"{flag.name} is {wrong!r}" if wrong else f"{flag.name} is empty"
            assert said.startswith(start) and "wanted" in said
        if not flag.several:
            for last in ([], ["--version_of_it"], ["--"]):
                said = typed.refusal(flag.name, *last)
                assert said.startswith(f"{flag.name} has no value, wanted "), said


def needed_without(typed: Typed, flag: Flag) -> list[str]:
    """The words of `needed` but for those of one flag."""
    tokens = needed(typed)
    if flag.name in tokens:
        at = tokens.index(flag.name)
        del tokens[at : at + 2]
    return tokens


def test_numbers_are_numbers() -> None:
    cases = {
        ("--seed", "1e3"): "--seed is '1e3', wanted a whole number, written 1000",
        ("--seed", "2.5"): "--seed is '2.5', wanted a whole number",
        ("--seed", ""): "--seed is '', wanted a whole number",
        ("--dropout", "nan"): "--dropout is 'nan', wanted a number",
        ("--dropout", "0,1"): "--dropout is '0,1', wanted a number",
        ("--seed", "-1"): "--seed is -1, wanted 0 to 2**32 - 1",
        ("--learning_rate", "-inf"): "--learning_rate is -inf, wanted more than 0",
        ("--lora_targets", "q,k"): "--lora_targets is 'q,k', wanted some of q, k, v, "
        "o, gate, up, down, with spaces between",
    }
    for tokens, said in cases.items():
        with pytest.raises(UserError) as error:
            read(TrainConfig, tokens, "it")
        assert str(error.value) == said


@each_command
def test_words_too_many_and_too_few(typed: Typed) -> None:
    flags = [f for f in flags_of(typed.kind, typed.positional) if f.positional]
    places = [f.name for f in flags]
    if flags and flags[-1].several:
        found = read(typed.kind, [*needed(typed), "more"], "it", positional=True)
        assert [str(one) for one in getattr(found, flags[-1].field)][-1] == "more"
    else:
        said = typed.refusal(*needed(typed), "stray")
        assert said.startswith("'stray' ")
        assert (" ".join(places) or "--FLAG stray") in said
    if needed(typed):
        required = [
            f.name for f in flags_of(typed.kind, typed.positional) if f.required
        ]
        said = typed.refusal()
        assert said.startswith(f"python -m {typed.text} needs {' and '.join(required)}")


SUBCOMMANDS = sorted({typed.module for typed in EVERY if typed.tokens})


@pytest.mark.parametrize("module", SUBCOMMANDS)
def test_commands_of_commands(module: str) -> None:
    names = [typed.tokens[0] for typed in EVERY if typed.module == module]
    typed = Typed(module, (), object, False)
    listed = ", ".join(names)
    assert typed.refusal() == f"python -m {module} needs a command: one of {listed}"
    said = typed.refusal("--json", "a", names[0])
    assert said.startswith(f"--json needs a command before it: python -m {module} ")
    assert listed in said
    for name in names:
        said = typed.refusal(name[:-1] + "z" if len(name) > 3 else name + "z")
        assert listed in said
    assert f"did you mean {names[0]}?" in typed.refusal(names[0] + "s")


@pytest.mark.parametrize(
    "tokens", [["--help"], ["-h"], ["help"], ["--seed", "3", "-h"]]
)
def test_help_is_no_mistake(tokens: list[str], capsys: CaptureFixture[str]) -> None:
    for module in ("eqids.train", "convert"):
        with pytest.raises(SystemExit) as exit_:
            Typed(module, (), object, False).main(*tokens)
        assert exit_.value.code == 0
        assert f"usage: python -m {module}" in capsys.readouterr().out


def test_version(capsys: CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        Typed("sharding", (), object, False).main("--version")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("eqids ")


def test_a_mistake_ends_with_code_2_and_one_line() -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as exit_:
        run(lambda: print(parse(TrainConfig, ["--lr", "1"], "eqids.train", "")))
    assert exit_.value.code == 2
    assert said.getvalue() == (
        "error: --lr is not a flag of python -m eqids.train, wanted --learning_rate\n"
    )


SWITCHED_OFF = {
    "--no_tied_items": "Use two item tables: one for the input",
    "--no_text_features": "Give items no text columns. By default, where items",
    "--no_shuffle_ties": "Keep events of the same time in the dataset's order",
    "--no_counts": "Predict by the model alone",
    "--no_skip": "Leave the vector of the last item out of the query",
    "--no_huge_pages": "Allocate in ordinary pages",
    "--no_access_log": "Write no line for each request",
    "--no_allowed": "Leave out the input `allowed`",
    "--no_peers": "Time ours only, without torch",
}
"""What --help says of flags against a default, which begins with what they do."""


@each_command
def test_help_says_what_a_flag_against_a_default_does(typed: Typed) -> None:
    shown = re.sub(r"[\s│|]+", " ", typed.help())
    fields = {field.name: field for field in dataclasses.fields(typed.kind)}
    for flag in named(typed):
        assert f"{flag.name} " in shown
        if flag.switch is False:
            assert negation_of(fields[flag.field]) is not None, flag
            assert f"{flag.name} {SWITCHED_OFF[flag.name]}" in shown


def test_every_flag_of_long_commands_has_a_group() -> None:
    groups = {
        TrainConfig: "model data optimisation checkpoints devices expert".split(),
        PrepareConfig: [
            "source",
            "columns",
            "catalog and clusters",
            "engine",
            "expert",
        ],  # fmt: skip
    }
    for kind, names in groups.items():
        found = {flag.field: group_of(flag.declared) for flag in flags_of(kind)}
        assert set(found.values()) == set(names), found
    rare = "shuffle_ties gap_dropout save_blocking heartbeat join_timeout".split()
    assert {group_of(f.declared) for f in flags_of(TrainConfig) if f.field in rare} == {
        "expert"
    }


def test_help_shows_every_flag_in_the_box_of_its_group() -> None:
    for text in ("eqids.train", "eqids.prepare"):
        (typed,) = (typed for typed in EVERY if typed.text == text)
        _, *boxes = re.split(r"(?m)^[─╭ ]+([a-z ]+) options[─╮ ]+$", typed.help())
        shown = dict(zip(boxes[::2], boxes[1::2], strict=True))
        assert list(shown) == [name for name in GROUPS if name in shown]
        for flag in named(typed):
            at = re.compile(rf"^[│ ] {flag.name} ", re.MULTILINE)
            (group,) = (name for name, box in shown.items() if at.search(box))
            assert group == group_of(flag.declared)


def test_a_switch_may_be_set_to_its_default() -> None:
    def flags(*tokens: str, **defaults: object) -> TrainConfig:
        return parse(TrainConfig, tokens, "eqids.train", "", defaults)

    assert flags("--tied_items", "--no_remat") == TrainConfig()
    assert not flags(tied_items=False).tied_items
    assert flags("--tied-items", tied_items=False).tied_items
    assert not flags("--no-remat", remat=True).remat
    given = [(), ("--text_features",), ("--no_text_features",)]
    assert [flags(*words).text_features for words in given] == [None, True, False]
    with pytest.raises(UserError, match="--no_tied_items is given twice"):
        flags("--tied_items", "--no_tied_items")


def test_a_field_that_no_flag_can_have_is_our_mistake() -> None:
    @dataclasses.dataclass(frozen=True)
    class Odd:
        """A config."""

        table: dict[str, int] | None = None

    with pytest.raises(TypeError, match="table"):
        flags_of(Odd)
