"""Two processes get the gradient of the whole batch, whatever is wrapped or sharded.

All of it is computed in one start of the processes, which takes longer than the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import SD3Transformer2DModel
from mixtures import PROCESSES
from networks import SmallNetwork, relative_error
from processes import in_two_processes
from safetensors.torch import load_file
from tiny_pipeline import build_pipeline
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import adjointdpm as adp
from adjointdpm import Backprop, Denoiser, Exact, GradientMethod, Sampler, solvers
from adjointdpm.runs import share
from adjointdpm.sharded import is_sharded, whole
from adjointdpm.variables import Adapter, PipelineWeights

pytest.importorskip("peft")
SHARDS = hasattr(torch.cpu.Stream, "record_event")
"""Whether this torch shards on the CPU too."""

Gradients = dict[str, Tensor]


def gradients_of(weights: dict[str, Any]) -> Gradients:
    return {name: whole(w.grad) for name, w in weights.items() if w.grad is not None}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def sampled_twice(sampler: Any, noise: Tensor, **cond: Tensor) -> Gradients:
    """Let gradients of two draws add up; return those of the conditioning of the whole batch."""
    leaves = {name: share(tensor).detach().requires_grad_() for name, tensor in cond.items()}
    for _ in range(2):  # DDP's reducer learns in the first pass
        sampler(share(noise), **leaves).square().mean().backward()
    return {name: together(leaf.grad) for name, leaf in leaves.items()}


def together(gradient: Tensor | None) -> Tensor:
    """Return the gradient of the mean over the whole batch, from those of each process's mean."""
    assert gradient is not None
    if not dist.is_initialized():
        return gradient
    parts = [torch.empty_like(gradient) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, gradient)
    return torch.cat(parts) / len(parts)


def small(around: Callable[[Sampler], Any], inside: Callable[[nn.Module], Any]) -> Gradients:
    """Return gradients of a small network, wrapped, or in a sampler that is."""
    torch.manual_seed(0)
    network = SmallNetwork()
    network.unused.requires_grad_(False)
    vp = PROCESSES["vp"]
    sampler = around(Sampler(Denoiser(inside(network), vp), solvers.build("ddim", vp, 5)))
    found = sampled_twice(sampler, normal(4, 4), emb=normal(4, 3))
    return {**found, **gradients_of(dict(network.named_parameters()))}


def ddp(**options: bool) -> Callable[[Any], Any]:
    return lambda module: DistributedDataParallel(module, **options)


def alone(module: Any) -> Any:
    return module


WRAPPED = {
    "DDP around the sampler": (ddp(), alone),
    "DDP around the network": (alone, ddp()),
    "a static graph": (alone, ddp(static_graph=True)),
    "unused parameters": (alone, ddp(find_unused_parameters=True)),
    "a sharded sampler": (fully_shard, alone),
    "a sharded network": (alone, fully_shard),
}


def unet(folder: Path, kind: str, gradient: GradientMethod) -> Gradients:
    """Return gradients of a UNet's weights or adapter, and of what it is conditioned on.

    Sharded where there are several processes.
    """
    pipe = build_pipeline(folder)
    weights = Adapter(pipe, 2) if kind == "adapter" else PipelineWeights(pipe, ["unet"])
    pipe.unet.double()
    if kind == "adapter":  # half of it is zero at first
        torch.manual_seed(0)
        for weight in weights.tensors.values():
            nn.init.normal_(weight, std=0.1)
    adp.shard(pipe)
    if kind == "conditioning":
        pipe.unet.requires_grad_(False)
    sampler, _ = adp.from_pipeline(pipe, 3, 1.0, gradient=gradient)
    found = sampled_twice(sampler, normal(4, 4, 8, 8), encoder_hidden_states=normal(4, 8, 16))
    return {**found, **gradients_of(dict(pipe.unet.named_parameters()))}


class Transformer(nn.Module):
    """That of Stable Diffusion 3, small."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = SD3Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=2,
            joint_attention_dim=6,
            caption_projection_dim=8,
            pooled_projection_dim=5,
            out_channels=4,
        ).double()

    def forward(self, x: Tensor, t: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        return self.transformer(x, text, pooled, 1000 * t).sample


def transformer(gradient: GradientMethod) -> Gradients:
    network, vp = Transformer().eval(), PROCESSES["vp"]
    adp.shard(network.transformer)
    sampler = Sampler(Denoiser(network, vp), solvers.build("ddim", vp, 3), gradient)
    found = sampled_twice(sampler, normal(4, 4, 4, 4), text=normal(4, 3, 6), pooled=normal(4, 5))
    return {**found, **gradients_of(dict(network.named_parameters()))}


UNETS = {
    "weights of a UNet": ("weights", Exact()),
    "with graphs kept": ("weights", Exact(memory_budget="1GiB")),
    "with two latents": ("weights", Exact(max_latents=2)),
    "by backprop": ("weights", Backprop()),
    "an adapter": ("adapter", Exact()),
    "conditioning": ("conditioning", Exact()),
}


def files_of(folder: Path, kind: str) -> dict[str, dict[str, Tensor]]:
    """Save weights, and return what is in the files."""
    pipe = build_pipeline(folder)
    weights: PipelineWeights
    if kind == "adapter":
        weights = Adapter(pipe, 2, fully_shard=True)
    else:
        weights = PipelineWeights(pipe, ["unet.mid_block"], fully_shard=True)
    latents, cond = torch.ones(1, 4, 8, 8), adp.encode_prompt(pipe, "a b", guidance=False)
    sampler, _ = adp.from_pipeline(pipe, 2, 1.0)
    before = sampler(latents, **cond)
    with torch.no_grad():
        for weight in weights.tensors.values():
            weight += 0.1
    changed = sampler(latents, **cond)
    assert not torch.allclose(changed, before)
    with weights.at_start():
        assert torch.equal(sampler(latents, **cond), before)
    assert torch.equal(sampler(latents, **cond), changed)
    weights.save(folder)
    names = sorted(folder.rglob("*.safetensors"))
    assert "FSDP" not in "".join(path.read_text() for path in folder.rglob("*.json"))
    return {str(name.relative_to(folder)): load_file(name) for name in names}


def blocks_are_gathered_one_by_one(folder: Path) -> None:
    """See that the first block is freed when the last is called, on the way back too."""
    pipe = adp.shard(build_pipeline(folder))
    seen = []

    def look(*_: Any) -> None:
        seen.append([is_sharded(weight) for weight in pipe.unet.down_blocks[0].parameters()])

    pipe.unet.up_blocks[-1].register_forward_pre_hook(look)
    noise = torch.randn(1, 4, 8, 8, requires_grad=True)
    cond = adp.encode_prompt(pipe, "a b", guidance=False)
    adp.from_pipeline(pipe, 2, 1.0)[0](noise, **cond).sum().backward()
    assert len(seen) == 4
    assert all(all(each) for each in seen)


def refusals() -> None:
    """See what cannot be done said."""
    vp = PROCESSES["vp"]
    plan, noise, emb = solvers.build("ddim", vp, 3), normal(4, 4), normal(4, 3)
    lone = SmallNetwork()
    lone.first.weight = fully_shard(SmallNetwork()).first.weight
    with pytest.raises(ValueError, match="spread over processes, but no fully_shard within"):
        Sampler(Denoiser(lone, vp), plan)(noise, emb=emb)
    half = fully_shard(SmallNetwork(dtype=torch.float16))
    with pytest.raises(ValueError, match="bfloat16"):
        Sampler(Denoiser(half, vp), plan)(noise.half(), emb=emb.half())


def everything(folder: Path) -> dict[str, Any]:
    """Return all gradients and files, by the name of their case."""
    parallel = dist.is_initialized()
    found: dict[str, Any] = {}
    for name, (around, inside) in WRAPPED.items():
        if SHARDS or "shard" not in name:
            found[name] = small(*((around, inside) if parallel else (alone, alone)))
    if SHARDS:
        for i, (name, (kind, gradient)) in enumerate(UNETS.items()):
            (case := folder / str(i)).mkdir()
            found[name] = unet(case, kind, gradient if parallel else Backprop())
        found["a transformer"] = transformer(Exact() if parallel else Backprop())
        for kind in ("adapter", "mid_block"):
            (case := folder / kind).mkdir()
            found[f"files of {kind}"] = files_of(case, kind)
    return found


def work(folder: Path) -> None:
    rank = dist.get_rank()
    (own := folder / str(rank)).mkdir()
    found = everything(own)
    if SHARDS:
        refusals()
        blocks_are_gathered_one_by_one(own)
    torch.save(found, folder / f"found-{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two processes find, and what one finds."""
    folder = tmp_path_factory.mktemp("distributed")
    in_two_processes(work, folder)
    (own := folder / "alone").mkdir()
    return torch.load(folder / "found-0.pt", weights_only=True), everything(own)


@pytest.mark.parametrize("name", [*WRAPPED, *UNETS, "a transformer"])
def test_gradients_are_those_of_the_whole_batch(both: Any, name: str) -> None:
    found, expected = (each.get(name) for each in both)
    if found is None:
        pytest.skip("this torch shards on accelerators only")
    assert {n.removeprefix("module.") for n in found} == expected.keys()
    for parameter, gradient in found.items():
        assert relative_error(gradient, expected[parameter.removeprefix("module.")]) < 1e-11


@pytest.mark.parametrize("kind", ["adapter", "mid_block"])
def test_files_of_sharded_weights_are_those_of_whole_ones(both: Any, kind: str) -> None:
    found, expected = (each.get(f"files of {kind}") for each in both)
    if found is None:
        pytest.skip("this torch shards on accelerators only")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
