"""Does the harness tell the truth? Equal models under load, a built-in 3% slowdown, a bare loop, and its own cost.

Usage: python benchmarks/harness_validity/run.py [CASE ...] [--repetitions N] [--preset NAME] [--results DIR]

    equal    A against a copy of A while another process loads the machine: at most 1 of 20 may differ
    slower   A against A with 3% more layers, nothing else running: at least 19 of 20 must be slower, each in 120 s
    bare     the harness's latency against a bare onnxruntime loop, paired: within 3%
    cost     the share of the wall time at strict that is ours and not the models': at most 5%

Every repetition is one JSON file in DIR, named by case, preset and number; one whose file exists is not run again, so
the same command goes on after a stop, and a larger N adds to what is there. ``summary.md`` beside them is written from
the files of the preset that are there. Shares have exact 95% intervals: 20 repetitions bound a rate, no better than
that. ``degraded`` counts repetitions that something else disturbed; of ``equal`` all should be.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import binomtest

from compress.benchmark.compare import PRESETS, Preset, compare
from compress.benchmark.environment import NoiseProbe, describe
from compress.benchmark.measure import Profile
from compress.measures.intervals import estimate_ratio
from compress.store.disk import write_atomically

WIDTH, LAYERS, SLOWDOWN = 128, 100, 0.03  # weights of 6.5 MB: several copies fit in a shared cache
Case = Callable[[Path, Preset, int], dict[str, Any]]


def save_chain(path: Path, *, layers: int) -> Path:
    """Equal matrix products and activations one after another: the time grows with their number."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(layers):
        weight = rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [f"h{layer}", f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"h{layer + 1}"]))
    ends = [
        (name, helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]))
        for name in ("h0", nodes[-1].output[0])
    ]
    graph = helper.make_graph(nodes, "chain", [ends[0][1]], [ends[1][1]], weights)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def busy(seed: int) -> None:
    """Work in bursts of up to half a second, with pauses as long, until ended."""
    rng = np.random.default_rng(seed)
    while True:
        end = time.perf_counter() + rng.uniform(0, 0.5)
        while time.perf_counter() < end:
            sum(range(10_000))
        time.sleep(rng.uniform(0, 0.5))


def measure(work: Path, preset: Preset, seed: int, *, layers: int) -> dict[str, Any]:
    """A chain against another with so many layers."""
    models = {"A": save_chain(work / "a.onnx", layers=LAYERS), "B": save_chain(work / "b.onnx", layers=layers)}
    np.savez(work / "inputs.npz", h0=np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32))
    found = compare(models, reference="A", inputs=work / "inputs.npz", profile=Profile(), preset=preset, seed=seed)
    if found.failures:
        raise RuntimeError(str(found.failures))
    noise_floor = None if found.noise_floor is None else asdict(found.noise_floor)
    return {
        "verdict": found.verdict("B", over="A"),
        "speedup": asdict(found.speedup("B", over="A")),
        "noise_floor": noise_floor,
        "floor": found.floor,
        "noise": None if found.noise is None else asdict(found.noise),
        "degraded": found.degraded,
        "median_ms": {name: entry.median_ms for name, entry in found.measurements.items()},
        "block_median_ms": {name: entry.block_median_ms for name, entry in found.measurements.items()},
        "wall_s": found.wall_s,
        "model_s": found.model_s,
    }


def equal(work: Path, preset: Preset, seed: int) -> dict[str, Any]:
    """Equal models while another process comes and goes."""
    load = multiprocessing.get_context("spawn").Process(target=busy, args=(seed,), daemon=True)
    load.start()
    try:
        return measure(work, preset, seed, layers=LAYERS)
    finally:
        load.terminate()
        load.join()


def slower(work: Path, preset: Preset, seed: int) -> dict[str, Any]:
    """A slowdown of 3% that is there by construction."""
    return measure(work, preset, seed, layers=round(LAYERS * (1 + SLOWDOWN)))


def bare(work: Path, preset: Preset, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """A bare loop and a harness worker, alternating; the ratio is taken over repetitions."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from harness_overhead import one_pair

    model = save_chain(work / "a.onnx", layers=LAYERS)
    np.savez(work / "inputs.npz", h0=np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32))
    probe = NoiseProbe()
    bare_ms, harness_ms = one_pair(model, work / "inputs.npz")
    return {"bare_ms": bare_ms, "harness_ms": harness_ms, "degraded": probe.noise().reasons()}


def cost(work: Path, preset: Preset, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """The wall time of a strict comparison, and what of it the models took."""
    return measure(work, PRESETS["strict"], seed, layers=LAYERS)


CASES: dict[str, Case] = {"equal": equal, "slower": slower, "bare": bare, "cost": cost}
REPETITIONS = {"cost": 1}  # of 20 otherwise
FULL = 20  # fewer repetitions are shown, and judge nothing


def preset_of(case: str, preset: str) -> str:
    """The preset that a case runs at, whatever was asked for."""
    return "strict" if case == "cost" else preset


def summary(results: Path, *, preset: str) -> str:
    """A table of the preset's repetitions that are there."""
    found = {
        name: [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(results.glob(f"{name}-{preset_of(name, preset)}-*.json"))
        ]
        for name in CASES
    }
    lines = [
        "| case | repetitions | asked | got | holds | degraded | slowest, s |", "|---|---:|---|---|---|---:|---:|"
    ]  # fmt: skip
    for name, documents in found.items():
        if documents:
            asked, got, holds = JUDGED[name](documents)
            told = "too few" if len(documents) < REPETITIONS.get(name, FULL) else "yes" if holds else "NO"
            disturbed = sum(bool(document["degraded"]) for document in documents)
            slowest = max(document["seconds"] for document in documents)
            lines.append(f"| {name} | {len(documents)} | {asked} | {got} | {told} | {disturbed} | {slowest:.0f} |")
    environments = {
        (d["environment"]["cpu_model"], d["environment"]["date"][:10], d["preset"]) for ds in found.values() for d in ds
    }
    return "\n".join(
        [*lines, "", *(f"{cpu}; {date}; preset {preset}" for cpu, date, preset in sorted(environments)), ""]
    )


Judged = tuple[str, str, bool]


def _equal(documents: list[dict[str, Any]]) -> Judged:
    wrong = sum(document["verdict"] != "no measurable difference" for document in documents)
    return "at most 1 of 20 differ", f"{wrong} differ, {_rate(wrong, len(documents))}", 20 * wrong <= len(documents)


def _slower(documents: list[dict[str, Any]]) -> Judged:
    count = len(documents)
    right = sum(document["verdict"] == "slower" for document in documents)
    in_time = sum(document["seconds"] <= 120 for document in documents)
    got = f"{right} slower, {_rate(right, count)}; {in_time} in time"
    return "at least 19 of 20 slower, each in 120 s", got, 20 * right >= 19 * count and in_time == count


def _bare(documents: list[dict[str, Any]]) -> Judged:
    if len(documents) < 2:
        return "99% interval within 3%", "needs 2 repetitions", False
    ratio = estimate_ratio([np.log(d["harness_ms"] / d["bare_ms"]) for d in documents], seed=0)
    got = f"harness / bare {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
    return "99% interval within 3%", got, ratio.low >= 0.97 and ratio.high <= 1.03


def _cost(documents: list[dict[str, Any]]) -> Judged:
    share = max(1 - document["model_s"] / document["wall_s"] for document in documents)
    return "at most 5% of the wall time", f"{share:.1%}", share <= 0.05


def _rate(count: int, total: int) -> str:
    """A share with its exact interval (Clopper and Pearson 1934)."""
    interval = binomtest(count, total).proportion_ci(0.95, method="exact")
    return f"{count / total:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


JUDGED = {"equal": _equal, "slower": _slower, "bare": _bare, "cost": _cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[*CASES], choices=[*CASES])
    parser.add_argument("--repetitions", type=int, default=FULL)
    parser.add_argument("--preset", default="standard", choices=[*PRESETS])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in arguments.cases:
        for repetition in range(min(arguments.repetitions, REPETITIONS.get(name, arguments.repetitions))):
            preset = preset_of(name, arguments.preset)
            path = arguments.results / f"{name}-{preset}-{repetition:02}.json"
            if path.exists():
                continue
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as work:
                found = CASES[name](Path(work), PRESETS[arguments.preset], repetition)
            document = {
                "case": name,
                "repetition": repetition,
                "preset": preset,
                "seconds": time.perf_counter() - started,
            }
            document |= found | {"environment": asdict(describe(seed=repetition))}
            write_atomically(path, json.dumps(document, indent=1))
            print(path.name, found.get("verdict", ""), f"{document['seconds']:.0f} s", flush=True)
    text = summary(arguments.results, preset=arguments.preset)
    write_atomically(arguments.results / "summary.md", text)
    print(text)


if __name__ == "__main__":
    main()
