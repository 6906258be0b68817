"""What ships of one model, in memory: one graph, or the graphs of a program and how it writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from compress.export.decoding import Writing
from compress.export.onnx_file import write_model
from compress.export.program_file import DECODER, ENCODER, SUFFIX, ProgramSession, write_program_file
from compress.export.session import Session

ALONE = ""  # the name of a graph that is a whole model


@dataclass(frozen=True)
class Deployable:
    """A model as it ships.

    Attributes:
        graphs: by name; a single one has none.
        writing: how a program writes; None for a single graph.
    """

    graphs: Mapping[str, onnx.ModelProto]
    writing: Writing | None = None

    @classmethod
    def of(cls, graph: onnx.ModelProto) -> "Deployable":
        """Return the model that one graph is."""
        return cls({ALONE: graph})

    def map(self, change: Callable[[str, onnx.ModelProto], onnx.ModelProto]) -> "Deployable":
        """Return the same with every graph changed.

        Args:
            change: from a graph and its name to another graph.
        """
        return replace(self, graphs={name: change(name, graph) for name, graph in self.graphs.items()})

    @property
    def suffix(self) -> str:
        """Of the path that it is written to."""
        return ".onnx" if self.writing is None else SUFFIX

    def write(self, directory: Path, stem: str) -> Path:
        """Write the file ``stem.onnx``, or a program's ``stem.json`` and its graphs beside it; return its path."""
        path = directory / f"{stem}{self.suffix}"
        if self.writing is None:
            write_model(self.graphs[ALONE], path)
            return path
        files = {name: directory / f"{stem}.{name}.onnx" for name in self.graphs}
        for name, file in files.items():
            write_model(self.graphs[name], file)
        write_program_file(path, files, self.writing)
        return path

    def open(self, *, threads: int = 1, optimize: bool = True) -> Session | ProgramSession:
        """Load it as it is in memory."""
        sessions = {name: Session(graph, threads=threads, optimize=optimize) for name, graph in self.graphs.items()}
        if self.writing is None:
            return sessions[ALONE]
        return ProgramSession(sessions[ENCODER], sessions[DECODER], self.writing)
