"""Pictures and curves of the report."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork, objective, some_emb, some_noise
from PIL import Image

import adjointdpm
from adjointdpm.report import (
    Fact,
    Previews,
    RunPage,
    Shown,
    ShownRow,
    Spent,
    WrittenFile,
    plots,
    render_page,
)
from adjointdpm.report.pictures import contact_sheet, data_uri, to_pil
from adjointdpm.report.plots import curves_svg
from adjointdpm.runs import History, OptimizeConfig, RunResult, optimize


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


VOID = {"meta", "img", "br"}


class Tags(HTMLParser):
    """Raises unless every element is closed where it was opened."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.images, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes)
        if tag == "a":
            self.links.append(attributes["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def read(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags, " ".join(" ".join(tags.text).split())


def run_page(**changes):
    return RunPage(
        **{
            "title": "A <word> learnt",
            "command": "adjointdpm embed --seed 3",
            "settings": {"seed": 3, "device": None},
            "environment": {"torch": "2.13.0"},
            **changes,
        }
    )


def test_a_page_shows_what_a_run_has(gradient):
    certificate, cost = gradient
    pictures = [
        ShownRow(
            "noise 1",
            [
                Shown(torch.rand(3, 32, 32), "A cat", ["judge: 3 %"]),
                Shown(torch.rand(3, 256, 256), 'A "dog"', ["judge: 93 %", "dog"], good=True),
            ],
        )
    ]
    history = History([3.0, 1.0, 0.5], [2.0, 1.0, 1.5])
    page = run_page(
        facts=[Fact("3 of 4", "seen")],
        pictures=pictures,
        curves=[curves_svg({"loss": history.losses}, "update", "loss")],
        certificate=certificate,
        predicted=cost,
        spent=Spent.of(history, RunResult(seconds=75.0, peak_memory=3 * 2**29, environment={})),
        files=[WrittenFile("learned_embeds.safetensors", "the word", "pipe.load(...)")],
    )
    tags, text = read(render_page("report", "base.html", page=page))
    for shown in (
        "A <word> learnt",
        "3 of 4 seen",
        "Before and after before after noise 1",
        "judge: 93 % dog",
        "exact: the gradient is that of plain autograd, to rounding.",
        "time of an update (median)",
        "1.5 s",
        "1.50 GiB",
        "1 min 15 s",
        "learned_embeds.safetensors the word",
        "pipe.load(...)",
        "adjointdpm embed --seed 3",
        "device not set",
        "torch 2.13.0",
    ):
        assert shown in text, shown
    assert [image["alt"] for image in tags.images] == ["A cat", 'A "dog"']
    assert [image.get("class") for image in tags.images] == ["small", None]
    assert all(image["src"].startswith("data:image/png") for image in tags.images)
    assert tags.links == ["learned_embeds.safetensors"]


def test_what_a_run_does_not_have_is_left_out():
    _, text = read(render_page("report", "base.html", page=run_page()))
    assert text == (
        "A <word> learnt A <word> learnt How this was made adjointdpm embed --seed 3 seed 3 "
        "device not set torch 2.13.0"
    )


@pytest.fixture(scope="module")
def gradient():
    """Return the certificate and the cost of a small gradient."""
    torch.manual_seed(0)
    plan = adjointdpm.solvers.build("ddim", PROCESSES["vp"], 3)
    network = SmallNetwork().requires_grad_(False)
    sampler = adjointdpm.Sampler(adjointdpm.Denoiser(network, PROCESSES["vp"]), plan)
    noise, emb = some_noise(), some_emb()
    certificate = adjointdpm.certify(sampler, noise, objective, emb=emb)
    return certificate, sampler.cost(noise, emb=emb)


def test_previews_are_written_and_change_nothing(tmp_path):
    def run(folder, *callbacks):
        torch.manual_seed(3)
        x = torch.zeros(2, requires_grad=True)
        config = OptimizeConfig(output_dir=folder, max_train_steps=5, progress_bar=False)
        optimize(
            {"x": x}, lambda _: (x - torch.rand(2)).square().sum(), config, callbacks=callbacks
        )
        return x

    previews = Previews(lambda: torch.rand(2, 3, 4, 5), tmp_path / "run", every=2, enlarge=3)
    assert torch.equal(run(tmp_path / "run", previews), run(tmp_path / "plain"))
    folder = tmp_path / "run" / "previews"
    names = ["step-000000.png", "step-000002.png", "step-000004.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert Image.open(folder / names[1]).size == (3 * (5 + 2 + 5), 3 * 4)
