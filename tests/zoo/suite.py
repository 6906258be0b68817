"""What pruning, export, int8 and training do to every architecture of the zoo; writes the table of docs/models.md.

python tests/zoo/suite.py ["LeNet of a tutorial, view(-1, 64)" ...]

Named architectures are looked at anew, the others keep their lines.
"""

import contextlib
import logging
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from architectures import ZOO, Example, build
from torch import nn

from compress.errors import CompressError
from compress.export.graph import to_onnx
from compress.export.write import read_signature
from compress.functional import distill, export, prune, quantize
from compress.quantization.quantize import Bounds, find_reach
from compress.surgery import prune as surgery

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- zoo: written by `python tests/zoo/suite.py`, do not edit -->", "<!-- end of zoo -->"
ASKED = 0.5
ROUND_TO = 4
EXACT = 1e-12
HEAD = ["| architecture | MACs kept | proof | int8 MACs | what stays, or is refused |", "|---|---:|---|---:|---|"]


@dataclass(frozen=True)
class Row:
    """One architecture of the table."""

    name: str
    kept: float | None
    """Share of the MACs; None where nothing can be cut."""
    difference: float | None
    """From the masked copy, as a fraction of the largest output."""
    int8: float | None
    """Share of the MACs with a weight in int8 kernels; None where refused."""
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        """A line of the table."""
        kept = "-" if self.kept is None else f"{self.kept:.2f}"
        proof = "-" if self.difference is None else f"below {EXACT:g}" if self.difference < EXACT else "above"
        int8 = "-" if self.int8 is None else f"{self.int8:.0%}"
        remarks = "; ".join(self.remarks).replace("|", "\\|")
        return f"| {self.name} | {kept} | {proof} | {int8} | {remarks} |"


def look(name: str) -> Row:
    """Prune to half of the MACs (or as far as it goes), export, quantize and train the named architecture.

    Raises:
        CompressError: from export and training; what pruning and quantization foresee is in the row.
    """
    with quiet():
        model, example = build(name)
        small, kept, difference, remarks = _cut(model, example)
        with tempfile.TemporaryDirectory() as directory:
            export(small, example, Path(directory) / "fp32.onnx", quiet=True)
        share, refusal = to_int8(small, example)
        labels = torch.arange(len(example[0])) % 5
        inputs = example if len(example) > 1 else example[0]
        distill(small, None, [(inputs, labels)], loss={"hard": {}}, epochs=1, learning_rate=1e-3, quiet=True)
    assert all(bool(parameter.isfinite().all()) for parameter in small.parameters())
    return Row(name, kept, difference, share, (*remarks, *refusal))


def _cut(model: nn.Module, example: Example) -> tuple[nn.Module, float | None, float | None, list[str]]:
    try:
        reach = surgery.find_reach(model, example, measure="macs", round_to=ROUND_TO)
    except CompressError as error:
        return model, None, None, [f"prune refuses: {error.message}: {error.got}"]
    share = max(ASKED, reach.smallest)
    pruned = prune(model, example, kept_macs_fraction=share, round_to=ROUND_TO, quiet=True)
    assert pruned.left == reach.left
    assert abs(pruned.choice.smallest - reach.smallest) < 1e-12
    stays = ", ".join(f"`{item.name}`" for item in reach.left[:3]) + (" ..." if len(reach.left) > 3 else "")
    remarks = [f"less than {reach.smallest:.2f} is refused"] if share > ASKED else []
    remarks += [f"stays: {stays} ({_short(reach.left[0].reason)})"] if reach.left else []
    remarks += ["weights made plain"] if reach.folded else []
    return pruned.module, pruned.choice.reached, pruned.masked_difference, remarks


def _short(reason: str) -> str:
    return reason.partition(" (between")[0]


def to_int8(model: nn.Module, example: Example) -> tuple[float | None, list[str]]:
    """The share that runs in int8, which must be the foreseen one; or why none does."""
    graph = to_onnx(model, read_signature(model, example), example)
    try:
        reach = find_reach(graph, mode=None, keep_float=(), bound=0.0)
    except CompressError as error:
        return None, [f"quantize refuses: {error.got}"]
    made = quantize(model, example, example, bounds=Bounds(0.0, 0.0, 1.0), quiet=True)
    assert abs(made.report.int8_macs_fraction - reach.int8_macs_fraction) < 1e-9
    in_float = [f"{layer} in float ({reason})" for layer, reason in reach.float_layers.items()]
    return made.report.int8_macs_fraction, in_float[:2]


@contextlib.contextmanager
def quiet():
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def read() -> list[str]:
    """The lines of the table that the document holds."""
    return DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()


def write(names: list[str]) -> None:
    """Look at the named architectures, or at all, and write the table."""
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in read()[len(HEAD) :]}
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    for name in names or ZOO:
        rows[name] = str(look(name))
        print(rows[name], file=sys.stderr, flush=True)
        table = "\n".join([*HEAD, *(rows[each] for each in ZOO if each in rows)])
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


if __name__ == "__main__":
    write(sys.argv[1:])
