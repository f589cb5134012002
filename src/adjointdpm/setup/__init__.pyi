"""What jobs have in common: the model and the goal, made from their settings."""

<<<<<<< HEAD
from .config import GoalConfig, ModelConfig, SamplerConfig
=======
from .certified import certify_gradient
from .config import GoalConfig, ModelConfig
>>>>>>> main
from .goal import Goal, needs_default, require_goal
from .model import Model, load_model

__all__ = [
    "Goal",
    "GoalConfig",
    "Model",
    "ModelConfig",
<<<<<<< HEAD
    "SamplerConfig",
=======
    "certify_gradient",
>>>>>>> main
    "load_model",
    "needs_default",
    "require_goal",
]
