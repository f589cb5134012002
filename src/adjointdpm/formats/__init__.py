"""Files that load back into diffusers: learned words, conditioning, noise, LoRA. Never pickle."""

from .files import PICKLED, refuse_pickle, refuse_pickled_weights
from .learned_embeds import ENCODERS, load_learned_embeds, save_learned_embeds
from .lora import NO_PEFT, check_saves_lora, save_lora, unwrapped
from .model_card import Artefact, model_card, write_model_card
from .noise import Noise, load_noise, save_noise, scheduler_config
from .prompt_embeds import PromptEmbeds, load_prompt_embeds, save_prompt_embeds
from .provenance import Provenance
from .whole_models import load_whole_model, refuse_missing_weights

__all__ = [
    "ENCODERS",
    "NO_PEFT",
    "PICKLED",
    "Artefact",
    "Noise",
    "PromptEmbeds",
    "Provenance",
    "check_saves_lora",
    "load_learned_embeds",
    "load_noise",
    "load_prompt_embeds",
    "load_whole_model",
    "model_card",
    "refuse_missing_weights",
    "refuse_pickle",
    "refuse_pickled_weights",
    "save_learned_embeds",
    "save_lora",
    "save_noise",
    "save_prompt_embeds",
    "scheduler_config",
    "unwrapped",
    "write_model_card",
]
