"""A program: an encoder and a decoder on the CPU, driven as they are deployed, from sources to written texts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .interface import Batch, Load
from .onnxruntime_sessions import check_names, check_one_wheel, open_cpu, settings_of

if TYPE_CHECKING:
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

    def outputs(self, result: Any) -> "list[NDArray[Any]]":
        """Symbols and log-probabilities."""
        return [result.tokens, result.log_probability]
