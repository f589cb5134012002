"""How good is this gradient? Measured, not promised."""

from .certify import Derivatives, Progress, certify
from .results import Certificate, StepCertificate, TargetCertificate

__all__ = [
    "Certificate",
    "Derivatives",
    "Progress",
    "StepCertificate",
    "TargetCertificate",
    "certify",
]
