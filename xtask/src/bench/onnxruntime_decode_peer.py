"""Tokens a second of ONNX Runtime, greedy and with the cache. Started by `cargo xtask bench decode`.

    python onnxruntime_decode_peer.py MODEL.onnx THREADS NEW_TOKENS PROMPT_ID...
"""

import json
import sys
import time

import numpy as np
import onnxruntime


def main():
    model, threads, new_tokens, *prompt = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {info.name: info for info in session.get_inputs()}
    outputs = [info.name for info in session.get_outputs()]
    past = {
        name: np.zeros((1, info.shape[1], 0, info.shape[3]), np.float32)
        for name, info in inputs.items()
        if name.startswith("past_key_values.")
    }
    ids, length, times = [int(token) for token in prompt], 0, []
    for _ in range(int(new_tokens)):
        started = time.perf_counter()
        length += len(ids)
        feed = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length - len(ids), length, dtype=np.int64)[None],
            **past,
        }
        results = session.run(None, {name: value for name, value in feed.items() if name in inputs})
        ids = [int(results[outputs.index("logits")][0, -1].argmax())]
        past = {
            name.replace("present", "past_key_values"): value
            for name, value in zip(outputs, results)
            if name.startswith("present.")
        }
        times.append(time.perf_counter() - started)
    # The first token comes with the prompt.
    later = times[1:]
    print(json.dumps({"tokens_per_second": len(later) / sum(later), "version": onnxruntime.__version__}))


main()
