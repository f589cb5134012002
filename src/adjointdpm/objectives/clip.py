"""Similarity of pictures with pictures and with words, in the space of a CLIP model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..features import Preprocessing
from ..formats import load_whole_model
from .objective import Objective


class ImageTextModel(nn.Module):
    """A model of transformers that embeds pictures and words in one space: CLIP, SigLIP and such.

    Args:
        model: a model with ``get_image_features`` and ``get_text_features``.
        preprocessing: how pictures become the model's input.
        tokenizer: how words do; None if none are to be embedded.
    """

    model: Any

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, tokenizer: Any = None
    ) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageTextModel:
        """Load a folder written by ``save_pretrained``, in float32, frozen, in evaluation mode.

        The folder holds the model, ``preprocessor_config.json`` and the tokenizer.

        Raises:
            ValueError: the weights are pickled, only safetensors files are read; some are missing;
                or the model does not embed pictures and words.
        """
        from transformers import AutoModel, AutoTokenizer  # slow to import

        model = load_whole_model(AutoModel, folder)
        for name in ("get_image_features", "get_text_features"):
            if not hasattr(model, name):
                raise ValueError(
                    f"{folder} holds a {type(model).__name__}, which has no {name}: a model such "
                    "as CLIPModel or SiglipModel is needed"
                )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return cls(model, Preprocessing.from_pretrained(folder), tokenizer)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings of length one, (batch, dim), of pictures in [0, 1].

        Args:
            images: (batch, 3, height, width).
        """
        output = self.model.get_image_features(pixel_values=self.preprocessing(images))
        return functional.normalize(_pooled(output), dim=-1)

    def embed_text(self, texts: list[str]) -> Tensor:
        """Return embeddings of length one, (texts, dim).

        Raises:
            ValueError: there is no tokenizer, or a text is longer than the model reads.
        """
        if self.tokenizer is None:
            raise ValueError("the model came without a tokenizer: pass one to embed words")
        length = self.model.config.text_config.max_position_embeddings
        # SigLIP was trained on texts of full length and takes no mask.
        full = {"padding": "max_length", "max_length": length}
        options = full if "siglip" in self.model.config.model_type else {"padding": True}
        tokens = self.tokenizer(texts, return_tensors="pt", **options)
        if tokens["input_ids"].shape[1] > length:
            raise ValueError(
                f"a text has {tokens['input_ids'].shape[1]} tokens, and the model reads {length}: "
                "shorten it"
            )
        output = self.model.get_text_features(**tokens.to(self.model.device))
        return functional.normalize(_pooled(output), dim=-1)


def _pooled(output: Any) -> Tensor:
    # Some models return the embedding, others an output that holds it.
    return output if isinstance(output, Tensor) else output.pooler_output


class _Similarity(Objective):
    """The cosine of a picture's embedding and a given one.

    Args:
        model: embeds the pictures.
        embeddings: (1 or batch, dim), of length one.
    """

    larger_is_better = True
    _embeddings: Tensor

    def __init__(self, model: ImageTextModel, embeddings: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("_embeddings", embeddings.detach(), persistent=False)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the cosines, (batch,), of pictures (batch, 3, height, width) in [0, 1].

        Raises:
            ValueError: there are several references, but not one for each picture.
        """
        embeddings = self._embeddings
        if len(embeddings) not in (1, len(images)):
            raise ValueError(
                f"{len(embeddings)} references for {len(images)} pictures: give one for all, or "
                "one each"
            )
        found = self.model(images)
        return (found * embeddings.to(found)).sum(-1)


class ImageSimilarity(_Similarity):
    """How similar a picture is to a given one to a CLIP model, -1 to 1: larger is better.

    Args:
        model: embeds both.
        reference: (3, height, width), or (batch, 3, height, width) one for each picture, in [0, 1].
    """

    def __init__(self, model: ImageTextModel, reference: Tensor) -> None:
        with torch.no_grad():
            embeddings = model(reference if reference.ndim == 4 else reference[None])
        super().__init__(model, embeddings)


class TextSimilarity(_Similarity):
    """How well words fit a picture to a CLIP model, -1 to 1: larger is better.

    Args:
        model: embeds both.
        text: the words, or a list with those for each picture.
    """

    def __init__(self, model: ImageTextModel, text: str | list[str]) -> None:
        with torch.no_grad():
            embeddings = model.embed_text([text] if isinstance(text, str) else text)
        super().__init__(model, embeddings)
