"""The command `python -m sharding`: lists, estimates, plans, and what it refuses."""

import json
from pathlib import Path

import pytest
from pytest import CaptureFixture

import sharding.__main__ as command
from eqids import cli
from eqids.planning.layout_presets import LAYOUT_PRESETS
from sharding.compiled.machines import HARDWARE

GIB = 2**30


def answered(argv: str, capsys: CaptureFixture[str]) -> str:
    command.main(argv.split())
    return capsys.readouterr().out


def refused(argv: str, capsys: CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: command.main(argv.split()))
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def test_the_command_lists_and_shows(capsys: CaptureFixture[str]) -> None:
    assert "8b-all-h100-80gb-2x8" in answered("list", capsys)
    shown = answered("show --llama_size nano --hardware cpu --devices 8", capsys)
    assert "llama.blocks.wq" in shown and "layer heads head width" in shown
    assert "host 1 device 8:  rows 8/8  weights 1/1" in shown
    # Sizes without a named layout are planned with the recipe of theirs.
    shown = answered("show --llama_size mini --hardware cpu --train all", capsys)
    assert "batch 16 x 200" in shown and "4 x 4 x 64 x 256" in shown
    planned = "plan --llama_size small --train all --devices 2 --num_items 9000 --top 1"
    said = answered(planned, capsys)
    assert "eqids.train --llama_size small" in said and "--train all" in said


def test_the_command_estimates_in_text_and_json(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    file = tmp_path / "estimate.json"
    said = answered(f"estimate --layout 8b-lora-a100-40gb-1 --json {file}", capsys)
    assert "it fits" in said
    found = json.loads(file.read_text())
    names = "argument_bytes temp_bytes peak_bytes capacity_bytes fits".split()
    assert set(names) <= set(found)
    assert found["peak_bytes"] < found["capacity_bytes"]


def test_the_plan_prints_the_command_or_what_would_fit(
    capsys: CaptureFixture[str],
) -> None:
    flags = "--llama_size 1b --hardware a100-80gb --devices 2 --train all"
    said = answered(f"plan {flags} --remat True --batch_size 8", capsys)
    assert "XLA_CLIENT_MEM_FRACTION=0.949 python -m eqids.train" in said
    assert "--train all --layout" in said
    flags = "--llama_size 8b --hardware a100-40gb --devices 1 --train all"
    said = answered(f"plan {flags} --remat True --batch_size 1", capsys)
    assert said.startswith("nothing fits") and "--devices" in said


def test_of_equal_layouts_a_plan_puts_the_one_first_that_needs_least(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    flags = "--llama_size 1b --hardware a100-40gb --devices 2 --train lora --remat True"
    flags += f" --text_tokens_per_item 12 --batch_size 8 --json {file}"
    said = answered(f"plan {flags}", capsys)
    found = json.loads(file.read_text())["layouts"]
    order = [(-one["tokens_per_s"], one["peak_bytes"]) for one in found]
    assert len(found) > 1 and order == sorted(order)
    assert {one["seq_len"] for one in found} == {256}
    assert "XLA_CLIENT_MEM_FRACTION=0.898" in said
    assert "--text_tokens_per_item 12" in said
    for name in ("a100-40gb", "a100-80gb", "h100-80gb"):
        machine = HARDWARE[name]
        taken = machine.client_memory_fraction * machine.memory_bytes
        assert 0.998 * machine.capacity_bytes < taken <= machine.capacity_bytes


@pytest.mark.long
def test_a_plan_with_a_layout_is_of_its_mesh_only(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    flags = "--llama_size 1b --train all --devices 2 --remat True --batch_size 8"
    for layout, mesh in (("1x2x1", [1, 2, 1]), ("data", [2, 1, 1])):
        said = answered(f"plan {flags} --layout {layout} --json {file}", capsys)
        (found,) = json.loads(file.read_text())["layouts"]
        assert found["mesh_shape"] == mesh
        assert f"--layout {'x'.join(map(str, mesh))} " in said
    flags = "--llama_size 8b --train all --devices 8 --remat True --batch_size 8"
    said = answered(f"plan {flags} --layout data", capsys)
    assert said.startswith("nothing fits") and "on the mesh 8x1x1" in said
    assert "  --layout 1x" in said
    flags = "--llama_size 1b --devices 8 --batch_size 12 --layout 8x1x1"
    assert "no batch on --layout 8x1x1" in refused(f"plan {flags}", capsys)


def test_devices_of_one_cpu_share_its_memory(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    file, capacity = tmp_path / "estimate.json", HARDWARE["cpu"].capacity_bytes
    flags = f"estimate --llama_size nano --hardware cpu --train all --json {file}"
    for devices, share in (("1", 1), ("8", 8), ("2x4", 4)):
        said = answered(f"{flags} --devices {devices}", capsys)
        found = json.loads(file.read_text())
        assert found["capacity_bytes"] == capacity // share
        assert f"{capacity // share / GIB:9.3f}" in said
    h100 = LAYOUT_PRESETS["1b-all-h100-80gb-8"]
    assert h100.capacity_bytes == HARDWARE["h100-80gb"].capacity_bytes


def test_mistakes_are_one_sentence(capsys: CaptureFixture[str]) -> None:
    said = refused("estimate --layout 9b-all-h100-80gb-8", capsys)
    assert "9b-all-h100-80gb-8" in said and "python -m sharding list" in said
    said = refused("estimate --layout 2x2x1 --devices 8", capsys)
    assert "for 4 devices, there are 8" in said
    said = refused("estimate --layout tensor --devices 3", capsys)
    assert "even number of devices" in said
    said = refused("estimate --layout 1x3x1 --devices 3", capsys)
    assert "splits 'width'" in said and "3 ways" in said and "fit" in said
    assert "--devices is '2x'" in refused("show --devices 2x", capsys)
