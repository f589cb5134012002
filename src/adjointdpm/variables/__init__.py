"""What is optimised."""

from .latent import project_to_typical

__all__ = [
    "project_to_typical",
]
