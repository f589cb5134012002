"""The sampler: a denoiser, a plan and a way to take the gradient, as one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .conditioning import check_conditioning, is_dense, layout_of, named_leaves, sample_of
from .cost import Cost, predict
from .denoiser import Denoiser
from .gradients import Collect, Exact, GradientMethod, Observer, Run
from .guidance import GuidanceScale, check_guidance_scale
from .path import Trajectory, states_of
from .per_step import PerStep, on_steps
from .plan import CounterNoise, Draws, Plan

Generator = torch.Generator | Sequence[torch.Generator] | CounterNoise
"""Where the noises that are drawn on the way come from."""


class Sampler(nn.Module):
    """Draws samples; differentiable in the noise, the conditioning and the network's weights.

    It holds no state between calls, so it can be used any number of times before ``backward``, and
    it can be wrapped whole in ``DistributedDataParallel``.

    Args:
        denoiser: the network.
        plan: the table of the sampler.
        gradient: the gradient method; `Exact` by default.
        check_finite: raise FloatingPointError, naming the step, where a network output or an
            adjoint is not finite (one device synchronisation a sweep). Turn it off under a
            ``GradScaler``, which skips such steps itself.
        adjoint_scale: with ``auto`` the adjoint is scaled by a power of two where it goes through a
            network in float16 (weights or autocast), where it might else underflow; None leaves
            it. Networks of other dtypes, and `Backprop`, are not concerned.
        observer: is told what reverse sweeps find, see `Observer`.

    Raises:
        ValueError: the plan was made for another prediction type than the denoiser's.
        TypeError: ``gradient`` is not a gradient method.

    >>> from adjointdpm import Schedule, solvers
    >>> schedule = Schedule.vp_linear()
    >>> denoiser = Denoiser(lambda x, t, shift: x - shift, schedule)
    >>> sampler = Sampler(denoiser, solvers.build("ddim", schedule, num_inference_steps=10))
    >>> shift = torch.zeros(1, 3, requires_grad=True)
    >>> sample = sampler(torch.randn(2, 3), shift=shift)
    >>> sample.sum().backward()
    >>> shift.grad.shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plan: Plan,
        gradient: GradientMethod | None = None,
        *,
        check_finite: bool = True,
        adjoint_scale: Literal["auto"] | None = "auto",
        observer: Observer | None = None,
    ) -> None:
        super().__init__()
        # What torch.compile made of a denoiser is none, and hands on its attributes.
        _check_kind("denoiser", getattr(denoiser, "_orig_mod", denoiser), Denoiser)
        _check_kind("plan", plan, Plan)
        if gradient is not None:
            _check_kind("gradient", gradient, GradientMethod)
        if plan.prediction_type not in (None, denoiser.prediction_type):
            raise ValueError(
                f"{plan.name} was made for prediction_type={plan.prediction_type!r}, but the "
                f"denoiser's network predicts {denoiser.prediction_type!r}; build both with the "
                "same prediction_type"
            )
        if adjoint_scale not in ("auto", None):
            raise ValueError(f"adjoint_scale must be 'auto' or None, not {adjoint_scale!r}")
        self.denoiser = denoiser
        self.plan = plan
        self.gradient = gradient if gradient is not None else Exact()
        self.check_finite = check_finite
        self.adjoint_scale = adjoint_scale
        self.observer = observer

    @overload
    def __call__(self, noise: Tensor, /, *, collect: None = None, **arguments: Any) -> Tensor: ...
    @overload
    def __call__(
        self, noise: Tensor, /, *, collect: Collect, **arguments: Any
    ) -> tuple[Tensor, Any]: ...
    @overload
    def __call__(self, /, *args: Any, **arguments: Any) -> Tensor: ...
    def __call__(self, /, *args: Any, **arguments: Any) -> Any:
        """Return the samples; see `forward`."""
        if not args and "noise" in arguments:
            args = (arguments.pop("noise"),)
        for name in ("self", "return_answers"):
            if name in arguments:
                raise TypeError(
                    f"conditioning named {name!r} cannot be passed on to a network; wrap the "
                    "network in a module that takes it by another name"
                )
        return super().__call__(*args, **arguments)

    def forward(
        self,
        noise: Tensor,
        /,
        *,
        generator: Generator | None = None,
        draws: Tensor | None = None,
        guidance_scale: GuidanceScale | None = None,
        collect: Collect | None = None,
        **cond: Any,
    ) -> Any:
        """Return the samples for standard-normal latents.

        Args:
            noise: (batch, ...) standard-normal latent; the plan scales it.
            generator: source of the noises that a stochastic plan draws on the way, or one for each
                sample; with a `CounterNoise` the same call always gives the same sample.
            draws: (num_draws, batch, ...) those noises themselves, differentiable too.
            guidance_scale: in place of the denoiser's own, see `Denoiser`; a tensor can receive a
                gradient.
            collect: a function ``(k, t, x, output, answer) -> tensors`` of every network call: its
                number, its time, the network's input, the denoiser's output, and all that the
                network answered (with guidance the pair of the unconditional and the conditional
                answer). What it returns, a tensor or a nest of them, is stacked over the calls, and
                a loss on it has its gradient, with the activations of one call.
            **cond: the network's conditioning, any nest of tensors; ``negative_<name>`` for the
                unconditional pass of guidance, `PerStep` for what changes on the way.

        Returns:
            (batch, ...) samples, in float32 or the noise's own dtype if that is float64. With
            ``collect`` a pair of them and of the collected tensors, (num_calls, ...) each.

        Raises:
            TypeError: something of the wrong kind, or conditioning that the network does not take.
            ValueError: a wrong shape or dtype, or a tensor that requires grad and can get none.
            FloatingPointError: a value that is not finite, with the step where it arose.
        """
        run = self.prepare(
            noise,
            cond,
            generator=generator,
            draws=draws,
            guidance_scale=guidance_scale,
            collect=collect,
        )
        try:
            return self.gradient.sample(run) if collect is None else self.gradient.collect(run)
        except FloatingPointError as error:
            self._blame_inputs(run, error)
            raise

    def trajectory(self, noise: Tensor, /, **arguments: Any) -> Trajectory:
        """Return the way that the samples took, differentiable as they are.

        Args:
            noise: as in `forward`.
            **arguments: as in `forward`, the conditioning among them.

        Returns:
            The latent and the predicted clean sample at every network call, and the samples.

        Raises:
            ValueError: as `forward`, or a gradient method that is one of the sample alone.

        >>> from adjointdpm import Schedule, solvers
        >>> schedule = Schedule.vp_linear()
        >>> plan = solvers.build("ddim", schedule, num_inference_steps=4)
        >>> noise = torch.randn(2, 3, requires_grad=True)
        >>> path = Sampler(Denoiser(lambda x, t: x.sin(), schedule), plan).trajectory(noise)
        >>> path.latents.shape, path.pred_original_sample.shape
        (torch.Size([4, 2, 3]), torch.Size([4, 2, 3]))
        >>> path.pred_original_sample.square().mean().backward()
        """
        sample, (latents, predicted) = self(noise, collect=states_of(self.denoiser), **arguments)
        return Trajectory(torch.tensor(self.plan.timesteps), latents, predicted, sample)

    def cost(
        self,
        noise: Tensor,
        /,
        *,
        generator: Generator | None = None,
        draws: Tensor | None = None,
        guidance_scale: GuidanceScale | None = None,
        **cond: Any,
    ) -> Cost:
        """Predict what one gradient will take, from one network call, before it is computed.

        Args:
            noise: (batch, ...) the latent, with ``requires_grad`` as it will be used.
            generator: as in `forward`; nothing is drawn from it.
            draws: as in `forward`.
            guidance_scale: as in `forward`.
            **cond: conditioning, with ``requires_grad`` as it will be used.

        Returns:
            Network calls, seconds and peak memory; see `Cost`.

        Raises:
            ValueError: as `forward`, or a method whose steps depend on the network's values.

        >>> from adjointdpm import Schedule, solvers
        >>> schedule = Schedule.vp_linear()
        >>> plan = solvers.build("ddim", schedule, num_inference_steps=10)
        >>> cost = Sampler(Denoiser(lambda x, t: x.sin(), schedule), plan).cost(torch.randn(2, 3))
        >>> cost.forward_calls, cost.products
        (10, 0)
        """
        run = self.prepare(
            noise, cond, generator=generator, draws=draws, guidance_scale=guidance_scale
        )
        return predict(self.gradient, run)

    def prepare(
        self,
        noise: Tensor,
        cond: dict[str, Any],
        *,
        generator: Generator | None = None,
        draws: Tensor | None = None,
        guidance_scale: GuidanceScale | None = None,
        collect: Collect | None = None,
    ) -> Run:
        """Check what is given to the sampler, and return it together; arguments as in `forward`."""
        _check_latent("noise", noise)
        if noise.ndim < 2 or noise.numel() == 0:
            raise ValueError(
                f"noise must have the shape (batch, ...) with something in it, not "
                f"{tuple(noise.shape)}"
            )
        # Adjoints and latents are sums over many calls: half precision would lose them.
        noise = noise.to(_at_least_float32(noise.dtype))
        if draws is not None:
            draws = self._checked_draws(draws, noise)
        self._check_plan()
        if collect is not None and not callable(collect):
            raise TypeError(
                "collect must be a function (k, t, x, output, answer) -> tensors, not "
                f"{collect!r:.80}; conditioning of this name cannot be passed on"
            )
        check_conditioning(cond, noise.device)
        cond = self._with_guidance(cond, guidance_scale, noise)
        plan = self.plan
        return Run(
            denoiser=self.denoiser,
            plan=plan,
            noise=noise,
            draws=Draws(noise, checked_generator(generator, len(noise)), draws),
            cond=on_steps(cond, plan.timesteps[list(plan.step_starts or ())].tolist(), plan.name),
            check_finite=self.check_finite,
            adjoint_scale=self.adjoint_scale,
            observer=self.observer,
            collect=collect,
        )

    def _check_plan(self) -> None:
        """Raise where coefficients or times would silently get no gradient, or are out of date."""
        variables = self.plan.variables
        variables.refuse_changes()
        if variables and torch.is_grad_enabled() and not self.gradient.differentiates_plan:
            raise ValueError(
                f"the plan was made with tensors that require grad, and {self.gradient!r} gives "
                "them none: use Exact() (without max_latents) or Backprop(), or detach them"
            )

    def _checked_draws(self, draws: Tensor, noise: Tensor) -> Tensor:
        _check_latent("draws", draws)
        expected = (self.plan.num_draws, *noise.shape)
        if draws.shape != expected or draws.device != noise.device:
            raise ValueError(
                f"draws must have the shape (num_draws, *noise.shape) = {expected} and be on "
                f"{noise.device}, not {tuple(draws.shape)} on {draws.device}"
            )
        return draws.to(noise.dtype)

    def _with_guidance(
        self, cond: dict[str, Any], guidance_scale: GuidanceScale | None, noise: Tensor
    ) -> dict[str, Any]:
        """Return the conditioning with the guidance scale of this call, or one to differentiate.

        So it is an input of the denoiser like any other, for every gradient method.
        """
        own = self.denoiser.guidance_scale
        check_guidance_scale(own if guidance_scale is None else guidance_scale)
        is_input = isinstance(own, Tensor | PerStep) and not isinstance(own, nn.Parameter)
        if guidance_scale is None and is_input:
            guidance_scale = own
        if guidance_scale is None:
            return cond
        return {
            **cond,
            "guidance_scale": pytree.tree_map_only(
                Tensor, lambda scale: scale.to(noise.device, noise.dtype), guidance_scale
            ),
        }

    def _blame_inputs(self, run: Run, error: FloatingPointError) -> None:
        """Say so where what the sampler was given is not finite itself."""
        given = [("noise", run.noise), ("draws", run.draws.given), *named_leaves(run.cond)]
        for name, tensor in [*given, *self.denoiser.named_parameters()]:
            if isinstance(tensor, Tensor) and not _is_finite(tensor.detach()):
                raise FloatingPointError(f"{name} is not finite: {error}") from error

    def extra_repr(self) -> str:
        """Return the plan and the method, for ``print(sampler)``."""
        return f"plan={self.plan!r}, gradient={self.gradient!r}"


def _check_kind(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__} object, not {value!r:.80}")


def _check_latent(name: str, latent: Any) -> None:
    if not isinstance(latent, Tensor):
        raise TypeError(f"{name} must be a tensor, not an object of type {type(latent).__name__}")
    if not is_dense(latent):
        raise ValueError(f"{name} must be a dense tensor, not a {layout_of(latent)} one")
    if not latent.is_floating_point():
        raise ValueError(f"{name} must be a floating-point latent, not {latent.dtype}")


def _is_finite(tensor: Tensor) -> bool:
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return bool(torch.isfinite(dense).all())


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def checked_generator(generator: Any, batch: int) -> Any:
    """Return where noise comes from, as `Draws` takes it."""
    if generator is None or isinstance(generator, torch.Generator | CounterNoise):
        return generator
    if not isinstance(generator, list | tuple) or not all(
        isinstance(one, torch.Generator) for one in generator
    ):
        raise TypeError(
            "generator must be a torch.Generator, a list with one for each sample or a "
            f"CounterNoise, not {generator!r:.80}; conditioning of this name cannot be passed on, "
            "so wrap the network to rename it"
        )
    if len(generator) not in (1, batch):
        raise ValueError(f"give one generator for each sample: {batch}, not {len(generator)}")
    return list(generator) if len(generator) > 1 else generator[0]


def sample_each(
    denoiser: Denoiser,
    plans: Sequence[Plan],
    noise: Tensor,
    gradient: GradientMethod | None = None,
    **cond: Any,
) -> Tensor:
    """Sample each latent of a batch with a plan of its own, one after the other.

    For the plans of ``solvers.adaptive(..., per_sample=True)``. Samples with different steps have
    different network times at each call, so they are not batched: the price is the batch.

    Args:
        denoiser: the network.
        plans: one for each sample.
        noise: (batch, ...) standard-normal latents.
        gradient: the gradient method; `Exact` by default.
        **cond: conditioning; tensors as long as the batch are cut, others are shared.

    Returns:
        (batch, ...) samples, differentiable.

    Raises:
        ValueError: there are more or fewer plans than samples.
    """
    if len(plans) != len(noise):
        raise ValueError(f"{len(noise)} samples need as many plans, not {len(plans)}")
    samples = [
        Sampler(denoiser, plan, gradient)(noise[i : i + 1], **sample_of(cond, i, len(noise)))
        for i, plan in enumerate(plans)
    ]
    return torch.cat(samples)
