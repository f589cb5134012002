"""From given latents back to the noise that a sampler draws them from."""

from .invert import Inversion, invert

__all__ = ["Inversion", "invert"]
