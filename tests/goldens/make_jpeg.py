"""Make photo-search-jpeg.json: the embeddings of twelve of the gallery's JPEG files, decoded by Pillow, by ONNX Runtime.

    pip install numpy onnxruntime pillow tokenizers
    python tests/goldens/make_jpeg.py tests/goldens/photo-search-jpeg.json
"""

import json
import sys
from pathlib import Path

import onnxruntime
import PIL

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models/train"))
from reference import Preprocessor, Tower, open_rgb, unit  # noqa: E402

PICTURES = 12
VISION = "onnx/vision_model_fp16.onnx"


def main() -> None:
    out = Path(sys.argv[1])
    folder = ROOT / "models/bundled/photo-search"
    photos = sorted((ROOT / "models/gallery/photos").glob("*.jpg"))
    chosen = photos[:: len(photos) // PICTURES][:PICTURES]
    preprocess, vision = Preprocessor(folder), Tower(folder / VISION)
    rows = unit([vision.image(preprocess(open_rgb(photo))) for photo in chosen])
    about = {
        "model": folder.name,
        "vision": VISION,
        "made_with": {"onnxruntime": onnxruntime.__version__, "pillow": PIL.__version__},
        "pictures": [str(photo.relative_to(ROOT)) for photo in chosen],
    }
    lines = ",\n  ".join(json.dumps([round(float(x), 6) for x in row], separators=(",", ":")) for row in rows)
    head = json.dumps(about, indent=1)
    out.write_text(head.removesuffix("\n}") + f',\n "embeddings": [\n  {lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
