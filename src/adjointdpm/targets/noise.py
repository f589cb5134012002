"""From noise to logits in one module, for tools that attack classifiers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..decoding import Decoder
from ..objectives import ImageClassifier
from ..sampler import Sampler


class NoiseClassifier(nn.Module):
    """A classifier of noises: of the pictures that a sampler draws from them.

    It is an ordinary module from (batch, ...) standard-normal latents to logits (batch, classes),
    so that any attack on classifiers can be run on it, in noise space. Its gradient is that of the
    sampler's method.

    Args:
        sampler: draws latents.
        decode: makes pictures of them.
        classifier: reads the pictures.
        **cond: the sampler's conditioning, of one sample for all noises, or one for each noise of
            every batch.

    >>> import adjointdpm as adp
    >>> default = adp.load_default()
    >>> sampler, decode = adp.from_pipeline(default.pipeline, 2, 1.0)
    >>> cond = adp.encode_prompt(default.pipeline, ["rocket, style noto"], guidance=False)
    >>> model = NoiseClassifier(sampler, decode, default.classifier, **cond)
    >>> model(torch.randn(2, 4, 16, 16)).shape
    torch.Size([2, 131])
    """

    bounds: ClassVar[tuple[float, float]] = (-8.0, 8.0)
    """What tools that ask for bounds are told: no entry of a normal draw is outside (1e-15)."""

    def __init__(
        self, sampler: Sampler, decode: Decoder, classifier: ImageClassifier, **cond: Any
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.decode = decode
        self.classifier = classifier
        self._cond = cond

    @property
    def labels(self) -> list[str]:
        """The names of the classes, by index."""
        return self.classifier.labels

    def pictures(self, noise: Tensor) -> Tensor:
        """Return the pictures in [0, 1] that are drawn from noises.

        Raises:
            ValueError: conditioning for several samples, but not one for each noise. Attacks that
                cut a batch need the conditioning of one sample.
        """
        return self.decode(self.sampler(noise, **self._conditioning(len(noise))))

    def forward(self, noise: Tensor) -> Tensor:
        """Return the logits, (batch, classes), of noises (batch, ...)."""
        return self.classifier(self.pictures(noise))

    def _conditioning(self, count: int) -> dict[str, Any]:
        def fitted(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 or len(tensor) == count:
                return tensor
            if len(tensor) != 1:
                raise ValueError(
                    f"conditioning for {len(tensor)} samples, but a batch of {count} noises: give "
                    "the conditioning of one sample, or let the attack take all at once"
                )
            return tensor.expand(count, *tensor.shape[1:])

        return pytree.tree_map_only(torch.Tensor, fitted, self._cond)
