"""Data parallelism around a sampler, or around the network within, gives the averaged gradient."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mixtures import PROCESSES
from networks import SmallNetwork, relative_error
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from adjointdpm import Backprop, Denoiser, Sampler, solvers


def _network() -> SmallNetwork:
    torch.manual_seed(0)
    network = SmallNetwork()
    network.unused.requires_grad_(False)
    return network


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    return noise, torch.randn(4, 3, dtype=torch.float64, generator=generator)


def _work(rank: int, port: int, folder: str, inside: dict[str, bool] | None) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    network = _network()
    called = network if inside is None else DistributedDataParallel(network, **inside)
    sampler = Sampler(Denoiser(called, PROCESSES["vp"]), solvers.build("ddim", PROCESSES["vp"], 5))
    noise, emb = (tensor.chunk(2)[rank] for tensor in _inputs())
    wrapped = DistributedDataParallel(sampler) if inside is None else sampler
    for _ in range(2):  # a second time, since the reducer learns in the first
        network.zero_grad()
        wrapped(noise, emb=emb).square().mean().backward()
    if rank == 0:
        torch.save([p.grad for p in network.used], Path(folder) / "gradients.pt")
    # Before the group goes, and all together: gloo's threads may else wait for each other for ever.
    del wrapped, sampler, called
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "inside", [None, {}, {"static_graph": True}, {"find_unused_parameters": True}], ids=str
)
def test_gradients_are_those_of_the_whole_batch(
    tmp_path: Path, inside: dict[str, bool] | None
) -> None:
    mp.spawn(_work, args=(_free_port(), str(tmp_path), inside), nprocs=2)
    _assert_gradients_of_the_whole_batch(tmp_path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _assert_gradients_of_the_whole_batch(folder: Path) -> None:
    gradients = torch.load(folder / "gradients.pt", weights_only=True)
    network = _network()
    plan = solvers.build("ddim", PROCESSES["vp"], 5)
    noise, emb = _inputs()
    sample = Sampler(Denoiser(network, PROCESSES["vp"]), plan, Backprop())(noise, emb=emb)
    sample.square().mean().backward()
    for gradient, parameter in zip(gradients, network.used, strict=True):
        assert parameter.grad is not None
        assert relative_error(gradient, parameter.grad) < 1e-12


def _work_sharded(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    plan, (noise, emb) = solvers.build("ddim", PROCESSES["vp"], 5), _inputs()
    inside = Sampler(Denoiser(fully_shard(_network(), mesh=mesh), PROCESSES["vp"]), plan)
    with pytest.raises(ValueError, match=r"Wrap the sampler instead: fully_shard\(sampler\)"):
        inside(noise, emb=emb)
    network = _network()
    sampler = fully_shard(Sampler(Denoiser(network, PROCESSES["vp"]), plan), mesh=mesh)
    sampler(noise, emb=emb).square().mean().backward()
    torch.save([p.grad.full_tensor() for p in network.used], Path(folder) / "gradients.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards on accelerators only"
)
def test_weights_are_sharded_around_the_sampler(tmp_path: Path) -> None:
    mp.spawn(_work_sharded, args=(_free_port(), str(tmp_path)), nprocs=1)
    _assert_gradients_of_the_whole_batch(tmp_path)
