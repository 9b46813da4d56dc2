"""The command that trains a run again, from the flags that the run recorded."""

import dataclasses

from eqids.cli import shell_word
from eqids.cli.flags import flags_of
from eqids.config import RunConfig, TrainConfig


def train_command(config: RunConfig) -> str:
    """Returns the command, with the flags that differ from their defaults.

    Flags that the run left open are left open here too: the same dataset gives the same
    recipe. How processes find one another is left out.

    Args:
        config: of the run.
    """
    given = config.flags
    own = {field.name: field for field in dataclasses.fields(TrainConfig)}
    words = ["python -m eqids.train", "--data_dir", shell_word(str(config.data_dir))]
    for flag in flags_of(TrainConfig):
        if flag.field not in own or flag.field == "data_dir":
            continue
        value = getattr(given, flag.field)
        if value == own[flag.field].default:
            continue
        if flag.switch is not None:
            words.append(flag.name)
            continue
        several = value if isinstance(value, tuple) else (value,)
        words += [flag.name, *(shell_word(str(one)) for one in several)]
    return " ".join(words)
