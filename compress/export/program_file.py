"""The file of a program: small JSON that names its graphs, beside it, with their digests, and says how it writes.

So a program has one path and one digest as every other model has, and goes wherever a path of a model goes. Read with
onnxruntime and numpy alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import ArtifactError
from compress.export.decoding import Decoder, Writing
from compress.export.manifest import PLAIN
from compress.export.session import Session

FORMAT = 1
SUFFIX = ".json"
ENCODER, DECODER = "encoder", "decoder"
GRAPHS = (ENCODER, DECODER)
INPUTS = ("source_ids", "source_mask")
OUTPUTS = ("tokens", "log_probability")


@dataclass(frozen=True)
class ProgramFile:
    """What the file says.

    Attributes:
        writing: how the program writes.
        graphs: files by the name of the graph, ``encoder`` and ``decoder``.
        sha256: of each.
    """

    writing: Writing
    graphs: Mapping[str, Path]
    sha256: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "ProgramFile":
        """Return what a file says; the graphs themselves are not looked at.

        Raises:
            ArtifactError: when it is no program, or names files elsewhere.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            graphs = {name: found["graphs"][name] for name in GRAPHS}
            names = {name: entry["file"] for name, entry in graphs.items()}
            digests = {name: entry["sha256"] for name, entry in graphs.items()}
            writing = Writing(**found["writing"])
            version = found["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                "this is no program", expected="its graphs and how it writes", got=repr(error)[:300], where=path
            ) from error
        plain = all(isinstance(name, str) and PLAIN.fullmatch(name) for name in names.values())
        if version != FORMAT or not plain:
            raise ArtifactError(
                "the program is of another format, or its graphs are not beside it",
                expected=f"format {FORMAT}, and names of files in its folder",
                got=f"format {version!r}, {[*names.values()]}",
                where=path,
            )
        return cls(writing, {name: path.parent / file for name, file in names.items()}, digests)


def write_program_file(path: Path, graphs: Mapping[str, Path], writing: Writing) -> None:
    """Write the file of a program whose graphs are written already, beside it."""
    content: dict[str, Any] = {
        "format": FORMAT,
        # What begins a text is told where there is such a thing: other programs are what they were.
        "writing": {name: value for name, value in asdict(writing).items() if name != "first" or value is not None},
        "graphs": {name: {"file": file.name, "sha256": _sha256(file)} for name, file in graphs.items()},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def is_program(path: Path) -> bool:
    """Whether a path of a model is that of a program."""
    return path.suffix == SUFFIX


def graph_files(path: Path) -> list[Path]:
    """Return the ONNX files of a model: the file itself, or a program's."""
    return [*ProgramFile.read(path).graphs.values()] if is_program(path) else [path]


class ProgramSession:
    """A program loaded on the CPU: a function from source ids and mask to what it writes.

    Args:
        encoder: its first graph.
        decoder: its second one.
        writing: how it writes.

    Attributes:
        inputs: names of the inputs, in call order.
        outputs: names of the outputs, in return order: symbols, int64 [N, max_length], and log-probabilities [N].
        decoder: the two graphs at work.

    Raises:
        ArtifactError: when the graphs do not fit each other.
    """

    inputs, outputs = INPUTS, OUTPUTS

    def __init__(self, encoder: Session, decoder: Session, writing: Writing, *, where: object = None) -> None:
        try:
            self.decoder = Decoder.of(encoder.raw, decoder.raw, writing)
        except ValueError as error:
            raise ArtifactError("the graphs of the program do not fit each other", got=error, where=where) from error

    def __call__(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Write for one batch: source ids and mask, int64 [N, S]."""
        return self.decoder.write(*arrays)[:2]


def file_of(directory: Path, stem: str) -> Path:
    """Return the path of a model in a directory, whether it is a graph or a program."""
    program = directory / f"{stem}{SUFFIX}"
    return program if program.exists() else directory / f"{stem}.onnx"


def open_model(path: Path, *, threads: int = 1, optimize: bool = True) -> Session | ProgramSession:
    """Load a model from its file, that of a program with its graphs.

    Args:
        path: an ONNX file, or the file of a program.
        threads: threads inside one operation.
        optimize: ONNX Runtime's own graph optimisations, all or none.

    Raises:
        ArtifactError: when ONNX Runtime cannot load it, or a graph is not the one that the program was written with.
    """
    if is_program(path):
        return open_program(path, threads=threads, optimize=optimize)
    return Session(path, threads=threads, optimize=optimize)


def open_program(path: Path, *, threads: int = 1, optimize: bool = True) -> ProgramSession:
    """Load a program; see `open_model`."""
    program = ProgramFile.read(path)
    for name, file in program.graphs.items():
        if not file.is_file() or _sha256(file) != program.sha256[name]:
            raise ArtifactError(
                "a graph of the program is missing or was changed", expected=program.sha256[name], where=file
            )
    encoder, decoder = (Session(program.graphs[name], threads=threads, optimize=optimize) for name in GRAPHS)
    return ProgramSession(encoder, decoder, program.writing, where=path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
