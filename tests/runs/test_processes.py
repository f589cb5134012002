"""Two processes that share a batch give the numbers of one that has all of it."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mixtures import PROCESSES
from networks import SmallNetwork
from processes import in_two_processes
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
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
from adjointdpm.sharded import whole

SHARDS = hasattr(torch.cpu.Stream, "record_event")
"""Whether this torch shards on the CPU too."""


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


def _work(folder: Path) -> None:
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
    if SHARDS:
        _work_sharded(folder)


class Uneven(SmallNetwork):
    """With a number of rows that two processes cannot share evenly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 15, dtype=torch.float64)
        self.second = nn.Linear(15, 4, dtype=torch.float64)
        self.unused.requires_grad_(False)


def _run_sharded(folder: Path, **changes: object) -> tuple[dict[str, Tensor], History]:
    """Make a run of an embedding and of weights, sharded where there are several processes."""
    random.seed(0)
    network, vp = Uneven(), PROCESSES["vp"]
    if num_processes() > 1:
        fully_shard(network.first)
        fully_shard(network)
    sampler = Sampler(Denoiser(network, vp), solvers.build("ddim", vp, 4))
    emb = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)

    def loss(generator: torch.Generator) -> Tensor:
        noise = share(torch.randn(4, 4, dtype=torch.float64, generator=generator))
        return sampler(noise, emb=emb.expand(len(noise), -1)).square().mean()

    variables = {"emb": emb, **{n: w for n, w in network.named_parameters() if w.requires_grad}}
    history = optimize(variables, loss, _config(folder, checkpointing_steps=2, **changes))
    return {name: whole(variable.detach()) for name, variable in variables.items()}, history


def _work_sharded(folder: Path) -> None:
    found = {
        "never stopped": _run_sharded(folder / "sharded"),
        "from two": _run_sharded(
            folder / "again", resume_from_checkpoint=folder / "sharded" / "checkpoint-2"
        ),
        "from one": _run_sharded(folder / "whole", resume_from_checkpoint="latest"),
    }
    if is_main_process():
        results = {n: (variables, history.losses) for n, (variables, history) in found.items()}
        torch.save(results, folder / "found.pt")


def _assert_sharded_runs_are_one(folder: Path) -> None:
    expected, history = _run_sharded(folder / "expected")
    found = torch.load(folder / "found.pt", weights_only=True)
    # One process goes on where two were, from a checkpoint in shards.
    checkpoint = folder / "sharded" / "checkpoint-2"
    variables, own = _run_sharded(folder / "alone", resume_from_checkpoint=checkpoint)
    for others, losses in [*found.values(), (variables, own.losses)]:
        assert losses == pytest.approx(history.losses, rel=1e-12)
        torch.testing.assert_close(others, expected, rtol=1e-9, atol=0)
    shards = sorted((checkpoint / "shards").iterdir())
    assert [path.suffix for path in shards] == [".safetensors"] * 2
    # A shard that was damaged, or is gone.
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    shards[1].write_bytes(content)
    with pytest.raises(ValueError, match=f"{shards[1].name} is damaged or missing"):
        _run_sharded(folder / "damaged", resume_from_checkpoint=checkpoint)
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"{shards[1].name} is damaged or missing"):
        _run_sharded(folder / "damaged", resume_from_checkpoint=checkpoint)


def test_two_processes_are_one(tmp_path: Path) -> None:
    _run_sharded(tmp_path / "whole", max_train_steps=2)
    in_two_processes(_work, tmp_path)
    if SHARDS:
        _assert_sharded_runs_are_one(tmp_path)
    expected, uninterrupted = _run(tmp_path / "one")
    # One process goes on where two were, and sees the losses of all steps but the last two.
    variables, history = _run(tmp_path / "two", resume_from_checkpoint="latest")
    assert history.losses == pytest.approx(uninterrupted.losses, rel=1e-12)
    torch.testing.assert_close(variables, expected, rtol=1e-9, atol=0)
    names = {"checkpoint-4", "config.json", "done.txt", "logs", "run.json"}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names
    assert len(list((tmp_path / "two" / "logs" / "adjointdpm").glob("events*"))) == 1


def test_one_process_has_all(tmp_path: Path) -> None:
    batch = torch.randn(3)
    assert torch.equal(share(batch), batch)
    assert (num_processes(), is_main_process()) == (1, True)
