"""What a run has to show: parts of pages, plots and pictures."""

from .pictures import contact_sheet, data_uri, to_pil
from .plots import curves_svg

__all__ = [
    "contact_sheet",
    "curves_svg",
    "data_uri",
    "to_pil",
]
