"""What is saved loads back, into this package and into diffusers, and gives the same picture."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pipeline import build_pipeline

import adjointdpm as adp
from adjointdpm import formats
from adjointdpm.pipelines import add_lora
from adjointdpm.storage import METADATA_KEY, read_tensors, write_tensors

SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    """A pipeline in a folder, to be loaded afresh."""
    folder = tmp_path_factory.mktemp("model")
    pipe = build_pipeline(tmp_path_factory.mktemp("tokenizer"))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def fresh(base_model):
    def load():
        pipe = adp.load_pipeline(base_model)
        pipe.set_progress_bar_config(disable=True)
        for module in (pipe.unet, pipe.vae, pipe.text_encoder):
            module.requires_grad_(False)
        return pipe

    return load


@pytest.fixture
def pipe(fresh):
    return fresh()


@pytest.fixture
def noise():
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def vectors():
    return torch.randn(2, 16, generator=torch.Generator().manual_seed(2))


def picture(pipe, noise, prompt="a b", **arguments):
    arguments = {"num_inference_steps": 3, "guidance_scale": 3.0, **arguments}
    return pipe(prompt, latents=noise, output_type="pt", **arguments).images


def run_card(folder, monkeypatch):
    """Run the code of a model card, in its folder; return its variables."""
    monkeypatch.chdir(folder)
    variables = {}
    exec(SNIPPET.search((folder / "README.md").read_text())[1], variables)
    return variables


def pixels(image):
    return torch.from_numpy(np.array(image))


# Learned words


def test_learned_word_gives_the_same_picture(tmp_path, fresh, noise, vectors):
    ours, theirs = fresh(), fresh()
    formats.save_learned_embeds(tmp_path, {"<it>": vectors})
    loaded = formats.load_learned_embeds(tmp_path)
    assert list(loaded) == ["<it>"]
    assert torch.equal(loaded["<it>"], vectors)

    # By hand: two new tokens, whose rows of the table are the vectors.
    ours.tokenizer.add_tokens(["<x>", "<y>"])
    table = ours.text_encoder.resize_token_embeddings(len(ours.tokenizer)).weight
    table.data[-2:] = vectors
    theirs.load_textual_inversion(tmp_path, token="<it>")
    embeds = adp.encode_prompt(theirs, "a <it>", guidance=False)["encoder_hidden_states"]
    by_hand = adp.encode_prompt(ours, "a <x> <y>", guidance=False)["encoder_hidden_states"]
    assert torch.equal(embeds, by_hand)
    torch.testing.assert_close(
        picture(theirs, noise, "a <it>"), picture(ours, noise, "a <x> <y>"), rtol=0, atol=1e-6
    )


def test_one_vector_and_a_file(tmp_path, pipe, vectors):
    path = formats.save_learned_embeds(tmp_path / "it.safetensors", {"<it>": vectors[0]})
    assert [file.name for file in tmp_path.iterdir()] == ["it.safetensors"]
    pipe.load_textual_inversion(path, token="<other>")
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[-1], vectors[0])
    assert list(formats.load_learned_embeds(path, token="<other>")) == ["<other>"]


def test_two_text_encoders(tmp_path, fresh, vectors):
    words = {"clip_l": vectors, "clip_g": vectors[:, :8].contiguous()}
    path = formats.save_learned_embeds(tmp_path, {"<it>": words})
    assert formats.load_learned_embeds(path)["<it>"].keys() == words.keys()
    assert {name: tuple(t.shape) for name, t in load_file(path).items()} == {
        "clip_l": (2, 16),
        "clip_g": (2, 8),
    }
    # As the model card has it for SDXL, whose second encoder stands for the others here.
    pipe = fresh()
    pipe.load_textual_inversion(
        load_file(path)["clip_l"],
        token="<it>",
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
    )
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[-2:], vectors)
    with pytest.raises(ValueError, match="clip_l and clip_g"):
        formats.save_learned_embeds(tmp_path, {"<it>": {"clip_l": vectors}})
    save_file(words, tmp_path / "learned_embeds.safetensors")
    with pytest.raises(ValueError, match="does not tell its token"):
        formats.load_learned_embeds(tmp_path)


def test_words_that_cannot_be_saved(tmp_path, vectors):
    with pytest.raises(ValueError, match="a folder of its own"):
        formats.save_learned_embeds(tmp_path, {"<a>": vectors, "<b>": vectors})
    with pytest.raises(ValueError, match="leave out the space"):
        formats.save_learned_embeds(tmp_path, {"the cat": vectors})
    with pytest.raises(ValueError, match="not finite"):
        formats.save_learned_embeds(tmp_path, {"<a>": vectors / 0})
    assert not list(tmp_path.iterdir())


# Conditioning


def test_conditioning_gives_the_same_picture(tmp_path, fresh, noise):
    pipe = fresh()
    cond = {k: v + 0.3 for k, v in adp.encode_prompt(pipe, "a b", "c").items()}
    sampler, decode = adp.from_pipeline(pipe, 3, 3.0)
    saved = formats.PromptEmbeds(
        cond, "a b", "c", guidance_scale=3.0, num_inference_steps=3,
        provenance=formats.Provenance.of(pipe),
    )  # fmt: skip
    formats.save_prompt_embeds(tmp_path, saved)
    loaded = formats.load_prompt_embeds(tmp_path)
    assert (loaded.prompt, loaded.negative_prompt) == ("a b", "c")
    assert (loaded.guidance_scale, loaded.num_inference_steps) == (3.0, 3)
    assert loaded.provenance == saved.provenance
    assert torch.equal(sampler(noise, **loaded.cond), sampler(noise, **cond))
    again = picture(fresh(), noise, prompt=None, **loaded.pipeline_arguments())
    torch.testing.assert_close(again, decode(sampler(noise, **cond)), rtol=1e-5, atol=1e-5)


def test_any_nest_of_conditioning(tmp_path):
    both = torch.randn(2, 3)
    cond = {
        "added_cond_kwargs": {"text_embeds": both[:1], "time_ids": torch.arange(6)[None]},
        "negative_added_cond_kwargs": {"text_embeds": both[1:], "time_ids": torch.arange(6)[None]},
        "pair": (torch.ones(2, dtype=torch.bfloat16), [torch.zeros(1), None, 3]),
    }
    path = formats.save_prompt_embeds(tmp_path / "x.safetensors", formats.PromptEmbeds(cond))
    loaded = formats.load_prompt_embeds(path)
    torch.testing.assert_close(loaded.cond, cond, rtol=0, atol=0)
    assert isinstance(loaded.cond["pair"], tuple)
    assert loaded.provenance.base_model is None
    assert "negative_added_cond_kwargs.text_embeds" in load_file(path)
    with pytest.raises(ValueError, match=r"pair\.0, .* by a common name"):
        loaded.pipeline_arguments()
    del loaded.cond["pair"]
    arguments = loaded.pipeline_arguments()
    assert torch.equal(arguments.pop("pooled_prompt_embeds"), both[:1])
    assert torch.equal(arguments.pop("negative_pooled_prompt_embeds"), both[1:])
    sizes = {"original_size": (0, 1), "crops_coords_top_left": (2, 3), "target_size": (4, 5)}
    negative = {f"negative_{name}": pair for name, pair in sizes.items()}
    assert arguments == {**sizes, **negative, "negative_prompt": None}
    loaded.cond["added_cond_kwargs"]["time_ids"] = torch.arange(12).reshape(2, 6)
    with pytest.raises(ValueError, match="by a common name"):
        loaded.pipeline_arguments()
    with pytest.raises(ValueError, match="cond"):
        formats.save_prompt_embeds(tmp_path, formats.PromptEmbeds({"cond": object()}))


# Noise


def test_noise_gives_the_same_picture(tmp_path, fresh, noise):
    pipe = fresh()
    scheduler = EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", use_karras_sigmas=True
    )
    pipe.scheduler = scheduler
    saved = formats.Noise(
        noise, num_inference_steps=4, guidance_scale=2.0, prompt="a b", seed=1,
        scheduler_config=formats.scheduler_config(scheduler),
        provenance=formats.Provenance.of(pipe),
    )  # fmt: skip
    loaded = formats.load_noise(formats.save_noise(tmp_path, saved))
    assert torch.equal(loaded.noise, noise)
    assert loaded.seed == 1
    assert loaded.provenance.versions["torch"] == torch.__version__
    other = fresh()
    other.scheduler = loaded.scheduler()
    settings = {
        "num_inference_steps": loaded.num_inference_steps,
        "guidance_scale": loaded.guidance_scale,
    }
    expected = picture(pipe, noise, num_inference_steps=4, guidance_scale=2.0)
    assert torch.equal(picture(other, loaded.noise, loaded.prompt, **settings), expected)


def test_noise_with_its_draws(tmp_path, pipe, noise):
    scheduler = EulerAncestralDiscreteScheduler(steps_offset=1)
    cond = adp.encode_prompt(pipe, "a")
    sampler, _ = adp.from_pipeline(pipe, 3, 2.0, scheduler=scheduler)
    draws = torch.randn(sampler.plan.num_draws, *noise.shape)
    saved = formats.Noise(
        noise, draws, 3, 2.0, "a", plan=sampler.plan.name,
        scheduler_config=formats.scheduler_config(scheduler),
    )  # fmt: skip
    loaded = formats.load_noise(formats.save_noise(tmp_path, saved))
    again, _ = adp.from_pipeline(
        pipe, loaded.num_inference_steps, loaded.guidance_scale, scheduler=loaded.scheduler()
    )
    assert loaded.plan == again.plan.name
    assert torch.equal(
        again(loaded.noise, draws=loaded.draws, **cond), sampler(noise, draws=draws, **cond)
    )
    with pytest.raises(ValueError, match="draws"):
        formats.save_noise(tmp_path, formats.Noise(noise, draws[:, :, :2]))
    with pytest.raises(ValueError, match="floating-point latent"):
        formats.save_noise(tmp_path, formats.Noise(noise.long()))
    with pytest.raises(ValueError, match="no scheduler 'DiffusionPipeline'"):
        formats.Noise(noise, scheduler_config={"_class_name": "DiffusionPipeline"}).scheduler()


def test_noise_that_is_not_what_the_file_says(tmp_path, noise):
    path = formats.save_noise(tmp_path, formats.Noise(noise))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({"noise": noise[:, :2].contiguous()}, path, metadata)
    with pytest.raises(ValueError, match="does not match its checksum"):
        formats.load_noise(tmp_path)
    write_tensors(path, "noise", {"noise": noise[:, :2]}, json.loads(metadata[METADATA_KEY]))
    with pytest.raises(ValueError, match="says that it holds"):
        formats.load_noise(tmp_path)


# LoRA


def trained(module):
    """Give an adapter weights that are not zero."""
    generator = torch.Generator().manual_seed(4)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("lora_alpha", [1, 4, 9])
def test_lora_gives_the_same_picture(tmp_path, fresh, noise, lora_alpha):
    pipe, other = fresh(), fresh()
    before = picture(pipe, noise)
    add_lora(pipe, rank=4, lora_alpha=lora_alpha)
    add_lora(pipe.text_encoder, rank=2, lora_alpha=5, target_modules=("q_proj", "v_proj"))
    for module in (pipe.unet, pipe.text_encoder):
        trained(module)
    path = formats.save_lora(pipe, tmp_path)
    assert path.name == "pytorch_lora_weights.safetensors"
    other.load_lora_weights(tmp_path)
    torch.testing.assert_close(picture(other, noise), picture(pipe, noise), rtol=0, atol=1e-6)
    assert not torch.allclose(picture(other, noise), before, atol=1e-2)
    assert other.unet.peft_config["default_0"].lora_alpha == lora_alpha


def test_lora_of_a_transformer(tmp_path):
    from diffusers import FluxPipeline, FluxTransformer2DModel

    def build():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=1,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=8,
            pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
        )  # fmt: skip
        parts = dict.fromkeys(
            ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        )
        return FluxPipeline(transformer=transformer.eval(), **parts)

    inputs = {
        "hidden_states": torch.randn(1, 4, 4),
        "encoder_hidden_states": torch.randn(1, 3, 8),
        "pooled_projections": torch.randn(1, 8),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(3, 3),
    }
    pipe, other = build(), build()
    add_lora(pipe, rank=2, lora_alpha=8)
    trained(pipe.transformer)
    formats.save_lora(pipe, tmp_path)
    other.load_lora_weights(tmp_path)
    with torch.no_grad():
        expected = pipe.transformer(**inputs).sample
        torch.testing.assert_close(other.transformer(**inputs).sample, expected)
    other.disable_lora()
    with torch.no_grad():
        assert not torch.allclose(other.transformer(**inputs).sample, expected, atol=1e-2)


def distributed(module):
    """A module wrapped for training on several machines, of which there is one."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        return torch.nn.parallel.DistributedDataParallel(module)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: torch.compile(module, backend="eager"),
        distributed,
        lambda module: torch.compile(distributed(module), backend="eager"),
    ],
    ids=["compiled", "distributed", "both"],
)
def test_lora_of_a_wrapped_network(tmp_path, fresh, noise, wrap):
    pipe, other = fresh(), fresh()
    add_lora(pipe, rank=4)
    trained(pipe.unet)
    expected = picture(pipe, noise)
    pipe.unet = wrap(pipe.unet)
    formats.save_lora(pipe, tmp_path)
    other.load_lora_weights(tmp_path)
    assert not any(weight.is_meta for weight in other.unet.parameters())
    torch.testing.assert_close(picture(other, noise), expected, rtol=0, atol=0)


def test_lora_of_compiled_blocks(tmp_path, fresh, noise):
    pipe, other = fresh(), fresh()
    add_lora(pipe, rank=4)
    trained(pipe.unet)
    expected = picture(pipe, noise)
    for i, block in enumerate(pipe.unet.up_blocks):
        pipe.unet.up_blocks[i] = torch.compile(block, backend="eager")
    formats.save_lora(pipe, tmp_path)
    other.load_lora_weights(tmp_path)
    torch.testing.assert_close(picture(other, noise), expected, rtol=0, atol=0)


@pytest.mark.parametrize("call", [add_lora, lambda pipe: formats.save_lora(pipe, "nowhere")])
def test_lora_without_peft(pipe, monkeypatch, call):
    for name in ("peft", "peft.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'adjointdpm\[lora\]'"):
        call(pipe)


def test_one_of_several_adapters(tmp_path, pipe):
    with pytest.raises(ValueError, match="call add_lora first"):
        formats.save_lora(pipe, tmp_path)
    add_lora(pipe, rank=1, adapter_name="first")
    add_lora(pipe, rank=3, adapter_name="second")
    with pytest.raises(ValueError, match="first, second: set adapter_name"):
        formats.save_lora(pipe, tmp_path)
    path = formats.save_lora(pipe, tmp_path, adapter_name="second")
    ranks = {tensor.shape[0] for name, tensor in load_file(path).items() if "lora_A" in name}
    assert ranks == {3}


# Model cards


def test_the_code_of_a_card_runs(tmp_path, monkeypatch, base_model, fresh, noise, vectors):
    pipe = fresh()
    provenance = formats.Provenance.of(pipe, base_model=str(base_model))
    cond = adp.encode_prompt(pipe, "a b", guidance=True)
    add_lora(pipe, rank=2)
    folders = [tmp_path / name for name in ("word", "prompt", "noise", "lora", "drawn")]
    settings = {"num_inference_steps": 2, "guidance_scale": 2.0, "provenance": provenance}
    config = formats.scheduler_config(pipe.scheduler)
    formats.save_learned_embeds(folders[0], {"<it>": vectors}, provenance=provenance)
    formats.save_prompt_embeds(folders[1], formats.PromptEmbeds(cond, **settings))
    drawn = formats.Noise(noise, prompt="a b", scheduler_config=config, **settings)
    formats.save_noise(folders[2], drawn)
    formats.save_lora(pipe, folders[3], provenance=provenance)
    ancestral = EulerAncestralDiscreteScheduler(steps_offset=1)
    draws = torch.randn(adp.Plan.from_scheduler(ancestral, 2).num_draws, *noise.shape)
    config = formats.scheduler_config(ancestral)
    drawn = formats.Noise(noise, draws, prompt="a b", scheduler_config=config, **settings)
    formats.save_noise(folders[4], drawn)
    images = [run_card(folder, monkeypatch)["image"] for folder in folders]
    expected = pixels(pipe("a b", latents=noise, num_inference_steps=2, guidance_scale=2.0)[0][0])
    assert torch.equal(pixels(images[2]), expected)
    assert images[4].shape == (1, 3, 16, 16)


def test_a_card_tells_where_it_comes_from(tmp_path, vectors):
    provenance = formats.Provenance("some/model", "0" * 40, "StableDiffusionPipeline")
    settings = {"learning_rate": 0.01, "loss": "a | b"}
    save = formats.save_learned_embeds
    save(tmp_path, {"<it>": vectors}, provenance=provenance, settings=settings)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "some/model"
    assert {"adjointdpm", "diffusers", "textual_inversion"} <= set(card.data.tags)
    assert card.data.license is None
    for text in ("0" * 40, "| learning_rate | `0.01` |", "a \\| b", torch.__version__):
        assert text in card.text

    # Whoever publishes it chooses a license, and saving again keeps it.
    text = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(text.replace("---\n", "---\nlicense: mit\n", 1))
    save(tmp_path, {"<new>": vectors}, provenance=provenance)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, "<new>" in card.text) == ("mit", True)

    # A README.md of somebody else stays.
    (tmp_path / "README.md").write_text("# My project\n")
    save(tmp_path, {"<it>": vectors})
    assert (tmp_path / "README.md").read_text() == "# My project\n"


def test_a_card_shows_text_as_it_is(tmp_path, noise):
    prompt = "a <b>*bold*</b> [link](javascript:x) | `code`\n# heading"
    provenance = formats.Provenance("a*b <script>", "main`x`", versions={"torch": "<i>"})
    saved = formats.PromptEmbeds({"x": noise}, prompt, provenance=provenance)
    formats.save_prompt_embeds(tmp_path, saved, settings={"<u>": 1})
    outside = SNIPPET.sub("", (tmp_path / "README.md").read_text())
    outside = re.sub(r"(?<!\\)`[^`]*`", "", outside)  # code is shown as it is
    for wrong in ("<b>", "<script>", "<i>", "<u>", "[link]", " *bold", "\n# heading"):
        assert wrong not in outside
    assert r"\*bold\*" in outside


def test_a_card_that_was_edited_stays(tmp_path, vectors):
    save, card = formats.save_learned_embeds, tmp_path / "README.md"
    save(tmp_path, {"<it>": vectors})
    card.write_text(card.read_text().replace("---\n", "---\nlanguage: de\n", 1))
    save(tmp_path, {"<new>": vectors})  # its header alone was edited
    assert "<new>" in card.read_text()
    assert ModelCard.load(card).data.language == "de"
    for edit in (lambda text: text + "It works best at night.\n",
                 lambda text: text.replace("How to use it", "How it is used")):  # fmt: skip
        edited = edit(card.read_text())
        card.write_text(edited)
        with pytest.warns(UserWarning, match="edited by hand and is left as it is"):
            save(tmp_path, {"<it>": vectors})
        assert card.read_text() == edited
    card.unlink()
    save(tmp_path, {"<it>": vectors})
    assert "<it>" in card.read_text()


def test_provenance_of_a_pipeline(pipe, base_model):
    provenance = formats.Provenance.of(pipe)
    assert provenance.base_model == base_model.name  # not the path, which is private
    assert provenance.repository is None
    assert provenance.pipeline_class == "StableDiffusionPipeline"
    commit = "0123456789" * 4
    pipe.unet.config._name_or_path = None
    pipe.register_to_config(_name_or_path="some/model")
    pipe.unet._internal_dict = type(pipe.unet._internal_dict)(
        {**pipe.unet.config, "_name_or_path": f"/cache/models--some--model/snapshots/{commit}/unet"}
    )
    provenance = formats.Provenance.of(pipe)
    assert (provenance.repository, provenance.revision) == ("some/model", commit)


# Never pickle


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".pkl", ".PT"])
@pytest.mark.parametrize(
    "load", [formats.load_learned_embeds, formats.load_noise, formats.load_prompt_embeds]
)
def test_pickle_is_refused(tmp_path, suffix, load):
    with pytest.raises(ValueError, match="any code that is in the file"):
        load(tmp_path / f"x{suffix}")


def test_the_way_to_convert_works(tmp_path, vectors):
    torch.save({"<it>": vectors}, tmp_path / "learned_embeds.bin")
    with pytest.raises(ValueError, match="If you trust") as error:
        formats.load_learned_embeds(tmp_path)
    lines = [line[4:] for line in str(error.value).splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    exec("\n".join(lines), {})
    assert torch.equal(formats.load_learned_embeds(tmp_path)["<it>"], vectors)


def test_other_files_are_refused(tmp_path, noise, vectors):
    formats.save_noise(tmp_path / "noise.safetensors", formats.Noise(noise))
    with pytest.raises(ValueError, match="holds noise, not prompt_embeds"):
        formats.load_prompt_embeds(tmp_path / "noise.safetensors")
    torch.save({"<it>": vectors}, tmp_path / "pickled.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        formats.load_learned_embeds(tmp_path / "pickled.safetensors")
    with pytest.raises(FileNotFoundError, match=r"learned_embeds\.safetensors"):
        formats.load_learned_embeds(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_as_in_the_cache_of_the_hub(tmp_path, noise):
    blob = tmp_path / "blobs" / "0a1b"
    blob.parent.mkdir()
    formats.save_noise(tmp_path / "noise.safetensors", formats.Noise(noise)).rename(blob)
    snapshot = tmp_path / "snapshot.pt"  # a folder may have any name
    snapshot.mkdir()
    (snapshot / "noise.safetensors").symlink_to(blob)
    assert torch.equal(formats.load_noise(snapshot).noise, noise)


WRONG = [[], {}, "x", -1.5, True, [None], {"tensor": "nothing"}, {"dict": 3}, {"list": {}}]


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("kind", ["noise", "prompt_embeds"])
def test_metadata_of_another_form_are_refused(tmp_path, noise, kind, missing):
    """Not damaged but written by another program, so that the checksum holds."""
    if kind == "noise":
        config = {"_class_name": "DDIMScheduler"}
        saved = formats.Noise(noise, None, 3, 2.0, "a", "b", "ddim", 1, config)
        path, load = formats.save_noise(tmp_path, saved), formats.load_noise
    else:
        saved = formats.PromptEmbeds({"a": noise, "b": [noise, 3]}, "a", "b", 2.0, 3)
        path, load = formats.save_prompt_embeds(tmp_path, saved), formats.load_prompt_embeds
    tensors, fields = read_tensors(path, kind)
    inner = fields["provenance"]
    places = [(fields, name) for name in fields] + [(inner, name) for name in inner]
    refused = 0
    for place, name in places:
        right = place.pop(name)
        for value in [None] if missing else WRONG:
            if not missing:
                place[name] = value
            write_tensors(path, kind, tensors, fields)
            try:
                loaded = load(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017
                refused += 1
            else:  # text is text, and a number a number
                assert not missing
                any_object = name in ("scheduler_config", "versions") and isinstance(value, dict)
                assert any_object or value in ("x", [], -1.5), (name, value, loaded)
        place[name] = right
    assert refused == len(places) if missing else refused > 6 * len(places)


def test_names_that_would_stand_in_code(tmp_path, noise):
    config = {"_class_name": "DDIMScheduler; import os"}
    with pytest.raises(ValueError, match="has no scheduler 'DDIMScheduler; import os'"):
        formats.save_noise(tmp_path, formats.Noise(noise, prompt="a", scheduler_config=config))
    assert not list(tmp_path.iterdir())
    plan = "mine\nimport os"
    formats.save_noise(tmp_path, formats.Noise(noise, prompt="a", plan=plan))
    code = SNIPPET.search((tmp_path / "README.md").read_text())[1]
    assert "\nimport os" not in code


def test_metadata_is_json(tmp_path, noise):
    path = formats.save_noise(tmp_path, formats.Noise(noise, seed=7, prompt="ü"))
    with safe_open(path, "pt") as file:
        fields = json.loads(file.metadata()["adjointdpm"])
    assert (fields["seed"], fields["prompt"], fields["shape"]) == (7, "ü", [1, 4, 8, 8])
    assert fields["dtype"] == "torch.float32"
