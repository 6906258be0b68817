"""Do weights of few bits make a decoder faster? Milliseconds a symbol in float, dynamic int8 and MatMulNBits.

Usage: python benchmarks/weight_only.py [--sizes pronunciation translation marian large] [--symbols 16] [--rounds 7]

Transformers with drawn weights of four sizes are exported as programs and written out in each form. One thread; all
forms of a size write in turn in every round, for batch 1, greedily and with a beam of 4. The time of a symbol is that
of a text of ``--symbols`` symbols less that of its first, over the others; the table has medians over the rounds, and
beside them the lowest and highest. Nothing is said of accuracy, which weights that were drawn do not have: a run's
gates are for that. Writes ``benchmarks/results/weight_only.json`` and ``.md``.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.benchmark.environment import describe
from compress.export.decoding import Decoder, Writing
from compress.export.deployable import Deployable
from compress.export.program import program_of
from compress.export.program_file import ProgramSession
from compress.models.transducer import Transducer
from compress.quantization.placement import place_dynamic
from compress.quantization.plan import dynamic_plan
from compress.quantization.plans import quantized
from compress.quantization.weight_only import write_weight_only

# Width, feed-forward, heads, layers of the decoder, symbols that can be written.
SIZES: Mapping[str, tuple[int, int, int, int, int]] = {
    "pronunciation": (128, 512, 4, 1, 70),
    "translation": (256, 1024, 4, 2, 8000),
    "marian": (512, 2048, 8, 6, 32000),
    "large": (1024, 4096, 16, 6, 32000),
}
BEAMS = (1, 4)
SOURCE = 24  # symbols that are read
LONGEST = 64


@dataclass(frozen=True)
class Timed:
    """One form of one size.

    Attributes:
        size: of the model.
        form: of its weights.
        beams: hypotheses that are followed.
        bytes: of the decoder's graph.
        symbol_ms: milliseconds for each symbol after the first, of each round.
    """

    size: str
    form: str
    beams: int
    bytes: int
    symbol_ms: list[float]


def forms_of(size: str) -> dict[str, Deployable]:
    """Return a model of a size, with drawn weights, in every form."""
    width, feed_forward, heads, layers, symbols = SIZES[size]
    torch.manual_seed(0)
    module = Transducer(
        source_symbols=symbols,
        target_symbols=symbols,
        width=width,
        heads=heads,
        feed_forward=feed_forward,
        encoder_layers=1,
        decoder_layers=layers,
        max_length=LONGEST,
    )
    fp32 = program_of(module, Writing(max_length=LONGEST, end=0))  # what is never written ends nothing
    plans = {name: dynamic_plan(place_dynamic(graph.graph)) for name, graph in fp32.graphs.items()}
    return {
        "fp32": fp32,
        "int8, dynamic": quantized(fp32, plans),
        "int8, weights": fp32.map(lambda _, graph: write_weight_only(graph, bits=8)),
        "int4, weights": fp32.map(lambda _, graph: write_weight_only(graph, bits=4)),
    }


def time_size(size: str, *, symbols: int, rounds: int) -> list[Timed]:
    """Return the times of all forms of a size."""
    forms = forms_of(size)
    opened = {name: decoder_of(form) for name, form in forms.items()}
    source = np.random.default_rng(0).integers(4, SIZES[size][-1], (1, SOURCE))
    found = []
    for beams in BEAMS:
        took: dict[str, list[float]] = {name: [] for name in forms}
        for number in range(rounds + 1):
            for name, decoder in opened.items():
                first, whole = (write_ms(decoder, source, beams=beams, symbols=count) for count in (1, symbols))
                if number:  # the first round warms up
                    took[name].append((whole - first) / (symbols - 1))
        found += [
            Timed(size, name, beams, forms[name].graphs["decoder"].ByteSize(), values) for name, values in took.items()
        ]
        for timed in found[-len(forms) :]:
            print(asdict(timed), flush=True)
    return found


def decoder_of(form: Deployable) -> Decoder:
    """Return the opened decoder of a program."""
    session = form.open()
    assert isinstance(session, ProgramSession)
    return session.decoder


def write_ms(decoder: Decoder, source: np.ndarray, *, beams: int, symbols: int) -> float:
    """Return milliseconds to write a text of so many symbols."""
    own = replace(decoder, writing=replace(decoder.writing, beams=beams, max_length=symbols))
    started_ns = time.perf_counter_ns()
    own.write(source, np.ones_like(source))
    return (time.perf_counter_ns() - started_ns) / 1e6


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["| size | form | decoder, MB | ms a symbol, greedy | ms a symbol, beam of 4 |", "|---|---|---:|---:|---:|"]
    timed: Sequence[dict[str, Any]] = result["timed"]
    for entry in (found for found in timed if found["beams"] == BEAMS[0]):
        both = [found for found in timed if (found["size"], found["form"]) == (entry["size"], entry["form"])]
        cells = (
            f"{np.median(found['symbol_ms']):.3g} ({min(found['symbol_ms']):.3g} to {max(found['symbol_ms']):.3g})"
            for found in both
        )
        lines.append(f"| {entry['size']} | {entry['form']} | {entry['bytes'] / 1e6:.3g} | {' | '.join(cells)} |")
    sizes = {name: SIZES[name] for name in dict.fromkeys(found["size"] for found in timed)}
    told = "; ".join(
        f"{name}: width {width}, feed-forward {inner}, {layers} layer{'s' * (layers > 1)}, {symbols:,} symbols"
        for name, (width, inner, _, layers, symbols) in sizes.items()
    )
    environment = result["environment"]
    versions = environment["versions"]
    lines += [
        "",
        f"Decoders with drawn weights: {told}. Medians of {result['rounds']} rounds, lowest and highest behind "
        f"them, on one thread. {environment['cpu_model']}; onnxruntime {versions['onnxruntime']}; "
        f"{environment['date'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--symbols", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results")
    arguments = parser.parse_args()
    options = {"symbols": arguments.symbols, "rounds": arguments.rounds}
    timed = [found for size in arguments.sizes for found in time_size(size, **options)]
    result = options | {"timed": [asdict(found) for found in timed], "environment": asdict(describe(seed=0))}
    stem = arguments.output / "weight_only"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(result))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
