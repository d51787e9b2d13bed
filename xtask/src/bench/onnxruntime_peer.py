"""How long ONNX Runtime takes for a graph, on the inputs that `lenslet bench` makes. Started by `cargo xtask bench`.

    python onnxruntime_peer.py MODEL.onnx THREADS NAME=SIZE...
"""

import json
import statistics
import sys
import time

import numpy as np
import onnxruntime


def sample(info, sizes):
    """What `lenslet_models::shapes::sample` makes: ones for ids and masks, a slow wave for pictures."""
    shape = [size if isinstance(size, int) else sizes[size] for size in info.shape]
    if info.type == "tensor(int64)":
        return np.ones(shape, np.int64)
    if info.type != "tensor(float)":
        sys.exit(f"{info.name}: no sample for {info.type}")
    wave = np.sin(np.arange(np.prod(shape)) % 997 * 0.013)
    return wave.astype(np.float32).reshape(shape)


def main():
    model, threads, *dims = sys.argv[1:]
    sizes = {name: int(size) for name, size in (dim.split("=") for dim in dims)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {info.name: sample(info, sizes) for info in session.get_inputs()}
    # As many runs as `lenslet bench` makes: 3 that do not count, then 10 or 2 seconds, at most 200.
    for _ in range(3):
        session.run(None, feed)
    times = []
    while len(times) < 10 or (sum(times) < 2 and len(times) < 200):
        started = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - started)
    print(json.dumps({"median_ms": statistics.median(times) * 1e3, "version": onnxruntime.__version__}))


main()
