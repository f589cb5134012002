"""An observer that keeps all it is told."""

from __future__ import annotations

from torch import Tensor

from adjointdpm import Observer
from adjointdpm.form import Point


class Notes(Observer):
    """Products by call, steps and round trips in the order in which they came."""

    def __init__(self) -> None:
        self.products: dict[int, Tensor] = {}
        self.steps: list[tuple[Point, Tensor, Tensor]] = []
        self.round_trips: list[float] = []
        self.error_estimates: list[float] = []

    def on_product(self, k: int, product: Tensor) -> None:
        self.products[k] = product

    def on_step(self, point: Point, x: Tensor, adjoint: Tensor) -> None:
        self.steps.append((point, x, adjoint))

    def on_error_estimate(self, error: float) -> None:
        self.error_estimates.append(error)

    def on_round_trip(self, error: float) -> None:
        self.round_trips.append(error)
