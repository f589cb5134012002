"""What a run has to show: parts of pages, plots and pictures."""

from .page import duration, percent, render_page, size
from .pictures import contact_sheet, data_uri, save_picture, to_pil
from .plots import curves_svg, losses_svg
from .previews import Previews
from .run_page import Fact, RunPage, Shown, ShownRow, Spent, WrittenFile, write_run_page

__all__ = [
    "Fact",
    "Previews",
    "RunPage",
    "Shown",
    "ShownRow",
    "Spent",
    "WrittenFile",
    "contact_sheet",
    "curves_svg",
    "data_uri",
    "duration",
    "losses_svg",
    "percent",
    "render_page",
    "save_picture",
    "size",
    "to_pil",
    "write_run_page",
]
