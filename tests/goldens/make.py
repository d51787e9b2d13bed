"""Make a golden of a bundled dual tower with ONNX Runtime: what each picture and text becomes on the way.

    pip install numpy onnxruntime pillow tokenizers safetensors
    python make.py MODEL_FOLDER FP32_FOLDER CASES.json OUT.safetensors

FP32_FOLDER holds vision_model.onnx and text_model.onnx in float32. CASES.json is {"pictures": [paths from the repository's
root], "texts": [...]}; a file that this script wrote beside an earlier golden will do. Beside OUT.safetensors a JSON file of the
same name lists the cases.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import PIL
import tokenizers
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models/train"))
from reference import Preprocessor, Tower, Words, cosine, open_rgb  # noqa: E402


def bundled(folder: Path, tower: str) -> Path:
    (path,) = (folder / "onnx").glob(f"{tower}_model*.onnx")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("fp32", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()

    cases = json.loads(args.cases.read_text())
    preprocess, words = Preprocessor(args.model), Words(args.model)
    vision_file, text_file = bundled(args.model, "vision"), bundled(args.model, "text")
    vision, text = Tower(vision_file), Tower(text_file)
    vision32, text32 = Tower(args.fp32 / "vision_model.onnx"), Tower(args.fp32 / "text_model.onnx")

    tensors: dict[str, np.ndarray] = {}
    least = {"image": 1.0, "text": 1.0}
    for n, picture in enumerate(cases["pictures"]):
        pixels = preprocess(open_rgb(ROOT / picture))
        tensors[f"image{n}.pixel_values.first64"] = pixels.reshape(-1)[:64].copy()
        tensors[f"image{n}.pixel_values.mean"] = pixels[0].mean((1, 2), dtype=np.float64).astype(np.float32)
        tensors[f"image{n}.image_embeds"] = vision.image(pixels)
        tensors[f"image{n}.image_embeds.fp32"] = vision32.image(pixels)
        least["image"] = min(least["image"], float(cosine(tensors[f"image{n}.image_embeds"], tensors[f"image{n}.image_embeds.fp32"])))
    for n, line in enumerate(cases["texts"]):
        ids = words(line)
        tensors[f"text{n}.input_ids"] = ids
        tensors[f"text{n}.text_embeds"] = text.text(ids)
        tensors[f"text{n}.text_embeds.fp32"] = text32.text(ids)
        least["text"] = min(least["text"], float(cosine(tensors[f"text{n}.text_embeds"], tensors[f"text{n}.text_embeds.fp32"])))
    save_file(tensors, args.out)

    about = {
        "model": args.model.name,
        "vision": f"onnx/{vision_file.name}",
        "text": f"onnx/{text_file.name}",
        "made_with": {"onnxruntime": onnxruntime.__version__, "pillow": PIL.__version__, "tokenizers": tokenizers.__version__},
        "least_cosine_to_fp32": {k: round(v, 6) for k, v in least.items()},
        "pictures": cases["pictures"],
        "texts": cases["texts"],
    }
    args.out.with_suffix(".json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    print(args.out.name, args.out.stat().st_size, "bytes", about["least_cosine_to_fp32"])


if __name__ == "__main__":
    main()
