"""Is a cache that stays in ONNX Runtime faster than one that is handed through NumPy? Milliseconds a symbol of both.

Usage: python benchmarks/io_binding.py [--sizes pronunciation translation marian] [--symbols 32] [--rounds 15]

Transformers with drawn weights are exported as programs, whose decoders write greedily on one thread, for batch 1: by
``InferenceSession.run``, as ``compress/export/decoding.py`` does, which copies the cache that a step gives into arrays;
and with ``io_binding``, where a step's cache is bound to the next step as it is, and the source's keys and values once.
Both write the same symbols in turn in every round. The time of a symbol is that of a text over its symbols. Writes
``benchmarks/results/io_binding.json`` and ``.md``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from weight_only import LONGEST, SIZES, SOURCE, forms_of

from compress.benchmark.environment import describe

CHOSEN = ("pronunciation", "translation", "marian")
BEGIN = 1


@dataclass(frozen=True)
class Timed:
    """Both ways of one size.

    Attributes:
        size: of the model.
        run_ms: milliseconds a symbol by `run`, of each round.
        bound_ms: the same with bound values.
    """

    size: str
    run_ms: list[float]
    bound_ms: list[float]

    @property
    def ratios(self) -> list[float]:
        """What `run` takes over what bound values take, of each round."""
        return [run / bound for run, bound in zip(self.run_ms, self.bound_ms, strict=True)]


def open_graphs(size: str) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    """Return encoder and decoder of a size, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graphs = forms_of(size)["fp32"].graphs
    encoder, decoder = (
        ort.InferenceSession(graphs[name].SerializeToString(), options, providers=["CPUExecutionProvider"])
        for name in ("encoder", "decoder")
    )
    return encoder, decoder


def write_by_run(decoder: ort.InferenceSession, cross: list[Any], mask: Any, symbols: int) -> list[int]:
    """Return the symbols that are written, every value handed over as an array."""
    names = [value.name for value in decoder.get_inputs()]
    past: list[Any] = [
        np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for value in decoder.get_inputs()[2 + len(cross) :]
    ]
    token, found = np.array([[BEGIN]]), list[int]()
    for _ in range(symbols):
        made: list[Any] = [*decoder.run(None, dict(zip(names, [token, mask, *cross, *past], strict=True)))]
        logits, *past = made
        token = logits.argmax(axis=1)[:, None]
        found.append(int(token[0, 0]))
    return found


def write_bound(decoder: ort.InferenceSession, cross: list[Any], mask: Any, symbols: int) -> list[int]:
    """Return the symbols that are written, with a cache that stays where it is."""
    names, given = [value.name for value in decoder.get_inputs()], decoder.get_outputs()
    binding, value_of = decoder.io_binding(), ort.OrtValue.ortvalue_from_numpy
    for name, value in zip(names[1 : 2 + len(cross)], [mask, *cross], strict=True):
        binding.bind_ortvalue_input(name, value_of(value))
    past: list[Any] = [
        value_of(np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32))
        for value in decoder.get_inputs()[2 + len(cross) :]
    ]
    token, found = np.array([[BEGIN]]), list[int]()
    for _ in range(symbols):
        binding.bind_ortvalue_input(names[0], value_of(token))
        for name, value in zip(names[2 + len(cross) :], past, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.clear_binding_outputs()
        for value in given:
            binding.bind_output(value.name, "cpu")
        decoder.run_with_iobinding(binding)
        logits, *past = binding.get_outputs()
        token = logits.numpy().argmax(axis=1)[:, None]
        found.append(int(token[0, 0]))
    return found


def time_size(size: str, *, symbols: int, rounds: int) -> Timed:
    """Return the times of both ways.

    Raises:
        RuntimeError: when they write other symbols.
    """
    encoder, decoder = open_graphs(size)
    ids = np.random.default_rng(0).integers(4, SIZES[size][-1], (1, SOURCE))
    mask = np.ones_like(ids)
    cross = encoder.run(None, {"source_ids": ids, "source_mask": mask})
    ways: dict[str, Callable[..., list[int]]] = {"run": write_by_run, "bound": write_bound}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        written = []
        for name in [*ways] if number % 2 else [*ways][::-1]:
            started_ns = time.perf_counter_ns()
            written.append(ways[name](decoder, cross, mask, symbols))
            if number:  # the first round warms up
                took[name].append((time.perf_counter_ns() - started_ns) / 1e6 / symbols)
        if written[0] != written[1]:
            raise RuntimeError(f"{size}: both ways should write the same")
    found = Timed(size, took["run"], took["bound"])
    print(asdict(found), flush=True)
    return found


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "| size | ms a symbol, run | ms a symbol, bound | run over bound, round by round |",
        "|---|---:|---:|---:|",
    ]
    for entry in result["timed"]:
        timed = Timed(**entry)
        cells = (
            f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
            for values in (timed.run_ms, timed.bound_ms, timed.ratios)
        )
        lines.append(f"| {timed.size} | {' | '.join(cells)} |")
    told = "; ".join(
        f"{name}: width {width}, feed-forward {inner}, {layers} layer{'s' * (layers > 1)}, {symbols:,} symbols"
        for name, (width, inner, _, layers, symbols) in (
            (entry["size"], SIZES[entry["size"]]) for entry in result["timed"]
        )
    )
    environment = result["environment"]
    lines += [
        "",
        f"Decoders with drawn weights: {told}. Texts of {result['symbols']} symbols, greedy, batch 1; medians of "
        f"{result['rounds']} rounds, lowest and highest behind them, on one thread. {environment['cpu_model']}; "
        f"onnxruntime {environment['versions']['onnxruntime']}; {environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*CHOSEN])
    parser.add_argument("--symbols", type=int, default=32, help=f"up to {LONGEST}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results")
    arguments = parser.parse_args()
    options = {"symbols": arguments.symbols, "rounds": arguments.rounds}
    timed = [time_size(size, **options) for size in arguments.sizes]
    result = options | {"timed": [asdict(found) for found in timed], "environment": asdict(describe(seed=0))}
    stem = arguments.output / "io_binding"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
