"""Forms of the sampling ODE: what a form says of itself, and the ODE on states of any kind."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixtures import PROCESSES

from adjointdpm.form import FORMS, Form, FormName, Point, SamplingOde
from adjointdpm.prediction import PREDICTION_TYPES, output_of


def test_the_four_names() -> None:
    assert tuple(FORMS) == get_args(FormName)
    assert all(Form.named(name).name == name for name in FORMS)
    with pytest.raises(ValueError, match="form 'x' is not known; use noise, data, flow, angle"):
        Form.named("x")


@pytest.mark.parametrize("name", FORMS)
@given(process=st.sampled_from(sorted(PROCESSES)), share=st.floats(0.05, 0.95))
def test_time_of_a_point_and_back(name: str, process: str, share: float) -> None:
    form, schedule = Form.named(name), PROCESSES[process]
    point = Point.at(schedule, schedule.t_min + share * (schedule.t_max - schedule.t_min))
    assert form.point(schedule, form.tau(point)).t == pytest.approx(point.t, rel=1e-6)


@pytest.mark.parametrize("name", FORMS)
@given(
    prediction_type=st.sampled_from(PREDICTION_TYPES),
    angle=st.floats(0.2, 1.3),
    radius=st.floats(0.3, 3),
    sample=st.floats(-2, 2),
    noise=st.floats(-2, 2),
)
def test_the_drift_is_the_derivative_of_the_state(
    name: str, prediction_type: str, angle: float, radius: float, sample: float, noise: float
) -> None:
    """Along ``alpha x_0 + sigma eps`` with both fixed, by central differences in tau."""
    form = Form.named(name)

    def state(angle: float) -> tuple[float, float]:
        point = Point(0.0, radius * math.cos(angle), radius * math.sin(angle))
        x = point.alpha * sample + point.sigma * noise
        return x / form.scale(point), form.tau(point)

    (u1, tau1), (u0, tau0) = state(angle + 1e-5), state(angle - 1e-5)
    point = Point(0.0, radius * math.cos(angle), radius * math.sin(angle))
    a, b = form.drift(prediction_type, point)
    of_sample, of_noise = output_of(prediction_type, point.alpha, point.sigma)
    x = point.alpha * sample + point.sigma * noise
    slope = a * x + b * (of_sample * sample + of_noise * noise)
    assert slope == pytest.approx((u1 - u0) / (tau1 - tau0), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_rows_and_tensors_have_the_same_right_side(name: str) -> None:
    schedule = PROCESSES["vp"]
    ode = SamplingOde(Form.named(name), schedule, "epsilon", [Point.at(schedule, 0.5)])
    row = np.array([0.3, -1.2])
    tau = ode.form.tau(ode.points[0])
    seen: list[float] = []

    def network(x: object, point: Point, **marks: bool) -> object:
        seen.append(point.t)
        return 0.5 * x  # type: ignore[operator]

    drift = ode.drift(network)
    of_tensor = drift(torch.from_numpy(row), tau)
    np.testing.assert_allclose(of_tensor.numpy(), drift(row, tau, starts_step=True))
    assert seen == [0.5, 0.5]
