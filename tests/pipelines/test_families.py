"""Every family of pipelines: our sampler is the stock pipeline, our gradient autograd's through it.

The stock pipeline with gradients is ``__call__.__wrapped__``, the same code without ``no_grad``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from dataclasses import dataclass
from typing import Any

import families_animatediff
import families_auraflow
import families_controlnet
import families_dit
import families_flux
import families_image_to_image
import families_kandinsky
import families_latent_diffusion
import families_pixart
import families_pixel
import families_sana
import families_stable_diffusion
import families_stable_diffusion_3
import families_stable_diffusion_xl
import families_video
import pytest
import torch
from comparison import (
    KeepDouble,
    assert_same,
    assert_same_gradients,
    gradients,
    unround_,
    with_gradient,
)
from documentation import DOCUMENT, Found, document
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import adjointdpm as adp

CASES = [
    *families_stable_diffusion.CASES,
    *families_stable_diffusion_xl.CASES,
    *families_image_to_image.CASES,
    *families_controlnet.CASES,
    *families_stable_diffusion_3.CASES,
    *families_flux.CASES,
    *families_pixart.CASES,
    *families_sana.CASES,
    *families_auraflow.CASES,
    *families_dit.CASES,
    *families_kandinsky.CASES,
    *families_latent_diffusion.CASES,
    *families_pixel.CASES,
    *families_animatediff.CASES,
    *families_video.CASES,
]
STEPS = 3
SCHEDULER_SETTINGS = {
    "clip_sample": False,  # as in every latent pipeline
    "skip_prk_steps": True,  # they need more steps than there are here
}

each_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """A pipeline of each case, built when it is first asked for."""
    built = {}

    def get(case):
        if case.name not in built:
            torch.manual_seed(0)
            built[case.name] = case.build(tmp_path_factory.mktemp("tokenizer"))
        return built[case.name]

    return get


@pytest.fixture(scope="module")
def found():
    """What the tests found to work, for the table of docs/pipelines.md."""
    return {case.name: Found() for case in CASES}


def to_double(pipe):
    """A copy of a pipeline with all weights in float64."""
    components = {
        name: copy.deepcopy(part).double() if isinstance(part, nn.Module) else part
        for name, part in pipe.components.items()
    }
    components["scheduler"] = type(pipe.scheduler).from_config(pipe.scheduler.config)
    config = {k: v for k, v in pipe.config.items() if k not in components and k[0] != "_"}
    doubled = type(pipe)(**components, **config)
    doubled.set_progress_bar_config(disable=True)
    return doubled


def noise_of(pipe, case, dtype=torch.float32):
    batch = 1 if case.prompt is None else len(case.prompt)
    shape = adp.latent_shape(pipe, batch, **case.arguments)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def cond_of(pipe, case):
    if case.prompt is None:
        return case.inputs(pipe)
    guidance = case.guided and case.guidance_scale > 1
    arguments = {**case.arguments, **case.encoding(pipe)}
    cond = adp.encode_prompt(pipe, case.prompt, guidance=guidance, **arguments)
    return {**cond, **case.inputs(pipe)}


def sampler_of(pipe, case, **settings):
    settings = {**case.arguments, **case.settings, **settings}
    return adp.from_pipeline(pipe, STEPS, case.guidance_scale, **settings)


def run_stock(pipe, case, arguments, call=None, output_type="latent"):
    if case.guidance_scale > 1:
        arguments = {"guidance_scale": case.guidance_scale, **arguments}
    common = {
        "num_inference_steps": STEPS,
        "output_type": output_type,
        "generator": torch.Generator().manual_seed(5),
    }
    call = call or type(pipe).__call__
    result = case.call(pipe, call, {**common, **case.arguments, **arguments})
    return case.from_stock(pipe, result) if output_type == "latent" else result


@pytest.fixture(scope="module")
def drawn(pipes):
    """A case's noise and conditioning, and the stock pipeline's latents of them."""

    @functools.cache
    def get(case):
        pipe = pipes(case)
        noise, cond = noise_of(pipe, case), cond_of(pipe, case)
        return noise, cond, run_stock(pipe, case, case.stock(pipe, noise, cond))

    return get


@each_case
def test_latents_and_pictures(pipes, drawn, found, case):
    pipe = pipes(case)
    noise, cond, expected = drawn(case)
    sampler, decode = sampler_of(pipe, case)
    arguments = case.stock(pipe, noise, cond)
    with torch.no_grad():
        latents = sampler(noise, generator=torch.Generator().manual_seed(5), **cond)
        pictures = decode(expected)  # of the same latents: a decoder enlarges what rounding changed
    assert_same(latents, expected, 1e-5)
    assert_same(pictures, run_stock(pipe, case, arguments, output_type="pt"), 1e-5)
    found[case.name].pipeline = type(pipe).__name__
    found[case.name].scheduler = type(pipe.scheduler).__name__


@each_case
def test_prompts(pipes, drawn, case):
    if case.prompt is None:
        pytest.skip("unconditional")
    pipe = pipes(case)
    noise, cond, latents = drawn(case)
    start = case.stock(pipe, noise, cond)["latents"]
    expected = run_stock(pipe, case, {**case.stock_prompt(case.prompt), "latents": start})
    assert_same(latents, expected, 1e-6)


def schedulers():
    return [(case, scheduler) for case in CASES for scheduler in case.schedulers]


@pytest.mark.parametrize(
    ("case", "scheduler_class"), schedulers(), ids=lambda v: getattr(v, "__name__", str(v))
)
def test_schedulers(pipes, drawn, found, case, scheduler_class):
    pipe = copy.copy(pipes(case))
    accepted = inspect.signature(scheduler_class.__init__).parameters
    settings = {**SCHEDULER_SETTINGS, **case.scheduler_settings}
    settings = {k: v for k, v in settings.items() if k in accepted}
    pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config, **settings)
    noise, cond, _ = drawn(case)
    sampler, _ = sampler_of(pipe, case)
    with torch.no_grad():
        latents = sampler(noise, generator=torch.Generator().manual_seed(5), **cond)
    expected = run_stock(pipe, case, case.stock(pipe, noise, cond))
    assert_same(latents, expected, 1e-4)
    found[case.name].schedulers.append(scheduler_class.__name__)


def leaves(cond: dict) -> dict[str, Tensor]:
    """The floating-point tensors of a nest by their names, made to require grad."""
    return {
        ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path): leaf
        for path, leaf in pytree.tree_flatten_with_path(cond)[0]
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.requires_grad_() is leaf
    }


def add_lora(pipe, case) -> list[nn.Parameter]:
    """Give the denoiser an adapter with weights that are not zero; return them."""
    peft = pytest.importorskip("peft")
    denoiser = getattr(pipe, case.denoiser)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=list(case.lora_targets))
    peft.inject_adapter_in_model(config, denoiser)
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    with torch.no_grad():
        for i, parameter in enumerate(trained):
            generator = torch.Generator().manual_seed(i)
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.1 * values)
    return trained


@dataclass
class Prepared:
    """A case's pipeline in a dtype with an adapter, our sampler of it, and what both are given."""

    pipe: Any
    sampler: adp.Sampler
    noise: Tensor
    cond: dict[str, Any]
    inputs: dict[str, Tensor]
    lora: list[nn.Parameter]

    @property
    def targets(self) -> list[Tensor]:
        return [*self.inputs.values(), *self.lora]


@pytest.fixture(scope="module")
def prepared(pipes, drawn):
    """What `Prepared` holds, of each case and dtype; no gradient leaves anything on it."""

    @functools.cache
    def get(case, dtype):
        if dtype == torch.float64:
            pipe = to_double(get(case, torch.float32).pipe)
            lora = [p for p in getattr(pipe, case.denoiser).parameters() if p.requires_grad]
        else:
            pipe = copy.copy(pipes(case))
            setattr(pipe, case.denoiser, copy.deepcopy(getattr(pipe, case.denoiser)))
            pipe.scheduler = copy.deepcopy(pipe.scheduler)
            lora = add_lora(pipe, case) if case.lora_targets else []
        noise = noise_of(pipe, case, dtype).requires_grad_()
        cond = pytree.tree_map_only(
            Tensor,
            lambda v: v.to(dtype, copy=True) if v.is_floating_point() else v,
            drawn(case)[1],
        )
        sampler, _ = sampler_of(pipe, case)
        if dtype == torch.float64:
            unround_(pipe)
        return Prepared(pipe, sampler, noise, cond, {"noise": noise, **leaves(cond)}, lora)

    return get


def kept_double(dtype):
    return KeepDouble(least_dims=3) if dtype == torch.float64 else contextlib.nullcontext()


@pytest.fixture(scope="module")
def both_gradients(prepared):
    """Our gradient and the stock pipeline's for each input of a case."""

    @functools.cache
    def get(case, dtype):
        it = prepared(case, dtype)
        ours = it.sampler(it.noise, generator=torch.Generator().manual_seed(5), **it.cond)
        with kept_double(dtype):
            theirs = run_stock(it.pipe, case, case.stock(it.pipe, it.noise, it.cond), with_gradient)
        return gradients(ours, it.targets), gradients(theirs, it.targets)

    return get


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_gradient(prepared, both_gradients, found, case, dtype):
    if dtype == torch.float64 and not case.double:
        pytest.skip("the stock pipeline does not run in float64")
    ours, theirs = both_gradients(case, dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    exact = both_gradients(case, torch.float64)[1] if case.double else theirs
    assert_same_gradients(ours, theirs, tolerance, exact)
    it = prepared(case, dtype)
    found[case.name].inputs = [*(f"`{name}`" for name in it.inputs)]
    found[case.name].inputs += ["LoRA weights"] if it.lora else []
    found[case.name].tolerances.append(f"{tolerance:.0e}".replace("e-0", "e-"))


@each_case
def test_the_stock_call_is_differentiable(prepared, both_gradients, found, case):
    dtype = torch.float64 if case.double else torch.float32
    it = prepared(case, dtype)
    arguments = case.stock(it.pipe, it.noise, it.cond)

    def call(pipe, **rest):
        return pipe(**rest)

    if case.numpy:
        with adp.differentiable(it.pipe), pytest.raises(ValueError, match="NumPy"):
            run_stock(it.pipe, case, arguments, call)
        return
    with kept_double(dtype):
        with adp.differentiable(it.pipe):
            sample = run_stock(it.pipe, case, arguments, call)
        ours = gradients(sample, it.targets)
    _, theirs = both_gradients(case, dtype)
    assert_same_gradients(ours, theirs, 1e-9 if case.double else 1e-4)
    found[case.name].stock_call = True


@pytest.mark.last
def test_the_table_in_the_docs(found, request):
    """docs/pipelines.md is what the tests found; ``pytest --write_docs`` writes it anew."""
    if any(not one.tolerances for one in found.values()):
        pytest.skip("not every family was tested in this run")
    if request.config.getoption("--write_docs"):
        DOCUMENT.write_text(document(found))
    assert DOCUMENT.read_text() == document(found)
