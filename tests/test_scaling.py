"""The model of several workers, at its limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling_model import (
    Link,
    Training,
    VirtualPool,
    all_reducing,
    gathering,
    queue_saturation,
    queue_seconds,
    saturation,
    slowest,
)

ROOT = Path(__file__).parents[1]

sizes = st.floats(0, 1e12)
seconds = st.floats(1e-3, 1e3)
links = st.builds(Link, st.floats(1e6, 1e12), st.floats(0, 1e-3))
trainings = st.builds(
    Training, seconds, st.floats(0, 0.2), sizes, sizes, st.floats(0, 1e4), st.booleans()
)
workers = st.integers(1, 10_000)
updates = st.lists(st.integers(1, 6), min_size=1, max_size=30)
crews = st.integers(1, 5)


@given(training=trainings, link=links, count=workers)
def test_one_worker_has_no_overhead_and_more_are_never_better_each(
    training: Training, link: Link, count: int
) -> None:
    assert training.seconds(1, link) == pytest.approx(training.compute)
    assert training.seconds(count + 1, link) >= training.seconds(count, link) * (1 - 1e-12)


@given(size=sizes, count=workers, link=links)
def test_messages_near_what_bandwidth_allows(size: float, count: int, link: Link) -> None:
    free = Link(link.bandwidth, 0)
    assert gathering(size, count, free) == pytest.approx((1 - 1 / count) * size / link.bandwidth)
    assert all_reducing(size, count, link) >= all_reducing(size, count, free)


@given(training=trainings, link=links, bar=st.floats(0.05, 0.99))
def test_saturation_is_the_last_above_the_bar(training: Training, link: Link, bar: float) -> None:
    found = saturation(lambda count: training.efficiency(count, link), bar)
    assert training.efficiency(found, link) >= bar * (1 - 1e-9)
    if found < 2**20:
        assert training.efficiency(found + 1, link) <= bar * (1 + 1e-9)


def test_the_slowest_of_two_is_what_is_known_of_it() -> None:
    assert slowest(1, 0.3) == pytest.approx(1)
    # The expected larger of two normal draws is 1 / sqrt(pi); Blom's formula is good to 5 %.
    assert slowest(2, 1) - 1 == pytest.approx(0.5642, rel=0.05)


@given(needed=updates, update=seconds, start=st.floats(0, 100))
@settings(deadline=None)
def test_a_worker_that_is_alone_with_one_slot_does_all_in_turn(
    needed: list[int], update: float, start: float
) -> None:
    found = queue_seconds(needed, 1, VirtualPool(1, update, 0, start))
    assert found == pytest.approx(start + sum(needed) * update)


@given(needed=updates, count=crews, capacity=crews, update=seconds, driver=st.floats(0, 1))
@settings(deadline=None)
def test_queues_keep_their_bounds_and_gain_by_workers(
    needed: list[int], count: int, capacity: int, update: float, driver: float
) -> None:
    free = queue_seconds(needed, count, VirtualPool(capacity, update, 0))
    assert free >= max(sum(needed) / (count * capacity), max(needed)) * update * (1 - 1e-9)
    # Graham's bound for lists of independent items, with slots as machines.
    slots = count * capacity
    bound = sum(needed) / slots + (1 - 1 / slots) * max(needed)
    assert free <= bound * update * (1 + 1e-9)
    assert queue_seconds(needed, count + 1, VirtualPool(capacity, update, 0)) <= free * (1 + 1e-9)
    assert queue_seconds(needed, count, VirtualPool(capacity, update, driver)) >= free


@given(update=seconds, driver=st.floats(1e-3, 10))
@settings(deadline=None, max_examples=30)
def test_a_driver_that_is_always_busy_bounds_the_queue(update: float, driver: float) -> None:
    items, most = [1] * 200, queue_saturation(update, driver)
    for count in (1, 10):
        found = queue_seconds(items, count, VirtualPool(1, update, driver))
        expected = max(driver, (update + driver) / count)
        assert found >= len(items) * expected * (1 - 1e-9)
        if count > most:
            assert found <= (len(items) + count) * driver + update


def test_what_is_on_paper_follows_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    written, gpu = (
        json.loads((ROOT / "docs" / "benchmarks" / name).read_text())
        for name in ("scaling.json", "gpu_h200.json")
    )
    times = scaling.call_times(gpu)
    assert times == written["gpu"]["seconds"]
    computed = scaling.on_paper(written["measured"], times)
    assert json.loads(json.dumps(computed)) == written["on_paper"]
