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
    one_line as one_line,
    say as say,
    shell_word as shell_word,
    visible as visible,
    warn as warn,
)
