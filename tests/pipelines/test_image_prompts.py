"""IP-Adapter beyond the generic tests: pictures themselves, and more samples than pictures."""

import pytest
import torch
from families_stable_diffusion import build_epsilon
from tiny_ip_adapter import IMAGE_DIM, image_prompt, load_ip_adapter
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import adjointdpm as adp


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    pipe = load_ip_adapter(build_epsilon(tmp_path_factory.mktemp("tokenizer")))
    pipe.unet.requires_grad_(False)
    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        projection_dim=IMAGE_DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    encoder = CLIPVisionModelWithProjection(config).eval().requires_grad_(False)
    pipe.register_modules(image_encoder=encoder)
    return pipe


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_gradient_reaches_the_picture(pipe, guidance_scale):
    picture = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    embeds = pipe.image_encoder(picture.float()).image_embeds[None]
    pairs = embeds if guidance_scale == 1 else torch.cat([torch.zeros_like(embeds), embeds])
    sampler, _ = adp.from_pipeline(pipe, 2, guidance_scale)
    noise = torch.randn(2, 4, 8, 8)
    gradients = []
    for arguments in [
        {"ip_adapter_image": picture.float()},
        {"ip_adapter_image_embeds": [pairs]},
    ]:
        cond = adp.encode_prompt(pipe, ["a", "b"], guidance=guidance_scale > 1, **arguments)
        sample = sampler(noise, **cond)
        gradients.append(torch.autograd.grad(sample.square().sum(), picture, retain_graph=True)[0])
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


def test_one_picture_is_for_all_samples(pipe):
    sampler, _ = adp.from_pipeline(pipe, 2, 3.0)
    noise = torch.randn(2, 4, 8, 8)
    both = sampler(noise, **adp.encode_prompt(pipe, ["a", "b"], **image_prompt()))
    for i, prompt in enumerate(["a", "b"]):
        alone = sampler(noise[i : i + 1], **adp.encode_prompt(pipe, [prompt], **image_prompt()))
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-4)
