"""What is optimised."""

from .latent import project_to_typical
from .weights import Adapter, PipelineWeights

__all__ = [
    "Adapter",
    "PipelineWeights",
    "project_to_typical",
]
