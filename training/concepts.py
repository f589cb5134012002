"""The published list: which emoji the model and the classifiers must know, and by which words.

*Focus* concepts have a name of their own and look unlike each other. *Wordless* concepts are shown
to the diffusion model only as "thing": it can draw them and has no word for them. *Held-out* pairs
(concept, style) are never shown to the diffusion model or to the classifiers. All other
pictures that pass `is_usable` widen the training set.

    python -m training.concepts --output concepts.json
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from training.emoji import DEFAULT_DATA_DIR, STYLES, EmojiSet, load_emoji

TEMPLATE = "{name}, style {style}"
GENERIC_NOUN = "thing"
HELD_OUT_FRACTION = 0.05

FOCUS = """
red-apple green-apple grapes watermelon lemon banana cherries strawberry pear tomato eggplant carrot
ear-of-corn broccoli avocado bread croissant pretzel cheese-wedge pizza hot-dog taco popcorn
doughnut cookie birthday-cake ice-cream lollipop honey-pot wine-glass beer-mug french-fries
cat-face dog-face fox lion cow-face pig-face frog panda koala rabbit-face mouse-face monkey-face
unicorn penguin owl baby-chick elephant turtle spouting-whale crab snail
lady-beetle honeybee spider parrot
sunflower rose tulip cherry-blossom four-leaf-clover maple-leaf palm-tree
christmas-tree
fire-engine taxi bus bicycle airplane sailboat locomotive tractor helicopter
flying-saucer house volcano vertical-traffic-light stop-sign
sun-with-face star crescent-moon rainbow snowflake snowman fire high-voltage umbrella ringed-planet
globe-showing-americas
soccer-ball basketball balloon wrapped-gift jack-o-lantern teddy-bear
red-heart blue-heart green-heart light-bulb key bell alarm-clock camera television telephone
magnet gem-stone sunglasses top-hat t-shirt high-heeled-shoe candle drum bomb locked
skull ghost robot
""".split()  # noqa: SIM905

WORDLESS = """
pineapple cactus rocket guitar octopus butterfly trophy hamburger mushroom flamingo crown anchor
""".split()  # noqa: SIM905

PEOPLE_KEPT = """
nail-polish flexed-biceps mechanical-arm mechanical-leg leg foot ear nose brain anatomical-heart
lungs tooth bone eyes eye tongue mouth footprints waving-hand raised-hand ok-hand victory-hand
thumbs-up thumbs-down raised-fist heart-hands santa-claus
""".split()  # noqa: SIM905
SYMBOL_WORDS_KEPT = {"circle", "square", "diamond", "heart", "arrow", "star", "cross", "check"}
SYMBOLS_KEPT = """
warning no-entry radioactive biohazard yin-yang peace-symbol infinity recycling-symbol fleur-de-lis
red-question-mark red-exclamation-mark eight-pointed-star sparkle atom-symbol
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Concept:
    """One class of the classifiers. `label` is unique; `name` is what the captions call it."""

    label: str
    name: str
    emoji: str
    wordless: bool
    held_out_styles: list[str]


def caption(name: str, style: str) -> str:
    return TEMPLATE.format(name=name, style=style)


def words(slug: str) -> str:
    return slug.replace("-", " ")


def is_usable(slug: str, group: str) -> bool:
    """Whether a picture is worth its place: no near-identical people, clock faces or text signs."""
    if slug in FOCUS or slug in WORDLESS:
        return True
    parts = set(slug.split("-"))
    if parts & {word for wordless in WORDLESS for word in wordless.split("-")}:
        return False  # the words of the wordless concepts occur in no caption
    if group == "People & Body":
        return slug in PEOPLE_KEPT
    if group == "Symbols":
        return slug in SYMBOLS_KEPT or bool(parts & SYMBOL_WORDS_KEPT)
    return not slug.endswith("-thirty") and "banknote" not in parts


def build_concepts(emoji: EmojiSet, seed: int = 0) -> list[Concept]:
    """Hold out about one pair in twenty, at most one style of a concept, the styles evenly."""
    rng = random.Random(seed)
    count = round(HELD_OUT_FRACTION * len(FOCUS) * len(STYLES))
    held_out = {
        slug: STYLES[i % len(STYLES)] for i, slug in enumerate(rng.sample(sorted(FOCUS), count))
    }
    return [
        Concept(
            label=words(slug),
            name=GENERIC_NOUN if slug in WORDLESS else words(slug),
            emoji=emoji.characters[emoji.index(slug)],
            wordless=slug in WORDLESS,
            held_out_styles=[held_out[slug]] if slug in held_out else [],
        )
        for slug in FOCUS + WORDLESS
    ]


def published_list(emoji: EmojiSet) -> dict:
    return {
        "caption_template": TEMPLATE,
        "styles": list(STYLES),
        "generic_noun": GENERIC_NOUN,
        "concepts": [asdict(concept) for concept in build_concepts(emoji)],
    }


@dataclass(frozen=True)
class Example:
    """One picture of the diffusion model's training set."""

    style: int
    name: int
    caption: str
    focus: bool


def training_examples(emoji: EmojiSet) -> list[Example]:
    concepts = {concept.label: concept for concept in build_concepts(emoji)}
    examples = []
    for i, (slug, group) in enumerate(zip(emoji.slugs, emoji.groups, strict=True)):
        if not is_usable(slug, group):
            continue
        concept = concepts.get(words(slug))
        name = concept.name if concept else words(slug)
        for s, style in enumerate(STYLES):
            if concept and style in concept.held_out_styles:
                continue
            examples.append(Example(s, i, caption(name, style), concept is not None))
    return examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=DEFAULT_DATA_DIR)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    listing = published_list(load_emoji(args.data_dir))
    args.output.write_text(json.dumps(listing, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
