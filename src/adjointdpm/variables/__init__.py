"""What is optimised."""

from .latent import project_to_typical
from .prompt_embeds import PromptConditioning
from .weights import Adapter, PipelineWeights
from .word import Word

__all__ = [
    "Adapter",
    "PipelineWeights",
    "PromptConditioning",
    "Word",
    "project_to_typical",
]
