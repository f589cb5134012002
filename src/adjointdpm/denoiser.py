"""The denoiser: a network with its prediction type, guidance and clipping; tensors in, tensor out.

All that is not linear in sampling is here, so that a `Plan` can be a table of numbers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .conditioning import cast, halves, is_dense, layout_of, split, stack
from .guidance import GuidanceScale, check_guidance_scale, guide, is_off, weight_at
from .per_step import at_time
from .prediction import check_prediction_type, from_sample, to_sample
from .schedule import Schedule


class Denoiser(nn.Module):
    """A network as the samplers see it: ``denoiser(x, t, **cond)`` answers with its prediction.

    The network is called as ``network(x, t, **cond)`` with x in its own scale and t of shape
    (batch,). A network that is an ``nn.Module`` gets x and all floating-point conditioning in the
    dtype of its weights; gradients come back in the dtype that was passed in. It may return a
    tensor, a tuple or list whose first entry is the tensor, an object with ``.sample``, or a dict
    with ``"sample"``; ``output`` picks another entry. Conditioning is any nest of dicts, lists and
    tuples of tensors; every tensor in it can receive a gradient.

    The network may be compiled with ``torch.compile``, and so may the denoiser itself.

    With guidance, a keyword ``negative_<name>`` holds what the unconditional pass gets in place of
    ``<name>``, as diffusers names it; keywords without a negative are shared by both passes.

    Args:
        network: the model, an ``nn.Module`` wherever its weights are to receive gradients.
        schedule: the process that it was trained for.
        prediction_type: ``epsilon``, ``sample``, ``v_prediction`` or ``flow_prediction``.
        guidance_scale: weight of classifier-free guidance (arXiv 2207.12598); 1 for none. It may be
            a tensor, with one number or one for each sample, which can receive a gradient (as an
            ``nn.Parameter`` it is one of the denoiser's weights), a `PerStep` of either, or a
            function of the time that returns either, such as one of an interval (arXiv 2404.07724).
        guidance_rescale: share of the output, from 0 to 1, rescaled to the standard deviation of
            the conditional one (arXiv 2305.08891, eq. 16).
        guidance_passes: ``batched`` runs both passes as one doubled batch; ``sequential`` runs two
            calls, for half the activation memory.
        clip_sample: clip the predicted x_0 to ``[-clip_sample_range, clip_sample_range]``.
        clip_sample_range: the bound for ``clip_sample``.
        thresholding: dynamic thresholding of x_0 (Imagen, arXiv 2205.11487, section 2.3).
        dynamic_thresholding_ratio: the quantile of |x_0| taken as the threshold.
        sample_max_value: the largest threshold.
        output: which entry of the network's answer is the prediction: a key of a dict, the name of
            an attribute, or the number of an entry.

    Raises:
        TypeError: a network that cannot be called, or a setting of the wrong kind.
        ValueError: an unknown word, or a setting out of its range.

    >>> denoiser = Denoiser(lambda x, t: x, Schedule.rectified_flow(), "flow_prediction")
    >>> denoiser(torch.ones(2, 3), 0.5).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        network: Callable[..., Any],
        schedule: Schedule,
        prediction_type: str = "epsilon",
        *,
        guidance_scale: GuidanceScale = 1.0,
        guidance_rescale: float = 0.0,
        guidance_passes: Literal["batched", "sequential"] = "batched",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        output: str | int | None = None,
    ) -> None:
        super().__init__()
        _check_network(network)
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"schedule must be a Schedule, such as Schedule.from_config(scheduler.config), not "
                f"{_kind(schedule)}"
            )
        check_prediction_type(prediction_type)
        check_guidance_scale(guidance_scale)
        _check_range("guidance_rescale", guidance_rescale, 0.0, 1.0)
        _check_range("clip_sample_range", clip_sample_range, 0.0, math.inf)
        _check_range("dynamic_thresholding_ratio", dynamic_thresholding_ratio, 0.0, 1.0)
        _check_range("sample_max_value", sample_max_value, 1.0, math.inf)
        if guidance_passes not in ("batched", "sequential"):
            raise ValueError(
                f"guidance_passes must be 'batched' or 'sequential', not {guidance_passes!r}"
            )
        if clip_sample and thresholding:
            raise ValueError("choose one of clip_sample and thresholding")
        self.network = network
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.guidance_scale = guidance_scale
        self.guidance_rescale = guidance_rescale
        self.guidance_passes = guidance_passes
        self.clip_sample = clip_sample
        self.clip_sample_range = clip_sample_range
        self.thresholding = thresholding
        self.dynamic_thresholding_ratio = dynamic_thresholding_ratio
        self.sample_max_value = sample_max_value
        self.output = output

    def forward(
        self,
        x: Tensor,
        t: float | Tensor,
        /,
        *,
        guidance_scale: GuidanceScale | None = None,
        return_answers: bool = False,
        **cond: Any,
    ) -> Any:
        """Return the guided and clipped prediction for the input ``x`` at time ``t``.

        Args:
            x: (batch, ...) network input, ``alpha(t) x_0 + sigma(t) eps``.
            t: the network's time, a number or a tensor of shape () or (batch,).
            guidance_scale: in place of the denoiser's own.
            return_answers: return what the network answered too, as it answered it.
            **cond: conditioning of the network, and its ``negative_`` counterparts.

        Returns:
            A prediction of the shape and dtype of ``x``. With ``return_answers`` a pair of it and
            of the network's whole answer; with guidance that is a pair itself, of the
            unconditional and the conditional answer, with the tensors of a doubled batch cut.

        Raises:
            TypeError: the network takes other arguments, or answers with something else than a
                tensor.
            ValueError: conditioning or an answer that does not fit.
        """
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        positive, negative = split(at_time(cond, t, len(x)))
        times = time_tensor(t, x)
        if is_off(scale):
            output, *answers = self._call(x, times, positive)
        else:
            if not negative:
                raise ValueError(
                    f"a guidance_scale {_shortly(scale)} needs the unconditional conditioning: "
                    "pass it as negative_<name> beside each <name>, such as "
                    "negative_encoder_hidden_states"
                )
            weight = weight_at(scale, t, x)
            output, *answers = self._guided(x, times, weight, positive, {**positive, **negative})
        if self.clip_sample or self.thresholding:
            output = self._with_clipped_sample(x, t, output)
        if not return_answers:
            return output
        if is_off(scale):
            return output, answers[0]
        return output, tuple(answers) if len(answers) == 2 else halves(answers[0], len(x))

    def _call(self, x: Tensor, times: Tensor, cond: dict[str, Any]) -> tuple[Tensor, Any]:
        """Return the prediction of the network, and its answer."""
        dtype = self.network_dtype
        given, cond = (x, cond) if dtype is None else (x.to(dtype), cast(cond, dtype))
        answer = self._ask(given, times, cond)
        return prediction_in(answer, self.output, x), answer

    def _ask(self, x: Tensor, times: Tensor, cond: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():
            return self.network(x, times, **cond)
        try:
            return self.network(x, times, **cond)
        except TypeError as error:
            refuse_arguments(self.network, cond, error)
            raise

    def _guided(
        self,
        x: Tensor,
        times: Tensor,
        weight: float | Tensor,
        positive: dict[str, Any],
        negative: dict[str, Any],
    ) -> tuple[Any, ...]:
        """Return the guided prediction, and the answers of the calls that it takes."""
        if self.guidance_passes == "sequential":
            unconditional, first = self._call(x, times, negative)
            conditional, second = self._call(x, times, positive)
            answers = [first, second]
        else:
            both = stack(negative, positive, len(x))
            output, *answers = self._call(torch.cat([x, x]), torch.cat([times, times]), both)
            unconditional, conditional = output.chunk(2)
        return guide(unconditional, conditional, weight, self.guidance_rescale), *answers

    def _with_clipped_sample(self, x: Tensor, t: float | Tensor, output: Tensor) -> Tensor:
        """Clip the x_0 that the output stands for, and return the output of the clipped one."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        a, b = to_sample(self.prediction_type, alpha, sigma)
        sample = _column(a, x) * x + _column(b, x) * output
        if self.thresholding:
            sample = self._threshold(sample)
        else:
            sample = sample.clamp(-self.clip_sample_range, self.clip_sample_range)
        a, b = from_sample(self.prediction_type, alpha, sigma)
        return _column(a, x) * x + _column(b, x) * sample

    def _threshold(self, sample: Tensor) -> Tensor:
        magnitudes = sample.flatten(1).abs()
        limit = magnitudes.quantile(self.dynamic_thresholding_ratio, dim=1)
        limit = limit.clamp(1.0, self.sample_max_value)
        limit = limit.reshape((-1,) + (1,) * (sample.ndim - 1))
        return sample.clamp(-limit, limit) / limit

    @property
    def network_dtype(self) -> torch.dtype | None:
        """The dtype of the network's weights; None for a network that has none."""
        own = getattr(self.network, "dtype", None)
        if isinstance(own, torch.dtype):  # of models of diffusers, some of whose weights differ
            return own
        if isinstance(self.network, nn.Module):
            for parameter in self.network.parameters():
                if parameter.is_floating_point():
                    return parameter.dtype
        return None


def time_tensor(t: float | Tensor, x: Tensor) -> Tensor:
    """Return the time of each sample of ``x``, (batch,), in float32 or x's own dtype if finer."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if isinstance(t, Tensor):
        return t.to(x.device, dtype).expand(len(x))
    # Filled where it is needed: a copy of a number to a GPU would make the host wait.
    return torch.full((len(x),), t, dtype=dtype, device=x.device)


def _column(value: float | Tensor, x: Tensor) -> float | Tensor:
    """Return a number, or one for each sample of ``x`` in a shape that broadcasts against it."""
    return value.to(x).reshape(-1, *[1] * (x.ndim - 1)) if isinstance(value, Tensor) else value


def prediction_in(answer: Any, output: str | int | None, x: Tensor) -> Tensor:
    """Return the prediction among what a network answered, in the dtype of its input.

    Args:
        answer: a tensor, or something that holds one.
        output: which of its entries, see `Denoiser`.
        x: the network's input.

    Raises:
        TypeError: there is no tensor where it is looked for.
        ValueError: its shape, dtype, layout or device is not the input's.
    """
    prediction = _entry(answer, output)
    if not isinstance(prediction, Tensor):
        within = "" if prediction is answer else f" as the entry of {_kind(answer)}"
        raise TypeError(
            f"the network answered with {_kind(prediction)}{within}; it must return a tensor, a "
            "tuple that begins with one, an object with .sample or a dict with 'sample'. "
            "Denoiser(..., output=key) picks another entry"
        )
    if not is_dense(prediction) or not prediction.is_floating_point():
        what = (
            str(prediction.dtype) if is_dense(prediction) else f"a {layout_of(prediction)} tensor"
        )
        raise ValueError(
            f"the network answered with {what}; it must be a dense tensor of floating-point numbers"
        )
    if prediction.shape != x.shape:
        raise ValueError(
            f"the network answered an input of shape {tuple(x.shape)} with an output of shape "
            f"{tuple(prediction.shape)}; they must be equal (a learned variance must be cut off)"
        )
    if prediction.device != x.device:
        raise ValueError(
            f"the network answered an input on {x.device} with an output on {prediction.device}; "
            f"they must be on the same device"
        )
    return prediction.to(x.dtype)


def _entry(answer: Any, output: str | int | None) -> Any:
    """Return the entry of an answer that ``output`` means."""
    if output is not None:
        if isinstance(output, str) and not isinstance(answer, Mapping):
            found = getattr(answer, output, None)
        else:
            try:
                found = answer[output]
            except (LookupError, TypeError):
                found = None
        if found is None:
            raise ValueError(
                f"the network answered with {_kind(answer)}, which has no entry "
                f"{output!r} as Denoiser(..., output={output!r}) asks for"
            )
        return found
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping):
        if "sample" not in answer:
            raise ValueError(
                f"the network answered with {_kind(answer)} and no 'sample' among them; say which "
                "is the prediction with Denoiser(..., output=key)"
            )
        return answer["sample"]
    if hasattr(answer, "sample"):
        return answer.sample
    return answer[0] if isinstance(answer, tuple | list) and answer else answer


def refuse_arguments(network: Any, cond: dict[str, Any], error: TypeError) -> None:
    """Raise where a TypeError came because a network does not take what it was called with.

    Args:
        network: what was called.
        cond: the conditioning.
        error: what it raised.

    Raises:
        TypeError: says which arguments the network takes.
    """
    try:
        signature = inspect.signature(getattr(network, "forward", network))
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, None, **cond)
    except TypeError as mismatch:
        name = type(network).__name__ if isinstance(network, nn.Module) else "the network"
        given = ", ".join(["x", "t", *(f"{key}=..." for key in cond)])
        raise TypeError(
            f"{name} takes {signature} and cannot be called as network({given}): {mismatch}. "
            "Conditioning is passed on by name: use the names of the network's own arguments after "
            "the first two, which are x and t; wrap the network to rename any"
        ) from error


def _check_network(network: Any) -> None:
    if isinstance(network, type):
        raise TypeError(
            f"the network must be a module or a function, not the class {network.__name__}; make "
            f"an object of it: {network.__name__}(...)"
        )
    if not callable(network):
        raise TypeError(
            f"the network must be a module or a function network(x, t, **cond), not "
            f"{_kind(network)}; load it first, such as a diffusers pipeline's .unet"
        )


def _check_range(name: str, value: Any, least: float, most: float) -> None:
    if not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {_kind(value)}")
    if not least <= value <= most:
        limit = f"from {least:g} to {most:g}" if most < math.inf else f"at least {least:g}"
        raise ValueError(f"{name} must be {limit}, not {value}")


def _shortly(scale: GuidanceScale) -> str:
    return f"of {scale}" if isinstance(scale, int | float) else f"({_kind(scale)})"


def _kind(value: Any) -> str:
    """Return what a value is, in words for an error message."""
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(repr, value)) or 'nothing'}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple | str) and not value:
        return f"an empty {type(value).__name__}"
    return f"an object of type {type(value).__name__}"
