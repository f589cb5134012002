"""What is optimised."""

from .latent import project_to_typical
from .prompt_embeds import PromptConditioning
from .word import Word

__all__ = [
    "PromptConditioning",
    "Word",
    "project_to_typical",
]
