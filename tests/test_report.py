"""Pictures and curves of the report."""

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

import adjointdpm
from adjointdpm.report import plots
from adjointdpm.report.pictures import contact_sheet, data_uri, to_pil
from adjointdpm.report.plots import curves_svg


def test_enlarged_picture_has_square_pixels():
    image = torch.rand(3, 4, 5)
    small, large = np.asarray(to_pil(image)), np.asarray(to_pil(image, enlarge=4))
    assert large.shape == (16, 20, 3)
    assert (large[::4, ::4] == small).all()
    assert (large[3::4, 3::4] == small).all()


def test_contact_sheet():
    sheet = contact_sheet([torch.zeros(3, 3, 4, 5), torch.zeros(3, 3, 4, 5)], gap=2)
    assert sheet.shape == (3, 4 + 2 + 4, 5 + 2 + 5 + 2 + 5)
    assert sheet[:, 4:6].min() == 1
    assert sheet[:, :4, :5].max() == 0


def test_data_uri_is_the_picture():
    image = torch.rand(3, 6, 6)
    header, content = data_uri(image).split(",")
    assert header == "data:image/png;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert (decoded == np.asarray(to_pil(image))).all()


def test_curves_are_svg_and_repeatable():
    svg = curves_svg({"a": [3.0, 2.0, 1.0], "b": [1.0]}, "step", "loss")
    assert ElementTree.fromstring(svg.encode()).tag.endswith("svg")
    assert ">loss<" in svg
    assert svg == curves_svg({"a": [3.0, 2.0, 1.0], "b": [1.0]}, "step", "loss")


def luminance(colour):
    """Of WCAG 2.1, from 0 for black to 1 for white."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast_on_light_and_dark_pages():
    page = (Path(adjointdpm.__file__).parent / "report" / "base.html").read_text()
    schemes = re.findall(r"(--ink:.*?)}", page, re.DOTALL)
    assert len(schemes) == 2
    for scheme, curve in zip(schemes, (plots.LIGHT, plots.DARK), strict=True):
        colours = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        for ground in (colours["page"], colours["card"]):
            for text in (
                colours["ink"],
                colours["soft"],
                colours["accent"],
                colours["good"],
                curve,
            ):
                assert contrast(text, ground) >= 4.5, (text, ground)
        for line in plots.COLOURS:
            assert contrast(line, colours["page"]) >= 3, (line, colours["page"])


def test_a_curve_says_what_it_shows():
    svg = curves_svg({"a": [3.0, 2.0]}, "step", "loss", description='falls from "3" <to> 2')
    root = ElementTree.fromstring(svg.encode())
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'falls from "3" <to> 2'
    assert "currentColor" in svg
    assert plots.INK not in svg
