"""Embeddings of classes in place of their labels."""

import pytest
import torch
from families_dit import CASES, call

import adjointdpm as adp

(CASE,) = CASES
SETTINGS = {"num_inference_steps": 3, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    torch.manual_seed(0)
    return CASE.build(tmp_path_factory.mktemp("none"))


@pytest.fixture
def noise(pipe):
    return torch.randn(adp.latent_shape(pipe, 2), generator=torch.Generator().manual_seed(1))


def embedding_tables(pipe):
    blocks = pipe.transformer.transformer_blocks
    return [block.norm1.emb.class_embedder.embedding_table.weight for block in blocks]


def test_the_gradient_of_embeddings_is_that_of_the_tables_rows(pipe, noise):
    cond = adp.encode_prompt(pipe, ["rocket", 3], class_embeds=True)
    positive, negative = (v.requires_grad_() for v in cond.values())
    sampler, _ = adp.from_pipeline(pipe, **SETTINGS)
    found = torch.autograd.grad(sampler(noise, **cond).square().sum(), [positive, negative])

    tables = embedding_tables(pipe)
    for table in tables:
        table.requires_grad_()
    stock = type(pipe).__call__.__wrapped__
    arguments = {"latents": noise, "class_labels": [7, 3], "output_type": "latent", **SETTINGS}
    latents = call(pipe, stock, arguments)
    expected = torch.autograd.grad(latents.square().sum(), tables)
    for table in tables:
        table.requires_grad_(False)

    torch.testing.assert_close(sampler(noise, **cond), latents, rtol=1e-5, atol=1e-5)
    for block, gradient in enumerate(expected):
        rows = torch.cat([found[0][:, block], found[1][:, block].sum(0, keepdim=True)])
        torch.testing.assert_close(rows, gradient[[7, 3, 1000]], rtol=1e-4, atol=1e-5)


def test_gradients_flow_from_embeddings_to_the_tables(pipe, noise):
    table = embedding_tables(pipe)[0].requires_grad_()
    cond = adp.encode_prompt(pipe, [7], class_embeds=True, guidance=False)
    (gradient,) = torch.autograd.grad(cond["class_embeds"].sum(), [table])
    table.requires_grad_(False)
    assert gradient.any(dim=1).nonzero().tolist() == [[7]]


def test_one_embedding_for_all_blocks(pipe, noise):
    sampler, _ = adp.from_pipeline(pipe, 3, 1.0)
    embeds = torch.randn(2, 8, requires_grad=True)
    each = embeds.detach()[:, None].repeat(1, 2, 1).requires_grad_()
    (one,) = torch.autograd.grad(sampler(noise, class_embeds=embeds).sum(), [embeds])
    (many,) = torch.autograd.grad(sampler(noise, class_embeds=each).sum(), [each])
    torch.testing.assert_close(one, many.sum(1), rtol=1e-4, atol=1e-6)


def test_guidance_away_from_a_class(pipe):
    cond = adp.encode_prompt(pipe, [3, 7], "fruit")
    assert cond["negative_class_labels"].tolist() == [3, 3]


def test_what_cannot_be_is_refused(pipe, noise):
    sampler, _ = adp.from_pipeline(pipe, 2, 1.0)
    with pytest.raises(ValueError, match="neither"):
        sampler(noise)
    with pytest.raises(ValueError, match="one for each block"):
        sampler(noise, class_embeds=torch.randn(2, 3, 8))
    with pytest.raises(ValueError, match="one size"):
        adp.from_pipeline(pipe, 2, height=32, width=32)
    pipe.transformer.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="disable_gradient_checkpointing"):
        sampler(noise, class_embeds=torch.randn(2, 8))
    pipe.transformer.disable_gradient_checkpointing()
