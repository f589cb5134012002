"""AnimateDiff."""

import families_stable_diffusion
from case import Case, finish
from diffusers import (
    AnimateDiffPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    MotionAdapter,
)
from tiny_ip_adapter import image_prompt, load_ip_adapter


def build(folder):
    parts = families_stable_diffusion.build_epsilon(folder).components
    adapter = MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    for name in ("safety_checker", "image_encoder", "feature_extractor"):
        parts.pop(name, None)
    return finish(AnimateDiffPipeline(**parts, motion_adapter=adapter))


def build_with_image_prompt(folder):
    return finish(load_ip_adapter(build(folder)))


CASES = [
    Case(
        "AnimateDiff",
        build,
        families_stable_diffusion.stock,
        schedulers=(
            DPMSolverMultistepScheduler,
            EulerAncestralDiscreteScheduler,
            EulerDiscreteScheduler,
        ),
        arguments={"num_frames": 3},
    ),
    Case(
        "AnimateDiff with IP-Adapter",
        build_with_image_prompt,
        families_stable_diffusion.stock,
        prompt=["a b"],
        stock_prompt=lambda prompt: {"prompt": prompt, **image_prompt()},
        arguments={"num_frames": 2, "height": 16, "width": 24},
        encoding=image_prompt,
    ),
]
