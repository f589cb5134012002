"""How good a gradient is, from the command line."""

from .config import CertifyConfig
from .run import METHODS, run_certify

__all__ = [
    "METHODS",
    "CertifyConfig",
    "run_certify",
]
