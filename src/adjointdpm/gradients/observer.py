"""Whom a reverse sweep tells what it finds."""

from __future__ import annotations

from torch import Tensor

from ..form import Point


class Observer:
    """Is told what happens in the reverse sweeps of a sampler: ``Sampler(..., observer=...)``.

    All methods do nothing; a subclass overrides those whose news it wants. Nothing that they are
    given may be changed in place. A sweep that nobody observes computes none of it.

    >>> import torch
    >>> from adjointdpm import Denoiser, Sampler, Schedule, solvers
    >>> class Norms(Observer):
    ...     def on_product(self, k: int, product: Tensor) -> None:
    ...         print(k, tuple(product.shape))
    >>> schedule = Schedule.vp_linear()
    >>> plan = solvers.build("ddim", schedule, num_inference_steps=3)
    >>> sampler = Sampler(Denoiser(lambda x, t: x.sin(), schedule), plan, observer=Norms())
    >>> sampler(torch.randn(2, 3, requires_grad=True)).sum().backward()
    2 (2, 3)
    1 (2, 3)
    0 (2, 3)
    """

    def on_product(self, k: int, product: Tensor) -> None:
        """Hear of one vector-Jacobian product, from the image to the noise.

        Args:
            k: the network call, of the method's ``swept_plan``.
            product: (batch, ...) what the adjoint of the call's output gives its input.
        """

    def on_step(self, point: Point, x: Tensor, adjoint: Tensor) -> None:
        """Hear of a step of a method that solves the adjoint ODE; of its end too, after the last.

        Args:
            point: where in the process.
            x: (batch, ...) the state there that the sweep uses.
            adjoint: (batch, ...) that of x.
        """

    def on_error_estimate(self, error: float) -> None:
        """Hear how large a method takes its own error to be, from the products that it took.

        Args:
            error: of the gradient, relative to its norm.
        """

    def on_round_trip(self, error: float) -> None:
        """Hear how far a sweep that rebuilds its states ended from where the run had started.

        Args:
            error: the distance relative to the norm of the start.
        """
