"""The families of pipelines, one module each, and what several of them share."""

from .registry import FAMILIES

__all__ = ["FAMILIES"]
