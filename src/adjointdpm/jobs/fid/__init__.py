"""FID and KID of what a pipeline draws, or of a folder of pictures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
