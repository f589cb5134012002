"""Auditing a classifier: how easily pictures that a diffusion model draws fool it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
