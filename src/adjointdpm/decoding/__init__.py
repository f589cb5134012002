"""From latents to pictures, in bounded memory."""

from .bounded import bounded_decode
from .decoder import Clamp, Decoder, to_unit_range

__all__ = [
    "Clamp",
    "Decoder",
    "bounded_decode",
    "to_unit_range",
]
