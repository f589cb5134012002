"""What jobs have in common: the model and the goal, made from their settings."""

from .config import GoalConfig, ModelConfig
from .goal import Goal, check_goal, needs_default
from .model import Model, load_model

__all__ = [
    "Goal",
    "GoalConfig",
    "Model",
    "ModelConfig",
    "check_goal",
    "load_model",
    "needs_default",
]
