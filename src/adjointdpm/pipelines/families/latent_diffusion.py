"""Latent diffusion (arXiv 2112.10752): LDMTextToImagePipeline, and LDMPipeline without a prompt."""

from __future__ import annotations

from torch import Tensor, nn

from ...decoding import Decoder
from ..diffusers_private import execution_device
from ..family import Conditioning
from ..requests import PromptRequest, SamplingRequest, Size
from .unets import UNetFamily

TEXT_LENGTH = 77
"""Tokens of a prompt, as in the pipeline's call."""


class UnconditionalLatentDiffusion(UNetFamily):
    """LDMPipeline."""

    @property
    def guided(self) -> bool:
        """False: there is no prompt to be guided to."""
        return False

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels a latent is wide."""
        return 2 ** (len(self.pipe.vqvae.config.block_out_channels) - 1)

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the UNet."""
        unet: nn.Module = self.pipe.unet
        return unet

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder; gradients pass straight through a quantisation of latents."""
        return Decoder(self.pipe.vqvae, self.pipe.vqvae.config.scaling_factor)


class LatentDiffusion(UnconditionalLatentDiffusion):
    """LDMTextToImagePipeline."""

    @property
    def guided(self) -> bool:
        """True: by the prompt."""
        return True

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the embeddings of a prompt."""
        request.take_no_more()
        prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        negative = request.negative_prompt
        if not isinstance(negative, list):
            negative = [negative or ""] * len(prompts)
        positive = {"encoder_hidden_states": self._embed(prompts)}
        if not request.guidance:
            return positive, {}
        return positive, {"encoder_hidden_states": self._embed(negative)}

    def _embed(self, prompts: list[str]) -> Tensor:
        tokens = self.pipe.tokenizer(
            prompts,
            padding="max_length",
            max_length=TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        embeds: Tensor = self.pipe.bert(tokens.input_ids.to(execution_device(self.pipe)))[0]
        return embeds
