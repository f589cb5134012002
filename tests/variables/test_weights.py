"""Weights as what is optimised: an adapter, and parts of a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_pipeline import build_pipeline

from adjointdpm import encode_prompt, from_pipeline
from adjointdpm.variables import Adapter, PipelineWeights

pytest.importorskip("peft")


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_weights_at_their_start(tmp_path: Path, kind: str) -> None:
    pipe = build_pipeline(tmp_path)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sampler, _ = from_pipeline(pipe, 2, 1.0)
    cond = encode_prompt(pipe, "a b", guidance=False)
    before = sampler(latents, **cond)
    held = PipelineWeights(pipe, ["unet.mid_block"]) if kind == "weights" else Adapter(pipe, 2)
    with torch.no_grad():
        for weight in held.tensors.values():
            weight += 0.1
    changed = sampler(latents, **cond)
    assert not torch.allclose(changed, before)
    with held.at_start():
        assert torch.equal(sampler(latents, **cond), before)
    assert torch.equal(sampler(latents, **cond), changed)


def test_adapters_of_one_seed_are_the_same_and_leave_the_generator_alone(tmp_path: Path) -> None:
    first, second = (Adapter(build_pipeline(tmp_path), 2, seed=3).tensors for _ in range(2))
    torch.manual_seed(0)
    build_pipeline(tmp_path)
    expected = torch.random.get_rng_state()
    torch.manual_seed(0)
    Adapter(build_pipeline(tmp_path), 2, seed=3)
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
