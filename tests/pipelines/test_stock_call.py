"""`differentiable` on stock calls of other kinds: chains, subclasses, no scheduler, no gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families_flux
import families_kandinsky
import families_latent_diffusion
import families_stable_diffusion_xl
import families_video
import pytest
import torch
from case import finish
from comparison import assert_same_gradients, gradients, with_gradient
from diffusers import (
    FirstBlockCacheConfig,
    KandinskyV22CombinedPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    LTXLatentUpsamplePipeline,
    PriorTransformer,
    StableDiffusionAttendAndExcitePipeline,
    StableDiffusionPipeline,
    UnCLIPScheduler,
)
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from tiny_parts import build_clip
from tiny_pipeline import build_pipeline, build_tokenizer
from torch import Tensor, nn

import adjointdpm as adp


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).requires_grad_()


SETTINGS = {"num_inference_steps": 3, "guidance_scale": 3.0, "return_dict": False}


# Made of others, or without a scheduler


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Kandinsky 2.2: a prior and a decoder."""
    torch.manual_seed(0)
    dim = families_kandinsky.DIM
    decoder = families_kandinsky.build(None)
    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=1,
        embedding_dim=dim,
        num_embeddings=8,
        additional_embeddings=4,
    )
    pipe = KandinskyV22CombinedPipeline(
        unet=decoder.unet,
        scheduler=decoder.scheduler,
        movq=decoder.movq,
        prior_prior=prior,
        prior_image_encoder=None,
        prior_text_encoder=build_clip(dim, projection=True),
        prior_tokenizer=build_tokenizer(tmp_path_factory.mktemp("tokenizer")),
        prior_scheduler=UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        prior_image_processor=None,
    )
    pipe.prior_pipe.set_progress_bar_config(disable=True)
    pipe.decoder_pipe.set_progress_bar_config(disable=True)
    return finish(pipe)


def call_chain(call: Any) -> Tensor:
    return call(
        prompt=["a b"],
        height=16,
        width=16,
        prior_num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        negative_prompt=["c"],
        **SETTINGS,
    )[0]


def test_a_chain_of_pipelines_is_differentiable_as_a_whole(
    chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = adp.trainable(chain, "prior_prior.proj_in", "unet.conv_in")
    with adp.differentiable(chain) as pipe:
        sample = call_chain(pipe)
    ours = gradients(sample, inputs)
    for cls in (KandinskyV22PriorPipeline, KandinskyV22Pipeline):
        monkeypatch.setattr(cls, "__call__", cls.__call__.__wrapped__)
    sample = call_chain(lambda **arguments: with_gradient(chain, **arguments))
    assert_same_gradients(ours, gradients(sample, inputs), 1e-4)
    adp.freeze(chain)


def test_truncated_has_no_last_step_to_count_from_in_a_chain(chain: Any) -> None:
    with (
        pytest.raises(ValueError, match="made of other pipelines"),
        adp.differentiable(chain, adp.Truncated(1)),
    ):
        pass


@pytest.fixture(scope="module")
def upsampler() -> Any:
    torch.manual_seed(0)
    network = LTXLatentUpsamplerModel(in_channels=4, mid_channels=32, num_blocks_per_stage=1)
    return finish(LTXLatentUpsamplePipeline(vae=families_video.ltx_vae(), latent_upsampler=network))


def test_a_pipeline_without_a_scheduler(upsampler: Any) -> None:
    latents = normal(0, 1, 4, 2, 2, 2)
    arguments = {"latents": latents, "output_type": "latent", "return_dict": False}
    arguments |= {"height": 64, "width": 64}
    with adp.differentiable(upsampler) as pipe:
        ours = gradients(pipe(**arguments)[0], [latents])
    theirs = gradients(with_gradient(upsampler, **arguments)[0], [latents])
    assert_same_gradients(ours, theirs, 1e-4)


def test_the_error_of_a_pipeline_without_a_scheduler_is_its_own(upsampler: Any) -> None:
    with (
        adp.differentiable(upsampler) as pipe,
        pytest.raises(ValueError, match="tone_map_compression_ratio"),
    ):
        pipe(latents=normal(0, 1, 4, 2, 2, 2), tone_map_compression_ratio=2, output_type="latent")
    with (
        adp.differentiable(upsampler, adp.Truncated(1)) as pipe,
        pytest.raises(ValueError, match="no scheduler"),
    ):
        pipe(latents=normal(0, 1, 4, 2, 2, 2), output_type="latent")


# Subclasses


class Louder(StableDiffusionPipeline):
    """Calls the pipeline that it is made from."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (super().__call__(*args, **kwargs)[0] * 2,)


class LouderStill(Louder):
    """Does so twice, and without gradients by itself."""

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (super().__call__(*args, **kwargs)[0] * 3,)


class Quiet(StableDiffusionPipeline):
    """Loses the graph by itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (super().__call__(*args, **kwargs)[0].detach(),)


def of_class(cls: type, folder: Path) -> Any:
    parts = build_pipeline(folder).components
    pipe = cls(**parts, requires_safety_checker=False)
    return finish(pipe)


def inputs_of_stable_diffusion() -> dict[str, Tensor]:
    return {
        "latents": normal(0, 1, 4, 8, 8),
        "prompt_embeds": normal(1, 1, 8, 16),
        "negative_prompt_embeds": normal(2, 1, 8, 16),
    }


@pytest.mark.parametrize(("cls", "factor"), [(Louder, 2), (LouderStill, 6)])
def test_calls_through_super_have_gradients(cls: type, factor: float, tmp_path: Path) -> None:
    pipe = of_class(cls, tmp_path)
    tensors = inputs_of_stable_diffusion()
    arguments = {**tensors, **SETTINGS, "output_type": "latent"}
    with adp.differentiable(pipe):
        assert isinstance(pipe, cls)
        sample = pipe(**arguments)[0]
    assert type(pipe) is cls
    stock = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    expected = factor * with_gradient(stock, **arguments)[0]
    inputs = list(tensors.values())
    assert_same_gradients(gradients(sample, inputs), gradients(expected, inputs), 1e-4)


def test_a_result_without_a_graph_is_an_error(tmp_path: Path) -> None:
    pipe = of_class(Quiet, tmp_path)
    with adp.differentiable(pipe), pytest.raises(ValueError, match="has no graph"):
        pipe(**inputs_of_stable_diffusion(), **SETTINGS, output_type="latent")
    with adp.differentiable(pipe), torch.no_grad():
        pipe(**inputs_of_stable_diffusion(), **SETTINGS, output_type="latent")


class WritingPipeline(StableDiffusionPipeline):
    """Writes each step into its latents, as Kandinsky 5 does."""

    writes = True

    @torch.no_grad()
    def __call__(self, latents: Tensor, prompt_embeds: Tensor, output_type: str = "pt") -> Any:
        self.scheduler.set_timesteps(3)
        latents = torch.cat([latents, latents])
        for t in self.scheduler.timesteps:
            output = self.unet(latents, t, encoder_hidden_states=prompt_embeds).sample
            step = self.scheduler.step(output, t, latents[:], return_dict=False)[0]
            if self.writes:
                latents[:] = step
            else:
                latents = step
        return (latents,)


def test_latents_that_are_written_into(tmp_path: Path) -> None:
    pipe = of_class(WritingPipeline, tmp_path)
    inputs = [normal(0, 1, 4, 8, 8), normal(1, 2, 8, 16)]
    arguments = dict(zip(("latents", "prompt_embeds"), inputs, strict=True))
    with adp.differentiable(pipe):
        ours = gradients(pipe(**arguments)[0], inputs)
    # Plain autograd needs the latents as they were, and refuses what was written into.
    type(pipe).writes = False
    try:
        theirs = gradients(with_gradient(pipe, **arguments)[0], inputs)
    finally:
        type(pipe).writes = True
    assert_same_gradients(ours, theirs, 1e-4)


# Refused before the run


def never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the network ran")


def refuse_running(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            monkeypatch.setattr(part, "forward", never)


def test_pipelines_that_answer_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = families_latent_diffusion.build_unconditional(None)
    refuse_running(pipe, monkeypatch)
    with adp.differentiable(pipe), pytest.raises(ValueError, match=r"NumPy.*from_pipeline"):
        pipe(batch_size=1, num_inference_steps=2, output_type="pt")


def test_an_autoencoder_that_is_cast_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = families_stable_diffusion_xl.CASES[0]
    pipe = case.build(tmp_path)
    pipe.vae.to(torch.float16).register_to_config(force_upcast=True)
    embeds = normal(1, 1, 8, 32)
    pooled = normal(2, 1, 16)
    arguments = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "guidance_scale": 1.0}
    with adp.differentiable(pipe):
        pipe(**arguments, num_inference_steps=1, output_type="latent").images.sum().backward()
        refuse_running(pipe, monkeypatch)
        with pytest.raises(ValueError, match=r"casts its float16 autoencoder.*bfloat16"):
            pipe(**arguments, num_inference_steps=1, output_type="pt")


def test_gradients_between_steps(tmp_path: Path) -> None:
    parts = build_pipeline(tmp_path).components
    parts.pop("image_encoder", None)
    pipe = StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)
    with pytest.raises(ValueError, match=r"gradients of its own.*Backprop"):
        enter(finish(pipe))
    with adp.differentiable(pipe, adp.Backprop()):
        pass


def enter(pipe: Any, **arguments: Any) -> None:
    with adp.differentiable(pipe, **arguments):
        pass


both_ways = pytest.mark.parametrize("use", [adp.from_pipeline, enter])


@both_ways
def test_what_is_no_gradient_method(tmp_path: Path, use: Any) -> None:
    pipe = build_pipeline(tmp_path)
    with pytest.raises(TypeError, match=r"gradient must be a .*not 'exact'"):
        use(pipe, gradient="exact")


@both_ways
def test_caches_are_refused(tmp_path: Path, use: Any) -> None:
    pipe = families_flux.build_dev(tmp_path)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match="reuses outputs of earlier calls"):
        use(pipe)


def test_a_class_without_adapter_is_sent_to_differentiable(chain: Any) -> None:
    with pytest.raises(ValueError, match=r"no adapter.*adp.differentiable"):
        adp.from_pipeline(chain)
