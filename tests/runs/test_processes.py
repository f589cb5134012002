"""Two processes that share a batch give the numbers of one that has all of it."""

from __future__ import annotations

import os
import random
import signal
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mixtures import PROCESSES
from networks import SmallNetwork
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from adjointdpm import Denoiser, Sampler, solvers
from adjointdpm.runs import (
    History,
    RunConfig,
    StoppedError,
    is_main_process,
    num_processes,
    optimize,
    run_folder,
    share,
)
from adjointdpm.runs.update import Loss


def _config(folder: Path, **changes: object) -> RunConfig:
    options = {
        "max_train_steps": 6,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.1,
        "progress_bar": False,
        "output_dir": folder,
    }
    return RunConfig(**{**options, **changes})


def _problem(wrapped: bool = False) -> tuple[dict[str, Tensor], Loss]:
    """Return an embedding, weights and a loss with noises of its own at each call.

    Args:
        wrapped: whether the sampler is, so that the weights' gradients are averaged already.
    """
    torch.manual_seed(0)
    network = SmallNetwork()
    network.unused.requires_grad_(False)
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), solvers.build("ddim", PROCESSES["vp"], 4))
    called = DistributedDataParallel(sampler) if wrapped else sampler
    emb = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)

    def loss(generator: torch.Generator) -> Tensor:
        noise = torch.randn(4, 4, dtype=torch.float64, generator=generator)
        target = share(["left", "left", "right", "right"])
        signs = torch.tensor([1.0 if word == "left" else -2.0 for word in target])
        noise = share(noise)
        sample = called(noise, emb=emb.expand(len(noise), -1))
        return (sample.square().sum(1) * signs + random.gauss(0, 1) * sample[:, 0]).mean()

    return {"emb": emb, "weight": network.second.weight}, loss


def _run(
    folder: Path, wrapped: bool = False, **changes: object
) -> tuple[dict[str, Tensor], History]:
    """Make a run in its folder, as a job does."""
    random.seed(0)
    config = _config(folder, **changes)
    with run_folder(config.output_dir, "test", config=config) as opened:
        variables, loss = _problem(wrapped)
        history = optimize(variables, loss, config)
        (opened / "done.txt").write_text("x")
    return variables, history


def _stop_in_the_second(folder: Path) -> None:
    """Let the second process alone be asked to stop; both have to."""
    variables, loss = _problem()
    random.seed(0)
    calls = []

    def interrupted(generator: torch.Generator) -> Tensor:
        calls.append(1)
        if len(calls) == 5 and not is_main_process():
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(generator)

    config = _config(folder)
    with (
        run_folder(folder, "test", config=config),
        pytest.raises(StoppedError, match="after step 3, and saved"),
    ):
        optimize(variables, interrupted, config)


def _work(rank: int, port: int, folder: Path) -> None:
    # What torchrun and accelerate launch set.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    variables, history = _run(folder / "two", report_to="tensorboard", checkpointing_steps=4)
    assert num_processes() == 2
    with pytest.raises(ValueError, match="batch of 3 cannot be split evenly over 2"):
        share([1, 2, 3])
    wrapped, _ = _run(folder / "wrapped", wrapped=True)
    torch.testing.assert_close(wrapped, variables, rtol=1e-9, atol=0)
    # What differs between processes at a checkpoint differs again after it.
    _stop_in_the_second(folder / "stopped")
    resumed, again = _run(folder / "stopped", resume_from_checkpoint="latest")
    assert again.losses == history.losses
    assert all(torch.equal(resumed[name], variables[name]) for name in variables)
    others = [torch.empty_like(variables["emb"]) for _ in range(2)]
    dist.all_gather(others, variables["emb"].detach())
    assert torch.equal(*others)
    # Before the group goes, and all together: gloo's threads may else wait for each other for ever.
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mp.spawn(_work, args=(port, tmp_path), nprocs=2)
    expected, whole = _run(tmp_path / "one")
    # One process goes on where two were, and sees the losses of all steps but the last two.
    variables, history = _run(tmp_path / "two", resume_from_checkpoint="latest")
    assert history.losses == pytest.approx(whole.losses, rel=1e-12)
    torch.testing.assert_close(variables, expected, rtol=1e-9, atol=0)
    names = {"checkpoint-4", "config.json", "done.txt", "logs", "run.json"}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names
    assert len(list((tmp_path / "two" / "logs" / "adjointdpm").glob("events*"))) == 1


def test_one_process_has_all(tmp_path: Path) -> None:
    batch = torch.randn(3)
    assert torch.equal(share(batch), batch)
    assert (num_processes(), is_main_process()) == (1, True)
