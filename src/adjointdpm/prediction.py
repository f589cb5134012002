"""What a network's output says: the clean sample and the noise, as linear functions of it.

A network sees ``x = alpha x_0 + sigma eps`` and answers with ``f``, which is one of diffusers' four
``prediction_type``s. Each gives ``x_0`` and ``eps`` as ``a x + b f`` with numbers ``a, b`` that
depend on alpha and sigma alone. That is why samplers are linear in the network's outputs.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeVar, get_args

from torch import Tensor

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
Number = TypeVar("Number", float, Tensor)
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)


class Linear(NamedTuple):
    """The linear function ``x, f -> x_weight * x + output_weight * f``; floats or tensors."""

    x_weight: Any
    output_weight: Any


def check_prediction_type(prediction_type: str) -> None:
    """Raise ValueError unless ``prediction_type`` is one of diffusers' four words."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type {prediction_type!r} is not known; it must be one of "
            + ", ".join(PREDICTION_TYPES)
        )


def _inverse(denominator: Any, wanted: str, prediction_type: str) -> Any:
    if not isinstance(denominator, Tensor) and denominator == 0:
        part = "data" if wanted == "x_0" else "noise"
        raise ZeroDivisionError(
            f"a network that predicts {prediction_type!r} says nothing of {wanted} at a time with "
            f"no {part} in its input; use v_prediction or flow_prediction, or timesteps that "
            "leave that end out"
        )
    return 1 / denominator


def to_sample(prediction_type: str, alpha: Any, sigma: Any) -> Linear:
    """Return x_0 as a linear function of the input x and the output f.

    Args:
        prediction_type: one of ``epsilon``, ``sample``, ``v_prediction``, ``flow_prediction``.
        alpha: scale of the data in x, a float or a tensor.
        sigma: standard deviation of the noise in x, likewise.

    Raises:
        ZeroDivisionError: the output carries no x_0 at this time (``epsilon`` at alpha = 0).
    """
    if prediction_type == "sample":
        return Linear(0.0, 1.0)
    if prediction_type == "epsilon":
        inverse = _inverse(alpha, "x_0", prediction_type)
        return Linear(inverse, -sigma * inverse)
    if prediction_type == "v_prediction":
        norm = alpha**2 + sigma**2
        return Linear(alpha / norm, -sigma / norm)
    check_prediction_type(prediction_type)
    return Linear(1 / (alpha + sigma), -sigma / (alpha + sigma))


def to_noise(prediction_type: str, alpha: Any, sigma: Any) -> Linear:
    """Return eps as a linear function of the input x and the output f; see `to_sample`."""
    if prediction_type == "epsilon":
        return Linear(0.0, 1.0)
    if prediction_type == "sample":
        inverse = _inverse(sigma, "eps", prediction_type)
        return Linear(inverse, -alpha * inverse)
    if prediction_type == "v_prediction":
        norm = alpha**2 + sigma**2
        return Linear(sigma / norm, alpha / norm)
    check_prediction_type(prediction_type)
    return Linear(1 / (alpha + sigma), alpha / (alpha + sigma))


def from_sample(prediction_type: str, alpha: Any, sigma: Any) -> Linear:
    """Return f as a linear function of the input x and of x_0: the inverse of `to_sample`."""
    x_weight, output_weight = to_sample(prediction_type, alpha, sigma)
    inverse = _inverse(output_weight, "x_0", prediction_type)
    return Linear(-x_weight * inverse, inverse)


def output_of(
    prediction_type: str, alpha: Number, sigma: Number
) -> tuple[float | Number, float | Number]:
    """Return ``(a, b)`` such that a perfect network answers ``a x_0 + b eps``."""
    check_prediction_type(prediction_type)
    weights: dict[str, tuple[float | Number, float | Number]] = {
        "epsilon": (0.0, 1.0),
        "sample": (1.0, 0.0),
        "v_prediction": (-sigma, alpha),
        "flow_prediction": (-1.0, 1.0),
    }
    return weights[prediction_type]
