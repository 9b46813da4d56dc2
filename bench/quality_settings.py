"""The settings that `python -m bench quality` trains: names for flags."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from bench.quality_options import QualityOptions
from eqids.cli.command_line import read
from eqids.config import TrainConfig, UserError, require


@dataclass(frozen=True)
class Setting:
    """What is trained, under a name.

    Attributes:
        name: its name in tables and folders.
        train: flags of `python -m eqids.train`. `{llama_path}` and `{text_llama_path}`
            are replaced by the flags of the bench.
        note: what it shows, in a few words.
        prepare: by the name of a data set, more flags of `python -m eqids.prepare`.
    """

    name: str
    train: tuple[str, ...] = ()
    note: str = ""
    prepare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def request_time(self) -> bool:
        """Whether the model knows when it is asked; such results have own tables."""
        return any(word.replace("-", "_") == "__request_time" for word in self.train)


_OVER_LLAMA = ("--llama_path", "{llama_path}", "--train")
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        one.name: one
        for one in (
            Setting("default", (), "ids only, no flags"),
            Setting(
                "text",
                ("--text_features", "--text_llama_path", "{text_llama_path}"),
                "ids and encoded texts",
            ),
            Setting("request-time", ("--request_time",), "knows when it is asked"),
            Setting("no-counts", ("--no_counts",), "without the mixture with counts"),
            Setting("frozen", (*_OVER_LLAMA, "heads"), "over a frozen Llama"),
            Setting("lora", (*_OVER_LLAMA, "lora"), "low-rank changes of Llama"),
            Setting("all", (*_OVER_LLAMA, "all"), "all of Llama trains"),
        )
    }
)
"""Named settings; --setting adds more from the command line."""


def chosen_settings(options: QualityOptions) -> list[Setting]:
    """Returns the settings to train, in the order of the flags.

    Raises:
        UserError: a name is unknown or used twice, a setting needs a Llama whose path
            is not given, or `eqids.train` would refuse its flags.
    """
    own = [_own(text) for text in options.setting]
    names = options.settings or (() if own else ("default",))
    for name in names:
        require(
            name in SETTINGS,
            f"--settings has {name!r}, wanted some of {', '.join(SETTINGS)}; "
            "--setting NAME=FLAGS adds others",
        )
    found = [_filled(SETTINGS[name], options) for name in names] + own
    labels = [one.name for one in found]
    for one in found:
        require(
            labels.count(one.name) == 1 and (one not in own or one.name not in names),
            f"two settings are called {one.name!r}, wanted a name for each",
        )
        _check_flags(one)
    _check_against(options.against, found)
    return found


def flags_of_run(
    setting: Setting, data: Path, checkpoints: Path, seed: int
) -> list[str]:
    """Returns the words after `python -m eqids.train` for one run.

    The test split stays unread, and only the newest and the best step are kept.
    """
    return ["--data_dir", str(data), "--checkpoint_dir", str(checkpoints),
            "--seed", str(seed), "--result_split", "valid", "--keep", "1",
            *setting.train]  # fmt: skip


def _own(text: str) -> Setting:
    """Reads NAME=FLAGS."""
    name, equals, flags = text.partition("=")
    require(
        equals == "=" and name.replace("-", "").replace("_", "").isalnum(),
        f"--setting is {text!r}, wanted NAME=FLAGS, such as 'wide=--item_width 128'",
    )
    try:
        return Setting(name, tuple(shlex.split(flags)), "from the command line")
    except ValueError as error:
        raise UserError(f"--setting {text!r} cannot be read: {error}") from error


def _filled(setting: Setting, options: QualityOptions) -> Setting:
    """Replaces the names of paths by the paths."""
    paths = {
        "{llama_path}": options.llama_path,
        "{text_llama_path}": options.text_llama_path or options.llama_path,
    }
    for name, path in paths.items():
        require(
            name not in setting.train or path is not None,
            f"--settings {setting.name} needs --{name[1:-1]} DIR, the folder of a "
            "pretrained Llama",
        )
    words = [
        str(path.absolute()) if path is not None else word
        for word in setting.train
        for path in (paths.get(word),)
    ]
    return replace(setting, train=tuple(words))


def _check_flags(setting: Setting) -> None:
    """Raises UserError if `eqids.train` refuses a setting's flags."""
    words: Sequence[str] = flags_of_run(setting, Path("data"), Path("run"), 0)
    try:
        read(TrainConfig, words, "python -m eqids.train")
    except UserError as error:
        raise UserError(f"setting {setting.name}: {error}") from error


def _check_against(name: str | None, settings: Sequence[Setting]) -> None:
    """Raises UserError if --against is no setting that others can be compared with."""
    if name is None:
        return
    found = {one.name: one.request_time for one in settings}
    require(
        name in found, f"--against is {name!r}, wanted a setting: {', '.join(found)}"
    )
    alike = list(found.values()).count(found[name])
    require(
        alike > 1,
        f"--against {name} has no setting to compare with: results with request time "
        "are not compared with results without it"
        if len(found) > 1
        else f"--against {name} needs another setting beside it",
    )
