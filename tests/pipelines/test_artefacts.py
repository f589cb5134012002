"""Files of further families: more text encoders, transformers, pooled embeddings."""

import copy

import families_flux
import families_pixart
import families_stable_diffusion_3
import families_stable_diffusion_xl
import families_video
import pytest
import torch
from safetensors.torch import load_file

import adjointdpm as adp
from adjointdpm import formats

XL, SD3, FLUX = (
    module.CASES[0]
    for module in (families_stable_diffusion_xl, families_stable_diffusion_3, families_flux)
)
CASES = [XL, SD3, FLUX, families_pixart.CASES[0], families_video.CASES[0]]


def build(case, tmp_path_factory):
    torch.manual_seed(0)
    return case.build(tmp_path_factory.mktemp("tokenizer"))


def encode(pipe, case):
    return adp.encode_prompt(pipe, case.prompt, guidance=case.guided, **case.arguments)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conditioning_by_the_names_of_the_pipeline(tmp_path, tmp_path_factory, case):
    pipe = build(case, tmp_path_factory)
    cond = encode(pipe, case)
    formats.save_prompt_embeds(tmp_path, formats.PromptEmbeds(cond))
    loaded = formats.load_prompt_embeds(tmp_path)
    torch.testing.assert_close(loaded.cond, cond, rtol=0, atol=0)
    shape = adp.latent_shape(pipe, 2, **case.arguments)
    expected = case.stock(pipe, torch.zeros(shape), cond)
    names = [name for name, value in expected.items() if name.endswith(("embeds", "mask"))]
    given = {name: expected[name] for name in names if expected[name] is not None}
    arguments = loaded.pipeline_arguments()
    torch.testing.assert_close({k: arguments[k] for k in given}, given, rtol=0, atol=0)
    others = {name: value for name, value in arguments.items() if name not in given}
    assert not any(isinstance(value, torch.Tensor) for value in others.values())
    assert ("negative_prompt" in others) == any(name.startswith("negative_") for name in given)


def test_sizes_that_a_network_is_told_of_go_with_the_conditioning(tmp_path, tmp_path_factory):
    pipe = build(XL, tmp_path_factory)
    sizes = {
        "original_size": (64, 32),
        "crops_coords_top_left": (3, 5),
        "target_size": (16, 24),
    }
    cond = adp.encode_prompt(pipe, "a b", **sizes)
    formats.save_prompt_embeds(tmp_path, formats.PromptEmbeds(cond))
    arguments = formats.load_prompt_embeds(tmp_path).pipeline_arguments()
    noise = torch.randn(adp.latent_shape(pipe), generator=torch.Generator().manual_seed(0))
    stock = pipe(latents=noise, num_inference_steps=2, guidance_scale=3.0, output_type="latent",
                 **arguments).images  # fmt: skip
    sampler, _ = adp.from_pipeline(pipe, 2, 3.0)
    torch.testing.assert_close(sampler(noise, **cond), stock, rtol=1e-4, atol=1e-4)
    assert {name: arguments[name] for name in sizes} == sizes


def test_word_for_two_text_encoders(tmp_path, tmp_path_factory):
    def new():
        pipe = build(XL, tmp_path_factory)
        pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer)
        return pipe

    pipe, by_hand = new(), new()
    size = pipe.text_encoder.get_input_embeddings().weight.shape[1]
    words = {"clip_l": torch.randn(2, size), "clip_g": torch.randn(2, size)}
    provenance = formats.Provenance.of(pipe)
    formats.save_learned_embeds(tmp_path, {"<it>": words}, provenance=provenance)
    # The code of the model card, from where the pipeline is loaded.
    card = (tmp_path / "README.md").read_text()
    code = card[card.index("words = load_file") : card.index("image = pipe")]
    code = code.replace("learned_embeds.safetensors", str(tmp_path / "learned_embeds.safetensors"))
    exec(code, {"pipe": pipe, "load_file": load_file})

    for tokenizer, encoder, name in (
        (by_hand.tokenizer, by_hand.text_encoder, "clip_l"),
        (by_hand.tokenizer_2, by_hand.text_encoder_2, "clip_g"),
    ):
        tokenizer.add_tokens(["<x>", "<y>"])
        encoder.resize_token_embeddings(len(tokenizer)).weight.data[-2:] = words[name]
    ours = adp.encode_prompt(pipe, "a <it>")
    theirs = adp.encode_prompt(by_hand, "a <x> <y>")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("case", [XL, SD3, FLUX], ids=str)
def test_lora_gives_the_same_latents(tmp_path, tmp_path_factory, case):
    pipe, other = (build(case, tmp_path_factory) for _ in range(2))
    targets = {case.denoiser: ("to_q", "to_v"), "text_encoder": ("q_proj", "v_proj")}
    generator = torch.Generator().manual_seed(4)
    for name, target_modules in targets.items():
        module = getattr(pipe, name)
        for weight in adp.add_lora(module, rank=2, lora_alpha=5, target_modules=target_modules):
            weight.data = torch.randn(weight.shape, generator=generator)
    formats.save_lora(pipe, tmp_path)

    def latents(pipe):
        shape = adp.latent_shape(pipe, 2, **case.arguments)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        sampler, _ = adp.from_pipeline(pipe, 3, case.guidance_scale, **case.arguments)
        with torch.no_grad():
            return sampler(noise, **encode(pipe, case))

    before = latents(other)
    other.load_lora_weights(tmp_path)
    torch.testing.assert_close(latents(other), latents(pipe), rtol=0, atol=1e-6)
    assert (latents(other) - before).abs().max() > 1e-3
