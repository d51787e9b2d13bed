"""Convert a float32 ONNX graph to float16 inside, with float32 inputs and outputs.

    pip install numpy onnx onnxruntime
    python to_fp16.py vision_model.onnx vision_model_fp16.onnx

Filters of convolutions larger than 1x1 are rounded so that the sum of each stays what it was: the rounding error of a weight is
handed to the next smaller one. Smooth parts of a picture see only that sum. In photo-search nearly all that half precision costs
comes from the sums of its depthwise filters: 1 - cosine falls from 2e-4 to 1e-6 on a rocket under a dark sky, for no bytes.

To see what the conversion costs, compare both files on real pictures with `evaluate.py cosine`.
"""

import argparse

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16


def round_keeping_sums(weights: np.ndarray) -> np.ndarray:
    """Each filter (first axis) to values that float16 holds, largest first, with the error carried on."""
    filters = weights.reshape(weights.shape[0], -1).astype(np.float64)
    rounded = np.empty_like(filters)
    order = np.argsort(-np.abs(filters), axis=1, kind="stable")
    rows = np.arange(filters.shape[0])
    error = np.zeros(filters.shape[0])
    for column in order.T:
        wanted = filters[rows, column] + error
        rounded[rows, column] = wanted.astype(np.float16)
        error = wanted - rounded[rows, column]
    return rounded.reshape(weights.shape).astype(np.float32)


def round_filters(graph: onnx.GraphProto) -> None:
    filters = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    for tensor in graph.initializer:
        if tensor.name in filters and np.prod(tensor.dims[2:]) > 1:
            tensor.CopyFrom(numpy_helper.from_array(round_keeping_sums(numpy_helper.to_array(tensor)), tensor.name))


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Order the nodes as ONNX asks: the converter appends the casts of the graph's inputs at the end."""
    known = {value.name for value in [*graph.input, *graph.initializer]} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = []
        blocked = []
        for node in waiting:
            if all(name in known for name in node.input):
                ready.append(node)
                known.update(node.output)
            else:
                blocked.append(node)
        if not ready:
            raise SystemExit(f"no order for {blocked[0].name}: an input comes from nowhere, or there is a cycle")
        ordered += ready
        waiting = blocked
    del graph.node[:]
    graph.node.extend(ordered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--keep-fp32", nargs="*", default=[], metavar="NODE", help="nodes that stay in float32")
    args = parser.parse_args()
    model = onnx.load(args.source)
    round_filters(model.graph)
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=args.keep_fp32)
    sort_nodes(half.graph)
    onnx.checker.check_model(half, full_check=True)
    onnx.save(half, args.target)


if __name__ == "__main__":
    main()
