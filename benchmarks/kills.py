"""Kill a run at random moments, go on from its checkpoints, and compare it with one never stopped.

    python benchmarks/kills.py --kills 100

The run optimises noise and text embedding through the embedded model, and uses all that a
checkpoint must hold: four random generators, a learning rate that changes, accumulated and clipped
gradients, checkpoints that are rotated, TensorBoard. It is compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor

from adjointdpm.runs import RunConfig, optimize, run_folder
from adjointdpm.runs.checkpoint import Checkpoint, find_checkpoints
from adjointdpm.storage import read_tensors, write_tensors

RESULT = "result.safetensors"
PRELOAD = {
    "quadratic": ["adjointdpm.runs.loop", "torch.utils.tensorboard", "transformers.optimization"],
    "sampling": [
        "adjointdpm.objectives",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        "transformers.models.clip.modeling_clip",
    ],
}
"""What takes long to import: runs are forks of one process that has done it, and live briefly."""
Problem = Callable[[], tuple[dict[str, Tensor], Callable[[torch.Generator], Tensor]]]


def jitter(generator: torch.Generator, *shape: int) -> Tensor:
    """Return numbers that depend on every random generator there is."""
    drawn = torch.randn(shape, generator=generator) + torch.rand(shape)
    return 0.01 * (drawn + random.gauss(0, 1) + np.random.normal())


def quadratic() -> tuple[dict[str, Tensor], Callable[[torch.Generator], Tensor]]:
    x = torch.ones(8, requires_grad=True)

    def loss(generator: torch.Generator) -> Tensor:
        time.sleep(0.01)  # so that there is a moment to be killed at
        return (x + jitter(generator, 8)).square().sum()

    return {"x": x}, loss


def sampling() -> tuple[dict[str, Tensor], Callable[[torch.Generator], Tensor]]:
    import adjointdpm as adp
    from adjointdpm.objectives import ClassifierLogProbability
    from adjointdpm.pipelines import quieten_libraries
    from adjointdpm.variables import project_to_typical

    torch.set_num_threads(1)
    quieten_libraries()
    default = adp.load_default()
    sampler, decode = adp.from_pipeline(default.pipeline, 3, guidance_scale=1.0)
    words = adp.encode_prompt(default.pipeline, ["apple, style noto"])["encoder_hidden_states"]
    words = words.detach().clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    noise = project_to_typical(torch.randn(1, 4, 16, 16, generator=generator)).requires_grad_()
    metric = ClassifierLogProbability(default.classifier, "pineapple")

    def loss(generator: torch.Generator) -> Tensor:
        moved = noise + jitter(generator, *noise.shape)
        return -metric(decode(sampler(moved, encoder_hidden_states=words))).mean()

    return {"noise": noise, "words": words}, loss


PROBLEMS: dict[str, Problem] = {"quadratic": quadratic, "sampling": sampling}


def work(problem: str, folder: Path, steps: int) -> None:
    """Make the run, or what is left of it."""
    config = RunConfig(
        output_dir=folder,
        max_train_steps=steps,
        lr_scheduler="cosine",
        lr_warmup_steps=2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        checkpointing_steps=1,
        checkpoints_total_limit=2,
        resume_from_checkpoint="latest",
        report_to="tensorboard",
        progress_bar=False,
    )
    set_seed(config.seed)
    with run_folder(folder, "kills", config=config) as opened:
        variables, loss = PROBLEMS[problem]()
        history = optimize(variables, loss, config)
        write_tensors(opened / RESULT, "result", variables, {"losses": history.losses})


@dataclass(frozen=True)
class Outcome:
    """What a finished run left, to be equal to the last bit."""

    tensors: dict[str, list[float]]
    losses: list[float]
    curves: dict[str, list[tuple[int, float]]]

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        tensors, fields = read_tensors(folder / RESULT, "result")
        events = EventAccumulator(str(folder / "logs" / "adjointdpm"), {"scalars": 0}).Reload()
        curves = {
            name: [(event.step, event.value) for event in events.Scalars(name)]
            for name in ("loss", "lr", "grad_norm")
        }
        flat = {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
        return cls(flat, fields["losses"], curves)


def last_step(folder: Path) -> int:
    """Return how far the latest checkpoint is; every checkpoint must be whole."""
    checkpoints = find_checkpoints(folder) if folder.is_dir() else []
    losses = [Checkpoint.read(path).fields["losses"] for path in checkpoints]
    return max(map(len, losses), default=0)


def kill_and_resume(problem: str, steps: int, kills: int, seed: int, folder: Path) -> dict:
    """Kill runs until there were enough kills; return what was seen.

    Raises:
        AssertionError: a run ended in something else than the one that never stopped, lost a
            checkpoint, or failed.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD["quadratic"], *PRELOAD[problem]])
    draw = random.Random(seed)

    def start(where: Path) -> mp.process.BaseProcess:
        process = context.Process(target=work, args=(problem, where, steps))
        process.start()
        return process

    def finish(process: mp.process.BaseProcess) -> None:
        process.join()
        assert process.exitcode == 0, f"the run ended with {process.exitcode}"

    finish(start(folder / "warm"))  # the first child waits for the imports
    began = time.perf_counter()
    finish(start(folder / "whole"))
    length = time.perf_counter() - began
    expected = Outcome.read(folder / "whole")

    killed_at, runs = [], 0
    while len(killed_at) < kills:
        runs += 1
        run, reached, done = folder / f"run-{runs}", 0, False
        while not done:
            process = start(run)
            if len(killed_at) < kills:
                process.join(draw.uniform(0, length))
                if process.exitcode is None:
                    process.kill()
                    process.join()
                    killed_at.append(last_step(run))
                    assert killed_at[-1] >= reached, "a checkpoint was lost"
                    reached = killed_at[-1]
                    continue
            finish(process)
            done = True
        assert Outcome.read(run) == expected, f"{run} is not the run that never stopped"
        assert len(find_checkpoints(run)) == 2
        assert not [path for path in run.rglob(".*") if path.is_dir()], "partial files are left"
    return {"problem": problem, "kills": kills, "runs": runs, "seconds": length, "at": killed_at}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problem", choices=PROBLEMS, default="sampling")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = kill_and_resume(
            settings.problem, settings.steps, settings.kills, settings.seed, Path(folder)
        )
    print(json.dumps(seen))
    print(
        f"{seen['kills']} kills of {seen['runs']} runs of {seen['seconds']:.1f} s: each went on, "
        "and ended in the same variables, losses and curves to the last bit"
    )


if __name__ == "__main__":
    main()
