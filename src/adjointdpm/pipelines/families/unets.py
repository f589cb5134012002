"""What pipelines around a UNet have in common."""

from __future__ import annotations

from ..family import Family
from ..requests import Size


class UNetFamily(Family):
    """Pipelines whose latents have the size that their UNet was trained on, unless told another."""

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels a latent is wide."""
        factor: int = self.pipe.vae_scale_factor
        return factor

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, height, width) of what the UNet takes."""
        config, factor = self.pipe.unet.config, self.pixels_per_latent
        default = config.sample_size
        default_height, default_width = (default, default) if isinstance(default, int) else default
        height = default_height if size.height is None else size.height // factor
        width = default_width if size.width is None else size.width // factor
        return config.in_channels, height, width
