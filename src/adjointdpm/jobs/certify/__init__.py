"""How good a gradient is, from the command line."""

from .run import METHODS, CertifyConfig, run_certify

__all__ = [
    "METHODS",
    "CertifyConfig",
    "run_certify",
]
