"""From latents to pictures, with a gradient that does not die at black and white."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from ..memory import LiveMemory
from ..recompute import through_float16
from .bounded import bounded_decode

Clamp = Literal["straight_through", "hard", "none"]


def to_unit_range(images: Tensor, clamp: Clamp = "straight_through") -> Tensor:
    """Map pictures from [-1, 1] to [0, 1].

    Args:
        images: (batch, channels, height, width), about [-1, 1].
        clamp: what becomes of values outside. ``straight_through`` clamps them and passes the
            gradient on as if it had not: a white background has an overshoot in half its pixels,
            which could otherwise never be darkened. ``hard`` has the gradient of ``clamp`` itself,
            zero there. ``none`` leaves them outside.

    Returns:
        Pictures of the same shape, in [0, 1] unless ``clamp`` is ``none``.
    """
    if clamp not in get_args(Clamp):
        raise ValueError(f"clamp must be one of {', '.join(get_args(Clamp))}, not {clamp!r}")
    images = images * 0.5 + 0.5
    if clamp == "none":
        return images
    clamped = images.clamp(0, 1)
    if clamp == "hard":
        return clamped
    return images + (clamped - images).detach()


@dataclass(frozen=True)
class DecodeCost:
    """What decoding and its gradient need besides weights and latents."""

    peak_memory: int
    """The most bytes of tensors alive at once, forward and backward."""
    forward_memory: int
    """The same of the forward pass alone."""
    picture_bytes: int
    """Bytes of the pictures themselves, which the backward pass sees twice."""


class Decoder(nn.Module):
    """Pictures of latents, in [0, 1] and the latents' dtype, differentiable with bounded memory.

    The graphs of single blocks of the autoencoder are made in the backward pass, one at a time, for
    each slice of the batch, each tile (``vae.enable_tiling()``) and each chunk of frames in turn.
    The gradient is that of a plain ``vae.decode``. A family whose autoencoder is called in another
    way overrides `decode`; what it calls ``vae.decode`` for is bounded as well.

    Args:
        vae: the autoencoder of the pipeline; it runs in its own dtype.
        scaling_factor: what latents were multiplied with to have unit variance: a number, or a
            tensor that broadcasts against latents.
        shift_factor: what was subtracted from them before.
        clamp: see `to_unit_range`.
        slice_size: how many of a batch are decoded at once; None for all.
        checkpoint_blocks: whether blocks of the autoencoder are run again in the backward pass.
            Without, one slice, tile or chunk is run again as a whole, which takes one forward
            pass less and has all its activations alive.
    """

    vae: Any

    def __init__(
        self,
        vae: nn.Module,
        scaling_factor: float | Tensor = 1.0,
        shift_factor: float | Tensor = 0.0,
        clamp: Clamp = "straight_through",
        *,
        slice_size: int | None = 1,
        checkpoint_blocks: bool = True,
    ) -> None:
        super().__init__()
        self.vae = vae
        # Not buffers, which would be rounded to the autoencoder's dtype with it.
        self.scaling_factor = torch.as_tensor(scaling_factor, dtype=torch.float64)
        self.shift_factor = torch.as_tensor(shift_factor, dtype=torch.float64)
        self.clamp: Clamp = clamp
        self.slice_size = slice_size
        self.checkpoint_blocks = checkpoint_blocks

    def forward(self, latents: Tensor, clamp: Clamp | None = None) -> Tensor:
        """Return the pictures of ``latents``.

        Args:
            latents: (batch, channels, height, width), what the sampler returns.
            clamp: in place of the decoder's own setting.
        """
        return self._pictures(latents, clamp or self.clamp)

    if TYPE_CHECKING:
        __call__ = forward

    def _pictures(self, latents: Tensor, clamp: Clamp, *, same_environment: bool = True) -> Tensor:
        unscaled = latents / self.scaling_factor.to(latents) + self.shift_factor.to(latents)
        bounded = bounded_decode(
            self.vae, self.slice_size, self.checkpoint_blocks, same_environment=same_environment
        )
        with bounded:
            images = self._decode_in_own_dtype(unscaled)
        return to_unit_range(images, clamp)

    def _decode_in_own_dtype(self, latents: Tensor) -> Tensor:
        weights = list(self.vae.parameters())
        dtype = weights[0].dtype
        trained = any(weight.requires_grad for weight in weights)
        if dtype == torch.float16 and latents.dtype != dtype and not trained:
            return through_float16(self.decode, latents)
        return self.decode(latents.to(dtype)).to(latents.dtype)

    def cost(self, latents: Tensor) -> DecodeCost:
        """Predict the memory of decoding and of its gradient, without running either.

        All operators are run on tensors without memory. What kernels allocate for themselves (the
        workspace of a convolution) is not seen, nor is what an allocator loses to fragmentation.

        Args:
            latents: such as will be decoded; only shape, dtype and device matter.

        Returns:
            The bytes, for gradients with respect to latents and all weights that require grad.
        """
        dry = FakeTensorMode(allow_non_fake_inputs=True)
        tensors = [*self.parameters(), *self.buffers()]
        twin = copy.deepcopy(self, {id(tensor): dry.from_tensor(tensor) for tensor in tensors})
        with dry, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
            leaf = torch.empty(latents.shape, dtype=latents.dtype, device=latents.device)
            wanted = [leaf.requires_grad_(), *(p for p in twin.parameters() if p.requires_grad)]
            with LiveMemory() as memory, torch.enable_grad():
                pictures = twin._pictures(leaf, self.clamp, same_environment=False)
                forward = memory.peak
                adjoint = torch.empty_like(pictures)
                torch.autograd.grad(pictures, wanted, adjoint, allow_unused=True)
        return DecodeCost(memory.peak, forward, pictures.untyped_storage().nbytes())

    def decode(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's pictures, about [-1, 1], of latents in its own scale."""
        return self.vae.decode(latents, return_dict=False)[0]

    def extra_repr(self) -> str:
        """Return the settings, for ``print(decode)``."""
        return (
            f"clamp={self.clamp!r}, slice_size={self.slice_size}, "
            f"checkpoint_blocks={self.checkpoint_blocks}"
        )
