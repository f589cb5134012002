"""Noise for stock calls that draw it themselves instead of taking ``latents``."""

import torch
from torch.overrides import TorchFunctionMode


class FirstDraw(TorchFunctionMode):
    """Hands out a given noise where normal numbers are first drawn, and leaves the generator."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.randn and self.noise is not None:
            noise, self.noise = self.noise, None
            return noise
        return func(*args, **(kwargs or {}))


def call_with_first_draw(pipe, call, arguments):
    """As `case.call_stock`, with ``latents`` as the first draw."""
    arguments = dict(arguments)
    with FirstDraw(arguments.pop("latents")):
        return call(pipe, return_dict=False, **arguments)[0]
