"""The flag that was probably meant is named."""

from pathlib import Path

import pytest

from eqids.cli import parse
from eqids.config import EvaluateConfig, ReportConfig, UserError


def test_a_folder_without_a_flag_gets_the_flag_that_is_meant(tmp_path: Path) -> None:
    for words, wanted in (
        ([str(tmp_path)], f"wanted --checkpoint {tmp_path}"),
        (["step"], "wanted --FLAG step"),
    ):
        with pytest.raises(UserError, match=wanted):
            parse(EvaluateConfig, words, "eqids.evaluate", "")
    (tmp_path / "dataset.json").touch()
    with pytest.raises(UserError, match=f"wanted --data_dir {tmp_path}"):
        parse(EvaluateConfig, [str(tmp_path)], "eqids.evaluate", "")
    with pytest.raises(UserError, match="did you mean --user_columns"):
        parse(ReportConfig, ["--user_column", "x"], "eqids.report", "", positional=True)
