"""The flags of `python -m eqids.doctor`."""

from dataclasses import dataclass
from pathlib import Path

from eqids.config.bounds import FINITE, ZERO_OR_MORE, check_flags
from eqids.config.flag_fields import grouped


@dataclass(frozen=True)
class DoctorConfig:
    """The flags of `python -m eqids.doctor`."""

    seconds: float = grouped("measurement", 10.0)
    """Seconds to train on generated data, once the step is compiled; 0 to leave that
    out."""
    online: bool = grouped("measurement", False)
    """Ask the Hugging Face hub whether it accepts the token. Nothing else of this
    command uses the network."""
    json: Path | None = grouped("measurement", None)
    """Write the findings to this JSON file too."""

    def __post_init__(self) -> None:
        check_flags(self, "seconds", ZERO_OR_MORE)
        check_flags(self, "seconds", FINITE)
