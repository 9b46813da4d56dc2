"""What every command shares: reading flags, printing, and exit codes.

Nothing here imports jax, so --help and mistyped flags are answered at once.
"""

from eqids.cli.ending import run as run, run_as_process as run_as_process
from eqids.cli.parsing import (
    check_output as check_output,
    parse as parse,
    parse_command as parse_command,
)
from eqids.cli.printing import (
    messages_to as messages_to,
    one_line as one_line,
    say as say,
    say_above_bars as say_above_bars,
    shell_word as shell_word,
    visible as visible,
    warn as warn,
)
from eqids.cli.progress import (
    Counted as Counted,
    bars_are_shown as bars_are_shown,
    first_call_announced as first_call_announced,
    loading as loading,
    progress_bar as progress_bar,
    waiting as waiting,
)
from eqids.cli.python_calls import (
    config_of as config_of,
    make_callable as make_callable,
    reported as reported,
)
