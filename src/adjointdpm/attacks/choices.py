"""The names that settings choose from; nothing here takes long to import."""

from __future__ import annotations

from typing import Literal

NormName = Literal["linf", "l2"]
LossName = Literal["margin", "cross_entropy", "dlr"]
RuleName = Literal["apgd", "sign", "normalized", "adam"]
