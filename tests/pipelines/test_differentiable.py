"""Inside `differentiable`, the stock call has the gradient of autograd through it."""

import copy
import threading

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from tiny_pipeline import build_pipeline

import adjointdpm as adp
from adjointdpm.memory.measure import peak_bytes
from adjointdpm.recompute.call import Recompute

NAMES = ("latents", "prompt_embeds", "negative_prompt_embeds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture
def pipe(folder):
    return build_pipeline(folder, DDIMScheduler(clip_sample=False, steps_offset=1))


def inputs(pipe, batch=1):
    generator = torch.Generator().manual_seed(1)
    shapes = {"latents": (batch, 4, 8, 8)} | dict.fromkeys(NAMES[1:], (batch, 8, 16))
    return {
        name: torch.randn(shape, generator=generator).to(pipe.unet.dtype).requires_grad_()
        for name, shape in shapes.items()
    }


def sample(call, tensors, steps=3, output_type="latent", **settings):
    generator = torch.Generator().manual_seed(2)
    settings = {"guidance_scale": 3.0, "generator": generator, **settings}
    return call(
        num_inference_steps=steps, output_type=output_type, return_dict=False, **tensors, **settings
    )[0]


def with_autograd(pipe):
    return lambda **arguments: StableDiffusionPipeline.__call__.__wrapped__(pipe, **arguments)


def gradients(images, targets):
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((images * weights.to(images)).sum(), targets)


def assert_same(ours, theirs, tolerance):
    scale = max(g.abs().max() for g in theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= tolerance * scale


def compare(pipe, tolerance, tensors=None, gradient=None, **settings):
    tensors = inputs(pipe) if tensors is None else tensors
    weights = [p for p in pipe.unet.parameters() if p.requires_grad]
    targets = [*tensors.values(), *weights]
    expected = sample(with_autograd(pipe), tensors, **settings)
    with adp.differentiable(pipe, gradient, clamp="hard") as inside:
        assert inside is pipe
        images = sample(pipe, tensors, **settings)
    torch.testing.assert_close(images, expected, rtol=tolerance, atol=tolerance)
    assert_same(gradients(images, targets), gradients(expected, targets), tolerance)


SCHEDULERS = [
    DDIMScheduler(clip_sample=False, steps_offset=1),
    DDIMScheduler(clip_sample=True, steps_offset=1),
    DDPMScheduler(clip_sample=False, steps_offset=1),
    DPMSolverMultistepScheduler(steps_offset=1),
    DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", steps_offset=1),
    EulerDiscreteScheduler(steps_offset=1),
    EulerAncestralDiscreteScheduler(steps_offset=1),
    HeunDiscreteScheduler(steps_offset=1),
    LCMScheduler(),
    UniPCMultistepScheduler(steps_offset=1),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: type(s).__name__)
def test_gradient_through_any_scheduler(pipe, scheduler):
    pipe.scheduler = scheduler
    compare(pipe, 1e-4)


def test_double_precision_weights_and_pictures(pipe):
    pipe.to(torch.float64)
    pipe.unet.requires_grad_(True)
    compare(pipe, 1e-9, output_type="pt")


@pytest.mark.parametrize("budget", ["1KB", "3MB", "1GB"])
def test_memory_budget(pipe, budget):
    pipe.to(torch.float64)
    pipe.unet.conv_in.requires_grad_(True)
    compare(pipe, 1e-9, gradient=adp.Exact(memory_budget=budget))


def test_lora_and_dropout(pipe):
    config = LoraConfig(target_modules=["to_q", "to_v"], lora_dropout=0.3, init_lora_weights=False)
    pipe.unet.add_adapter(config)
    tensors = inputs(pipe)
    targets = [*tensors.values(), *(p for p in pipe.unet.parameters() if p.requires_grad)]
    found = []
    for call in (with_autograd(pipe), pipe):
        torch.manual_seed(4)
        pipe.unet.train()
        with adp.differentiable(pipe):
            images = sample(call, tensors)
        torch.manual_seed(5)
        pipe.unet.eval()
        found.append(gradients(images, targets))
    assert len(targets) > 3
    assert_same(found[1], found[0], 1e-4)


def test_autocast(pipe):
    tensors = inputs(pipe)
    with torch.autocast("cpu", torch.bfloat16):
        expected = sample(with_autograd(pipe), tensors)
        with adp.differentiable(pipe):
            images = sample(pipe, tensors)
    torch.testing.assert_close(images, expected, rtol=0, atol=0)
    ours, theirs = (gradients(x, list(tensors.values())) for x in (images, expected))
    assert_same(ours, theirs, 0.02)


def test_bfloat16(pipe):
    pipe.to(torch.bfloat16)
    compare(pipe, 0.05, output_type="pt")


def test_compiled_network(pipe):
    tensors = inputs(pipe)
    targets = list(tensors.values())
    expected = gradients(sample(with_autograd(pipe), tensors, steps=2), targets)
    # Compiling the whole network takes half a minute here, and is no other case.
    pipe.unet.mid_block.compile(backend="eager")
    with adp.differentiable(pipe):
        images = sample(pipe, tensors, steps=2)
    assert_same(gradients(images, targets), expected, 1e-4)


def test_prompts_and_callbacks(pipe):
    seen = []

    def callback(pipe, step, time, tensors):
        seen.append(step)
        return {"latents": tensors["latents"] * 0.9}

    latents = {"latents": inputs(pipe)["latents"]}
    compare(pipe, 1e-4, latents, prompt="a b", callback_on_step_end=callback)
    assert seen == [0, 1, 2] * 2


def test_backprop_can_be_differentiated_twice(pipe):
    tensors = inputs(pipe)
    pipe.unet.set_attn_processor(AttnProcessor())
    with adp.differentiable(pipe, adp.Backprop()):
        images = sample(pipe, tensors, steps=2)
    (first,) = torch.autograd.grad(images.square().sum(), tensors["latents"], create_graph=True)
    second = torch.autograd.grad(first.square().sum(), list(tensors.values()))
    assert all(g.abs().max() > 0 for g in second)


@pytest.mark.parametrize("mode", ["detach_steps", "detach_outputs"])
@pytest.mark.parametrize(
    "scheduler",
    [DDIMScheduler(clip_sample=False, steps_offset=1), DPMSolverMultistepScheduler(steps_offset=1)],
    ids=lambda s: type(s).__name__,
)
def test_truncated_is_that_of_the_sampler(pipe, scheduler, mode):
    pipe.scheduler = scheduler
    tensors = inputs(pipe)
    gradient = adp.Truncated(last=2, mode=mode)
    sampler, _ = adp.from_pipeline(pipe, 4, 3.0, gradient=gradient)
    expected = sampler(
        tensors["latents"],
        encoder_hidden_states=tensors["prompt_embeds"],
        negative_encoder_hidden_states=tensors["negative_prompt_embeds"],
    )
    with adp.differentiable(pipe, gradient):
        images = sample(pipe, tensors, steps=4)
    targets = [tensors[name] for name in (NAMES if mode == "detach_outputs" else NAMES[1:])]
    assert_same(gradients(images, targets), gradients(expected, targets), 1e-4)


class WithSound(DiffusionPipeline):
    """Denoises two latents, the second with a copy of the scheduler, as pipelines with sound do."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, latents, sound, prompt_embeds, num_inference_steps, output_type="latent"):
        other = copy.deepcopy(self.scheduler)
        for scheduler in (self.scheduler, other):
            scheduler.set_timesteps(num_inference_steps)
        self._num_timesteps = num_inference_steps
        for t in self.scheduler.timesteps:
            both = torch.cat([latents, sound])
            seen, heard = self.unet(both, t, prompt_embeds.expand(2, -1, -1)).sample.chunk(2)
            latents = self.scheduler.step(seen, t, latents).prev_sample
            sound = other.step(heard, t, sound).prev_sample
        return latents, sound


@pytest.mark.parametrize("mode", ["detach_steps", "detach_outputs"])
def test_truncation_ends_the_gradient_of_copied_schedulers_too(pipe, mode):
    with_sound = WithSound(pipe.unet.double().requires_grad_(False), pipe.scheduler)
    generator = torch.Generator().manual_seed(1)
    latents, sound, words = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((1, 4, 8, 8), (1, 4, 8, 8), (1, 8, 16))
    )
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(4)
    x, y = latents, sound
    for k, t in enumerate(scheduler.timesteps):
        seen, heard = pipe.unet(torch.cat([x, y]), t, words.expand(2, -1, -1)).sample.chunk(2)
        if k < 2:
            seen, heard = seen.detach(), heard.detach()
        x, y = (scheduler.step(o, t, z).prev_sample for o, z in ((seen, x), (heard, y)))
        if k < 2 and mode == "detach_steps":
            x, y = x.detach(), y.detach()
    targets = [latents, sound, words]
    expected = torch.autograd.grad((x**2).sum() + (y**3).sum(), targets, allow_unused=True)
    with adp.differentiable(with_sound, adp.Truncated(2, mode)):
        x, y = with_sound(latents, sound, words, 4)
    found = torch.autograd.grad((x**2).sum() + (y**3).sum(), targets, allow_unused=True)
    for gradient, reference in zip(found, expected, strict=True):
        assert (gradient is None) == (reference is None)
        if reference is not None:
            torch.testing.assert_close(gradient, reference)
    assert type(with_sound.scheduler) is DDIMScheduler


def test_memory_grows_with_latents_only(pipe):
    tensors = inputs(pipe)

    def peak(steps, gradient=None):
        def run():
            with adp.differentiable(pipe, gradient):
                images = sample(pipe, tensors, steps=steps)
            gradients(images, list(tensors.values()))

        return peak_bytes(run)

    few, many, most = peak(4), peak(12), peak(12, adp.Backprop())
    latent = 4 * 8 * 8 * 4
    # For each call: two copies of the latent (guidance), its two outputs, and the random state.
    assert many - few < 8 * 12 * latent
    assert many < most / 5


def test_straight_through_clamp(pipe):
    tensors = inputs(pipe)
    targets = list(tensors.values())
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias += 3
        expected = sample(pipe, tensors, output_type="pt")
    assert expected.amax() == 1
    pull = {}
    for clamp in ("straight_through", "hard"):
        with adp.differentiable(pipe, clamp=clamp):
            images = sample(pipe, tensors, output_type="pt")
        torch.testing.assert_close(images, expected)
        pull[clamp] = gradients(images, targets)[0].abs().max()
    assert pull["straight_through"] > 2 * pull["hard"]


@pytest.mark.parametrize("arguments", [{}, {"output_type": "pil"}, {"output_type": "np"}])
def test_pictures_without_gradient_are_refused_before_sampling(pipe, arguments):
    calls = []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    with adp.differentiable(pipe), pytest.raises(ValueError, match='output_type="pt"'):
        pipe("a", num_inference_steps=2, **arguments)
    assert not calls
    assert pipe("a", num_inference_steps=2, **arguments).images is not None


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (adp.Symplectic(), "from_pipeline"),
        (adp.ContinuousAdjoint(), "from_pipeline"),
        (adp.Exact(max_latents=3), "from_pipeline"),
    ],
)
def test_other_methods_are_for_from_pipeline(pipe, gradient, message):
    with pytest.raises(ValueError, match=message), adp.differentiable(pipe, gradient):
        pass


def test_what_is_not_a_denoiser_is_refused(pipe):
    with pytest.raises(ValueError, match="no module 'transformer'; it has"):
        adp.differentiable(pipe, denoisers=("transformer",)).__enter__()
    with pytest.raises(ValueError, match="not a diffusers pipeline"):
        adp.differentiable(pipe.unet).__enter__()


def test_weights_changed_before_the_backward_pass(pipe):
    with adp.differentiable(pipe):
        images = sample(pipe, inputs(pipe))
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place between"):
        images.sum().backward()


def test_arguments_changed_before_the_backward_pass():
    layer, x = torch.nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    output = Recompute()(layer, layer, (x,), {})
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        output.sum().backward()


def test_nests_lists_and_generators():
    """What is passed in containers gets a gradient, and lists may be changed by the function."""
    scale = torch.nn.Linear(1, 1, bias=False)

    def function(x, *, cache, generator, nest):
        noise = torch.randn(x.shape, generator=generator)
        y = scale(x) * nest["a"][0] * cache[0] + noise * x
        cache[0] = y.sin()
        cache[1] += 1
        return {"y": y, "cache": cache[2]}

    found = []
    for call in (lambda **k: function(**k), lambda **k: Recompute()(function, scale, (), k)):
        torch.manual_seed(0)
        x, a, c, d = (torch.randn(4, 1, requires_grad=True) for _ in range(4))
        cache, generator = [c, 0, d], torch.Generator().manual_seed(1)
        for _ in range(2):
            result = call(x=x, cache=cache, generator=generator, nest={"a": [a]})
        assert cache[1] == 2
        assert result["cache"] is d
        total = (result["y"] * cache[0] * cache[2]).sum()
        found.append(torch.autograd.grad(total, [x, a, c, d, scale.weight]))
    torch.testing.assert_close(found[1], found[0])


def test_captured_tensors_are_noticed(pipe):
    class Captured(torch.nn.Module):
        def __init__(self, tensor):
            super().__init__()
            self.hidden = [tensor]

        def forward(self, x):
            return x * self.hidden[0]

    pipe.unet.conv_act = Captured(torch.ones(1, requires_grad=True))
    with adp.differentiable(pipe), pytest.raises(ValueError, match="requires grad but is neither"):
        sample(pipe, inputs(pipe))


def state(pipe):
    parts = (pipe, pipe.scheduler, pipe.image_processor, *pipe.unet.modules(), *pipe.vae.modules())
    return [(type(part), "forward" in vars(part)) for part in parts]


def test_the_pipeline_is_restored(pipe, tmp_path):
    before = state(pipe)
    tensors = inputs(pipe)
    with adp.differentiable(pipe), adp.differentiable(pipe, adp.Backprop()):
        assert isinstance(pipe, StableDiffusionPipeline)
        assert type(pipe).__name__ == "StableDiffusionPipeline"
        pipe.save_pretrained(tmp_path)
        assert type(copy.deepcopy(pipe)) is StableDiffusionPipeline
    assert state(pipe) == before
    with pytest.raises(KeyError), adp.differentiable(pipe):
        raise KeyError
    assert state(pipe) == before
    saved = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert isinstance(saved.vae, AutoencoderKL)

    def failing(*_):
        raise KeyError

    handle = pipe.unet.register_forward_hook(failing)
    with adp.differentiable(pipe), pytest.raises(KeyError):
        sample(pipe, tensors)
    handle.remove()
    assert state(pipe) == before
    assert not sample(pipe, tensors).requires_grad


def test_blocks_left_in_any_order(pipe):
    tensors = inputs(pipe)
    first, second = adp.differentiable(pipe), adp.differentiable(pipe)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sample(pipe, tensors).requires_grad
    second.__exit__(None, None, None)
    assert not sample(pipe, tensors).requires_grad
    assert type(pipe) is StableDiffusionPipeline


def test_threads_do_not_see_each_other(pipe):
    """Two threads inside and one outside, at the same time, on the same pipeline."""
    tensors = [inputs(pipe) for _ in range(3)]
    expected = sample(with_autograd(pipe), tensors[0])
    theirs = gradients(expected, list(tensors[0].values()))
    barrier = threading.Barrier(3)
    results: dict[int, object] = {}

    def inside(i, gradient):
        with adp.differentiable(pipe, gradient):
            barrier.wait()
            images = sample(pipe, tensors[i])
        results[i] = gradients(images, list(tensors[i].values()))

    def outside(i):
        barrier.wait()
        results[i] = [sample(pipe, tensors[i]) for _ in range(2)]

    threads = [
        threading.Thread(target=inside, args=(0, None)),
        threading.Thread(target=inside, args=(1, adp.Backprop())),
        threading.Thread(target=outside, args=(2,)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(results[0], theirs, 1e-4)
    assert_same(results[1], theirs, 1e-4)
    for images in results[2]:
        assert not images.requires_grad
        torch.testing.assert_close(images, expected.detach())
    assert type(pipe) is StableDiffusionPipeline


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_weights(pipe, offload):
    tensors = inputs(pipe)
    targets = list(tensors.values())
    expected = sample(with_autograd(pipe), tensors, output_type="pt")
    theirs = gradients(expected, targets)
    install_offload(pipe, offload)
    with adp.differentiable(pipe, adp.Backprop()), pytest.raises(ValueError, match="offloaded"):
        sample(pipe, tensors)
    with adp.differentiable(pipe, adp.Exact(memory_budget="1GB"), clamp="hard"):
        images = sample(pipe, tensors, output_type="pt")
        torch.testing.assert_close(images, expected)
        assert_same(gradients(images, targets), theirs, 1e-4)
        pipe.unet.requires_grad_(True)
        with pytest.raises(ValueError, match="require grad but are offloaded"):
            sample(pipe, tensors)


def install_offload(pipe, kind):
    """What enable_model_cpu_offload and enable_sequential_cpu_offload do, with a CPU as device."""
    from accelerate import cpu_offload, cpu_offload_with_hook

    for module in (pipe.unet, pipe.vae):
        if kind == "model":
            cpu_offload_with_hook(module, "cpu")
        else:
            cpu_offload(module, "cpu")
