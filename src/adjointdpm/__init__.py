"""Gradients through diffusion sampling."""

# Names are imported when they are first asked for: torch and diffusers take seconds, which neither
# a completion nor `adjointdpm --version` should wait for. The names stand in __init__.pyi.
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
