"""Does the harness report the latency that a bare ONNX Runtime loop sees?

Usage: python benchmarks/harness_overhead.py MODEL.onnx SAMPLES.npz [ROUNDS]

Alternates blocks of a bare loop in this process with blocks of a harness worker, one thread, batch 1, and
prints the ratio of the medians with its interval. 1 lies inside it, or within 2%, when the harness is honest.
"""

import os
import sys
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

from compress.benchmark.process import Worker
from compress.benchmark.statistics import geometric_mean_ratio

BLOCK_MS = 100.0


def main(model: Path, samples: Path, rounds: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(samples) as stored:
        feeds = [{name: stored[name][row : row + 1] for name in stored.files} for row in range(64)]

    def bare_ms() -> float:
        times, row, end = [], 0, time.perf_counter() + BLOCK_MS / 1e3
        while time.perf_counter() < end:
            started = time.perf_counter()
            session.run(None, feeds[row % 64])
            times.append(time.perf_counter() - started)
            row += 1
        return float(np.median(times)) * 1e3

    log_ratios, bare = [], []
    with Worker(runtime="ort-cpu", model=model, inputs=samples, batch_size=1, threads=1) as worker:
        worker.load()
        for index in range(rounds + 2):
            bare_now, (times_ns, _) = bare_ms(), worker.block(block_ms=BLOCK_MS)
            if index >= 2:  # the first rounds warm up
                bare.append(bare_now)
                log_ratios.append(np.log(np.median(times_ns) / 1e6) - np.log(bare_now))
    ratio = geometric_mean_ratio(log_ratios, seed=0)
    print(f"bare loop {np.median(bare):.4f} ms; harness / bare {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 30)
