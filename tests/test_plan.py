"""Plans: read from diffusers' schedulers, they are the scheduler, trajectory and gradient."""

from __future__ import annotations

import inspect
import time
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from adjointdpm import Denoiser, Plan, Sampler, Schedule
from adjointdpm.plan import Draws

V = {"prediction_type": "v_prediction"}
NO_CLIP = {"clip_sample": False}
KARRAS = {"use_karras_sigmas": True}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SHIFTING = {"use_dynamic_shifting": True}

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", NO_CLIP),
    "ddim_v_zero_snr": (
        "DDIMScheduler",
        {**NO_CLIP, **V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "ddim_sample": ("DDIMScheduler", {**NO_CLIP, "prediction_type": "sample"}),
    "ddim_parallel": ("DDIMParallelScheduler", NO_CLIP),
    "ddim_inverse": ("DDIMInverseScheduler", NO_CLIP),
    "ddpm": ("DDPMScheduler", NO_CLIP),
    "ddpm_v": ("DDPMScheduler", {**NO_CLIP, **V}),
    "ddpm_parallel": ("DDPMParallelScheduler", NO_CLIP),
    "deis": ("DEISMultistepScheduler", {}),
    "deis_order_3": ("DEISMultistepScheduler", {"solver_order": 3}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", KARRAS),
    "dpmpp_3m_v": ("DPMSolverMultistepScheduler", {**V, "solver_order": 3}),
    "dpm_2m": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "dpmpp_2m_flow": ("DPMSolverMultistepScheduler", FLOW),
    "dpmpp_2m_flow_shifted": ("DPMSolverMultistepScheduler", {**FLOW, **SHIFTING}),
    "sde_dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_inverse": ("DPMSolverMultistepInverseScheduler", {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "dpmpp_3s": ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    "edm_dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {}),
    "edm_euler": ("EDMEulerScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_v_karras": ("EulerDiscreteScheduler", {**V, **KARRAS}),
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow_euler_shifted": ("FlowMatchEulerDiscreteScheduler", {**SHIFTING, "shift_terminal": 0.1}),
    "flow_euler_stochastic": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    "flow_heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "flow_lcm": ("FlowMatchLCMScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "ipndm": ("IPNDMScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "pndm_plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "sa_solver": ("SASolverScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "unclip": ("UnCLIPScheduler", NO_CLIP),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc_flow_shifted": ("UniPCMultistepScheduler", {**FLOW, **SHIFTING}),
    "unipc_3_bh1": (
        "UniPCMultistepScheduler",
        {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    ),
    "cogvideox_ddim": ("CogVideoXDDIMScheduler", NO_CLIP),
}


SIGMAS = np.linspace(1, 1 / 20, 20)
SET_TIMESTEPS: dict[str, dict[str, Any]] = {
    "flow_euler_shifted": {"mu": 0.8, "sigmas": SIGMAS},
    "dpmpp_2m_flow_shifted": {"mu": 0.8},
    "unipc_flow_shifted": {"mu": 0.8, "sigmas": SIGMAS},
}
DRAWS_IN_FLOAT32 = ("sde_dpmpp_2m", "flow_euler_stochastic")


def test_at_least_25_schedulers_are_read() -> None:
    assert len({name for name, _ in SCHEDULERS.values()}) >= 25


def _network(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    """A smooth nonlinear network with values of the size that predictions have."""
    mixed = x.roll(1, -1) + 0.3 * x + shift
    return torch.tanh(mixed + 0.002 * t.reshape(-1, 1, 1, 1)) + 0.1 * x.sin()


def _scheduler_loop(
    scheduler: Any, noise: Tensor, shift: Tensor, generator: torch.Generator
) -> Tensor:
    """Sample as a diffusers pipeline does, with autograd on."""
    sample = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    extra = {"generator": generator} if "generator" in _step_arguments(scheduler) else {}
    for t in scheduler.timesteps:
        scaled = sample
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(sample, t)
        output = _network(scaled, t.to(sample.dtype).expand(len(sample)), shift)
        sample = scheduler.step(output, t, sample, return_dict=False, **extra)[0]
    return sample


def _step_arguments(scheduler: Any) -> set[str]:
    return set(inspect.signature(scheduler.step).parameters)


def _make(name: str) -> Any:
    kind, settings = SCHEDULERS[name]
    return getattr(diffusers, kind)(**settings)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_plan_reproduces_the_scheduler_and_its_gradient(name: str) -> None:
    scheduler = _make(name)
    steps = 20 if name != "pndm" else 30
    arguments = SET_TIMESTEPS.get(name, {})
    plan = Plan.from_scheduler(scheduler, steps, **arguments)

    # Noise drawn in float32 is another stream of numbers than in float64.
    dtype = torch.float32 if name in DRAWS_IN_FLOAT32 else torch.float64
    noise = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    shift = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    direction = torch.randn(2, 3, 4, 4, dtype=dtype)

    denoiser = Denoiser(_network, Schedule.vp_linear(), plan.prediction_type or "epsilon")
    sample = Sampler(denoiser, plan)(noise, shift=shift, generator=torch.Generator().manual_seed(7))
    gradients = torch.autograd.grad((sample * direction).sum(), [noise, shift])

    scheduler.set_timesteps(steps, **arguments)
    expected = _scheduler_loop(scheduler, noise, shift, torch.Generator().manual_seed(7))
    expected_gradients = torch.autograd.grad((expected * direction).sum(), [noise, shift])

    _assert_near(sample, expected.to(dtype), 1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        _assert_near(gradient, expected_gradient, 1e-4)


def _assert_near(value: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (value - expected).norm() / expected.norm()
    assert error < tolerance, f"relative error {error:.1e}"


def test_the_scheduler_is_left_as_it_was() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler()
    before = scheduler.timesteps.clone()
    random_state = torch.get_rng_state()
    Plan.from_scheduler(scheduler, 5)
    assert torch.equal(scheduler.timesteps, before)
    assert scheduler.model_outputs == [None, None]
    assert torch.equal(torch.get_rng_state(), random_state)


def test_custom_timesteps_and_sigmas() -> None:
    plan = Plan.from_scheduler(diffusers.DDPMScheduler(clip_sample=False), timesteps=[900, 400, 50])
    assert plan.timesteps.tolist() == [900, 400, 50]
    plan = Plan.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(), sigmas=[1.0, 0.5, 0.2])
    np.testing.assert_allclose(plan.timesteps, [1000, 500, 200])


def test_eta_makes_ddim_stochastic() -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    plan = Plan.from_scheduler(scheduler, 5, step_arguments={"eta": 1.0})
    assert plan.num_draws == 5
    assert Plan.from_scheduler(scheduler, 5).num_draws == 0


def test_dynamic_shift_is_passed_on() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    near = Plan.from_scheduler(scheduler, 4, mu=0.5)
    far = Plan.from_scheduler(scheduler, 4, mu=1.5)
    assert (far.timesteps[1:] > near.timesteps[1:]).all()


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.DDIMScheduler(), r"clip_sample=True.*Denoiser"),
        (diffusers.DPMSolverMultistepScheduler(thresholding=True), r"thresholding=True.*Denoiser"),
        (diffusers.CMStochasticIterativeScheduler(), r"clip_denoised=True"),
        (diffusers.KarrasVeScheduler(), "step takes"),
        (diffusers.ScoreSdeVeScheduler(), "cannot be read"),
        (diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False),
         r"variance_type='learned_range'.*with a fixed variance.*differentiable"),
        (diffusers.DDPMWuerstchenScheduler(), r"step fails at timestep 1 .*differentiable\(pipe\)"),
        (diffusers.HeliosScheduler(), r"set_timesteps\(num_inference_steps=5\) fails.*stage"),
        (diffusers.PNDMScheduler(prediction_type="sample"), "prediction_type given as sample"),
        (diffusers.DDIMScheduler(clip_sample=False, rescale_betas_zero_snr=True,
                                 timestep_spacing="trailing"), "not finite from network call 0"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_no_plan_is_refused_with_a_reason(scheduler: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan.from_scheduler(scheduler, 5)


def test_a_step_that_clips_unannounced_is_found_out() -> None:
    class Clipping(diffusers.DDIMScheduler):
        def step(self, model_output: Tensor, timestep: int, sample: Tensor, **rest: Any) -> Any:
            return super().step(model_output.clamp(-1, 1), timestep, sample, **rest)

    with pytest.raises(ValueError, match="not linear"):
        Plan.from_scheduler(Clipping(clip_sample=False), 5)


@pytest.mark.parametrize("size", [torch.linalg.vector_norm, lambda x: x.abs().quantile(0.9)])
def test_a_step_that_looks_at_the_latent_as_a_whole_is_found_out(size: Any) -> None:
    """One-hot vectors that run beside random numbers see the same norm."""

    class Normalizing(diffusers.DDIMScheduler):
        def step(self, model_output: Tensor, timestep: int, sample: Tensor, **rest: Any) -> Any:
            return super().step(model_output / size(model_output), timestep, sample, **rest)

    for steps in (1, 5, 40):
        with pytest.raises(ValueError, match="not linear"):
            Plan.from_scheduler(Normalizing(clip_sample=False), steps)


def test_coefficients_of_lms_are_its_own() -> None:
    """They are integrated on floats, where the scheduler integrates on tensors."""
    scheduler = diffusers.LMSDiscreteScheduler()
    plan = Plan.from_scheduler(scheduler, 7)
    scheduler.set_timesteps(7)
    outputs = torch.eye(8, dtype=torch.float64)[:, None, None, None]
    sample = outputs[0] * scheduler.init_noise_sigma
    for k, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(sample, t)
        sample = scheduler.step(outputs[k + 1], t, sample).prev_sample
    torch.testing.assert_close(
        sample.flatten(), torch.from_numpy(plan.table[-1]), rtol=1e-6, atol=1e-6
    )


def test_a_setting_that_step_never_reads_is_no_obstacle() -> None:
    """CogVideoX's scheduler has clip_sample=True in its config, and clips nothing."""
    assert diffusers.CogVideoXDDIMScheduler().config["clip_sample"]
    plan = Plan.from_scheduler(diffusers.CogVideoXDDIMScheduler(), 5)
    other = Plan.from_scheduler(diffusers.CogVideoXDDIMScheduler(clip_sample=False), 5)
    np.testing.assert_array_equal(plan.table, other.table)


def test_a_start_within_a_step_is_refused() -> None:
    """A pair of calls begins with its first: from the second the scheduler would never step."""
    for name in ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler"):
        scheduler = getattr(diffusers, name)()
        with pytest.raises(ValueError, match=r"begin=3 lies within a step.*multiple of 2"):
            Plan.from_scheduler(scheduler, 6, begin=3)
        assert Plan.from_scheduler(scheduler, 6, begin=4).num_calls == 7


def test_a_prediction_type_that_the_class_does_not_read_is_not_believed() -> None:
    config = dict(diffusers.DDIMScheduler(prediction_type="v_prediction").config)
    flow = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    assert flow.config["prediction_type"] == "v_prediction"
    assert Plan.from_scheduler(flow, 4).prediction_type == "flow_prediction"
    ipndm = diffusers.IPNDMScheduler.from_config(config)
    assert Plan.from_scheduler(ipndm, 4).prediction_type is None


def test_a_row_that_reads_nothing_runs() -> None:
    """One step of IPNDM ends where neither the noise nor the output is left."""
    plan = Plan.from_scheduler(diffusers.IPNDMScheduler(), 1)
    denoiser = Denoiser(lambda x, t: x.sin(), Schedule.vp_linear())
    sample = Sampler(denoiser, plan)(torch.randn(2, 3, 4, 4))
    assert sample.shape == (2, 3, 4, 4)
    assert sample.isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", [1, 2])
def test_noise_is_drawn_as_diffusers_draws_it(batch: int) -> None:
    like = torch.zeros(batch, 3, 4)
    for seeds in ([7], [3, 4][:batch]):
        generators = [[torch.Generator().manual_seed(s) for s in seeds] for _ in range(2)]
        ours = Draws(like, generators[0])
        for j in range(2):
            assert torch.equal(ours(j), randn_tensor(like.shape, generators[1]))
    with pytest.raises(ValueError, match="one generator a sample"):
        Draws(like, [torch.Generator()] * 3)


def test_a_thousand_steps_are_compressed_in_no_time() -> None:
    """Row by row without a decomposition: the recurrence of a long plan is found in its length."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    plan = Plan.from_scheduler(scheduler, 1000)
    start = time.process_time()
    assert plan.program.num_live == 3
    assert time.process_time() - start < 1.0  # 0.1 s; it was 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give num_inference_steps"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"sigmas": [1.0]}, "does not take sigmas"),
        ({"num_inference_steps": 5, "step_arguments": {"s_churn": 1.0}}, "does not take s_churn"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan.from_scheduler(diffusers.DDIMScheduler(clip_sample=False), **arguments)


@pytest.mark.parametrize(
    ("timesteps", "table", "message"),
    [
        ([], np.ones((1, 1)), "at least one step"),
        ([1.0], np.ones((2, 3)), "shape"),
        ([1.0], np.array([[1.0, 0.0], [np.nan, 1.0]]), "finite"),
        ([2.0, 1.0], np.ones((3, 3)), "not there yet"),
    ],
)
def test_malformed_tables(timesteps: list[float], table: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(np.array(timesteps), table)


def test_marginals_tell_where_a_plan_ends() -> None:
    schedule = Schedule.from_config(diffusers.DDIMScheduler().config)
    to_zero = Plan.from_scheduler(diffusers.DDIMScheduler(clip_sample=False), 10)
    np.testing.assert_allclose(to_zero.marginals(schedule)[-1], [1, 0], atol=1e-5)
    to_first = Plan.from_scheduler(
        diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False), 10
    )
    expected = [schedule.alpha(0.0), schedule.sigma(0.0)]
    np.testing.assert_allclose(to_first.marginals(schedule)[-1], expected, atol=1e-5)
