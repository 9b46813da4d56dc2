"""What a command imports before it has read its flags, and JAX's platform."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import EVERY, MODULES

from eqids.__main__ import main
from eqids.config import UserError

HEAVY = (
    "jax", "jaxlib", "torch", "ibis", "duckdb", "sklearn", "scipy", "pandas", "pyarrow",
    "transformers", "tensorstore", "numpy", "equinox", "optax", "grain",
)  # fmt: skip

RUN = """
import runpy, sys
for words in {lines!r}:
    sys.argv = [{module!r}, *words]
    code = 0
    try:
        runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    print("ended", words, code, [name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize("module", MODULES)
def test_help_and_mistakes_wait_for_no_library(module: str) -> None:
    """Help of the command and each subcommand, and mistakes of every kind."""
    help_lines = [["--help"], ["--version"]]
    mistakes = [["--lr", "3"], ["--sed", "1"], ["nonsense"]]
    for typed in EVERY:
        if typed.module == module:
            help_lines.append([*typed.tokens, "--help"])
            mistakes += [[*typed.tokens, "--lr", "3"], [*typed.tokens, "--json"]]
    if module == "eqids":
        mistakes = [["train", "--lr", "3"]]
    code = RUN.format(lines=help_lines + mistakes, module=module, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith("ended ")]
    assert ended == [
        f"ended {tokens} {2 * (tokens in mistakes)} []"
        for tokens in help_lines + mistakes
    ]
    said = done.stderr.splitlines()
    assert len(said) == len(mistakes) and all(s.startswith("error: ") for s in said)


def test_names_of_packages_are_no_modules() -> None:
    """`from sharding import place` gives the function, whatever was imported before."""
    import convert
    import sharding.public_names

    public = [n for n in vars(sharding.public_names) if not n.startswith("_")]
    for package, names in ((sharding, public), (convert, list(convert._FILES))):
        folder = Path(package.__file__ or "").parent
        assert names and not {path.stem for path in folder.glob("*.py")} & set(names)
        with pytest.raises(AttributeError, match="nonsense"):
            package.nonsense  # noqa: B018
    for name in public:
        assert getattr(sharding, name) is vars(sharding.public_names)[name]
    for name, file in convert._FILES.items():
        assert getattr(convert, name).__module__ == f"convert.{file}"


# A plugin for GPUs on a machine without one, as jax 0.10 and 0.12 have it: loading its
# libraries writes to the terminal, and its start fails unless JAX_PLATFORMS leaves it
# out.
LIBRARY = "import sys; print('I0000 no cuda drivers', file=sys.stderr)"
PLUGIN = """
import importlib, os
def initialize():
    importlib.import_module("jax_cuda12_plugin._versions")
    if os.environ.get("JAX_PLATFORMS") != "cpu":
        raise RuntimeError("Unable to load CUDA. Is it installed?")
"""

START = """
import os, sys
from eqids.cli import accelerators
from eqids.config import *
accelerators._NVIDIA_DEVICES = {devices!r}
{before}
accelerators.choose_platform({config})
import importlib
try:
    importlib.import_module("jax_cuda12_plugin._versions")
    print("library", end=" ")
except ModuleNotFoundError:
    print("hidden", end=" ")
import jax
print(jax.default_backend(), os.environ.get("JAX_PLATFORMS"))
"""

CPU = "EvaluateConfig(checkpoint='c')"


def start(
    path: Path, *, config: str = CPU, devices: tuple[str, ...] = (), before: str = "",
    platforms: str | None = None,
) -> tuple[str, str]:  # fmt: skip
    """Returns what a process prints that chooses a platform and imports jax."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_PLATFORM")}
    env["PYTHONPATH"] = os.pathsep.join([str(path), os.getcwd()])
    if platforms is not None:
        env["JAX_PLATFORMS"] = platforms
    code = START.format(config=config, devices=devices, before=before)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder with the packages of a plugin for GPUs."""
    for name, text in (
        ("jax_plugins/xla_cuda12/__init__.py", PLUGIN),
        ("jax_cuda12_plugin/__init__.py", ""),
        ("jax_cuda12_plugin/_versions.py", LIBRARY),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_plugin_without_a_gpu_is_silent(plugin: Path, tmp_path: Path) -> None:
    assert start(plugin) == ("hidden cpu cpu", "")
    # Without choose_platform it is not.
    said = start(plugin, before="accelerators.choose_platform = lambda config: None")[1]
    assert "I0000" in said and "Traceback" in said


def test_what_compiles_for_gpus_keeps_the_plugin(plugin: Path) -> None:
    for config in (
        "ProveConfig()",
        "PlanConfig(prove=True)",
        "TrainConfig(hardware='h100-80gb', estimate_memory_only=True)",
    ):
        printed, said = start(plugin, config=config)
        assert printed == "library cpu cpu" and "Traceback" not in said
    for config in ("PlanConfig()", "EstimateConfig()", "TrainConfig()"):
        assert start(plugin, config=config) == ("hidden cpu cpu", "")


def test_nothing_is_chosen_where_it_is_not_ours_to_choose(
    plugin: Path, tmp_path: Path
) -> None:
    # An NVIDIA device exists: /dev/null plays its node.
    assert start(plugin, devices=("/dev/nul*",))[0] == "library cpu None"
    # The user chose.
    assert start(plugin, platforms="cpu") == ("hidden cpu cpu", "")
    assert start(plugin, platforms="cpu,cpu")[0] == "library cpu cpu,cpu"
    # jax is imported already.
    assert start(plugin, before="import jax")[0] == "library cpu None"
    # Another accelerator's plugin, or the library of TPUs.
    other = plugin / "jax_plugins" / "other" / "__init__.py"
    other.parent.mkdir()
    other.write_text("def initialize(): pass")
    assert start(plugin)[0] == "library cpu None"
    shutil.rmtree(other.parent)
    (plugin / "libtpu").mkdir()
    (plugin / "libtpu" / "__init__.py").write_text("")
    assert start(plugin)[0] == "library cpu None"


def test_without_a_plugin_nothing_changes(tmp_path: Path) -> None:
    assert start(tmp_path)[0] == "hidden cpu None"


def test_eqids_runs_the_command_that_it_is_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["sharding", "list"])
    assert "8b-all-h100-80gb-8" in capsys.readouterr().out
    with pytest.raises(UserError, match="'trian' is no command of eqids, wanted train"):
        main(["trian"])
    with pytest.raises(UserError, match="wanted one of prepare, train, evaluate"):
        main(["xyz"])
