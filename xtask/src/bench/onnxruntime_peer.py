"""ONNX Runtime in turns with others: loads a graph and runs it when it is told to. Started by `cargo xtask bench cpu`.

    python onnxruntime_peer.py MODEL.onnx THREADS NAME=SIZE...

xtask/peers/src/protocol.rs says what is written and read.
"""

import json
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


def peak_bytes():
    """The high-water mark of this process's resident memory, where Linux tells it."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def say(**values):
    print(json.dumps(values), flush=True)


def main():
    model, threads, *words = sys.argv[1:]
    sizes = {name: int(size) for name, size in (word.split("=") for word in words)}

    started = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {info.name: sample(info, sizes) for info in session.get_inputs()}
    load_ms = (time.perf_counter() - started) * 1e3

    def run():
        began = time.perf_counter()
        session.run(None, feed)
        return (time.perf_counter() - began) * 1e3

    say(load_ms=load_ms, first_ms=run(), version=onnxruntime.__version__)
    for line in sys.stdin:
        say(ms=[run() for _ in range(int(line))])
    say(peak_bytes=peak_bytes())


main()
