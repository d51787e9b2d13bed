"""How much of a bundled INT8 text tower's embedding hangs on the last bits of its floats.

    pip install numpy onnx onnxruntime safetensors
    python tests/goldens/noise.py models/bundled/photo-search tests/goldens/photo-search.safetensors

Computes each text of the golden again by ONNX Runtime, first with every MatMulInteger replaced by float64 arithmetic, which is
exact, then so with relative noise on the outputs of the LayerNorms, and prints the cosines with the golden.
"""

import copy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

TRIALS = 6


def exact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with integer products in float64."""
    nodes = []
    for k, node in enumerate(model.graph.node):
        if node.op_type != "MatMulInteger":
            nodes.append(node)
            continue
        sides = []
        for side, zero in zip(node.input[:2], [*node.input[2:], "", ""]):
            wide = f"exact{k}_{len(sides)}"
            nodes.append(helper.make_node("Cast", [side], [wide], to=TensorProto.DOUBLE))
            if zero:
                nodes.append(helper.make_node("Cast", [zero], [wide + "_zero"], to=TensorProto.DOUBLE))
                nodes.append(helper.make_node("Sub", [wide, wide + "_zero"], [wide + "_shifted"]))
                wide += "_shifted"
            sides.append(wide)
        nodes.append(helper.make_node("MatMul", sides, [f"exact{k}"]))
        nodes.append(helper.make_node("Cast", [f"exact{k}"], [node.output[0]], to=TensorProto.INT32))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def noisy(model: onnx.ModelProto, width: int, size: float, seed: int) -> onnx.ModelProto:
    """The same graph with the outputs of its LayerNorms off by about `size` of themselves."""
    model, random, nodes = copy.deepcopy(model), np.random.default_rng(seed), []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "LayerNormalization":
            name = node.output[0]
            node.output[0] = name + "_clean"
            factor = (1 + size * random.standard_normal(width)).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(factor, name + "_noise"))
            nodes.append(helper.make_node("Mul", [node.output[0], name + "_noise"], [name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def embed(model: onnx.ModelProto, golden: dict) -> list[float]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    cosines, n = [], 0
    while f"text{n}.input_ids" in golden:
        ids, want = golden[f"text{n}.input_ids"], golden[f"text{n}.text_embeds"].astype(np.float64)
        got = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0].astype(np.float64)
        cosines.append(float(got @ want / np.linalg.norm(got) / np.linalg.norm(want)))
        n += 1
    return cosines


def main() -> None:
    folder, golden = Path(sys.argv[1]), load_file(sys.argv[2])
    (path,) = (folder / "onnx").glob("text_model*.onnx")
    model = exact(onnx.load(path))
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    (width,) = next(list(t.dims) for t in model.graph.initializer if t.name == norm.input[1])
    print("exact products:", " ".join(f"{c:.5f}" for c in embed(model, golden)))
    for size in (1e-7, 1e-6, 1e-5):
        trials = [embed(noisy(model, width, size, seed), golden) for seed in range(TRIALS)]
        print(f"noise {size:g}, the worst of {TRIALS}:", " ".join(f"{c:.5f}" for c in np.min(trials, axis=0)))


if __name__ == "__main__":
    main()
