"""Teaching a word: its vectors are optimised through the whole sampler, by any metric."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from ...assets import Default, assets_folder, load_default, read_concepts
from ...decoding import Decoder
from ...evaluation import Reading, SuccessRate, read_pictures, success_rate
from ...formats import Provenance
from ...gradients import Exact
from ...objectives import (
    ClassifierMargin,
    ImageClassifier,
    Objective,
    PictureDistance,
    RandomViews,
    find_label,
    load_objective,
)
from ...pipelines import encode_prompt, from_pipeline, latent_shape, load_pipeline
from ...runs import History, choose_device, environment, optimize, peak_memory, run_folder
from ...sampler import Sampler
from ...variables import PromptConditioning, Word
from .config import EmbedConfig
from .noises import Noises, find_anchors
