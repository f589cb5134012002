"""A new word: what it means is what the stock pipeline makes of it once it is loaded there."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from families_stable_diffusion_3 import build as build_sd3
from families_stable_diffusion_xl import build as build_sdxl
from tiny_pipeline import build_pipeline

import adjointdpm as adp
from adjointdpm.variables import PromptConditioning, Word

BUILD: dict[str, Callable[[Path], Any]] = {"SD": build_pipeline, "SDXL": build_sdxl}
PROMPTS = ["a <it>, b", "<it> c"]


@pytest.fixture(params=BUILD)
def pipe(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    pipe = BUILD[request.param](tmp_path)
    if hasattr(pipe, "tokenizer_2"):
        pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer)  # the tiny pipeline shares one
    return adp.freeze(pipe)


def random_word(pipe: Any, num_vectors: int) -> Word:
    word = Word(pipe, "<it>", "b", num_vectors)
    for rows in word.tensors.values():
        rows.data.normal_()
    return word


def load_into(pipe: Any, folder: Path) -> None:
    """Load a saved word as its card says."""
    if not hasattr(pipe, "text_encoder_2"):
        pipe.load_textual_inversion(folder, token="<it>")
        return
    words = load_file(folder / "learned_embeds.safetensors")
    for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
        pipe.load_textual_inversion(
            words[key],
            token="<it>",
            tokenizer=getattr(pipe, f"tokenizer{suffix}"),
            text_encoder=getattr(pipe, f"text_encoder{suffix}"),
        )


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_a_saved_word_draws_the_same_in_the_stock_pipeline(
    pipe: Any, num_vectors: int, tmp_path: Path
) -> None:
    word = random_word(pipe, num_vectors)
    sampler, decode = adp.from_pipeline(pipe, 3, 2.0)
    noise = torch.randn(adp.latent_shape(pipe, 2))
    with torch.no_grad():
        ours = decode(sampler(noise, **word.encode(PROMPTS)))
    word.save(tmp_path / "word")
    load_into(pipe, tmp_path / "word")
    theirs = pipe(
        PROMPTS, latents=noise, num_inference_steps=3, guidance_scale=2.0, output_type="pt"
    ).images
    assert torch.allclose(ours, theirs, atol=1e-5)
    before = pipe(
        ["a b, b", "b c"],
        latents=noise,
        num_inference_steps=3,
        guidance_scale=2.0,
        output_type="pt",
    ).images
    assert not torch.allclose(ours, before, atol=1e-3)


def test_the_gradient_is_that_of_the_stock_embeddings(pipe: Any, tmp_path: Path) -> None:
    word = random_word(pipe, 2)
    weights = torch.randn(word.encode(PROMPTS, guidance=False)["encoder_hidden_states"].shape)

    def loss(cond: dict[str, Any]) -> torch.Tensor:
        return (cond["encoder_hidden_states"] * weights).sum()

    loss(word.encode(PROMPTS, guidance=False)).backward()
    word.save(tmp_path / "word")
    load_into(pipe, tmp_path / "word")
    for name, rows in word.tensors.items():
        embeddings = getattr(pipe, name).get_input_embeddings().weight.requires_grad_()
        (expected,) = torch.autograd.grad(loss(adp.encode_prompt(pipe, PROMPTS)), embeddings)
        assert torch.allclose(rows.grad, expected[-2:], rtol=1e-4, atol=1e-5)
        assert rows.grad.abs().min() > 0


def test_the_pipeline_is_left_as_it_was(pipe: Any) -> None:
    components = dict(pipe.components)
    embeddings = pipe.text_encoder.get_input_embeddings()
    words = len(pipe.tokenizer)
    expected = adp.encode_prompt(pipe, "a b")["encoder_hidden_states"]
    word = random_word(pipe, 1)
    with word.spoken():
        assert "<it>" in pipe.tokenizer.get_vocab()
    with pytest.raises(KeyError), word.spoken():
        raise KeyError
    assert all(pipe.components[name] is part for name, part in components.items())
    assert pipe.text_encoder.get_input_embeddings() is embeddings
    assert len(pipe.tokenizer) == words
    assert torch.equal(adp.encode_prompt(pipe, "a b")["encoder_hidden_states"], expected)


def test_a_word_begins_as_its_initializer_and_does_not_grow(pipe: Any) -> None:
    word = Word(pipe, "<it>", "c", 2)
    one = Word(pipe, "<it>", "c")
    assert torch.equal(
        one.encode(["a <it>"])["encoder_hidden_states"],
        adp.encode_prompt(pipe, "a c")["encoder_hidden_states"],
    )
    start = {name: rows.detach().clone() for name, rows in word.tensors.items()}
    for rows in word.tensors.values():
        rows.data[0] *= 3
        rows.data[1] *= 0.5
    word.project()
    for name, rows in word.tensors.items():
        assert torch.allclose(rows[0], start[name][0])
        assert torch.equal(rows[1], 0.5 * start[name][1])


@pytest.mark.parametrize("max_distance", [0.3, 1.0, 1.8])
def test_a_word_stays_near_the_one_that_it_began_as(pipe: Any, max_distance: float) -> None:
    word = Word(pipe, "<it>", "c", 3, max_distance=max_distance)
    start = {name: rows.detach().clone() for name, rows in word.tensors.items()}
    for name, rows in word.tensors.items():
        shift = torch.randn(rows.shape, generator=torch.Generator().manual_seed(3))
        rows.data += shift * start[name].norm(dim=1, keepdim=True) / shift.norm(dim=1, keepdim=True)
        rows.data[0] = start[name][0] * (1 - max_distance / 4)  # near enough as it is
    near = {name: rows[0].clone() for name, rows in word.tensors.items()}
    for _ in range(2):
        word.project()
        for name, rows in word.tensors.items():
            length = start[name].norm(dim=1)
            assert ((rows - start[name]).norm(dim=1) <= max_distance * length * (1 + 1e-6)).all()
            assert (rows.norm(dim=1) <= length * (1 + 1e-6)).all()
            assert torch.equal(rows[0], near[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("two words", "a"), "without spaces"),
        (("<it>", "unheard"), "knows no initializer_token 'unheard'"),
        (("b", "a"), "knows b or one"),
        (("<it>", "a", 0), "num_vectors"),
    ],
)
def test_a_word_that_cannot_be(pipe: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Word(pipe, *arguments)


def test_a_distance_is_positive(pipe: Any) -> None:
    with pytest.raises(ValueError, match="max_distance must be positive or None, not 0"):
        Word(pipe, "<it>", "a", max_distance=0)


def test_encoders_that_cannot_learn_a_word(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set variable to prompt_embeds"):
        Word(build_sd3(tmp_path), "<it>", "a")


def test_prompt_embeddings_are_those_of_the_prompt_and_load_again(
    pipe: Any, tmp_path: Path
) -> None:
    conditioning = PromptConditioning(pipe, "a b", guidance=True)
    noise = torch.randn(adp.latent_shape(pipe, 2))
    sampler, _ = adp.from_pipeline(pipe, 3, 2.0)
    sample = sampler(noise, **conditioning.encode(["a b"] * 2))
    stock = sampler(noise, **adp.encode_prompt(pipe, ["a b"] * 2))
    assert torch.allclose(sample, stock, atol=1e-4)
    sample.square().mean().backward()
    assert all(tensor.grad.any() for tensor in conditioning.tensors.values())
    assert len(conditioning.tensors) == (2 if hasattr(pipe, "text_encoder_2") else 1)
    conditioning.save(tmp_path / "prompt")
    loaded = adp.formats.load_prompt_embeds(tmp_path / "prompt").cond
    again = sampler(noise[:1], **loaded)
    assert torch.allclose(again, sample[:1], atol=1e-4)
