"""At how many workers fine-tuning and audits saturate, and what a million audited pictures cost.

    python benchmarks/scaling.py --output_dir docs/benchmarks

Measured here: the sizes of messages, how often sharded weights are gathered, what a queue costs its
driver, and how many updates an item of an audit takes. Call times are those of one GPU, which
`gpu.py` measured (``--gpu``). The rest is arithmetic (`scaling_model.py`) on what `LINKS` and
`ASSUMED` say. What the output holds already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from gpu import MODELS, SCHEDULE
from scaling_model import (
    Link,
    Training,
    VirtualPool,
    queue_saturation,
    queue_seconds,
    saturation,
)
from stamp import stamp
from torch.utils._python_dispatch import TorchDispatchMode

import adjointdpm as adp
from adjointdpm.executors import Item, Result, WorkerFactory
from adjointdpm.jobs.audit import AuditConfig, run_audit
from adjointdpm.storage import JsonLines, json_line, write_text

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"
NETWORKS = {"SD 1.5, 512²": "sd15", "SDXL, 1024²": "sdxl"}
WORKLOADS = {"SD 1.5, 512²": "sd15 512²", "SDXL, 1024²": "sdxl 1024²"}
"""Their names in the results of `gpu.py`."""
STEPS = 10
LINKS = {
    "NVLink, in one machine": Link(400e9, 5e-6),
    "InfiniBand, 400 Gbit/s": Link(50e9, 10e-6),
    "Ethernet, 25 Gbit/s": Link(3.125e9, 50e-6),
}
ASSUMED = {
    "spread": 0.02,
    "bar": 0.9,
    "loading": 60.0,
    "capacity": 8,
    "weight_bytes": 2,
    "gradient_bytes": 4,
}
"""The spread of an update's time from worker to worker, relative to its mean; the efficiency down
to which a worker is worth its place; seconds until an actor has loaded its model; pictures that it
works on together; bytes of a gathered weight (bfloat16) and of an entry of a gradient (float32)."""
AT, MOST = 64, 1000
"""Of how many workers the pictures that each needs are told, and up to how many."""
LORA = {"rank": 8, "target_modules": [*("to_q", "to_k", "to_v", "to_out.0"), "conv1", "conv2"]}
"""The adapter of `adjointdpm stylize`."""
WORD_DIM = {"SD 1.5, 512²": 768, "SDXL, 1024²": 768 + 1280}


def audited(pictures: int, steps: int) -> dict[str, Any]:
    """Audit pictures of the embedded model; return sizes and numbers of updates."""
    with tempfile.TemporaryDirectory() as folder:
        config = AuditConfig(
            output_dir=folder, num_prompts=pictures, max_steps=steps, progress_bar=False
        )
        results = run_audit(config).results
        files = sum(p.stat().st_size for p in Path(folder).glob("*/*") if p.is_file())
    item = ("id", "prompt", "label", "target", "seed")
    whole = [result for result in results if "evaluations" in result]
    return {
        "pictures": len(whole),
        "max_steps": steps,
        "item_bytes": statistics.mean(len(json_line({k: r[k] for k in item})) for r in whole),
        "result_bytes": statistics.mean(len(json_line(result)) for result in whole),
        "file_bytes": files / len(whole),
        "evaluations": [result["evaluations"] for result in whole],
        "example": whole[0],
    }


class Echo:
    """Ends each item at once with a result of the usual size: what is left is the queue's cost."""

    def __init__(self, capacity: int, example: dict[str, Any]) -> None:
        self.capacity, self._example = capacity, example

    def advance(self, items: Sequence[Item]) -> list[Result]:
        return [{**self._example, "id": item["id"]} for item in items]


def served(example: dict[str, Any], rounds: int, capacity: int) -> dict[str, float]:
    """Return what an update costs the driver of two Ray actors, and what a line costs."""
    from adjointdpm.executors.ray_pool import RayPool

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *_path()])
    factory = WorkerFactory("scaling:Echo", {"capacity": capacity, "example": example})
    item = {k: example[k] for k in ("id", "prompt", "label", "target", "seed")}
    items = [{**item, "id": f"{item['id']}-{k}"} for k in range(capacity)]
    pool = RayPool(factory, 2)
    try:
        for _ in range(2):
            pool.start()
        free = [pool.wait().worker for _ in range(2)]
        started, busy = time.perf_counter(), time.process_time()
        for worker in free:
            pool.advance(worker, items)
        for _ in range(rounds):
            pool.advance(pool.wait().worker, items)
        seconds = (time.perf_counter() - started) / rounds
        cpu = (time.process_time() - busy) / rounds
    finally:
        pool.close()
    with tempfile.TemporaryDirectory() as folder, JsonLines(Path(folder) / "r.jsonl") as record:
        times = []
        for k in range(200):
            begun = time.perf_counter()
            record.append({**example, "id": str(k)})
            times.append(time.perf_counter() - begun)
    return {
        "rounds": rounds,
        "seconds_per_update": seconds,
        "driver_cpu_seconds_per_update": cpu,
        "seconds_per_line": statistics.median(times),
    }


def _path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


def parameters(name: str) -> dict[str, int]:
    """Return how many weights a UNet has, and how many the adapter."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**MODELS[NETWORKS[name]].config)
        weights = sum(weight.numel() for weight in unet.parameters())
        adapter = sum(weight.numel() for weight in adp.add_lora(unet, **LORA))
    return {"weights": weights, "adapter": adapter, "word": WORD_DIM[name]}


class Messages(TorchDispatchMode):
    """Counts what FSDP sends in a block, in bytes of whole weights."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kinds = {"_allgather_base_": ("gathered", 0), "_reduce_scatter_base_": ("reduced", 1)}
        name = func.__name__.split(".")[0]
        if func.namespace == "c10d" and name in kinds:
            kind, whole = kinds[name]
            self.bytes[kind] += args[whole].nbytes
            self.count[kind] += 1
        return func(*args, **(kwargs or {}))


def _sharded_update(rank: int, port: int, steps: int, file: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    from diffusers import UNet2DConditionModel

    unet = adp.shard(UNet2DConditionModel(sample_size=8, **MODELS["toy"].config))
    weights = sum(weight.nbytes for weight in unet.parameters())
    denoiser = adp.Denoiser(_Unet(unet), SCHEDULE)
    sampler = adp.Sampler(denoiser, adp.solvers.build("ddim", SCHEDULE, steps))
    with Messages() as messages:
        sampler(torch.randn(1, 4, 8, 8), emb=torch.randn(1, 4, 16)).square().mean().backward()
    if rank == 0:
        found = {
            kind: {
                "weights": messages.bytes[kind] / weights,
                "messages": messages.count[kind],
            }
            for kind in ("gathered", "reduced")
        }
        write_text(Path(file), json.dumps({"steps": steps, **found}))
    dist.barrier()
    dist.destroy_process_group()


class _Unet(torch.nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: torch.Tensor, t: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return self.unet(x, t, emb).sample


def sharded(steps: int) -> dict[str, Any]:
    """Return how often an update gathers and reduces sharded weights, from two processes."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        file = str(Path(folder) / "found.json")
        mp.spawn(_sharded_update, (port, steps, file), nprocs=2)
        return json.loads(Path(file).read_text())


def call_times(gpu: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return seconds of a network call, of one with its product, and of a gradient by `Exact`.

    Args:
        gpu: results of `gpu.py`.
    """

    def exact(title: str) -> float:
        [row] = [
            row
            for row in gpu["workloads"][title]
            if (row["method"], row["steps"]) == ("exact", STEPS)
        ]
        return float(row["seconds"])

    return {
        name: {kind: found["seconds"] for kind, found in gpu["calls"][title].items()}
        | {"exact": exact(title)}
        for name, title in WORKLOADS.items()
    }


def trainings(
    times: dict[str, float], sizes: dict[str, int], counts: dict[str, Any]
) -> dict[str, Training]:
    """Return an update of each kind on one network: one picture a worker, ten steps."""
    entry = ASSUMED["gradient_bytes"]
    product = times["forward_and_product"] - times["forward"]
    exact = STEPS * (times["forward"] + times["forward_and_product"])
    spread = ASSUMED["spread"]
    weights = sizes["weights"] * ASSUMED["weight_bytes"]
    # A product that gives the weights their gradients too costs another one.
    full = exact + STEPS * product
    moved = weights * (counts["gathered"]["weights"] + counts["reduced"]["weights"])
    messages = counts["gathered"]["messages"] + counts["reduced"]["messages"]
    return {
        "DDP, a word": Training(exact, spread, sizes["word"] * entry),
        "DDP, an adapter": Training(exact, spread, sizes["adapter"] * entry),
        "DDP, all weights": Training(full, spread, sizes["weights"] * entry),
        "FSDP, all weights": Training(full, spread, 0, moved, messages),
        "FSDP, all weights, nothing overlapped": Training(full, spread, 0, moved, messages, False),
    }


def on_paper(measured: dict[str, Any], times: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return what follows from what was measured here, and from the `call_times` of a GPU."""
    found: dict[str, Any] = {"training": {}, "audit": {}}
    for name in NETWORKS:
        kinds = trainings(times[name], measured["parameters"][name], measured["sharded"])
        found["training"][name] = {
            kind: {"seconds": training.compute}
            | {link: _saturated(training, LINKS[link]) for link in LINKS}
            for kind, training in kinds.items()
        }
        found["audit"][name] = _audit(measured, times[name]["exact"] * ASSUMED["capacity"])
    return found


def _saturated(training: Training, link: Link) -> dict[str, int]:
    """Return how many workers are worth their place, and the pictures that each of many needs."""

    def efficiency(workers: int) -> float:
        return training.efficiency(workers, link)

    def is_enough(pictures: int) -> bool:
        more = replace(training, compute=pictures * training.compute)
        return more.efficiency(AT, link) >= ASSUMED["bar"]

    return {
        "workers": saturation(efficiency, ASSUMED["bar"]),
        "pictures": next(filter(is_enough, range(1, MOST)), MOST),
    }


def _audit(measured: dict[str, Any], update: float) -> dict[str, float]:
    """Return what an audit takes, with so many seconds for an update of a whole batch."""
    audit, served = measured["audit"], measured["served"]
    capacity, mean = ASSUMED["capacity"], statistics.mean(audit["evaluations"])
    driver = served["driver_cpu_seconds_per_update"]
    driver += served["seconds_per_line"] * capacity / mean
    queued = (audit["evaluations"] * 1_000)[:5_000]
    pool = VirtualPool(capacity, update, driver, ASSUMED["loading"])
    workers = 16
    seconds = queue_seconds(queued, workers, pool)
    return {
        "seconds_per_update": update,
        "driver_seconds_per_update": driver,
        "workers": queue_saturation(update, driver),
        "worker_hours_per_million": 1e6 * mean * update / capacity / 3600,
        "gigabytes_of_results": audit["result_bytes"] / 1e3,
        "gigabytes_of_files": audit["file_bytes"] / 1e3,
        "simulated_workers": workers,
        "simulated_items": len(queued),
        "simulated_efficiency": sum(queued) * update / capacity / (seconds * workers),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--max_steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument(
        "--gpu", type=Path, default=RESULTS / "gpu_h200.json", help="results of gpu.py"
    )
    args = parser.parse_args(argv)
    file = args.output_dir / "scaling.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    measured = result.setdefault("measured", {})
    parts: dict[str, Callable[[], Any]] = {
        "parameters": lambda: {name: parameters(name) for name in NETWORKS},
        "sharded": lambda: sharded(STEPS),
        "audit": lambda: audited(args.pictures, args.max_steps),
        "served": lambda: served(measured["audit"]["example"], args.rounds, ASSUMED["capacity"]),
    }
    for part, measure in parts.items():
        if part not in measured:
            measured[part] = measure()
            result |= stamp()
            write_text(file, json.dumps(result, indent=1) + "\n")
    gpu = json.loads(args.gpu.read_text())
    times = call_times(gpu)
    result["gpu"] = {"machine": gpu["machine"], "date": gpu["date"], "seconds": times}
    result["assumed"] = ASSUMED
    result["links"] = {name: vars(link) for name, link in LINKS.items()}
    result["on_paper"] = on_paper(measured, times)
    write_text(file, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    multiprocessing.freeze_support()
    main()
