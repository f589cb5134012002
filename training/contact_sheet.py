"""A labelled sheet of pictures: sections of rows, one concept a row, one style a column."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

Section = tuple[str, list[str], torch.Tensor, torch.Tensor | None]
CELL, GAP, LABEL_WIDTH, HEADER, COLUMNS = 64, 4, 104, 16, 4
FRAME, INK = (220, 60, 40), (40, 40, 40)


def to_image(picture: torch.Tensor) -> Image.Image:
    array = picture.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def wrapped(label: str) -> str:
    """Break a label in two lines at the blank nearest its middle when it is long."""
    if len(label) <= 16 or " " not in label:
        return label
    blanks = [i for i, c in enumerate(label) if c == " "]
    middle = min(blanks, key=lambda i: abs(i - len(label) / 2))
    return label[:middle] + "\n" + label[middle + 1 :]


def write_contact_sheet(
    path: Path, styles: list[str], sections: list[Section], columns: int = COLUMNS
) -> None:
    """Each section is (title, labels, pictures (rows, styles, 3, h, w), frames (rows, styles))."""
    font = ImageFont.load_default(11)
    block = LABEL_WIDTH + len(styles) * (CELL + GAP) + 2 * GAP
    heights = [
        2 * HEADER + -(-len(labels) // columns) * (CELL + GAP) + 2 * GAP
        for _, labels, _, _ in sections
    ]
    sheet = Image.new("RGB", (columns * block, sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    top = 0
    for (title, labels, pictures, frames), height in zip(sections, heights, strict=True):
        pen.text((GAP, top + 2), title, INK, font)
        rows = -(-len(labels) // columns)
        for k, label in enumerate(labels):
            left = k // rows * block
            y = top + 2 * HEADER + k % rows * (CELL + GAP)
            if k % rows == 0:
                for s, style in enumerate(styles):
                    x = left + LABEL_WIDTH + s * (CELL + GAP)
                    pen.text((x + 8, top + HEADER), style, INK, font)
            pen.multiline_text((left + GAP, y + CELL // 2 - 12), wrapped(label), INK, font)
            for s in range(len(styles)):
                x = left + LABEL_WIDTH + s * (CELL + GAP)
                sheet.paste(to_image(pictures[k, s]), (x, y))
                if frames is not None and frames[k, s]:
                    pen.rectangle((x - 1, y - 1, x + CELL, y + CELL), outline=FRAME)
        top += height
    sheet.quantize(112, dither=Image.Dither.NONE).save(path, optimize=True)
