"""AutoPGD against its authors' code, on a loss in closed form.

``auto_pgd.json`` holds what ``attack_single_run`` of github.com/fra31/auto-attack, at a39220048,
finds from the same starts, in float64. The loss is cross-entropy, which is positive: at its first
checkpoint that code compares the first step with zero, where the paper compares it with the start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from analytic import drive, logits_of
from torch import Tensor

from adjointdpm.attacks import LOSSES, Attack, AttackBatch, Evaluation, Threat

CASES = json.loads((Path(__file__).parent / "auto_pgd.json").read_text())
STARTS = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(5)).double() / 4 + 0.5
STARTS = STARTS.clamp(0.3, 0.7)


def look(points: Tensor, keys: Any) -> Evaluation:
    return Evaluation(logits_of(4 * (points - 0.5)), points.detach())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['norm']}-{c['max_steps']}")
def test_the_authors_find_the_same(case: dict[str, Any]) -> None:
    labels = look(STARTS, None).logits.argmax(1)
    best = torch.full((len(STARTS),), -torch.inf).double()

    def watched(points: Tensor, keys: Any) -> Evaluation:
        seen = look(points, keys)
        values = LOSSES[case["loss"]](seen.logits, labels[keys], False).detach()
        best[keys] = best[keys].maximum(values)
        return seen

    attack = Attack(
        Threat(case["norm"], case["radius"]),
        loss=case["loss"],
        max_steps=case["max_steps"],
        stop_at_success=False,
    )
    queue = [(i, STARTS[i], int(labels[i]), None, 0) for i in range(len(STARTS))]
    drive(AttackBatch(attack), queue, 4, watched)
    assert best.tolist() == pytest.approx(case["best_values"], rel=0, abs=1e-8)
