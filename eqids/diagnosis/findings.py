"""What a check of an installation finds, and how it is shown."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_WIDTH = 10


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    name: str
    """What was checked, in a word or two."""
    verdict: Literal["ok", "note", "mend"]
    """ok: nothing to do. note: works, and could be better or is not needed by all.
    mend: something will not work."""
    said: str
    """What was found, with numbers."""
    remedy: str | None = None
    """The command or the setting that mends or improves it."""

    def text(self) -> str:
        """Returns the finding as a line, with its remedy on a second one."""
        line = f"{self.verdict:<5}{self.name:<{_WIDTH}} {self.said}"
        indent = " " * (5 + _WIDTH + 1)
        return line if self.remedy is None else f"{line}\n{indent}→ {self.remedy}"


def conclusion(findings: Iterable[Finding]) -> str:
    """Returns one line about all findings."""
    wrong = [finding.name for finding in findings if finding.verdict == "mend"]
    if not wrong:
        return "everything that EqIDs needs works"
    return f"to mend: {', '.join(wrong)}"
