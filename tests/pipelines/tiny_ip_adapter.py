"""An IP-Adapter with random weights, and an embedding of a picture for it."""

import torch
from diffusers.models.embeddings import ImageProjection

IMAGE_DIM = 6


def load_ip_adapter(pipe):
    """Load it into the UNet of a pipeline, and return the pipeline."""
    unet = pipe.unet
    dim = unet.config.cross_attention_dim
    layers = {}
    for name in unet.attn_processors:
        if name.endswith("attn2.processor") and "motion_modules" not in name:
            size = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            for projection in ("to_k_ip", "to_v_ip"):
                # Numbered as in the original UNet, where only every other layer has weights.
                number = 1 + len(layers) // 2 * 2
                layers[f"{number}.{projection}.weight"] = torch.randn(size, dim) / dim**0.5
    projection = ImageProjection(IMAGE_DIM, dim, num_image_text_embeds=4).state_dict()
    names = {"image_embeds.weight": "proj.weight", "image_embeds.bias": "proj.bias"}
    projection = {names.get(name, name): value for name, value in projection.items()}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": layers}])
    return pipe


def image_prompt(pipe=None):
    """An embedding of one picture, as `encode_prompt` and the stock call take it."""
    generator = torch.Generator().manual_seed(3)
    embeds = torch.randn(2, 1, IMAGE_DIM, generator=generator)
    return {"ip_adapter_image_embeds": [embeds]}


def stock_image_prompt(cond):
    """The argument of the stock call for the embeddings in ``cond``, if there are any."""
    embeds = cond.get("added_cond_kwargs", {}).get("image_embeds")
    if embeds is None:
        return {}
    negative = cond["negative_added_cond_kwargs"]["image_embeds"]
    pairs = zip(negative, embeds, strict=True)
    return {"ip_adapter_image_embeds": [torch.cat(pair) for pair in pairs]}
