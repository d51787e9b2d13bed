"""The towers of a model folder by ONNX Runtime, Pillow and the tokenizers package: the reference that Lenslet is compared with.

Pictures and texts go through one at a time: dynamic INT8 finds one scale for a whole batch, so batches change the result.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def open_rgb(path) -> Image.Image:
    """Upright as EXIF says; transparent pixels over white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


class Preprocessor:
    """What preprocessor_config.json says, step by step."""

    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "preprocessor_config.json").read_text())

    def __call__(self, image: Image.Image) -> np.ndarray:
        c = self.config
        if c["do_resize"]:
            size = c["size"]
            if "shortest_edge" in size:
                short, long = sorted(image.size)
                edge = size["shortest_edge"]
                other = int(edge * long / short)
                target = (edge, other) if image.width <= image.height else (other, edge)
            else:
                target = (size["width"], size["height"])
            image = image.resize(target, Image.Resampling(c["resample"]))
        if c["do_center_crop"]:
            crop = c["crop_size"]
            left, top = (image.width - crop["width"]) // 2, (image.height - crop["height"]) // 2
            image = image.crop((left, top, left + crop["width"], top + crop["height"]))
        pixels = np.asarray(image, np.float32)
        if c["do_rescale"]:
            pixels = pixels * np.float32(c["rescale_factor"])
        if c["do_normalize"]:
            pixels = (pixels - np.float32(c["image_mean"])) / np.float32(c["image_std"])
        return pixels.transpose(2, 0, 1)[None].copy()


class Words:
    """tokenizer.json, without its padding: one text is as long as it is."""

    def __init__(self, folder):
        folder = Path(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        config = json.loads((folder / "config.json").read_text())
        longest = config["text_config"]["max_position_embeddings"]
        longest = min(longest, config.get("lenslet", {}).get("text", {}).get("max_length", longest))
        self.tokenizer.enable_truncation(longest)

    def __call__(self, text: str) -> np.ndarray:
        return np.array([self.tokenizer.encode(text).ids], np.int64)


class Tower:
    def __init__(self, path, threads: int = 1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, **inputs) -> np.ndarray:
        return self.session.run(None, inputs)[0][0]

    def image(self, pixel_values: np.ndarray) -> np.ndarray:
        return self(pixel_values=pixel_values)

    def text(self, input_ids: np.ndarray) -> np.ndarray:
        return self(input_ids=input_ids, attention_mask=np.ones_like(input_ids))


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (unit(a) * unit(b)).sum(-1)
