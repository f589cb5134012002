"""The embedded model loads, and what the documents show runs on it."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_pipeline import LABELS, WORDLESS, write_assets

import adjointdpm as adp
from adjointdpm.assets import ASSETS_VARIABLE, assets_folder
from adjointdpm.tour import TourConfig

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def default():
    try:
        assets_folder()
    except FileNotFoundError:
        pytest.skip("the package carries no model yet")
    return adp.load_default()


def test_embedded_model_takes_two_steps(default):
    sampler, decode = adp.from_pipeline(default.pipeline, 2, 3.0)
    words = default.concepts
    cond = adp.encode_prompt(default.pipeline, words.prompt(words.generic_noun, words.styles[0]))
    noise = torch.randn(1, 4, 16, 16, requires_grad=True)
    images = decode(sampler(noise, **cond))
    assert images.shape == (1, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    metric = adp.objectives.ClassifierLogProbability(default.classifier, words.wordless[0].label)
    metric(images).sum().backward()
    assert noise.grad.isfinite().all()
    assert noise.grad.abs().max() > 0


def test_every_stored_weight_is_in_use(default):
    """Names that a release of transformers does not know would leave random weights in place."""
    folder, pipe = default.folder / "emoji-diffusion", default.pipeline
    modules = {folder / name: getattr(pipe, name) for name in ("unet", "vae", "text_encoder")}
    for name in ("classifier", "judge"):
        modules[default.folder / name] = getattr(default, name).model
    for part, module in modules.items():
        [file] = part.glob("*.safetensors")
        stored, prefix = load_file(file), "text_model."
        in_use = {name.removeprefix(prefix): each for name, each in module.state_dict().items()}
        assert {name.removeprefix(prefix) for name in stored} == set(in_use), part
        for name, tensor in stored.items():
            assert torch.equal(in_use[name.removeprefix(prefix)], tensor.float()), (part, name)


def test_its_files_name_no_folder_of_the_machine_that_trained_it(default):
    for file in assets_folder().rglob("*.json"):
        assert "_name_or_path" not in file.read_text(encoding="utf-8"), file


def test_embedded_model_is_frozen_and_agrees_on_words(default):
    pipe = default.pipeline
    modules = (pipe.unet, pipe.vae, pipe.text_encoder, default.classifier, default.judge)
    parameters = [p for module in modules for p in module.parameters()]
    assert not any(p.requires_grad for p in parameters)
    assert {p.dtype for p in parameters} == {torch.float32}
    labels = [concept.label for concept in default.concepts.concepts]
    assert default.classifier.labels == default.judge.labels == labels
    assert {TourConfig.guide_target, TourConfig.embed_target} <= set(labels)
    assert len(default.concepts.wordless) == 12


def test_readme_example_runs(default):
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    names = {}
    for whole, small in {"range(20)": "range(2)", "steps=25": "steps=3"}.items():
        assert whole in example
        example = example.replace(whole, small)
    exec(example, names)
    assert names["images"].shape == (1, 3, 64, 64)
    assert names["noise"].grad.abs().max() > 0


def test_another_folder(tmp_path, monkeypatch):
    folder = write_assets(tmp_path / "assets")
    loaded = adp.load_default(folder)
    assert loaded.folder == folder
    assert loaded.classifier.labels == LABELS
    assert [concept.label for concept in loaded.concepts.wordless] == WORDLESS
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"unset {ASSETS_VARIABLE}"):
        adp.load_default()


@pytest.mark.parametrize("part", ["classifier", "emoji-diffusion/unet"])
def test_pickled_weights_are_refused(tmp_path, part):
    folder = write_assets(tmp_path / "assets")
    [weights] = (folder / part).glob("*.safetensors")
    name = "pytorch_model.bin" if part == "classifier" else "diffusion_pytorch_model.bin"
    torch.save(load_file(weights), weights.with_name(name))
    weights.unlink()
    with pytest.raises(ValueError, match="any code that is in the file"):
        adp.load_default(folder)


def test_code_beside_the_weights_does_not_run(tmp_path):
    folder = write_assets(tmp_path / "assets")
    (folder / "judge" / "mine.py").write_text("raise SystemExit('foreign code ran')")
    config = json.loads((folder / "judge" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForImageClassification": "mine.Mine"}
    (folder / "judge" / "config.json").write_text(json.dumps(config))
    assert adp.load_default(folder).judge.labels == LABELS


def test_a_prompt_of_words_that_no_caption_had(tmp_path):
    concepts = adp.load_default(write_assets(tmp_path / "assets")).concepts
    assert concepts.prompt("apple", "noto") == "apple, style noto"
    with pytest.warns(UserWarning, match="no caption with the name 'aple'.* apple"):
        assert concepts.prompt("aple", "noto") == "aple, style noto"
    with pytest.warns(UserWarning, match="no caption with the style 'nato'.* noto"):
        concepts.prompt("apple", "nato")
