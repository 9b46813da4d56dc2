"""`python -m eqids.doctor`: its checks, on machines that are well and that are not."""

import json
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from pytest import CaptureFixture, MonkeyPatch

from eqids import doctor
from eqids.diagnosis import installed_packages, machine_checks as machine
from eqids.diagnosis.findings import Finding, conclusion
from eqids.diagnosis.short_training import check_training, training_finding
from sharding.compiled.machines import GIB


def test_the_command_says_what_is_well(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    doctor.main(["--seconds", "0", "--json", str(tmp_path / "d.json")])
    shown = capsys.readouterr().out
    findings = json.loads((tmp_path / "d.json").read_text())["findings"]
    names = [one["name"] for one in findings]
    assert names == [
        "python", "packages", "extras", "devices", "memory", "threads", "cache",
        "folder", "hub",
    ]  # fmt: skip
    assert all(one["verdict"] in ("ok", "note") for one in findings)
    assert all(one["said"] in shown for one in findings)
    assert shown.endswith("everything that EqIDs needs works\n")


def test_what_is_to_mend_ends_with_1_and_its_command(
    monkeypatch: MonkeyPatch, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EQIDS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--seconds", "0"])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "mend cache" in shown and "→ export EQIDS_CACHE=FOLDER" in shown
    assert shown.endswith("to mend: cache\n")


def test_packages_that_are_missing_or_old_are_named(monkeypatch: MonkeyPatch) -> None:
    needed = [Requirement("numpy>=99"), Requirement("eqids-nothing>=1"),
              Requirement("pytest>=1")]  # fmt: skip
    found = installed_packages._required(needed)
    assert found.verdict == "mend"
    assert f"numpy>=99 is required, and {np.__version__} is installed" in found.said
    assert "eqids-nothing>=1 is required, and is not installed" in found.said
    assert found.remedy == "pip install 'numpy>=99' 'eqids-nothing>=1'"


def test_memory_and_limits_of_cores_are_read_from_linux(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal:       2000 kB\nMemFree: 1 kB\nMemAvailable:  500 kB\n"
    )
    assert machine.memory_bytes(meminfo) == (2000 * 1024, 500 * 1024)
    total, free = machine.memory_bytes()
    assert GIB / 4 < free <= total
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert "a container's limit leaves 0.5" in machine.check_threads(quota).said
    quota.write_text("max 100000\n")
    assert "limit" not in machine.check_threads(quota).said


def test_a_token_is_looked_for_and_not_sent(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "whoami", lambda: pytest.fail("the hub was asked"))
    monkeypatch.setattr(machine, "get_token", lambda: None)
    none = machine.check_hub(online=True)
    assert none.verdict == "note" and "hf auth login" in str(none.remedy)
    monkeypatch.setattr(machine, "get_token", lambda: "a token")
    assert machine.check_hub(online=False).verdict == "ok"

    def refuses() -> None:
        raise OSError("401 Unauthorized\nmore")

    monkeypatch.setattr(machine, "whoami", refuses)
    refused = machine.check_hub(online=True)
    assert refused.verdict == "mend" and refused.said.endswith("401 Unauthorized")


def test_losses_are_judged() -> None:
    falls = training_finding(np.array([4.0, 3.0, 2.0, 2.0, 2.0]), 1234.4, 2.0)
    assert falls.verdict == "ok" and "1,234 targets/s" in falls.said
    assert "from 4.00 to 2.00" in falls.said
    rises = training_finding(np.array([1.0, 2.0, 2.0, 2.0]), 1.0, 2.0)
    assert rises.verdict == "mend" and "does not fall" in rises.said
    broken = training_finding(np.array([1.0, np.nan, 0.5]), 1.0, 2.0)
    assert broken.verdict == "mend" and "not finite" in broken.said
    assert conclusion([falls, rises]) == "to mend: training"


def test_an_error_of_the_training_is_a_finding(monkeypatch: MonkeyPatch) -> None:
    from eqids.diagnosis import short_training

    def breaks(folder: Path, seconds: float) -> Finding:
        raise RuntimeError("CUDA_ERROR\nmore")

    monkeypatch.setattr(short_training, "check_training", breaks)
    found = doctor._training(1.0)
    assert found.verdict == "mend" and found.said == "RuntimeError: CUDA_ERROR more"


@pytest.mark.long
def test_a_model_trains_for_some_seconds(tmp_path: Path) -> None:
    found = check_training(tmp_path, 0.2)
    assert found.verdict == "ok" and "targets/s" in found.said
