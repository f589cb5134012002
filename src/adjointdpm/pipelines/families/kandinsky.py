"""KandinskyV22Pipeline: the decoder of Kandinsky 2.2, from embeddings of pictures to pictures."""

from __future__ import annotations

from typing import Any

from diffusers import DDPMScheduler
from torch import Tensor, nn

from ...decoding import Decoder
from ..family import Conditioning
from ..requests import PromptRequest, SamplingRequest, Size
from .unets import UNetFamily

DEFAULT_SIZE = 512
"""Height and width of a picture in pixels, as in the pipeline's call."""


class ImagePromptedUNet(nn.Module):
    """The UNet without its learned variance, which no plan uses.

    Args:
        unet: the UNet; its only conditioning is ``added_cond_kwargs={"image_embeds": ...}``.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the prediction for latents ``x``."""
        output: Tensor = self.unet(x, t, encoder_hidden_states=None, return_dict=False, **cond)[0]
        return output[:, : x.shape[1]]


class MOVQDecoder(Decoder):
    """Pictures of latents that are not quantised."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures of latents, about [-1, 1]."""
        images: Tensor = self.vae.decode(latents, force_not_quantize=True, return_dict=False)[0]
        return images


class Kandinsky(UNetFamily):
    """KandinskyV22Pipeline."""

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the UNet.

        Raises:
            ValueError: the scheduler scales its noise with the learned variance.
        """
        scheduler = request.scheduler
        learned = str(scheduler.config.get("variance_type")).startswith("learned")
        if request.plan is None and learned and isinstance(scheduler, DDPMScheduler):
            raise ValueError(
                "the noise of DDPMScheduler with a learned variance is multiplied with what the "
                "network says, so its steps are not linear and there is no plan for them. Use a "
                "fixed variance, scheduler=DDPMScheduler.from_config(pipe.scheduler.config, "
                "variance_type='fixed_small'), or a scheduler without noise such as DDIMScheduler"
            )
        return ImagePromptedUNet(self.pipe.unet)

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder."""
        return MOVQDecoder(self.pipe.movq)

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, height, width) of the latents, rounded up as the pipeline does."""
        factor = self.pipe.movq_scale_factor
        height, width = (
            -(-(pixels or DEFAULT_SIZE) // factor**2) * factor
            for pixels in (size.height, size.width)
        )
        return self.pipe.unet.config.in_channels, height, width

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the conditioning of embeddings that a prior made, (batch, dim) each.

        Raises:
            ValueError: words in place of embeddings, or no negative ones where they are needed.
        """
        request.take_no_more()
        embeds, negative = request.prompt, request.negative_prompt
        if not isinstance(embeds, Tensor) or (
            request.guidance and not isinstance(negative, Tensor)
        ):
            raise ValueError(
                "the decoder of Kandinsky takes embeddings of pictures for a prompt: "
                "image_embeds, negative_image_embeds = prior(prompt).to_tuple() with a "
                "KandinskyV22PriorPipeline, then encode_prompt(pipe, image_embeds, "
                "negative_image_embeds)"
            )
        return (
            {"added_cond_kwargs": {"image_embeds": embeds}},
            {"added_cond_kwargs": {"image_embeds": negative}},
        )
