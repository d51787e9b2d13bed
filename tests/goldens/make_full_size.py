"""Make a golden of a graph that takes pictures and is too large for git, and tell how firm ONNX Runtime's own answer is.

    pip install numpy onnxruntime safetensors
    python tests/goldens/make_full_size.py vision_model_quantized.onnx vision_model_quantized.golden.safetensors
    lenslet check vision_model_quantized.onnx vision_model_quantized.golden.safetensors

In dynamic INT8 a last bit of a float decides now and then how an activation is rounded to 8 bits, and in a model with random
weights nothing evens that out. What ONNX Runtime answers to a barely changed input, or without its optimiser, is the most that
another implementation can be asked for.
"""

import sys

import numpy as np
import onnxruntime
from safetensors.numpy import save_file

SIZE = 224


def session(path, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def cosine(a, b):
    a, b = (x.astype(np.float64).ravel() for x in (a, b))
    return a @ b / np.sqrt((a @ a) * (b @ b))


def main():
    path, out = sys.argv[1:]
    usual = session(path)
    plain = session(path, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    (info,) = usual.get_inputs()
    name = usual.get_outputs()[0].name
    random = np.random.default_rng(1)
    tensors = {}
    for case, batch in enumerate([1, 2]):
        pixels = random.standard_normal((batch, 3, SIZE, SIZE), np.float32)
        (wanted,) = usual.run([name], {info.name: pixels})
        tensors[f"case{case}.input.{info.name}"] = pixels
        tensors[f"case{case}.output.{name}"] = wanted
        (other,) = plain.run([name], {info.name: pixels})
        print(f"case {case}: without the optimiser cosine {cosine(wanted, other):.6f}")
        for noise in [1e-7, 1e-6]:
            changed = pixels * (1 + noise * random.standard_normal(pixels.shape, np.float32))
            (other,) = usual.run([name], {info.name: changed})
            print(f"case {case}: input changed by {noise:.0e} cosine {cosine(wanted, other):.6f}")
    save_file(tensors, out)


main()
