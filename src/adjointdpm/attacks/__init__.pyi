"""Attacks on classifiers: where points may go, what is climbed, by which steps, and in batches."""

from .attack import Attack
from .batch import AttackBatch
from .choices import LossName, NormName, RuleName
from .found import Ended, Evaluation, Iterate
from .losses import LOSSES, margin
from .rules import Adam, AutoPgd, FixedStep, StepRule, build_rule
from .threat import Threat

__all__ = [
    "LOSSES",
    "Adam",
    "Attack",
    "AttackBatch",
    "AutoPgd",
    "Ended",
    "Evaluation",
    "FixedStep",
    "Iterate",
    "LossName",
    "NormName",
    "RuleName",
    "StepRule",
    "Threat",
    "build_rule",
    "margin",
]
