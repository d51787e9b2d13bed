"""Writes a graph with numbers for all shapes, for runtimes that do not infer them. Started by `cargo xtask bench cpu`.

    python fixed_shapes.py MODEL.onnx OUT.onnx NAME=SIZE...
"""

import sys

import onnx


def main():
    source, target, *words = sys.argv[1:]
    sizes = {name: int(size) for name, size in (word.split("=") for word in words)}
    model = onnx.load(source)
    for info in model.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    # What was inferred with names would contradict the numbers.
    del model.graph.value_info[:]
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), target)


main()
