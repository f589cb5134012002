"""Classifiers to audit, from wherever they come, and adapters to the field's tools of attack."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
