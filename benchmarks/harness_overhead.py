"""Does the harness report the latency that a bare ONNX Runtime loop sees?

    python benchmarks/harness_overhead.py MODEL.onnx SAMPLES.npz [--pairs 12]

Each pair is a bare session and a harness worker, each in a fresh process, one thread, batch 1, in alternating blocks.
Which of the two goes first changes with every round. The interval is taken over pairs and not over blocks: where a
process happens to place its weights moves its latency by several percent for as long as it lives, between two bare
loops too. For the same reason one process cannot serve the bare sessions of all pairs: they would share its luck, and
no interval would show it.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

from compress.benchmark.process import Worker
from compress.measures.intervals import estimate_ratio

BLOCK_S, ROUNDS, WARM_UP_ROUNDS = 0.02, 50, 5
HELD: list[tuple[onnxruntime.InferenceSession, list[dict[str, np.ndarray]]]] = []  # of a bare process


def bare_session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def hold(model: Path, samples: Path) -> None:
    """Load what this process times."""
    with np.load(samples) as stored:
        rows = min(64, len(stored[stored.files[0]]))
        feeds = [{name: stored[name][row : row + 1] for name in stored.files} for row in range(rows)]
    HELD.append((bare_session(model), feeds))


def bare_ms() -> float:
    """Median milliseconds of a block of the bare loop."""
    ((session, feeds),) = HELD
    outputs = [node.name for node in session.get_outputs()]
    times, call, end = [], 0, time.perf_counter() + BLOCK_S
    while time.perf_counter() < end:
        started = time.perf_counter()
        session.run(outputs, feeds[call % len(feeds)])
        times.append(time.perf_counter() - started)
        call += 1
    return float(np.median(times)) * 1e3


def one_pair(model: Path, samples: Path) -> tuple[float, float]:
    """Median milliseconds of the bare loop and of the harness."""
    bare, harness = [], []
    with Worker() as worker, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        worker.load(runtime="ort-cpu", model=model, inputs=samples)
        fresh.submit(hold, model, samples).result()
        for index in range(ROUNDS):
            for takes_turn in ("bare", "harness") if index % 2 else ("harness", "bare"):
                if takes_turn == "bare":
                    bare.append(fresh.submit(bare_ms).result())
                else:
                    harness.append(np.median(worker.block(block_ms=BLOCK_S * 1e3).times_ns) / 1e6)
    return float(np.median(bare[WARM_UP_ROUNDS:])), float(np.median(harness[WARM_UP_ROUNDS:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path, help="named inputs, a row a sample")
    parser.add_argument("--pairs", type=int, default=12)
    given = parser.parse_args()
    found = np.array([one_pair(given.model, given.samples) for _ in range(given.pairs)])
    ratio = estimate_ratio(np.log(found[:, 1] / found[:, 0]), seed=0)
    print(
        f"bare loop {np.median(found[:, 0]):.4f} ms, harness {np.median(found[:, 1]):.4f} ms; "
        f"harness / bare {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
    )


if __name__ == "__main__":
    main()
