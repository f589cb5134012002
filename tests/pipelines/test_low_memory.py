"""Ways to save memory give the same gradient, alone and together; those that cannot are refused."""

import itertools
import sys

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module
from tiny_pipeline import build_pipeline

import adjointdpm as adp
from adjointdpm.memory.measure import SavedBytes
from adjointdpm.pipelines import check_offload

STEPS = 3
SWITCHES = {
    "checkpointing": lambda pipe: pipe.unet.enable_gradient_checkpointing(),
    "checkpointed_vae": lambda pipe: pipe.vae.enable_gradient_checkpointing(),
    "attention_slicing": lambda pipe: pipe.enable_attention_slicing(1),
    # Not the pipeline's own method, which insists on a device with a number ("cpu:0"): torch takes
    # that for another device than "cpu", where accelerate's code is only right for a GPU.
    "sequential_offload": lambda pipe: [cpu_offload(m, "cpu") for m in (pipe.unet, pipe.vae)],
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return lambda: build_pipeline(tmp_path_factory.mktemp("tokenizer"))


def some_noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise():
    return some_noise()


@pytest.fixture(scope="module")
def expected(build):
    """The gradients of the pipeline as it is."""
    return gradients(build(), some_noise())


def conditioning():
    generator = torch.Generator().manual_seed(3)
    names = ("encoder_hidden_states", "negative_encoder_hidden_states")
    return {name: torch.randn(2, 8, 16, generator=generator) for name in names}


def gradients(pipe, noise, parameters=(), gradient=None, scale=1.0):
    """Of a metric of the pictures: for noise, both conditionings, and all weights together."""
    sampler, decode = adp.from_pipeline(pipe, STEPS, 3.0, gradient=gradient)
    cond = {name: tensor.requires_grad_() for name, tensor in conditioning().items()}
    noise = noise.clone().requires_grad_()
    loss = scale * decode(sampler(noise, **cond)).square().mean()
    found = torch.autograd.grad(loss, [noise, *cond.values(), *parameters])
    found = [each.double() / scale for each in found]
    weights = torch.cat([each.flatten() for each in found[3:]]) if parameters else torch.ones(1)
    return [*found[:3], weights]


def worst(ours, expected):
    """The largest relative error of the gradients, each in its norm."""
    errors = [
        (a - b).norm() / b.norm().clamp(min=1e-30) for a, b in zip(ours, expected, strict=True)
    ]
    return float(max(errors))


@pytest.mark.parametrize(
    "names",
    [*((name,) for name in SWITCHES), *itertools.combinations(SWITCHES, 2), tuple(SWITCHES)],
    ids="+".join,
)
def test_the_gradient_is_the_same(build, noise, expected, names):
    pipe = build()
    for name in names:
        SWITCHES[name](pipe)
    # Sliced attention sums in another order, which float32 tells.
    tolerance = 1e-5 if "attention_slicing" in names else 1e-6
    assert worst(gradients(pipe, noise), expected) < tolerance


@pytest.mark.parametrize("gradient", [adp.Exact(), adp.Exact(memory_budget="1GiB"), adp.Backprop()])
def test_checkpointing_in_every_method(build, noise, gradient):
    pipe = build()
    expected = gradients(pipe, noise, gradient=gradient)
    pipe.unet.enable_gradient_checkpointing()
    assert worst(gradients(pipe, noise, gradient=gradient), expected) < 1e-6


def test_checkpointing_saves_activations(build, noise):
    pipe = build()

    def saved_by_one_call():
        cond = torch.randn(2, 8, 16)
        counter = SavedBytes(pipe.unet.parameters())
        with counter.counting():
            pipe.unet(noise.clone().requires_grad_(), torch.tensor([5, 5]), cond)
        return counter.total

    plain = saved_by_one_call()
    pipe.unet.enable_gradient_checkpointing()
    assert saved_by_one_call() < 0.5 * plain


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)], ids=str
)
@pytest.mark.parametrize("names", [(), ("checkpointing", "attention_slicing")], ids="+".join)
def test_half_precision_weights(build, noise, expected, dtype, tolerance, names):
    pipe = build().to(dtype)
    for name in names:
        SWITCHES[name](pipe)
    ours = gradients(pipe, noise)
    assert worst(ours, expected) < tolerance


def test_small_losses_do_not_vanish_in_half_precision(build, noise):
    pipe = build().to(torch.float16)
    pipe.unet.enable_gradient_checkpointing()
    expected = gradients(pipe, noise)
    # Far below the smallest number of float16, 6e-8.
    assert worst(gradients(pipe, noise, scale=1e-9), expected) < 0.01


# LoRA


def test_only_the_adapter_has_gradients(build, noise):
    pipe = build()
    pipe.unet.requires_grad_(True)
    parameters = adp.add_lora(pipe, rank=3, lora_alpha=6)
    names = {name for name, p in pipe.unet.named_parameters() if p.requires_grad}
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    layers = [name for name, _ in build().unet.named_modules() if name.endswith(ends)]
    assert len(names) == len(parameters) == 2 * len(layers)
    assert all("lora_" in name for name in names)
    assert not any(
        p.requires_grad for p in (*pipe.vae.parameters(), *pipe.text_encoder.parameters())
    )

    sampler, decode = adp.from_pipeline(pipe, STEPS, 3.0)
    decode(sampler(noise, **adp.encode_prompt(pipe, ["a", "b"]))).mean().backward()
    with_gradient = {name for name, p in pipe.unet.named_parameters() if p.grad is not None}
    assert with_gradient == names


def test_an_adapter_changes_nothing_at_first(build, noise):
    pipe = build()
    sampler, _ = adp.from_pipeline(pipe, STEPS, 3.0)
    cond = adp.encode_prompt(pipe, ["a", "b"])
    before = sampler(noise, **cond)
    adp.add_lora(pipe)
    assert torch.equal(sampler(noise, **cond), before)
    assert pipe.unet.peft_config["default"].lora_alpha == 4


def trained_lora(pipe):
    parameters = adp.add_lora(pipe, rank=2, lora_alpha=3)
    generator = torch.Generator().manual_seed(4)
    for parameter in parameters:
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return parameters


@pytest.mark.parametrize(
    "names", [(), ("checkpointing", "checkpointed_vae", "attention_slicing")], ids="+".join
)
def test_exact_is_backprop_for_an_adapter(build, noise, names):
    pipe, other = build(), build()
    expected = gradients(pipe, noise, trained_lora(pipe), adp.Backprop())
    parameters = trained_lora(other)
    for name in names:
        SWITCHES[name](other)
    assert worst(gradients(other, noise, parameters, adp.Exact()), expected) < 1e-5


def test_an_adapter_in_float32_on_half_precision_weights(build, noise):
    pipe, other = build(), build().to(torch.bfloat16)
    expected = gradients(pipe, noise, trained_lora(pipe))
    parameters = trained_lora(other)
    assert {p.dtype for p in other.unet.parameters()} == {torch.float32, torch.bfloat16}
    assert {p.dtype for p in parameters} == {torch.float32}
    assert worst(gradients(other, noise, parameters), expected) < 0.15


def test_two_adapters(build):
    pipe = build()
    first = adp.add_lora(pipe, adapter_name="first")
    second = adp.add_lora(pipe, adapter_name="second")
    assert not any(parameter.requires_grad for parameter in first)
    assert all(parameter.requires_grad for parameter in second)
    assert pipe.unet.active_adapters() == ["second"]


def test_without_peft(build, monkeypatch):
    pipe = build()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'adjointdpm\[lora\]'"):
        adp.add_lora(pipe)


# Offloading


class Offload(CpuOffload):
    """Offloading without a GPU: a module that is away has weights that are not a number.

    The weights are swapped beneath the parameters, as moving a module does it, so that a graph
    that is kept meets whatever is there in the backward pass.
    """

    weights = None

    def init_hook(self, module):
        if self.weights is None:
            self.weights = [parameter.data for parameter in module.parameters()]
        for parameter in module.parameters():
            parameter.data = torch.full_like(parameter, torch.nan)
        return module

    def pre_forward(self, module, *args, **kwargs):
        if self.prev_module_hook is not None:
            self.prev_module_hook.offload()
        for parameter, weight in zip(module.parameters(), self.weights, strict=True):
            parameter.data = weight
        return args, kwargs


def offload_models(pipe):
    """What enable_model_cpu_offload does."""
    previous = None
    for module in (pipe.text_encoder, pipe.unet, pipe.vae):
        hook = Offload("cpu", previous)
        add_hook_to_module(module, hook)
        previous = UserCpuOffloadHook(module, hook)


@pytest.mark.parametrize(
    "gradient", [adp.Exact(), adp.Truncated(2), adp.ContinuousAdjoint(), adp.CoarseAdjoint(2)],
    ids=lambda method: type(method).__name__,
)  # fmt: skip
def test_model_offloading(build, noise, gradient):
    expected = gradients(build(), noise, gradient=gradient)
    pipe = build()
    offload_models(pipe)
    assert worst(gradients(pipe, noise, gradient=gradient), expected) < 1e-6
    assert all(parameter.isnan().all() for parameter in pipe.text_encoder.parameters())


@pytest.mark.parametrize("gradient", [adp.Backprop(), adp.Exact(memory_budget="1GiB")], ids=repr)
def test_kept_graphs_do_not_survive_model_offloading(build, noise, gradient):
    pipe = build()
    offload_models(pipe)
    with pytest.raises(ValueError, match="keeps graphs of the network, which is moved away"):
        gradients(pipe, noise, gradient=gradient)
    sampler, decode = adp.from_pipeline(pipe, STEPS, 3.0, gradient=gradient)
    sampler._forward_pre_hooks.clear()
    sampler.check_finite = False
    decode(sampler(noise.requires_grad_(), **conditioning())).sum().backward()
    assert noise.grad.isnan().any()


def test_sequential_offloading_keeps_no_weights_between_calls(build, noise):
    pipe = build()
    SWITCHES["sequential_offload"](pipe)
    sampler, _ = adp.from_pipeline(pipe, STEPS, 3.0)
    assert sampler(noise.requires_grad_(), **conditioning()).requires_grad
    assert {p.device.type for p in pipe.unet.parameters()} == {"meta"}


def test_prompts_of_an_offloaded_pipeline(build):
    pipe = build()
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        cpu_offload(module, "cpu")
    assert pipe.device.type == "meta"
    cond = adp.encode_prompt(pipe, "a b")
    for name, tensor in adp.encode_prompt(build(), "a b").items():
        assert torch.equal(cond[name], tensor)


@pytest.mark.parametrize("offload", [offload_models, SWITCHES["sequential_offload"]])
def test_offloaded_weights_cannot_be_trained(build, noise, offload):
    pipe = build()
    pipe.unet.requires_grad_(True)
    offload(pipe)
    sampler, _ = adp.from_pipeline(pipe, STEPS, 3.0)
    with pytest.raises(ValueError, match="require grad but are offloaded"):
        sampler(noise, **conditioning())
    with torch.no_grad():
        assert sampler(noise, **conditioning()).isfinite().all()
    pipe.unet.requires_grad_(False)
    assert sampler(noise.requires_grad_(), **conditioning()).requires_grad


@pytest.mark.parametrize(
    ("offload", "message"),
    [
        (
            lambda pipe: pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
            "offloaded in groups",
        ),
        (
            lambda pipe: pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
            "in bfloat16 instead",
        ),
    ],
    ids=["group", "casting"],
)
def test_what_no_graph_survives_is_refused(build, offload, message):
    pipe = build()
    check_offload(pipe)
    offload(pipe)
    with pytest.raises(ValueError, match=rf"^pipe\.(unet|vae) .*{message}"):
        adp.from_pipeline(pipe, STEPS)
    with pytest.raises(ValueError, match=message), adp.differentiable(pipe):
        pass
