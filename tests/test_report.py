"""Pictures and curves of the report."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

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
