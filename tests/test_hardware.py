"""The table of hardware, and bounds that follow from it."""

import dataclasses

import pytest

from sharding.compiled.hlo import Collective, HloCounts
from sharding.compiled.hlo_text import HloShape
from sharding.compiled.machines import GIB, HARDWARE, hardware
from sharding.compiled.roofline import roofline
from sharding.layout import LayoutError

H100 = hardware("h100-80gb")
MILLION = HloShape("s8", (1_000_000,))


def collective(kind: str, *groups: tuple[int, ...], times: int = 1) -> Collective:
    return Collective(kind, (MILLION,), groups, times, kind)


def link_seconds(each: Collective, num_hosts: int = 1) -> float:
    counts = HloCounts(num_devices=16, collectives=(each,))
    return roofline(counts, H100, num_hosts).link_seconds


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        LayoutError,
        match="'v100', wanted one of cpu, a100-40gb, a100-80gb, h100-80gb",
    ):
        hardware("v100")


def test_cards_report_less_than_their_names_say_and_leave_headroom() -> None:
    for name, named in (("a100-40gb", 40), ("a100-80gb", 80), ("h100-80gb", 80)):
        card = hardware(name)
        assert card.name == name
        assert 0.98 * named * GIB < card.memory_bytes < named * GIB
        assert card.capacity_bytes == card.memory_bytes - card.headroom_bytes
        assert 0.85 * named * GIB < card.capacity_bytes
    assert all(card.capacity_bytes > 0 for card in HARDWARE.values())


def test_the_largest_of_three_times_is_the_bound() -> None:
    counts = HloCounts(
        num_devices=16,
        flops=989_400_000_000,
        memory_bytes=6_704_000_000,
        collectives=(collective("collective-permute", (0, 1), times=1350),),
    )
    found = roofline(counts, H100)
    assert found.compute_seconds == pytest.approx(1e-3)
    assert found.memory_seconds == pytest.approx(2e-3)
    assert found.link_seconds == pytest.approx(3e-3)
    assert found.bound == "link" and found.seconds == found.link_seconds
    assert roofline(dataclasses.replace(counts, collectives=()), H100).bound == "memory"
    counts = dataclasses.replace(counts, collectives=(), memory_bytes=0)
    assert roofline(counts, H100).bound == "compute"


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("all-gather", 3 / 4),
        ("reduce-scatter", 3 / 4),
        ("all-to-all", 3 / 4),
        ("all-reduce", 2 * 3 / 4),
    ],
)
def test_rings_pass_their_share_over_the_links_of_a_host(
    kind: str, share: float
) -> None:
    groups = (0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15)
    wanted = share * 1e6 / 450e9
    assert link_seconds(collective(kind, *groups)) == pytest.approx(wanted)
    # The same groups in two hosts still use no network.
    assert link_seconds(collective(kind, *groups), 2) == pytest.approx(wanted)
    assert link_seconds(collective(kind, (0,), (1,))) == 0


def test_between_hosts_a_group_has_the_adapters_of_its_devices() -> None:
    alone = collective("all-gather", (0, 8), (1, 9))
    assert link_seconds(alone, 2) == pytest.approx(1 / 2 * 1e6 / 50e9)
    together = collective("all-gather", (0, 1, 8, 9))
    assert link_seconds(together, 2) == pytest.approx(3 / 4 * 1e6 / (2 * 50e9))
    # Sixteen devices have adapters for as much as their links, 8 x 50 < 450 GB/s.
    everyone = collective("all-gather", tuple(range(16)))
    assert link_seconds(everyone, 2) == pytest.approx(15 / 16 * 1e6 / 400e9)
    exchange = collective("all-to-all", (0, 1, 8, 9))
    assert link_seconds(exchange, 2) == pytest.approx(1 / 2 * 1e6 / 50e9)
    # The slowest group decides; a shift crosses hosts in some of its pairs only.
    shift = collective("collective-permute", *[(i, (i + 1) % 16) for i in range(16)])
    assert link_seconds(shift, 2) == pytest.approx(1e6 / 50e9)
    assert link_seconds(collective("collective-permute", (0, 0), (1, 1))) == 0


def test_what_has_no_bound_says_so() -> None:
    with pytest.raises(LayoutError, match="'cpu' has no peaks"):
        roofline(HloCounts(num_devices=1), hardware("cpu"))
    with pytest.raises(LayoutError, match="16 devices cannot be spread over 3 hosts"):
        roofline(HloCounts(num_devices=16), H100, num_hosts=3)
