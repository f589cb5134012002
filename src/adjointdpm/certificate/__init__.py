"""How good is this gradient? Measured, not promised."""

from .certify import Derivatives, certify
from .results import Certificate, StepCertificate, TargetCertificate

__all__ = [
    "Certificate",
    "Derivatives",
    "StepCertificate",
    "TargetCertificate",
    "certify",
]
