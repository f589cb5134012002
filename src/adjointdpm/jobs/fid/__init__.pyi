"""FID and KID of what a pipeline draws, or of a folder of pictures."""

from .config import FidConfig
from .page import write_fid_report
from .run import FidResult, run_fid

__all__ = [
    "FidConfig",
    "FidResult",
    "run_fid",
    "write_fid_report",
]
