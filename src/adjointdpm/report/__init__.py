"""What a run has to show: parts of pages, plots and pictures."""

from .page import duration, percent, render_page
from .pictures import contact_sheet, data_uri, save_picture, to_pil
from .plots import curves_svg

__all__ = [
    "contact_sheet",
    "curves_svg",
    "data_uri",
    "duration",
    "percent",
    "render_page",
    "save_picture",
    "to_pil",
]
