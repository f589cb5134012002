"""The region of an attack: what is projected onto it is in it, and is the nearest there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adjointdpm.attacks import Threat

THREATS = [
    Threat(norm, radius, shell)
    for norm, radius in (("linf", 0.3), ("l2", 1.5), ("linf", None))
    for shell in (False, True)
]


def lengths(points: torch.Tensor) -> torch.Tensor:
    return points.flatten(1).norm(dim=1)


@pytest.mark.parametrize("threat", THREATS, ids=str)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), far=st.floats(0.0, 20.0))
def test_projection(threat: Threat, seed: int, far: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    starts, moves = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    starts, moves = starts[:, None], far * moves[:, None]
    inside = threat.project(starts + moves, starts)
    if threat.radius is not None:
        assert (threat.distance(inside, starts) <= threat.radius * (1 + 1e-9)).all()
    if threat.shell:
        torch.testing.assert_close(lengths(inside), lengths(starts), rtol=1e-4, atol=0)
    # What is inside stays where it is, and so does the start itself.
    torch.testing.assert_close(threat.project(inside, starts), inside, rtol=0, atol=1e-6)
    torch.testing.assert_close(threat.project(starts, starts), starts, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", [t for t in THREATS if t.radius], ids=str)
def test_nothing_inside_is_nearer(threat: Threat) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    point = start + torch.randn(1, 6, generator=generator, dtype=torch.float64)
    nearest = (threat.project(point, start) - point).norm()
    others = torch.stack([threat.draw(start[0], generator) for _ in range(300)])
    assert (threat.distance(others, start) <= threat.radius + 1e-9).all()
    assert ((others - point).norm(dim=1) >= nearest - 1e-6).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_direction_of_length_1_climbs_faster(norm: Any) -> None:
    threat = Threat(norm, 1.0)
    gradient = torch.randn(1, 8, dtype=torch.float64)
    best = (threat.steepest(gradient) * gradient).sum()
    zero = torch.zeros(1, 8, dtype=torch.float64)
    other = threat.project(torch.randn(500, 8, dtype=torch.float64) * 3, zero)
    assert ((other * gradient).sum(1) <= best + 1e-12).all()
    assert not threat.steepest(zero).any()


@pytest.mark.parametrize("settings_", [{"norm": "l1"}, {"radius": 0.0}, {"radius": float("nan")}])
def test_settings_out_of_range(settings_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings_))):
        Threat(**settings_)
