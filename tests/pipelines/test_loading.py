"""Pipelines are loaded from safetensors, without anybody's code, with and without the hub."""

import json
import shutil

import huggingface_hub.constants
import pytest
import torch
from families_stable_diffusion_3 import build as build_sd3
from safetensors.torch import load_file, save_file
from tiny_pipeline import build_pipeline

import adjointdpm as adp

MODEL = "some/model"
COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build_pipeline(tmp_path_factory.mktemp("tokenizer")).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def cache(saved, tmp_path):
    """A cache of the hub that has the model."""
    repository = tmp_path / "cache" / "models--some--model"
    shutil.copytree(saved, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path / "cache"


def picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return pipe("a b", latents=noise, num_inference_steps=2, output_type="pt").images


def test_folder(saved, tmp_path):
    pipe = adp.load_pipeline(saved)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert not any(m.training for m in (pipe.unet, pipe.vae, pipe.text_encoder))
    assert torch.equal(picture(pipe), picture(build_pipeline(tmp_path)))


def test_arguments_are_passed_on(saved):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    pipe = adp.load_pipeline(
        str(saved), dtype=torch.bfloat16, scheduler=scheduler, trust_remote_code=False
    )
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.bfloat16}
    assert isinstance(pipe.scheduler, DDIMScheduler)
    pipe = adp.load_pipeline(saved, torch_dtype=torch.float16)
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float16}


def test_variant(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    assert adp.load_pipeline(folder, variant="fp16").unet is not None
    words = folder / "text_encoder" / "model.safetensors"
    words.rename(words.with_suffix(".fp16.safetensors"))
    assert adp.load_pipeline(folder, variant="fp16").text_encoder is not None


def test_cache_of_the_hub(cache, monkeypatch):
    pipe = adp.load_pipeline(MODEL, cache_dir=cache, local_files_only=True)
    provenance = adp.formats.Provenance.of(pipe)
    assert (provenance.repository, provenance.revision) == (MODEL, COMMIT)
    pipe = adp.load_pipeline(MODEL, cache_dir=cache, revision=COMMIT, local_files_only=True)
    assert picture(pipe).isfinite().all()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert picture(adp.load_pipeline(MODEL, cache_dir=cache)).isfinite().all()


def test_what_is_not_there_offline(cache, tmp_path, monkeypatch):
    for arguments in ({"revision": "f" * 40}, {"cache_dir": tmp_path / "empty"}):
        with pytest.raises(FileNotFoundError, match="some/model is neither a folder nor wholly"):
            adp.load_pipeline(MODEL, **{"cache_dir": cache, **arguments}, local_files_only=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="without HF_HUB_OFFLINE"):
        adp.load_pipeline("no/model", cache_dir=cache)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"token": "hf_secret"}, "HF_TOKEN"),
        ({"token": False}, "HF_TOKEN"),
        ({"use_auth_token": True}, "HF_TOKEN"),
        ({"trust_remote_code": True}, "all your rights"),
        ({"custom_pipeline": "some/repository"}, "code from a repository"),
        ({"use_safetensors": False}, "pickle"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_refused(saved, arguments, reason):
    with pytest.raises(ValueError, match=reason) as error:
        adp.load_pipeline(saved, **arguments)
    assert "hf_secret" not in str(error.value)


def test_code_beside_the_model_does_not_run(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": ["own", "Own"]}))
    (folder / "own.py").write_text(f"open({str(folder / 'was_here')!r}, 'w').close()\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        adp.load_pipeline(folder)
    assert not (folder / "was_here").exists()


@pytest.mark.parametrize(
    ("safe", "pickled"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"),
        ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
    ],
    ids=["diffusers", "transformers"],
)
def test_pickled_weights_and_how_to_convert_them(folder, saved, safe, pickled):
    torch.save(load_file(folder / safe), folder / pickled)
    (folder / safe).unlink()
    with pytest.raises(ValueError, match="any code that is in the file") as error:
        adp.load_pipeline(folder)
    lines = [line[4:] for line in str(error.value).splitlines() if line.startswith("    ")]
    exec("\n".join(lines), {})
    assert torch.equal(picture(adp.load_pipeline(folder)), picture(adp.load_pipeline(saved)))


@pytest.mark.parametrize("build", [build_pipeline, build_sd3], ids=["SD", "SD3"])
def test_weights_that_are_not_there_are_not_made_up(build, tmp_path):
    """Transformers would fill them with random numbers, and only log it."""
    pipe = build(tmp_path)
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    assert picture(adp.load_pipeline(folder)).isfinite().all()
    for file in sorted(folder.glob("text_encoder*/model.safetensors")):
        whole = load_file(file)
        for name in (next(iter(whole)), list(whole)[-1]):
            save_file({k: v for k, v in whole.items() if k != name}, file, {"format": "pt"})
            with pytest.raises(ValueError, match=rf"lacks \d weights of its .*{name}"):
                adp.load_pipeline(folder)
        given = {file.parent.name: getattr(pipe, file.parent.name)}
        assert adp.load_pipeline(folder, **given) is not None
        save_file(whole, file, {"format": "pt"})


def test_pickled_files_beside_safetensors_do_not_matter(folder):
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    assert picture(adp.load_pipeline(folder)).isfinite().all()


def test_other_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model_index"):
        adp.load_pipeline(tmp_path)
    for name, message in (("model.ckpt", "with pickle"), ("model.safetensors", "from_single_file")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=message):
            adp.load_pipeline(tmp_path / name)
