"""Attacks on classifiers: where points may go, what is climbed, by which steps, and in batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
