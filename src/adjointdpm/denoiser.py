"""The denoiser: a network with its prediction type, guidance and clipping; tensors in, tensor out.

All that is not linear in sampling is here, so that a `Plan` can be a table of numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .prediction import check_prediction_type, from_sample, to_sample
from .schedule import Schedule

NEGATIVE = "negative_"

GuidanceScale = Callable[[Any], Any]
"""The weight of guidance for a time: a number for a number, a tensor for a tensor."""


class Denoiser(nn.Module):
    """A network as the samplers see it: ``denoiser(x, t, **cond)`` answers with its prediction.

    The network is called as ``network(x, t, **cond)`` with x in its own scale and t of shape
    (batch,). A network that is an ``nn.Module`` gets x and all floating-point conditioning in the
    dtype of its weights; gradients come back in the dtype that was passed in. It may return a
    tensor, a tuple whose first entry is the tensor, or an object with ``.sample``. Conditioning is
    any nest of dicts, lists and tuples of tensors; every tensor in it can receive a gradient.

    The network may be compiled with ``torch.compile``, and so may the denoiser itself.

    With guidance, a keyword ``negative_<name>`` holds what the unconditional pass gets in place of
    ``<name>``, as diffusers names it; keywords without a negative are shared by both passes.

    Args:
        network: the model, an ``nn.Module`` wherever its weights are to receive gradients.
        schedule: the process that it was trained for.
        prediction_type: ``epsilon``, ``sample``, ``v_prediction`` or ``flow_prediction``.
        guidance_scale: weight of classifier-free guidance (arXiv 2207.12598); 1 for none. It may be
            a function of the time, such as one of an interval (arXiv 2404.07724).
        guidance_rescale: share of the output rescaled to the standard deviation of the conditional
            one (arXiv 2305.08891, eq. 16).
        guidance_passes: ``batched`` runs both passes as one doubled batch; ``sequential`` runs two
            calls, for half the activation memory.
        clip_sample: clip the predicted x_0 to ``[-clip_sample_range, clip_sample_range]``.
        clip_sample_range: the bound for ``clip_sample``.
        thresholding: dynamic thresholding of x_0 (Imagen, arXiv 2205.11487, section 2.3).
        dynamic_thresholding_ratio: the quantile of |x_0| taken as the threshold.
        sample_max_value: the largest threshold.

    Raises:
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
        guidance_scale: float | GuidanceScale = 1.0,
        guidance_rescale: float = 0.0,
        guidance_passes: Literal["batched", "sequential"] = "batched",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
    ) -> None:
        super().__init__()
        check_prediction_type(prediction_type)
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

    def forward(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return the guided and clipped prediction for the input ``x`` at time ``t``.

        Args:
            x: (batch, ...) network input, ``alpha(t) x_0 + sigma(t) eps``.
            t: the network's time, a number or a tensor of shape () or (batch,).
            **cond: conditioning of the network, and its ``negative_`` counterparts.

        Returns:
            A prediction of the shape and dtype of ``x``.
        """
        positive = {k: v for k, v in cond.items() if not k.startswith(NEGATIVE)}
        negative = {k[len(NEGATIVE) :]: v for k, v in cond.items() if k.startswith(NEGATIVE)}
        self._check_guidance(positive, negative)
        times = time_tensor(t, x)
        if self.guidance_scale == 1.0:
            output = self._call(x, times, positive)
        else:
            scale = self.guidance_scale
            weight = _column(scale(t), x) if callable(scale) else scale
            output = self._guided(x, times, weight, positive, {**positive, **negative})
        if self.clip_sample or self.thresholding:
            output = self._with_clipped_sample(x, t, output)
        return output

    def _check_guidance(self, positive: dict[str, Any], negative: dict[str, Any]) -> None:
        unpaired = set(negative) - set(positive)
        if unpaired:
            raise ValueError(
                f"{NEGATIVE}{min(unpaired)} is given without {min(unpaired)}; both passes need it"
            )
        if self.guidance_scale != 1.0 and not negative:
            raise ValueError(
                f"guidance_scale={self.guidance_scale} needs the unconditional conditioning: pass "
                "it as negative_<name> beside each <name>, such as negative_encoder_hidden_states"
            )

    def _call(self, x: Tensor, times: Tensor, cond: dict[str, Any]) -> Tensor:
        dtype = self.network_dtype
        if dtype is None:
            output = self.network(x, times, **cond)
        else:
            output = self.network(x.to(dtype), times, **_cast(cond, dtype))
        if not isinstance(output, Tensor):
            output = output.sample if hasattr(output, "sample") else output[0]
        if output.shape != x.shape:
            raise ValueError(
                f"the network answered an input of shape {tuple(x.shape)} with an output of shape "
                f"{tuple(output.shape)}; they must be equal (a learned variance must be cut off)"
            )
        return output.to(x.dtype)

    def _guided(
        self,
        x: Tensor,
        times: Tensor,
        weight: float | Tensor,
        positive: dict[str, Any],
        negative: dict[str, Any],
    ) -> Tensor:
        if self.guidance_passes == "sequential":
            unconditional = self._call(x, times, negative)
            conditional = self._call(x, times, positive)
        else:
            both = _stack_conditioning(negative, positive, len(x))
            output = self._call(torch.cat([x, x]), torch.cat([times, times]), both)
            unconditional, conditional = output.chunk(2)
        guided = unconditional + weight * (conditional - unconditional)
        if self.guidance_rescale > 0.0:
            dims = tuple(range(1, x.ndim))
            scale = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
            guided = guided * (1 + self.guidance_rescale * (scale - 1))
        return guided

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


def _cast(cond: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the conditioning with its floating-point tensors in a dtype."""
    return pytree.tree_map_only(
        Tensor, lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, cond
    )


def _stack_conditioning(
    negative: dict[str, Any], positive: dict[str, Any], batch: int
) -> dict[str, Any]:
    """Stack two nests of conditioning along the batch, leaving alone what has no batch."""
    negative_leaves, structure = pytree.tree_flatten(negative)
    positive_leaves, positive_structure = pytree.tree_flatten(positive)
    if structure != positive_structure:
        raise ValueError(
            "the conditioning and its negative must be nested alike, but they are "
            f"{positive_structure} and {structure}"
        )

    def stack(name: str, without: Any, with_: Any) -> Any:
        if not isinstance(with_, Tensor):
            return with_
        paired = without is not with_
        if with_.ndim == 0 or (not paired and len(with_) not in (1, batch)):
            return with_
        rows = [
            leaf.expand(batch, *leaf.shape[1:]) if len(leaf) == 1 else leaf
            for leaf in (without, with_)
        ]
        if rows[0].shape != rows[1].shape or len(rows[0]) != batch:
            raise ValueError(
                f"{NEGATIVE}{name} has the shape {tuple(without.shape)} and {name} "
                f"{tuple(with_.shape)}; batched guidance needs equal shapes that start with the "
                f"batch of {batch} or 1 (pad them, or use guidance_passes='sequential')"
            )
        return torch.cat(rows)

    names = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(positive)[0]]
    stacked = [stack(*leaf) for leaf in zip(names, negative_leaves, positive_leaves, strict=True)]
    return pytree.tree_unflatten(stacked, structure)
