"""The denoiser: prediction types, guidance, clipping, and what networks return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixtures import PROCESSES
from torch import Tensor, nn

from adjointdpm import Denoiser, Plan, Sampler, Schedule
from adjointdpm.prediction import PREDICTION_TYPES, from_sample, output_of, to_noise, to_sample

VP = Schedule.vp_linear()


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@given(
    alpha=st.floats(0.05, 1.0),
    sigma=st.floats(0.05, 80.0),
    sample=st.floats(-2, 2),
    noise=st.floats(-2, 2),
)
def test_predictions_invert(
    prediction_type: str, alpha: float, sigma: float, sample: float, noise: float
) -> None:
    x = alpha * sample + sigma * noise
    a, b = output_of(prediction_type, alpha, sigma)
    output = a * sample + b * noise
    scale = 1e-9 * (1 + sigma / alpha + alpha / sigma) ** 2
    for function, expected in [(to_sample, sample), (to_noise, noise)]:
        c, d = function(prediction_type, alpha, sigma)
        assert c * x + d * output == pytest.approx(expected, abs=scale)
    c, d = from_sample(prediction_type, alpha, sigma)
    assert c * x + d * sample == pytest.approx(output, abs=scale)


@pytest.mark.parametrize(
    "wrap", [lambda y: y, lambda y: (y, "rest"), lambda y: SimpleNamespace(sample=y)]
)
def test_what_networks_return(wrap: Any) -> None:
    denoiser = Denoiser(lambda x, t: wrap(2 * x), VP)
    x = torch.randn(2, 3)
    torch.testing.assert_close(denoiser(x, 0.5), 2 * x)


def test_network_is_called_in_its_own_dtype_with_one_time_a_sample() -> None:
    seen: dict[str, Any] = {}

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.update(dtype=x.dtype, times=t)
            return x * self.weight

    output = Denoiser(Network(), VP)(torch.randn(4, 3), 0.25)
    assert seen["dtype"] == torch.bfloat16
    assert seen["times"].tolist() == [0.25] * 4
    assert output.dtype == torch.float32


class _Seeing(nn.Module):
    """Notes the dtypes that it is called with."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Linear(3, 3, dtype=dtype)
        self.seen: set[torch.dtype] = set()

    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any, labels: Tensor) -> Tensor:
        self.seen |= {x.dtype, emb.dtype, extra["shift"][0].dtype}
        assert (labels.dtype, t.dtype) == (torch.int64, torch.float32)
        return self.weight(x + emb + extra["shift"][0])


@pytest.mark.parametrize("passes", ["batched", "sequential"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_conditioning_is_cast_for_the_network_and_its_gradient_back(
    dtype: torch.dtype, scale: float, passes: Any
) -> None:
    network = _Seeing(dtype)
    denoiser = Denoiser(network, VP, guidance_scale=scale, guidance_passes=passes)
    emb, shift, negative = (torch.randn(n, 3, requires_grad=True) for n in (2, 1, 1))
    cond = {"emb": emb, "extra": {"shift": [shift]}, "labels": torch.tensor([1, 2])}
    output = denoiser(torch.randn(2, 3), 0.5, **cond, negative_emb=negative)
    wanted = [emb, shift] if scale == 1.0 else [emb, shift, negative]
    gradients = torch.autograd.grad(output.sum(), wanted)
    assert network.seen == {dtype}
    assert output.dtype == torch.float32
    rows = network.weight.weight.detach().float().sum(0)
    expected = [scale * rows, 2 * rows, 2 * (1 - scale) * rows]
    for gradient, row in zip(gradients, expected, strict=False):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, row.expand_as(gradient), rtol=2e-2, atol=2e-2)


def test_guidance_by_the_time() -> None:
    """As a function of a number, and of a tensor with a time for each sample."""
    network, x = _Conditioned(), torch.randn(2, 3)
    cond = {"emb": torch.randn(2, 4, 3), "negative_emb": torch.randn(1, 4, 3)}
    times = torch.tensor([0.25, 0.75])
    denoiser = Denoiser(network, VP, guidance_scale=lambda t: 1 + 8 * t)
    each = [Denoiser(network, VP, guidance_scale=scale)(x, times, **cond) for scale in (3.0, 7.0)]
    torch.testing.assert_close(denoiser(x, times, **cond), torch.stack([each[0][0], each[1][1]]))
    expected = Denoiser(network, VP, guidance_scale=5.0)(x, 0.5, **cond)
    torch.testing.assert_close(denoiser(x, 0.5, **cond), expected)


def test_a_function_gets_conditioning_as_it_is() -> None:
    def network(x: Tensor, t: Tensor, emb: Tensor) -> Tensor:
        assert emb.dtype == torch.float64
        return x

    Denoiser(network, VP)(torch.randn(2, 3), 0.5, emb=torch.ones(1, dtype=torch.float64))


class _Conditioned(nn.Module):
    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        shift = emb.mean(1)
        if extra is not None:
            shift = shift + extra["a"][0] + extra["scale"]
        return torch.tanh(x + shift)


@pytest.mark.parametrize("passes", ["batched", "sequential"])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance(passes: str, rescale: float) -> None:
    x, emb, negative = torch.randn(3, 5), torch.randn(3, 4, 5), torch.randn(1, 4, 5)
    extra = {"a": [torch.randn(3, 5)], "scale": torch.tensor(0.3)}
    denoiser = Denoiser(
        _Conditioned(), VP, guidance_scale=4.0, guidance_rescale=rescale, guidance_passes=passes
    )
    output = denoiser(x, 0.5, emb=emb, negative_emb=negative, extra=extra)
    network = _Conditioned()
    with_text = network(x, torch.tensor(0.5), emb, extra)
    without = network(x, torch.tensor(0.5), negative.expand(3, -1, -1), extra)
    expected = without + 4.0 * (with_text - without)
    if rescale:
        rescaled = expected * with_text.std(1, keepdim=True) / expected.std(1, keepdim=True)
        expected = rescale * rescaled + (1 - rescale) * expected
    torch.testing.assert_close(output, expected)


def test_guidance_needs_its_negative() -> None:
    x, emb = torch.randn(2, 5), torch.randn(2, 4, 5)
    with pytest.raises(ValueError, match="negative_<name>"):
        Denoiser(_Conditioned(), VP, guidance_scale=2.0)(x, 0.5, emb=emb)
    with pytest.raises(ValueError, match="given without emb"):
        Denoiser(_Conditioned(), VP, guidance_scale=2.0)(x, 0.5, negative_emb=emb)
    with pytest.raises(ValueError, match="equal shapes"):
        Denoiser(_Conditioned(), VP, guidance_scale=2.0)(x, 0.5, emb=emb, negative_emb=emb[:, :2])
    three = torch.randn(3, 4, 5)
    with pytest.raises(ValueError, match="batch of 2"):
        Denoiser(_Conditioned(), VP, guidance_scale=2.0)(x, 0.5, emb=three, negative_emb=-three)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("process", ["vp", "flow", "scaled_linear"])
def test_clipping_bounds_the_sample(prediction_type: str, process: str) -> None:
    schedule = PROCESSES[process]
    t = 0.5 * schedule.t_max
    x = torch.randn(4, 6, dtype=torch.float64)
    denoiser = Denoiser(
        lambda x, t: 5 * x, schedule, prediction_type, clip_sample=True, clip_sample_range=0.7
    )
    for time in (t, torch.tensor(t), torch.full((4,), t)):
        output = denoiser(x, time)
        a, b = to_sample(prediction_type, schedule.alpha(t), schedule.sigma(t))
        assert float((a * x + b * output).abs().max()) == pytest.approx(0.7, abs=1e-9)


def test_clipping_agrees_with_diffusers() -> None:
    """DDIM that re-derives the noise from the clipped sample is our clipping denoiser."""
    scheduler = diffusers.DDIMScheduler(clip_sample=True)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    scheduler.set_timesteps(10)
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(
            1.5 * expected.sin(), t, expected, use_clipped_model_output=True
        ).prev_sample
    plan = Plan.from_scheduler(diffusers.DDIMScheduler(clip_sample=False), 10)
    schedule = Schedule.from_config(scheduler.config)
    denoiser = Denoiser(lambda x, t: 1.5 * x.sin(), schedule, clip_sample=True)
    torch.testing.assert_close(Sampler(denoiser, plan)(noise), expected, atol=1e-4, rtol=1e-4)


def test_thresholding_agrees_with_diffusers() -> None:
    settings = {"dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
    scheduler = diffusers.DPMSolverMultistepScheduler(thresholding=True, **settings)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    scheduler.set_timesteps(10)
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(1.5 * expected.sin(), t, expected).prev_sample
    plan = Plan.from_scheduler(diffusers.DPMSolverMultistepScheduler(), 10)
    schedule = Schedule.from_config(scheduler.config)
    denoiser = Denoiser(lambda x, t: 1.5 * x.sin(), schedule, thresholding=True, **settings)
    torch.testing.assert_close(Sampler(denoiser, plan)(noise), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction_type": "eps"}, "must be one of epsilon"),
        ({"guidance_passes": "both"}, "guidance_passes"),
        ({"clip_sample": True, "thresholding": True}, "choose one"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoiser(lambda x, t: x, VP, **arguments)


def test_a_wrong_output_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 6\).*learned variance"):
        Denoiser(lambda x, t: torch.cat([x, x], 1), VP)(torch.randn(2, 3), 0.5)
