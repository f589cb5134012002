"""Every item gets one result, whoever dies on the way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjointdpm.executors import Item, Result, WorkerFactory, execute, shard
from adjointdpm.executors.dispatch import dispatch
from adjointdpm.executors.pool import LocalPool
from adjointdpm.executors.queue import Queue
from adjointdpm.storage import JsonLines, merge_json_lines, read_json_lines


class Countdown:
    """Works on each item for as many updates as it says; may die at any, and dies of poison.

    Args:
        capacity: how many items it takes.
        deaths: the probability of dying at an update.
        seed: of the deaths.
    """

    def __init__(self, capacity: int = 2, deaths: float = 0, seed: int = 0) -> None:
        self.capacity = capacity
        self._deaths = deaths
        self._random = random.Random(seed)
        self._left: dict[str, int] = {}
        self._items: dict[str, Item] = {}
        self.busy: list[int] = []
        self.ended: list[int] = []

    def advance(self, items: Sequence[Item]) -> list[Result]:
        assert len(self._left) + len(items) <= self.capacity
        for item in items:
            assert item["id"] not in self._left
            self._left[item["id"]] = item["updates"]
            self._items[item["id"]] = item
        self.busy.append(len(self._left))
        self.ended.append(len(self._items) - len(self._left))
        if any(self._items[id].get("poison") for id in self._left):
            raise MemoryError("poisoned")
        if self._random.random() < self._deaths:
            raise ConnectionError("died")
        self._left = {id: left - 1 for id, left in self._left.items()}
        ended = [id for id, left in self._left.items() if left == 0]
        for id in ended:
            del self._left[id]
        return [{"id": id, "value": self._items[id]["updates"] ** 2} for id in ended]


def items_of(updates: Sequence[int]) -> list[dict[str, Any]]:
    return [{"id": f"item-{k}", "updates": n} for k, n in enumerate(updates)]


updates = st.lists(st.integers(1, 5), max_size=25)


@given(updates=updates, workers=st.integers(1, 4), capacity=st.integers(1, 5), seed=st.integers())
@settings(max_examples=100, deadline=None)
def test_random_deaths_lose_no_item_and_double_none(
    updates: list[int], workers: int, capacity: int, seed: int
) -> None:
    source = random.Random(seed)
    pool = LocalPool(lambda: Countdown(capacity, deaths=0.1, seed=source.getrandbits(32)))
    retries = 10_000
    results = list(dispatch(Queue(items_of(updates), retries), pool, workers, retries))
    assert Counter(result["id"] for result in results) == Counter(
        item["id"] for item in items_of(updates)
    )
    found = {result["id"]: result["value"] for result in results}
    assert found == {item["id"]: item["updates"] ** 2 for item in items_of(updates)}


@given(
    updates=updates,
    poisoned=st.sets(st.integers(0, 24)),
    workers=st.integers(1, 4),
    retries=st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_items_that_kill_fail_and_take_no_other_with_them(
    updates: list[int], poisoned: set[int], workers: int, retries: int
) -> None:
    items = items_of(updates)
    for k in poisoned & set(range(len(items))):
        items[k]["poison"] = True
    # Losses without an item done are no sign of a broken worker here: half of the items may kill.
    results = list(dispatch(Queue(items, retries), LocalPool(Countdown), workers, retries=1000))
    assert Counter(result["id"] for result in results) == Counter(item["id"] for item in items)
    for item, result in zip(
        sorted(items, key=lambda item: item["id"]),
        sorted(results, key=lambda result: result["id"]),
        strict=True,
    ):
        assert ("error" in result) == ("poison" in item)
        if "error" in result:
            assert result["error"] == "MemoryError: poisoned"
            assert result["attempts"] == retries + 1


@given(updates=st.lists(st.integers(1, 5), min_size=1, max_size=25), stop=st.integers(0, 24))
@settings(max_examples=30, deadline=None)
def test_the_same_call_goes_on(
    tmp_path_factory: pytest.TempPathFactory, updates: list[int], stop: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "results.jsonl"
    items = items_of(updates)
    written: list[Result] = []

    def interrupt(result: Result) -> None:
        written.append(result)
        if len(written) == stop:
            raise KeyboardInterrupt

    for _ in range(2):
        try:
            with JsonLines(path) as record:
                execute(items, Countdown, record, on_result=interrupt)
        except KeyboardInterrupt:
            pass
    assert sorted(result["id"] for result in read_json_lines(path)) == sorted(
        item["id"] for item in items
    )
    assert list(read_json_lines(path)) == written


@given(updates=updates, capacity=st.integers(1, 5))
@settings(deadline=None)
def test_free_slots_are_filled_at_each_update(updates: list[int], capacity: int) -> None:
    worker = Countdown(capacity)
    [*dispatch(Queue(items_of(updates), retries=0), LocalPool(lambda: worker), 1, retries=0)]
    assert all(
        busy == min(capacity, len(updates) - ended)
        for busy, ended in zip(worker.busy, worker.ended, strict=True)
    )
    assert sum(worker.busy) == sum(updates)


def test_a_result_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    class NotANumber(Countdown):
        def advance(self, items: Sequence[Item]) -> list[Result]:
            return [{"id": item["id"], "value": float("nan")} for item in items]

    with JsonLines(tmp_path / "results.jsonl") as record:
        execute(items_of([1]), NotANumber, record)
        [result] = record
    assert "no JSON" in result["error"]


def test_a_worker_that_never_works_ends_the_run(tmp_path: Path) -> None:
    class Broken(Countdown):
        def advance(self, items: Sequence[Item]) -> list[Result]:
            raise ZeroDivisionError("at every update")

    with (
        JsonLines(tmp_path / "results.jsonl") as record,
        pytest.raises(RuntimeError, match="4 workers were lost one after the other"),
    ):
        execute(items_of([1] * 100), Broken, record)


def test_results_of_others_items_are_refused(tmp_path: Path) -> None:
    class Confused(Countdown):
        def advance(self, items: Sequence[Item]) -> list[Result]:
            return [{"id": "another"}]

    with (
        JsonLines(tmp_path / "results.jsonl") as record,
        pytest.raises(ValueError, match="'another', which it does not have"),
    ):
        execute(items_of([1]), Confused, record)


@given(names=st.sets(st.text(), max_size=50), shards=st.integers(1, 6), seed=st.integers())
@settings(deadline=None)
def test_shards_are_a_partition_that_the_order_does_not_change(
    names: set[str], shards: int, seed: int
) -> None:
    items = [{"id": name} for name in sorted(names)]
    parts = [shard(items, shards, index) for index in range(shards)]
    assert sorted(item["id"] for part in parts for item in part) == sorted(names)
    random.Random(seed).shuffle(items)
    for index, part in enumerate(parts):
        again = shard([*items, {"id": "one more"}], shards, index)
        assert {item["id"] for item in again} - {"one more"} == {i["id"] for i in part} - {
            "one more"
        }


def test_shards_are_of_about_one_size() -> None:
    items = items_of([1] * 10_000)
    sizes = [len(shard(items, 8, index)) for index in range(8)]
    assert all(abs(size - 1250) < 5 * 1250**0.5 for size in sizes)  # five standard deviations


def test_results_of_shards_are_merged(tmp_path: Path) -> None:
    items = items_of([1, 2, 3, 1, 2, 3, 1])
    paths = [tmp_path / f"results-{index}.jsonl" for index in range(3)]
    for index, path in enumerate(paths):
        with JsonLines(path) as record:
            execute(shard(items, 3, index), Countdown, record)
    assert merge_json_lines(paths, tmp_path / "results.jsonl") == len(items)
    with JsonLines(tmp_path / "whole.jsonl") as record:
        execute(items, Countdown, record)
    merged, whole = (list(read_json_lines(tmp_path / n)) for n in ("results.jsonl", "whole.jsonl"))
    assert sorted(merged, key=str) == sorted(whole, key=str)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_workers": 0}, ValueError, "num_workers must be at least 1"),
        ({"retries": -1}, ValueError, "retries at least 0"),
        ({"num_workers": 2}, ValueError, "has one worker"),
        ({"executor": "ray"}, TypeError, "must be a WorkerFactory"),
        ({"executor": "dask"}, ValueError, "'local' or 'ray', not 'dask'"),
        ({"items": items_of([1]) * 2}, ValueError, "two items have the id 'item-0'"),
    ],
)
def test_bad_arguments(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"items": items_of([1, 1]), "make_worker": Countdown, **changes}
    with (
        JsonLines(tmp_path / "results.jsonl") as record,
        pytest.raises(error, match=message),
    ):
        execute(record=record, **arguments)


def test_factories_say_what_is_wrong() -> None:
    factory = WorkerFactory(f"{__name__}:Countdown", {"capacity": 7})
    assert WorkerFactory.from_json(factory.to_json())().capacity == 7
    with pytest.raises(ValueError, match="must be 'package"):
        WorkerFactory("Countdown")
    with pytest.raises(ValueError, match="is no JSON"):
        WorkerFactory("a:b", {"model": object()})
