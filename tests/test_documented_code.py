"""The code in README and docs runs as it is written, on frozen pipelines and on ordinary ones."""

from __future__ import annotations

import copy
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
)
from PIL import Image
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

sys.path.insert(0, str(Path(__file__).parent / "pipelines"))
import families_kandinsky as kandinsky
from families_stable_diffusion_xl import build as build_sdxl
from tiny_ip_adapter import IMAGE_DIM, load_ip_adapter
from tiny_pipeline import build_pipeline

import adjointdpm as adp
from adjointdpm.formats import load_learned_embeds
from adjointdpm.jobs.audit import AuditConfig, audit_items
from benchmarks.documented import ROOT, documents

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


TUTORIAL_IN_SMALL = {
    "num_inference_steps=10, guidance_scale=2.0)": "num_inference_steps=2, guidance_scale=2.0)",
    "pipe, 10, 2.0": "pipe, 2, 2.0",
    "number=4": "number=1",
    "range(8)": "range(1)",
    "CoarseAdjoint(7)": "CoarseAdjoint(2)",
}


def blocks(document: str) -> list[str]:
    return BLOCK.findall((ROOT / document).read_text())


def run(code: str, names: dict[str, Any], document: str) -> None:
    exec(compile(code, document, "exec"), names)


def as_it_comes(pipe: Any) -> Any:
    """Let every weight require grad, as ``from_pretrained`` leaves them."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_()
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    build_pipeline(tmp_path_factory.mktemp("tokenizer"), scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(params=["frozen", "ordinary"])
def ordinary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether pipelines are loaded without us: their weights require grad then."""
    if request.param == "frozen":
        return False
    default = adp.load_default()
    as_it_comes(default.pipeline)
    monkeypatch.setattr(adp, "load_default", lambda: default)
    monkeypatch.setattr(adp, "load_pipeline", DiffusionPipeline.from_pretrained)
    return True


def test_readme(ordinary: bool, folder: Path) -> None:
    code = "\n".join(blocks("README.md"))
    assert code.count("range(20)") == 1
    assert code.count("num_inference_steps=25") == 1
    code = code.replace("range(20)", "range(2)")
    code = shorter(code)
    # The emoji model's classifier judges the tiny pipeline's pictures as well.
    code = code.replace("path/or/hub-id", str(folder))
    code = code.replace('output_type="pt")', 'output_type="pt", num_inference_steps=3)')
    names: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(code, names, "README.md")
    assert any("adp.freeze" in str(each.message) for each in told) == ordinary
    assert names["noise"].grad.any()


def test_own_network() -> None:
    [code] = blocks("docs/own-network.md")
    names: dict[str, Any] = {}
    run(shorter(code), names, "own-network.md")
    assert names["noise"].grad.any()
    assert names["embeds"].grad.any()


def test_start_page() -> None:
    [code] = blocks("docs/index.md")
    names = {"noise": torch.randn(1, 4, 16, 16)}
    run(shorter(code), names, "index.md")
    assert names["images"].shape == (1, 3, 64, 64)


def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small; the site is built from the whole."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("docs/tutorial.md"))
    for whole, small in TUTORIAL_IN_SMALL.items():
        assert whole in code
        code = code.replace(whole, small)
    names: dict[str, Any] = {}
    run(code, names, "tutorial.md")
    assert not names["after"].equal(names["before"])


def test_every_page_with_code_is_run() -> None:
    pages = {str(page.relative_to(ROOT)) for page in documents() if BLOCK.search(page.read_text())}
    assert pages == {"README.md", *re.findall(r'"(docs/[\w/-]+\.md)"', Path(__file__).read_text())}


def parts_of(pipe: Any) -> dict[str, Any]:
    """What pages take for given: a sampler by parts, and what it is called with."""
    cond = adp.encode_prompt(pipe, "a b", guidance=True)
    sampler, decode = adp.from_pipeline(pipe, 3, 3.0)
    noise = torch.randn(1, 4, 8, 8, requires_grad=True)
    return {
        "adp": adp,
        "torch": torch,
        "pipe": pipe,
        "sampler": sampler,
        "decode": decode,
        "denoiser": sampler.denoiser,
        "schedule": sampler.denoiser.schedule,
        "plan": sampler.plan,
        "noise": noise,
        "latents": noise.detach(),
        "cond": cond,
        "prompt": "a b",
        "picture": torch.rand(1, 3, 16, 16),
        "objective": lambda images: images.square().mean(),
    }


def controlled(pipe: Any) -> Any:
    controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_channels=3)
    taken = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    return StableDiffusionControlNetPipeline(
        **taken, controlnet=controlnet, requires_safety_checker=False
    )


def with_ip_adapter(folder: Path) -> Any:
    pipe = load_ip_adapter(adp.load_pipeline(folder))
    size = {"image_size": 16, "patch_size": 8, "hidden_size": 8, "num_hidden_layers": 1}
    heads = {"intermediate_size": 8, "num_attention_heads": 2, "projection_dim": IMAGE_DIM}
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**size, **heads))
    pipe.register_modules(image_encoder=encoder)
    return pipe


@pytest.mark.filterwarnings("ignore:all weights of")
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "ordinary"])
def test_pipelines(folder: Path, frozen: bool) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    (adp.freeze if frozen else as_it_comes)(pipe)
    names = parts_of(pipe)
    by_parts, stock, trained, pictures = blocks("docs/pipelines.md")
    for code in (by_parts, stock) * 2:
        run(shorter(code), names, "pipelines.md")
        assert names["images"].shape == (1, 3, 16, 16)
    to_image, control, image_prompt, decoder = re.split(r"\n\n(?=#)", pictures)
    run(to_image, names, "pipelines.md")
    edges = {"pipe": controlled(pipe), "edges": torch.rand(1, 3, 16, 16)}
    run(control.replace("=512", "=16"), {**names, **edges}, "pipelines.md")
    run(image_prompt, {**names, "pipe": with_ip_adapter(folder)}, "pipelines.md")
    embeds = {"image_embeds": kandinsky.embeds(1), "negative_image_embeds": kandinsky.embeds(2)}
    run(decoder, {**names, **embeds, "pipe": kandinsky.build(folder)}, "pipelines.md")
    pytest.importorskip("peft")
    run(trained, names, "pipelines.md")
    assert all(weight.requires_grad for weight in names["weights"])


def shorter(code: str) -> str:
    return code.replace("num_inference_steps=25", "num_inference_steps=3")


@pytest.mark.parametrize(
    "document", ["docs/gradients.md", "docs/solvers.md", "docs/which-method.md"]
)
def test_methods_and_solvers(folder: Path, document: str) -> None:
    pipe = adp.load_pipeline(folder)
    names = parts_of(pipe)
    names["embeds"] = names["cond"]["encoder_hidden_states"]
    # A page's solver in an error-controlled mode is called without guidance.
    alone = adp.Denoiser(pipe.unet, names["schedule"], "epsilon")
    for code in blocks(document):
        guided = "certify" in code or "Sampler(denoiser, plan, " in code
        given = names if guided else {**names, "denoiser": alone}
        if "odeint" in code:
            pytest.importorskip("torchdiffeq")
            given = {**given, "cond": {"encoder_hidden_states": names["embeds"]}}
        run(with_few_steps(code), given, document)


def with_few_steps(code: str) -> str:
    """Leave little for error control to find, too."""
    for whole, small in {
        "num_inference_steps=20": "num_inference_steps=3",
        'form="x"': 'form="x", rtol=1.0, atol=1.0',
        "rtol=1e-3, atol=1e-3": "rtol=1.0, atol=1.0",
    }.items():
        code = code.replace(whole, small)
    return code


def test_objectives() -> None:
    names: dict[str, Any] = {}
    for code in blocks("docs/objectives.md"):
        run(code, names, "objectives.md")
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    for name in ("margin", "near", "both", "warm", "style", "content", "robust", "success"):
        loss = names[name].loss(images)
        assert loss.shape == (2,)
        assert torch.autograd.grad(loss.sum(), images)[0].any(), name


def test_targets() -> None:
    load, attack = blocks("docs/targets.md")
    names: dict[str, Any] = {}
    run(load, names, "targets.md")
    assert names["brightest"](torch.eye(3)[:, :, None, None]).argmax(1).tolist() == [0, 1, 2]
    pytest.importorskip("foolbox")
    attack = attack.replace("10, 1.0", "2, 1.0").replace("steps=15", "steps=2")
    run(attack, names, "targets.md")
    assert names["pictures"].shape == (2, 3, 64, 64)


def test_inversion() -> None:
    [code] = blocks("docs/inversion.md")
    names = {"noise": torch.randn(1, 4, 16, 16)}
    run(code.replace("num_inference_steps=10", "num_inference_steps=2"), names, "inversion.md")
    assert names["found"].noise.shape == names["noise"].shape


def test_formats(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    pipe = adp.load_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    names = parts_of(pipe)
    names["vectors"] = torch.randn(2, 16)
    torch.save({"<it>": names["vectors"]}, "learned_embeds.bin")
    for code in blocks("docs/formats.md"):
        names["pipe"] = adp.load_pipeline(folder)
        if "clip_l" in code:
            names["pipe"] = sdxl(tmp_path)
            words = {"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 16)}
            adp.formats.save_learned_embeds("word", {"<it>": words})
        code = shorter(code).replace("folder-or/id-on-the-hub", str(folder))
        code = code.replace('"num_inference_steps": 25', '"num_inference_steps": 3')
        code = code.replace('"a picture of <it>"', '"a picture of <it>", num_inference_steps=3')
        run(code, names, "formats.md")
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert load_learned_embeds("learned_embeds.safetensors")["<it>"].equal(names["vectors"])
    assert names["pipe"].unet.dtype == torch.bfloat16


def sdxl(folder: Path) -> Any:
    pipe = build_sdxl(folder)
    pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer)  # the tiny pipeline shares one
    return pipe


def test_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "drawn"):
        (tmp_path / folder).mkdir()
        for i in range(4):
            color = (40 * i, 200, len(folder) * i)
            Image.new("RGB", (8, 8), color).save(tmp_path / folder / f"{i}.png")
    (code,) = blocks("docs/jobs/fid.md")
    names: dict[str, Any] = {}
    run(code, names, "fid.md")
    assert names["result"].distance.num_pictures == (4, 4)


def test_guide(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, own, load, loop = blocks("docs/jobs/guide.md")
    short = "max_train_steps=2, num_inference_steps=2, progress_bar=False, certify=False"
    names: dict[str, Any] = {}
    config = 'target="green apple", method="steps"'
    run(first.replace(config, f"{config}, num_images=1, {short}"), names, "guide.md")
    assert Path("apples/report.html").is_file()
    own = own.replace("path/or/hub-id", str(folder)).replace(
        "    num_images=2,", f"    num_images=2,\n    {short},"
    )
    run(own, names, "guide.md")
    run(load.replace("path/or/hub-id", str(folder)), names, "guide.md")
    assert names["image"].size[0] > 0
    run(loop.replace("10", "2"), names, "guide.md")
    assert names["latents"].isfinite().all()


def test_several_machines(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, and with a worker here in place of Ray's."""
    from adjointdpm.runs import share

    monkeypatch.chdir(tmp_path)
    share_out, shard, execute = blocks("docs/several-machines.md")
    names = parts_of(adp.load_pipeline(folder))
    names |= {"latent_shape": (4, 8, 8), "share": share}
    names["objective"] = adp.objectives.as_objective(lambda images: images.mean((1, 2, 3)), True)
    run(share_out.replace("randn(16", "randn(2"), names, "several-machines.md")
    assert names["loss"](torch.Generator()).isfinite()
    run(shard.replace("=20", "=3"), names, "several-machines.md")
    assert all(weight.requires_grad for weight in names["weights"])

    Path("my_workers.py").write_text(
        "class Echo:\n"
        "    capacity = 2\n"
        "    def advance(self, items):\n"
        "        return [dict(item, done=True) for item in items]\n"
        "def build(**settings):\n"
        "    return Echo()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names["items"] = [{"id": "a"}, {"id": "b"}]
    execute = execute.replace("my_package.workers", "my_workers").replace('"ray"', '"local"')
    run(execute.replace(", num_workers=16", ""), names, "several-machines.md")
    assert Path("results.jsonl").read_text().count("done") == 2


def test_embed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, use, own = blocks("docs/jobs/embed.md")
    short = "max_train_steps=1, num_candidates=4, num_validation_images=1, progress_bar=False"
    short += ", inversion_steps=2, inversion_batch_size=2, train_batch_size=2, certify=False"
    names: dict[str, Any] = {}
    run(first.replace('target="cactus"', f'target="cactus", {short}'), names, "embed.md")
    assert Path("cactus/report.html").is_file()
    run(use.replace("num_inference_steps=25", "num_inference_steps=2"), names, "embed.md")
    assert names["image"].size == (64, 64)
    own = own.replace("path/or/hub-id", str(folder)).replace('"object"', '"c"')
    own = own.replace("num_inference_steps=10", "num_inference_steps=2")
    run(
        own.replace("    guidance_scale=5.0,", f"    guidance_scale=5.0,\n    {short},"),
        names,
        "embed.md",
    )
    assert Path("red/learned_embeds.safetensors").is_file()


def test_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prompts, own, load, attack = blocks("docs/jobs/audit.md")
    names: dict[str, Any] = {}
    run(prompts, names, "audit.md")
    rows = audit_items(AuditConfig(prompts_file="prompts.csv", pretrained_model_name_or_path="any"))
    assert [row["label"] for row in rows] == ["tabby, tabby cat", "goldfish"]
    short = "num_prompts=2, num_inference_steps=1, certify=False, progress_bar=False"
    own = own.replace("num_prompts=6", short).replace("max_steps=10", "max_steps=1")
    run(own.replace("radius=0.3", "radius=2.0"), names, "audit.md")
    assert Path("small/report.html").is_file()
    run(load, names, "audit.md")
    run(attack, names, "audit.md")
    assert names["ended"][0].status == "fooled"


def test_stylize(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20), "orange").save("style.png")
    short = "max_train_steps=1, num_validation_images=1, feature_network='classifier', rank=2"
    short += ", certify=False"
    names: dict[str, Any] = {}
    for code in blocks("docs/jobs/stylize.md"):
        code = code.replace('output_dir="mine"', f'output_dir="mine", {short}')
        for name in ("strokes", "warm"):
            fewer = "num_inference_steps=2, train_batch_size=1"
            code = code.replace(f'output_dir="{name}"', f'output_dir="{name}", {short}, {fewer}')
        code = re.sub(r"num_inference_steps=(10|25)", "num_inference_steps=2", code)
        run(code.replace("path/or/hub-id", str(folder)), names, "stylize.md")
    assert names["image"].size == (64, 64)
    assert Path("strokes/report.html").is_file()
    for name in ("strokes", "mine", "warm"):
        assert (Path(name) / "pytorch_lora_weights.safetensors").is_file()
