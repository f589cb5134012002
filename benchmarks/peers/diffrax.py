"""diffrax, in JAX, on the mixture: recursive checkpointing and its continuous adjoint.

All is compiled; peaks are those that the compiler planned, `temp_size_in_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from problems import Problem

jax.config.update("jax_enable_x64", True)

SOLVERS = {"euler": diffrax.Euler, "heun": diffrax.Heun}


@dataclass(frozen=True)
class Compiled:
    """A compiled function with its arguments and its peak."""

    function: Any
    arguments: tuple[Any, ...]

    def __call__(self) -> list[Any]:
        return [np.array(value) for value in jax.block_until_ready(self.function(*self.arguments))]

    @property
    def peak_bytes(self) -> int:
        return int(self.function.memory_analysis().temp_size_in_bytes)


def _compile(function: Callable[..., Any], problem: Problem) -> Compiled:
    """Compile a function of noise and means, which returns their gradients."""
    arguments = tuple(_array(tensor) for tensor in problem.targets)
    return Compiled(jax.jit(function).lower(*arguments).compile(), arguments)


def _array(tensor: Any) -> Any:
    return jnp.asarray(tensor.detach().cpu().numpy())


def _drift(problem: Problem) -> Callable[[Any, Any, Any], Any]:
    """Return dy/dr of the mixture, (r, y, means) -> (batch, dim)."""
    mixture = problem.denoiser.network.mixture
    stds, weights = _array(mixture.stds)[None, :, None], _array(mixture.weights)

    def drift(r: Any, y: Any, means: Any) -> Any:
        alpha = 1 / jnp.sqrt(1 + r**2)
        sigma = r * alpha
        variance = alpha**2 * stds**2 + sigma**2
        residual = alpha * (y[:, None] - means)
        log_likelihood = -0.5 * (residual**2 / variance + jnp.log(variance)).sum(2)
        posterior = jax.nn.softmax(jnp.log(weights) + log_likelihood, axis=1)[:, :, None]
        return (posterior * sigma * residual / variance).sum(1)

    return drift


def gradients(problem: Problem, *, adjoint: str) -> Compiled:
    """Return the compiled gradient.

    Args:
        problem: the mixture.
        adjoint: ``recursive`` or ``backsolve``.
    """
    # diffrax turns time around where it descends, and the grid of the way back with it: -r ascends.
    times = -np.array(problem.ratios)
    kinds = {
        "recursive": diffrax.RecursiveCheckpointAdjoint(),
        "backsolve": diffrax.BacksolveAdjoint(
            stepsize_controller=diffrax.StepTo(times[::-1].copy())
        ),
    }
    drift, cotangent = _drift(problem), _array(problem.cotangent)
    scale = float(problem.plan.table[0, 0]) / problem.points[0].alpha

    def objective(noise: Any, means: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, means: -drift(-t, y, means)),
            SOLVERS[problem.solver](),
            t0=times[0],
            t1=times[-1],
            dt0=None,
            y0=scale * noise,
            args=means,
            stepsize_controller=diffrax.StepTo(times),
            adjoint=kinds[adjoint],
            max_steps=len(times) - 1,
        )
        return (cotangent * problem.points[-1].alpha * solution.ys[-1]).sum()

    return _compile(jax.grad(objective, argnums=(0, 1)), problem)


def network_calls(problem: Problem) -> Compiled:
    """Return N calls, and N calls with their gradients, as one compiled function."""
    ratios = jnp.asarray(np.resize(problem.ratios, problem.plan.num_calls))
    drift, cotangent = _drift(problem), _array(problem.cotangent)

    def calls(noise: Any, means: Any) -> Any:
        def plain(total: Any, r: Any) -> Any:
            return total + drift(r, noise, means), None

        def differentiated(totals: Any, r: Any) -> Any:
            _, pull_back = jax.vjp(lambda y, m: drift(r, y, m), noise, means)
            return jax.tree.map(jnp.add, totals, pull_back(cotangent)), None

        total, _ = jax.lax.scan(plain, jnp.zeros_like(noise), ratios)
        zeros = jnp.zeros_like(noise), jnp.zeros_like(means)
        (noise_gradient, means_gradient), _ = jax.lax.scan(differentiated, zeros, ratios)
        return noise_gradient + 0 * total, means_gradient

    return _compile(calls, problem)
