"""What jobs have in common: the model and the goal, made from their settings."""

from .certified import certify_gradient
from .config import GoalConfig, ModelConfig, SamplerConfig
from .drawing import drawing_code
from .goal import Goal, needs_default, require_goal
from .model import Model, load_model, one_step_sampler

__all__ = [
    "Goal",
    "GoalConfig",
    "Model",
    "ModelConfig",
    "SamplerConfig",
    "certify_gradient",
    "drawing_code",
    "load_model",
    "needs_default",
    "one_step_sampler",
    "require_goal",
]
