"""Workers in processes of their own, which are killed: the real thing, on one machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from adjointdpm.executors import Result, WorkerFactory, execute
from adjointdpm.storage import JsonLines, read_json_lines

pytest.importorskip("ray")


def test_killed_workers_lose_no_item_and_double_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home folder
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    items = [{"id": f"item-{k}", "updates": 1 + k % 4} for k in range(24)]
    items.insert(5, {"id": "killer", "updates": 1, "kills": True})
    killed: list[int] = []
    after: list[int] = []

    def kill_one(result: Result) -> None:
        """Kill a worker in the middle, as the kernel does when memory runs out."""
        if "process" not in result:
            return
        if killed:
            after.append(result["process"])
        elif sum(1 for _ in record) == 8:
            killed.append(result["process"])
            os.kill(killed[0], signal.SIGKILL)

    factory = WorkerFactory("workers:Napping", {"capacity": 3, "seconds": 0.02})
    with JsonLines(tmp_path / "results.jsonl") as record:
        execute(items, factory, record, executor="ray", num_workers=2, on_result=kill_one)
    results = {result["id"]: result for result in read_json_lines(tmp_path / "results.jsonl")}
    assert results.keys() == {item["id"] for item in items}  # a second line of one id would raise
    failed = {id: result for id, result in results.items() if "error" in result}
    assert failed.keys() == {"killer"}
    assert failed["killer"]["attempts"] == 3
    assert "died" in failed["killer"]["error"]
    # One was killed and three died of the item; the others did the work.
    assert killed
    assert killed[0] not in after
    assert len({result["process"] for result in results.values() if "process" in result}) >= 2
