"""A program: an encoder and a decoder on the CPU, driven as they are deployed, from sources to written texts."""

import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .interface import Batch, Load
from .onnxruntime_sessions import check_names, check_one_wheel, open_cpu, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

INPUTS = ["source_ids", "source_mask"]


def is_program(model: str) -> bool:
    """Whether a path is that of a program."""
    return model.endswith(".json")


class CpuProgram:
    """Two sessions on the CPU, and what drives them."""

    def __init__(self, load: Load) -> None:
        from .decoding import Decoder, Writing  # pyright: ignore[reportMissingImports] # sent beside this package

        check_one_wheel()
        path = Path(load.model)
        program = json.loads(path.read_text(encoding="utf-8"))
        encoder, decoder = (
            open_cpu(replace(load, model=str(path.parent / program["graphs"][name]["file"])))
            for name in ("encoder", "decoder")
        )
        self.decoder = Decoder.of(encoder, decoder, Writing(**program["writing"]))
        self.settings = settings_of(decoder) | {"writing": program["writing"]}

    def feed(self, batch: Batch) -> "tuple[NDArray[Any], NDArray[Any]]":
        """Source ids and mask, their names checked."""
        check_names(batch, INPUTS)
        return batch["source_ids"], batch["source_mask"]  # pyright: ignore[reportReturnType]

    def run(self, feed: "tuple[NDArray[Any], NDArray[Any]]") -> Any:
        """Write whole texts."""
        return self.decoder.write(*feed)

    def time_writing(
        self, feeds: "Sequence[tuple[NDArray[Any], NDArray[Any]]]", *, symbols: int
    ) -> dict[str, dict[str, float]]:
        """Return how long writing takes, greedy and with the program's beam.

        ``writing_ms`` are milliseconds to the first symbol and for each further one, of all texts of a feed at once;
        ``writing_per_s`` are symbols a second of whole texts, all of a feed counted.

        Every text is as long as every other: no end is written. Medians over the feeds, of the best of three.

        Args:
            feeds: as `run` takes them.
            symbols: that are written of each text, above 1; fewer where the program writes no more.
        """
        how = self.decoder.writing
        found: dict[str, dict[str, float]] = {"writing_ms": {}, "writing_per_s": {}}
        length = max(2, min(symbols, how.max_length))
        for beams in sorted({1, how.beams}):
            endless = replace(how, end=how.pad, beams=beams, limit=None)  # what is never written ends nothing
            took: list[list[float]] = []
            for steps in (1, length):
                decoder = replace(self.decoder, writing=replace(endless, max_length=steps))
                took.append([min(_time_ms(decoder.write, feed) for _ in range(3)) for feed in feeds])
            further = [(whole - first) / (length - 1) for first, whole in zip(*took, strict=True)]
            name = "greedy" if beams == 1 else f"beam {beams}"
            found["writing_ms"] |= {f"first symbol, {name}": median(took[0]), f"each symbol, {name}": median(further)}
            rates = [1e3 * length * len(ids) / whole for (ids, _), whole in zip(feeds, took[1], strict=True)]
            found["writing_per_s"][f"symbols a second, {name}"] = median(rates)
        return found

    def outputs(self, result: Any) -> "list[NDArray[Any]]":
        """Symbols and log-probabilities."""
        return [result.tokens, result.log_probability]


def _time_ms(call: "Callable[..., object]", feed: "tuple[NDArray[Any], NDArray[Any]]") -> float:
    started = time.perf_counter_ns()
    call(*feed)
    return (time.perf_counter_ns() - started) / 1e6
