"""Workers in processes of a Ray cluster, or of a Ray that is started here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .pool import Answer
from .worker import Item, WorkerFactory

OBJECT_STORE = 80 * 2**20
"""Bytes of shared memory for a Ray that is started here; it takes no less, and needs less."""


class _Actor:
    """Holds a worker in a process of its own. All that crosses is JSON."""

    def build(self, factory: str) -> int:
        """Build the worker, and return how many items it takes."""
        self._worker = WorkerFactory.from_json(factory)()
        return self._worker.capacity

    def advance(self, items: str) -> str:
        """Have the worker make an update."""
        return json.dumps(self._worker.advance(json.loads(items)))


class RayPool:
    """Actors, each with a worker of its own.

    Args:
        factory: builds a worker, in each actor.
        num_workers: how many there are at a time; the GPUs are divided among them.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, factory: WorkerFactory, num_workers: int) -> None:
        self._ray, self._started_here = _connect(num_workers)
        gpus = self._ray.cluster_resources().get("GPU", 0)
        options = {"num_cpus": 1, "num_gpus": min(1, gpus / num_workers), "max_restarts": 0}
        self._actor = self._ray.remote(**options)(_Actor)
        self._factory = factory.to_json()
        self._actors: list[Any] = []
        self._capacities: dict[int, int] = {}
        self._asked: dict[Any, int] = {}  # what is awaited, and of whom

    def start(self) -> int:
        """Start an actor, which loads its worker while the others go on."""
        number = len(self._actors)
        self._actors.append(self._actor.remote())
        self._asked[self._actors[number].build.remote(self._factory)] = number
        return number

    def advance(self, worker: int, items: Sequence[Item]) -> None:
        """Have an actor make an update."""
        self._asked[self._actors[worker].advance.remote(json.dumps(items))] = worker

    def wait(self) -> Answer:
        """Return the next answer. An actor that raises is ended, since nobody knows its state.

        Raises:
            RuntimeError: a worker cannot be built; the next would do no better.
        """
        [ready], _ = self._ray.wait(list(self._asked))
        number = self._asked.pop(ready)
        try:
            answer = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(self._actors[number])
            raised = isinstance(error, self._ray.exceptions.RayTaskError)
            cause = error.cause if raised else error
            if raised and number not in self._capacities:
                raise RuntimeError(f"no worker can be built: {cause!r}") from error
            return Answer(number, error=f"{type(cause).__name__}: {str(cause).strip()}")
        if number not in self._capacities:
            self._capacities[number] = answer
            return Answer(number, answer)
        return Answer(number, self._capacities[number], json.loads(answer))

    def close(self) -> None:
        """End all actors, and Ray if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._started_here:
            self._ray.shutdown()


def require_ray() -> None:
    """Raise unless Ray is installed.

    Raises:
        ImportError: it is not.
    """
    if find_spec("ray") is None:
        raise ImportError(
            "executor='ray' needs Ray: pip install 'adjointdpm[ray]'; or take executor='local'"
        )


def _connect(num_workers: int) -> tuple[Any, bool]:
    """Return Ray, connected, and whether it was started here.

    It was not if the program has connected already, or if ``RAY_ADDRESS`` names a cluster.
    """
    require_ray()
    ray: Any = import_module("ray")
    if ray.is_initialized():
        return ray, False
    if os.environ.get("RAY_ADDRESS"):
        ray.init()
        return ray, True  # shutdown only disconnects
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=num_workers,
        object_store_memory=OBJECT_STORE,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",  # nobody else is to connect
    )
    return ray, True
