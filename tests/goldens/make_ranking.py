"""Make emoji-ranking.json: how similar 50 emoji names and 200 OpenMoji pictures are, by ONNX Runtime in float32.

    pip install numpy onnxruntime pillow tokenizers
    python tests/goldens/make_ranking.py EMOJI_CLIP_FOLDER tests/goldens/emoji-ranking.json

EMOJI_CLIP_FOLDER holds the float32 graphs, openmoji.json and the pictures it names.
"""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models/train"))
from reference import Preprocessor, Tower, Words, open_rgb, unit  # noqa: E402

PICTURES, QUERIES = 200, 50


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    entries = json.loads((folder / "openmoji.json").read_text())
    # Spread over the whole list, faces to flags; each query is the name of one of the pictures, in three languages.
    entries = entries[:: len(entries) // PICTURES][:PICTURES]
    named = entries[:: PICTURES // QUERIES][:QUERIES]
    queries = [entry[("en", "zh", "es")[n % 3]] for n, entry in enumerate(named)]

    preprocess, words = Preprocessor(folder), Words(folder)
    vision, text = Tower(folder / "vision_model.onnx"), Tower(folder / "text_model.onnx")
    pictures = unit([vision.image(preprocess(open_rgb(folder / entry["file"]))) for entry in entries])
    names = unit([text.text(words(query)) for query in queries])
    rows = [[round(float(x), 6) for x in row] for row in names @ pictures.T]
    lines = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in rows)
    head = json.dumps({"pictures": [e["file"] for e in entries], "queries": queries}, ensure_ascii=False, indent=1)
    out.write_text(head.removesuffix("\n}") + f',\n "similarities": [\n  {lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
