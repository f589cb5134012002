"""Transformers in half precision are given what the stock pipelines give them; LoRA for all."""

import families_auraflow
import families_dit
import families_flux
import families_pixart
import families_sana
import families_stable_diffusion_3
import pytest
import torch
from test_families import cond_of, noise_of, run_stock, sampler_of

from adjointdpm.pipelines import add_lora

FAMILIES = (
    families_auraflow,
    families_dit,
    families_flux,
    families_pixart,
    families_sana,
    families_stable_diffusion_3,
)


each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.CASES[0].name)


def inputs_during(run, transformer):
    """The times of every call of the transformer, and the dtypes of its other tensors."""
    seen = []

    def record(module, args, kwargs):
        tensors = [v for v in [*args, *kwargs.values()] if isinstance(v, torch.Tensor)]
        floating = {v.dtype for v in tensors if v.is_floating_point()}
        seen.append((kwargs["timestep"].unique().tolist(), floating - {torch.float32}))

    hook = transformer.register_forward_pre_hook(record, with_kwargs=True)
    with torch.no_grad():
        run()
    hook.remove()
    return seen


@each_family
def test_half_precision(family, tmp_path):
    case = family.CASES[0]
    torch.manual_seed(0)
    pipe = case.build(tmp_path).to(torch.bfloat16)
    noise, cond = noise_of(pipe, case, torch.bfloat16), cond_of(pipe, case)
    sampler, _ = sampler_of(pipe, case)
    ours = inputs_during(lambda: sampler(noise, **cond), pipe.transformer)
    arguments = case.stock(pipe, noise, cond)
    theirs = inputs_during(lambda: run_stock(pipe, case, arguments), pipe.transformer)
    assert ours == theirs


@each_family
def test_lora(family, tmp_path):
    pytest.importorskip("peft")
    case = family.CASES[0]
    pipe = case.build(tmp_path)
    noise, cond = noise_of(pipe, case), cond_of(pipe, case)
    sampler, _ = sampler_of(pipe, case)
    with torch.no_grad():
        before = sampler(noise, **cond)
    for unfit, message in (
        ({"rank": 0}, "rank must be"),
        ({"target_modules": ["x"]}, "has a name that ends in x"),
        ({"target_modules": []}, "has a name that ends in nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            add_lora(pipe, **unfit)
    adapter = add_lora(pipe, rank=2)
    after = sampler(noise, **cond)
    assert torch.allclose(before, after)
    gradients = torch.autograd.grad(after.square().sum(), adapter)
    assert sum(bool(gradient.any()) for gradient in gradients) == len(adapter) // 2  # of A, then B
    with pytest.raises(ValueError, match="already"):
        add_lora(pipe, rank=2)
