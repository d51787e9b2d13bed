"""Draw the emoji gallery from the npm package openmoji.

    npm pack openmoji@17.0.0 && tar xzf openmoji-17.0.0.tgz
    pip install pillow resvg_py
    python make_emoji.py package openmoji.json

`openmoji.json` gives the names in three languages: [{"file", "emoji", "en", "zh", "es"}, ...]. Pictures are 256 px,
transparent, at most 64 colours.
"""

import argparse
import io
import json
from pathlib import Path

import resvg_py
from PIL import Image

HERE = Path(__file__).resolve().parent
SIZE, COLOURS = 256, 64

# Whole subgroups of Unicode's list, and how many of each at most (they are in Unicode's order, common ones first).
SUBGROUPS = {
    "face-smiling": 10, "face-affection": 5, "face-tongue": 3, "face-hand": 4, "face-neutral-skeptical": 4, "face-sleepy": 3,
    "face-unwell": 5, "face-hat": 2, "face-glasses": 2, "face-concerned": 8, "face-negative": 5, "face-costume": 6, "cat-face": 3,
    "heart": 16, "emotion": 3,
    "animal-mammal": 36, "animal-bird": 15, "animal-amphibian": 1, "animal-reptile": 6, "animal-marine": 10, "animal-bug": 10,
    "plant-flower": 8, "plant-other": 12,
    "food-fruit": 18, "food-vegetable": 12, "food-prepared": 28, "food-asian": 9, "food-sweet": 14, "drink": 12, "dishware": 3,
    "place-geographic": 7, "place-building": 8, "place-religious": 2, "place-other": 6,
    "transport-ground": 32, "transport-water": 7, "transport-air": 12, "time": 2, "sky-weather": 34,
    "event": 9, "award-medal": 2, "sport": 20, "game": 8, "music": 2, "musical-instrument": 7, "light-video": 6, "computer": 4,
    "book-paper": 3, "money": 2, "tool": 6, "lock": 2, "household": 4, "clothing": 8, "phone": 2,
}  # fmt: skip
# Left out: lesser-known pictures that would take the place of better-known ones in their subgroup, and the second picture of an
# animal that Unicode has both as a face and as a whole (dogs and cats keep both).
SKIP = {
    "mouse face", "horse face", "tiger face", "cow face", "pig face", "rabbit face", "dragon face", "monkey face",
    "orangutan", "chipmunk", "beaver", "leopard", "bat", "polar bear", "face in clouds",
    "mammoth", "boar", "ox", "water buffalo", "bison", "moose", "donkey", "llama", "ram", "two-hump camel", "dodo", "feather", "pig nose", "rat",
    "ogre", "goblin", "seat", "railway car", "station", "mountain railway", "tram car", "light rail", "oncoming bus", "oncoming police car",
    "oncoming taxi", "oncoming automobile", "waning gibbous moon", "waning crescent moon", "waxing gibbous moon", "waxing crescent moon",
}  # fmt: skip
COUNTRIES = (
    "US CA MX BR AR GB FR DE ES IT PT NL BE CH AT SE NO DK FI IE PL GR TR UA RU CN JP KR IN PK ID TH VN AU NZ ZA EG NG KE SA EU UN"
).split()


def flag(country: str) -> str:
    return "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):X}" for letter in country)


def draw(svg: Path, target: Path) -> None:
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(svg), width=SIZE, height=SIZE)))).convert("RGBA")
    picture.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("names", type=Path, help="openmoji.json with the names")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()

    names = {Path(entry["file"]).stem: entry for entry in json.loads(args.names.read_text())}
    flags = {flag(country) for country in COUNTRIES}
    left = dict(SUBGROUPS)
    folder = args.out / "emoji"
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for entry in json.loads((args.package / "data/openmoji.json").read_text()):
        code, group = entry["hexcode"], entry["subgroups"]
        if code not in names or entry["skintone"] or names[code]["en"] in SKIP:
            continue
        if code not in flags:
            if left.get(group, 0) == 0:
                continue
            left[group] -= 1
        name = {language: names[code][language] for language in ("en", "zh", "es")}
        draw(args.package / "color/svg" / f"{code}.svg", folder / f"{code}.png")
        items.append({"file": f"{code}.png", "emoji": names[code]["emoji"], "name": name, "alt": f"Emoji: {name['en']}"})
    gallery = {
        "license": "CC-BY-SA-4.0",
        "attribution": "All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0",
        "url": "https://openmoji.org",
        "source": "npm package openmoji 17.0.0, color/svg; drawn at 256 px and reduced to 64 colours",
        "names": "Unicode CLDR through emojibase-data (MIT, Unicode licence)",
        "items": items,
    }
    text = json.dumps(gallery, indent=1, ensure_ascii=False)
    (args.out / "emoji.json").write_text(text + "\n")
    print(len(items), "pictures,", sum(file.stat().st_size for file in folder.glob("*.png")), "bytes")


if __name__ == "__main__":
    main()
