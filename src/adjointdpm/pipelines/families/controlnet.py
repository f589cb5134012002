"""ControlNet (arXiv 2302.05543): a UNet steered by a picture, which can receive a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...plan import Plan
from ..diffusers_private import execution_device
from ..family import Conditioning
from ..requests import PromptRequest, Size
from .stable_diffusion import StableDiffusion
from .stable_diffusion_xl import StableDiffusionXL
from .unets import UNetFamily

Interval = tuple[float, float]


class ControlledUNet(nn.Module):
    """A UNet with the residuals of a ControlNet, or of several, added to its own.

    Args:
        unet: the UNet.
        controlnet: a ControlNetModel or MultiControlNetModel.
    """

    def __init__(self, unet: nn.Module, controlnet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor | list[Tensor],
        conditioning_scale: Any = 1.0,
        control_times: Interval | Sequence[Interval] | None = None,
        added_cond_kwargs: dict[str, Any] | None = None,
        **cond: Any,
    ) -> Any:
        """Return the UNet's output.

        Args:
            x: (batch, channels, height, width) latents.
            t: (batch,) times.
            encoder_hidden_states: (batch, tokens, dim) prompts, for both networks.
            controlnet_cond: (batch, 3, height, width) picture in [0, 1], in pixels; a list of them
                for several ControlNets.
            conditioning_scale: weight of the residuals, a number or a tensor of one; a list of them
                for several ControlNets.
            control_times: the lowest and the highest time with control (see `control_times`); a
                list of such pairs for several ControlNets; None for all times.
            added_cond_kwargs: further conditioning, for both networks.
            **cond: conditioning of the UNet alone.
        """
        if control_times is not None:
            if isinstance(controlnet_cond, list):
                pairs = zip(conditioning_scale, control_times, strict=True)
                conditioning_scale = [scale * _inside(x, t, each) for scale, each in pairs]
            else:
                conditioning_scale = conditioning_scale * _inside(x, t, control_times)
        down, mid = self.controlnet(
            x,
            t,
            encoder_hidden_states=encoder_hidden_states,
            controlnet_cond=controlnet_cond,
            conditioning_scale=conditioning_scale,
            added_cond_kwargs=added_cond_kwargs,
            return_dict=False,
        )
        return self.unet(
            x,
            t,
            encoder_hidden_states=encoder_hidden_states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            added_cond_kwargs=added_cond_kwargs,
            **cond,
        )


def _inside(x: Tensor, t: Tensor, interval: Any) -> Tensor:
    """Return 1 for each sample of ``x`` whose time is in the interval, and 0 for others."""
    lowest, highest = interval
    return ((t >= lowest) & (t <= highest)).to(x.dtype).reshape(-1, 1, 1, 1)


def control_times(plan: Plan, start: float = 0.0, end: float = 1.0) -> Interval:
    """Return the times at which diffusers' control_guidance_start and _end leave control on.

    The network knows its time and not its step, so the steps are told to it as an interval of
    times: ``sampler(noise, control_times=control_times(sampler.plan, 0.0, 0.5), **cond)``.

    Args:
        plan: of the sampler.
        start: the share of the network calls after which control begins.
        end: the share after which it ends.

    Returns:
        The lowest and the highest time.

    Raises:
        ValueError: no call is left.
    """
    calls = plan.num_calls
    kept = [
        t for i, t in enumerate(plan.timesteps) if i / calls >= start and (i + 1) / calls <= end
    ]
    if not kept:
        raise ValueError(f"no call of {calls} is controlled from {start} to {end}")
    return float(min(kept)), float(max(kept))


@dataclass(frozen=True)
class Control:
    """What steers the network.

    Args:
        control_image: a picture or one for each sample, as the pipeline takes it; a tensor in
            [0, 1] can receive a gradient. A list for several ControlNets.
        controlnet_conditioning_scale: weight of the control; a list for several ControlNets.
        guess_mode: not supported.
    """

    control_image: Any
    controlnet_conditioning_scale: Any = 1.0
    guess_mode: bool = False


class Controlled(UNetFamily):
    """A family of UNets with control: a mix-in in front of the family without it."""

    def unet(self) -> nn.Module:
        """Return the UNet with the ControlNets."""
        return ControlledUNet(self.pipe.unet, self.pipe.controlnet)

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the conditioning of a prompt and a picture; see `Control`.

        Raises:
            ValueError: a mode in which control is for one of the two passes of guidance only.
        """
        control, request = request.split(Control)
        nets = getattr(self.pipe.controlnet, "nets", None)
        if control.guess_mode or any(
            net.config.global_pool_conditions for net in nets or [self.pipe.controlnet]
        ):
            raise ValueError(
                "guess_mode and ControlNets with global_pool_conditions control the conditional "
                "pass only, which is not supported: both passes are one network here"
            )
        positive, negative = super().encode(request)
        batch = len(positive["encoder_hidden_states"])
        images, scale = control.control_image, control.controlnet_conditioning_scale
        if nets is None:
            pictures = self._prepared(images, batch, request.size)
            return {**positive, "controlnet_cond": pictures, "conditioning_scale": scale}, negative
        if len(images) != len(nets):
            raise ValueError(f"{len(nets)} ControlNets need as many pictures, not {len(images)}")
        scales = scale if isinstance(scale, list) else [scale] * len(nets)
        several = [self._prepared(image, batch, request.size) for image in images]
        return {**positive, "controlnet_cond": several, "conditioning_scale": scales}, negative

    def _prepared(self, image: Any, batch: int, size: Size) -> Tensor:
        pipe = self.pipe
        prepare = getattr(pipe, "prepare_image", None) or pipe.prepare_control_image
        device, dtype = execution_device(pipe), pipe.controlnet.dtype
        picture: Tensor = prepare(image, size.width, size.height, batch, 1, device, dtype)
        return picture


class StableDiffusionControlNet(Controlled, StableDiffusion):
    """StableDiffusionControlNetPipeline, and from a picture."""


class StableDiffusionXLControlNet(Controlled, StableDiffusionXL):
    """StableDiffusionXLControlNetPipeline, and from a picture."""
