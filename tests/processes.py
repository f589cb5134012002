"""Two processes that make one run, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from adjointdpm.runs import join_processes

WORLD_SIZE = 2
SLOW_TO_IMPORT = [
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.models.transformers.transformer_sd3",
    "transformers.models.resnet.modeling_resnet",
    "peft",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "hypothesis",
    "pytest",
]


def _work(rank: int, port: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    # What torchrun and accelerate launch set.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(WORLD_SIZE=str(WORLD_SIZE), RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    join_processes()
    function(*args)
    # Before the group goes, and all together: gloo's threads may else wait for each other for ever.
    dist.barrier()
    dist.destroy_process_group()


def in_two_processes(function: Callable[..., None], *args: Any) -> None:
    """Call a function in two processes of one group.

    Args:
        function: of a module, so that the processes find it.
        *args: its arguments.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # Both are forked from a process that has imported what takes longest.
    multiprocessing.set_forkserver_preload(SLOW_TO_IMPORT)
    mp.start_processes(_work, (port, function, args), WORLD_SIZE, start_method="forkserver")
