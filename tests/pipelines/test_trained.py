"""What is trained of a pipeline, and pipelines as ``from_pretrained`` gives them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison import assert_same
from diffusers import StableDiffusionPipeline
from tiny_pipeline import build_pipeline
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import adjointdpm as adp
from adjointdpm.pipelines.registry import family_of
from adjointdpm.pipelines.requests import PromptRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_pipeline(tmp_path_factory.mktemp("tokenizer")).save_pretrained(folder)
    return folder


@pytest.fixture
def ordinary(folder: Path) -> Any:
    """A pipeline as it comes: every weight requires grad."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def table_of(pipe: Any) -> str:
    """The name of the token embeddings, which differs between versions of transformers."""
    table = pipe.text_encoder.get_input_embeddings()
    (name,) = (name for name, part in pipe.text_encoder.named_modules() if part is table)
    return f"text_encoder.{name}"


def embeddings_of(pipe: Any) -> str:
    return table_of(pipe).rpartition(".")[0]


@pytest.fixture
def noise() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 4, 8, 8, generator=generator).requires_grad_()


def parts(pipe: Any) -> list[torch.nn.Module]:
    return [pipe.unet, pipe.vae, pipe.text_encoder]


def trained(pipe: Any) -> set[str]:
    names = ("unet", "vae", "text_encoder")
    return {n for n in names if any(p.requires_grad for p in getattr(pipe, n).parameters())}


def test_a_loaded_pipeline_is_frozen(folder: Path, ordinary: Any) -> None:
    assert trained(ordinary) == {"unet", "vae", "text_encoder"}
    assert trained(adp.load_pipeline(folder)) == set()


def test_freeze_drops_gradients(ordinary: Any) -> None:
    ordinary.unet.conv_in.weight.grad = torch.ones_like(ordinary.unet.conv_in.weight)
    assert adp.freeze(ordinary) is ordinary
    assert trained(ordinary) == set()
    assert ordinary.unet.conv_in.weight.grad is None


def test_trainable_trains_what_is_named_and_nothing_else(ordinary: Any) -> None:
    weights = adp.trainable(ordinary, "unet")
    assert {id(p) for p in weights} == {id(p) for p in ordinary.unet.parameters()}
    assert trained(ordinary) == {"unet"}
    table = table_of(ordinary)
    (embedding,) = adp.trainable(ordinary, table)
    assert embedding is ordinary.text_encoder.get_input_embeddings().weight
    assert trained(ordinary) == {"text_encoder"}
    block = adp.trainable(ordinary, "unet.mid_block", f"{table}.weight", "unet.mid_block.resnets")
    assert len(block) == len(list(ordinary.unet.mid_block.parameters())) + 1


@pytest.mark.parametrize("name", ["net", "unet.nothing", "scheduler", "unet.conv_act"])
def test_parts_that_cannot_be_trained(ordinary: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*weights"):
        adp.trainable(ordinary, name)
    with pytest.raises(ValueError, match="name the parts"):
        adp.trainable(ordinary)
    assert trained(ordinary) == {"unet", "vae", "text_encoder"}


def test_weights_that_nobody_asked_for_are_told_of_with_numbers(ordinary: Any) -> None:
    numbers = [len(list(part.parameters())) for part in parts(ordinary)]
    mib = sum(p.nbytes for part in parts(ordinary) for p in part.parameters()) / 2**20
    with pytest.warns(UserWarning, match="adp.freeze") as by_parts:
        adp.from_pipeline(ordinary)
    with pytest.warns(UserWarning, match="adp.freeze") as stock, adp.differentiable(ordinary):
        pass
    for found in (by_parts, stock):
        assert Path(found[0].filename) == Path(__file__)
        text = str(found[0].message)
        names = ("unet", "vae", "text_encoder")
        assert all(f"{name} ({n})" in text for name, n in zip(names, numbers, strict=True))
        assert f"{mib:.3g} MiB" in text


@pytest.mark.parametrize("asked", [(), ("unet",), ("unet", "text_encoder"), ("text_encoder",)])
def test_who_has_said_what_is_trained_is_not_warned(ordinary: Any, asked: tuple[str, ...]) -> None:
    adp.trainable(ordinary, *asked) if asked else adp.freeze(ordinary)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adp.from_pipeline(ordinary)
        with adp.differentiable(ordinary):
            pass


@pytest.mark.filterwarnings("ignore:all weights of")
def test_an_ordinary_pipeline_can_be_used_for_any_number_of_updates(
    ordinary: Any, noise: Tensor
) -> None:
    sampler, decode = adp.from_pipeline(ordinary, 3, 3.0)
    words = adp.encode_prompt(ordinary, "a b")
    frozen = adp.freeze(StableDiffusionPipeline(**ordinary.components))
    sampler_2, decode_2 = adp.from_pipeline(frozen, 3, 3.0)
    words_2 = adp.encode_prompt(frozen, "a b")
    for part in parts(ordinary):
        part.requires_grad_()
    for _ in range(3):
        decode(sampler(noise, **words)).square().mean().backward()
        ours, noise.grad = noise.grad, None
        (theirs,) = torch.autograd.grad(
            decode_2(sampler_2(noise, **words_2)).square().mean(), noise
        )
        torch.testing.assert_close(ours, theirs)
        with torch.no_grad():
            noise -= 0.1 * ours


# Words of a trained encoder


def encoded_once(pipe: Any, prompt: str) -> dict[str, Tensor]:
    """Words with an ordinary graph."""
    return family_of(pipe).encode_prompt(PromptRequest(prompt))


def objective(cond: dict[str, Tensor]) -> Tensor:
    return sum((i + 1) * tensor.square().sum() for i, tensor in enumerate(cond.values()))


def test_words_have_the_gradient_of_autograd_again_and_again(ordinary: Any) -> None:
    weights = adp.trainable(ordinary, "text_encoder")
    theirs = torch.autograd.grad(objective(encoded_once(ordinary, "a b")), weights)
    words = adp.encode_prompt(ordinary, "a b")
    for _ in range(2):
        ours = torch.autograd.grad(objective(words), weights)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)
    assert any(gradient.any() for gradient in theirs)


def test_second_derivatives_of_words(ordinary: Any) -> None:
    ordinary.text_encoder.double()  # second derivatives here are sums that cancel to four digits
    weights = adp.trainable(ordinary, embeddings_of(ordinary))
    found = []
    with sdpa_kernel(SDPBackend.MATH):  # the default kernels have no second derivatives
        for words in (adp.encode_prompt(ordinary, "a b"), encoded_once(ordinary, "a b")):
            first = torch.autograd.grad(objective(words), weights, create_graph=True)
            found.append(torch.autograd.grad(sum(g.square().sum() for g in first), weights))
    for mine, other in zip(*found, strict=True):
        assert_same(mine, other, 1e-9)


def test_dropout_of_words_is_the_same_again(ordinary: Any) -> None:
    weights = adp.trainable(ordinary, "text_encoder")
    for part in ordinary.text_encoder.modules():
        if hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.5
    ordinary.text_encoder.train()
    words = adp.encode_prompt(ordinary, "a b", guidance=False)
    first = torch.autograd.grad(objective(words), weights)
    torch.rand(7)
    for mine, other in zip(torch.autograd.grad(objective(words), weights), first, strict=True):
        assert torch.equal(mine, other)


def test_hooks_on_weights_see_each_gradient_once(ordinary: Any) -> None:
    (weight,) = adp.trainable(ordinary, table_of(ordinary))
    seen: list[Tensor] = []
    weight.register_hook(seen.append)
    objective(adp.encode_prompt(ordinary, "a b")).backward()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], weight.grad)


def test_words_of_weights_that_have_changed(ordinary: Any) -> None:
    weights = adp.trainable(ordinary, "text_encoder")
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    words = adp.encode_prompt(ordinary, "a b")
    objective(words).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="encode the prompt again for each update"):
        objective(words).backward()
    optimizer.zero_grad()
    objective(adp.encode_prompt(ordinary, "a b")).backward()


def test_training_something_else_leaves_words_as_they_are(ordinary: Any, noise: Tensor) -> None:
    weights = adp.trainable(ordinary, "unet", embeddings_of(ordinary))
    sampler, _ = adp.from_pipeline(ordinary, 2, 3.0)
    words = adp.encode_prompt(ordinary, "a b")
    unet = set(ordinary.unet.parameters())
    optimizer = torch.optim.SGD([w for w in weights if w in unet], lr=1e-3)
    for _ in range(2):
        sampler(noise, **words).square().mean().backward()
        optimizer.step()


def test_a_tensor_in_a_hook_keeps_its_ordinary_graph(ordinary: Any) -> None:
    adp.trainable(ordinary, embeddings_of(ordinary))
    table = ordinary.text_encoder.get_input_embeddings()
    vector = torch.full((table.weight.shape[1],), 0.1, requires_grad=True)
    hook = table.register_forward_hook(lambda module, args, output: output + vector)
    objective(adp.encode_prompt(ordinary, "a b")).backward()
    hook.remove()
    assert vector.grad.any()
    assert table.weight.grad.any()
