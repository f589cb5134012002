"""Similarities are those of the transformers model, with a gradient."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_pipeline import TOKENS, build_tokenizer
from torch import nn
from transformers import AutoModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from adjointdpm.objectives import (
    AestheticScore,
    ImageSimilarity,
    ImageTextModel,
    TextSimilarity,
    load_aesthetic_head,
)

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TEXT = {**SMALL, "vocab_size": len(TOKENS), "max_position_embeddings": 8}
TEXT |= {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 4}
VISION = {**SMALL, "image_size": 16, "patch_size": 8}
PREPROCESSOR = {
    "size": {"shortest_edge": 16},
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "resample": 3,
}


def write(folder, kind):
    folder.mkdir()
    torch.manual_seed(0)
    if kind == "clip":
        config = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)
        CLIPModel(config).save_pretrained(folder)
    else:
        config = SiglipConfig(text_config=TEXT, vision_config=VISION)
        SiglipModel(config).save_pretrained(folder)
    build_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture
def model(folder) -> ImageTextModel:
    return ImageTextModel.from_pretrained(folder)


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_text_similarity_is_the_models_own_logit(model) -> None:
    """The forward pass of transformers gives scale times cosine (plus a bias, for SigLIP)."""
    texts = ["a b", "c"]
    full = model.model.config.model_type == "siglip"
    options = {"padding": "max_length", "max_length": 8} if full else {"padding": True}
    tokens = model.tokenizer(texts, return_tensors="pt", **options)
    logits = model.model(pixel_values=IMAGES * 2 - 1, **tokens).logits_per_image
    logits = logits - getattr(model.model, "logit_bias", 0.0)
    expected = logits / model.model.logit_scale.exp()
    for i, text in enumerate(texts):
        torch.testing.assert_close(TextSimilarity(model, text)(IMAGES), expected[:, i])
    torch.testing.assert_close(TextSimilarity(model, texts)(IMAGES), expected.diagonal())


def test_image_similarity(model) -> None:
    reference = torch.rand(3, 20, 30)
    similarity = ImageSimilarity(model, reference)
    assert similarity.larger_is_better
    cosine = nn.functional.cosine_similarity(model(IMAGES), model(reference[None]))
    torch.testing.assert_close(similarity(IMAGES), cosine)
    torch.testing.assert_close(similarity(reference[None]), torch.ones(1))
    with pytest.raises(ValueError, match="2 references for 1 pictures"):
        ImageSimilarity(model, IMAGES)(IMAGES[:1])


def test_gradients(model) -> None:
    images = IMAGES.double().requires_grad_()
    for metric in (ImageSimilarity(model, IMAGES[0]), TextSimilarity(model, "a")):
        assert torch.autograd.gradcheck(metric.double(), images, fast_mode=True, atol=1e-6)
    assert not any(p.requires_grad for p in model.parameters())


def test_what_cannot_be_loaded_or_read(model, folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="tokens, and the model reads 8"):
        model.embed_text(["a b c a b c a b c"])
    with pytest.raises(ValueError, match="without a tokenizer"):
        ImageTextModel(model.model, model.preprocessing).embed_text(["a"])
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="would be read with pickle"):
        ImageTextModel.from_pretrained(pickled)
    AutoModel.from_config(model.model.config.vision_config).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="has no get_image_features"):
        ImageTextModel.from_pretrained(tmp_path / "vision")


def test_aesthetic_heads_are_layers_in_their_order(model, tmp_path) -> None:
    dim = model(IMAGES).shape[1]
    torch.manual_seed(0)
    # With numbers of two digits, which the alphabet would sort wrongly.
    mlp = nn.Sequential(nn.Linear(dim, 7), nn.Linear(7, 5), nn.Linear(5, 1, bias=False))
    names = dict(zip("012", ("layers.0", "layers.2", "layers.10"), strict=True))
    weights = {f"{names[k[0]]}{k[1:]}": v for k, v in mlp.state_dict().items()}
    save_file(weights, tmp_path / "mlp.safetensors")
    score = AestheticScore(model, load_aesthetic_head(tmp_path / "mlp.safetensors"))
    embeddings = model(IMAGES)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(score(IMAGES), mlp(embeddings)[:, 0])
    bent = load_aesthetic_head(tmp_path / "mlp.safetensors", activation=nn.ReLU)
    hidden = mlp[1](mlp[0](embeddings).relu()).relu()
    torch.testing.assert_close(bent(embeddings), mlp[2](hidden))
    linear = nn.Linear(dim, 1)
    save_file(linear.state_dict(), tmp_path / "linear.safetensors")
    score = AestheticScore(model, load_aesthetic_head(tmp_path / "linear.safetensors"))
    torch.testing.assert_close(score(IMAGES), linear(embeddings)[:, 0])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"0.weight": torch.zeros(3, 4), "1.weight": torch.zeros(1, 2)}, "of 3 inputs is due"),
        ({"0.weight": torch.zeros(3, 4)}, "the last layer has 3 outputs"),
        ({"0.bias": torch.zeros(3)}, "holds no weight"),
    ],
)
def test_heads_that_do_not_fit(tmp_path, tensors, message) -> None:
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=message):
        load_aesthetic_head(tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="would be read with pickle"):
        load_aesthetic_head(tmp_path / "head.pth")
