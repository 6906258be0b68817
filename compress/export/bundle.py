"""The directory that ships: the variants of one student, and all that is needed to run and to check them.

::

    fp32.onnx int8-x86.onnx ...   the variants, all from one artifact; of a program fp32.json and its graphs
    fp32.onnx.data ...            the weights of a variant that is larger than 2 GB
    bundle.json                   which is primary; sha256 and size of every other file; lineage, signature, bounds
    labels.json                   class names in the order of the logits
    preprocessing.json            what turns raw data into inputs
    reference.npz                 ``input/<name>`` and, for each variant and fp32 in any case, ``<variant>/<output>``
    predict.py                    labels images, tables and arrays with onnxruntime and numpy, text with tokenizers
    read_image.py                 reads image files for it as training read them; needs Pillow
    decoding.py vocabulary.json   for models that write: what drives a program, and its symbols
    tokenizer.json config.json    for models of text, and for optimum and transformers
    preprocessor_config.json      for a pipeline of transformers that reads images
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.data import read_image
from compress.errors import StageError
from compress.export.deployable import Deployable
from compress.export.manifest import FORMAT_VERSION, MIN_REFERENCE_ROWS, NAME, Bounds, Content, Manifest
from compress.export.metadata import Metadata, write_metadata
from compress.export.onnx_file import external_files
from compress.export.program_file import ProgramSession, file_of, graph_files, open_model
from compress.export.session import Session, can_be_exact

# How far outputs on another machine may be from the reference, relative to max(1, largest output). fp16 keeps 11 bits;
# integers differ where a CPU without VNNI saturates, so int8 is judged by its decisions.
TOLERANCES: dict[str, float | None] = {"fp32": 1e-4, "fp16": 2e-2, "int8": None, "int4": None}
MIN_AGREEMENT = 0.98

# How predict.py opens the primary file; where its weights are in a file of their own, they are found by its path.
FROM_MEMORY = "session = ort.InferenceSession(model, "
# Where the primary file cannot be loaded without saturation (see `Session`), predict.py must not ask for that.
EXACT = """cpu, options = Path("/proc/cpuinfo"), ort.SessionOptions()
flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
if "ssse3" in flags and "vnni" not in flags:  # int8 products would saturate here
    options.add_session_config_entry("session.x64quantprecision", "1")
"""
INEXACT = "options = ort.SessionOptions()\n"
FROM_FILES = """data, digest = here / (bundle["primary"] + ".data"), hashlib.sha256()
with data.open("rb") as weights:
    while part := weights.read(1 << 24):
        digest.update(part)
if digest.hexdigest() != bundle["files"][data.name]["sha256"]:
    sys.exit(f"{data.name} is not the file that was exported")
session = ort.InferenceSession(str(here / bundle["primary"]), """


def write_bundle(
    directory: Path,
    *,
    fp32: Deployable,
    variants: Mapping[str, Deployable],
    primary: str,
    metadata: Metadata,
    inputs: tuple[np.ndarray, ...],
    files: Mapping[str, str],
) -> Manifest:
    """Fills an empty directory with a bundle.

    Args:
        directory: exists.
        fp32: the float model that the variants are made from; the reference holds its outputs in any case.
        variants: name to model; a name starts with its precision (``fp32``, ``fp16-gpu``, ``int8-x86``,
            ``int8-x86-7bit``, ``int4-weights``). The graphs get our metadata, in place.
        primary: the name of the variant that the headline is about.
        metadata: its ``variant`` is replaced by each variant's name.
        inputs: one preprocessed array per graph input, 32 rows or more; they become public with the bundle.
        files: further text files, by name, such as a tokenizer's.

    Returns:
        The content of ``bundle.json``.

    Raises:
        StageError: an unknown primary or precision, too few inputs, or an output that is not finite.
    """
    if primary not in variants:
        raise StageError("the primary variant is not among the variants", expected=sorted(variants), got=primary)
    rows = min(len(array) for array in inputs)
    if rows < MIN_REFERENCE_ROWS:
        raise StageError("a bundle needs reference inputs", expected=f"{MIN_REFERENCE_ROWS} rows or more", got=rows)
    reference = {f"input/{spec.name}": array for spec, array in zip(metadata.signature.inputs, inputs, strict=True)}
    reference |= _outputs("fp32", fp32.open(), inputs)
    described: dict[str, Bounds] = {}
    for name, model in variants.items():
        precision = name.partition("-")[0]
        if precision not in TOLERANCES:
            raise StageError("a variant is named after its precision", expected=sorted(TOLERANCES), got=name)
        for graph in model.graphs.values():
            write_metadata(graph, metadata.model_copy(update={"variant": name}))
        path = model.write(directory, name)
        reference |= _outputs(name, open_model(path), inputs)
        described[name] = Bounds(path.name, TOLERANCES[precision], MIN_AGREEMENT)
    (directory / "labels.json").write_text(json.dumps(metadata.labels, indent=1))
    (directory / "preprocessing.json").write_text(json.dumps(metadata.preprocessing, indent=1))
    np.savez_compressed(directory / "reference.npz", allow_pickle=False, **reference)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    # Read, not imported: they are scripts from their first line to their last.
    writes, scripts = variants[primary].writing is not None, Path(__file__).parent
    kinds = {
        "predict_sequence.py": writes,
        "predict_text.py": "tokenizer.json" in files,
        "predict_arrays.py": "arrays" in metadata.preprocessing,
    }
    name = next((script for script, fits in kinds.items() if fits), "predict.py")
    script, shipped = (scripts / name).read_text(), file_of(directory, primary)
    if not writes and external_files(shipped):
        script = script.replace(FROM_MEMORY, FROM_FILES)
    if primary.startswith("int8") and not all(map(can_be_exact, graph_files(shipped))):
        script = script.replace(EXACT, INEXACT)
    (directory / "predict.py").write_text(script)
    if "scale" in metadata.preprocessing and name == "predict.py":
        (directory / "read_image.py").write_text(Path(read_image.__file__).read_text())
    if writes:
        (directory / "decoding.py").write_text((scripts / "decoding.py").read_text())
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        primary=shipped.name,
        variants=described,
        lineage=metadata.lineage.model_dump(mode="json"),
        signature=metadata.signature.model_dump(mode="json"),
        files={path.name: _content(path) for path in sorted(directory.iterdir()) if path.name != NAME},
    )
    manifest.write(directory)
    return manifest


def _outputs(name: str, session: Session | ProgramSession, inputs: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """What a variant computes, by its name in the reference.

    Raises:
        StageError: an output is not finite.
    """
    outputs = dict(zip(session.outputs, session(*inputs), strict=True))
    for output, array in outputs.items():
        if not np.isfinite(array).all():
            raise StageError("an output is not finite", where=f"{name}, output {output!r}")
    return {f"{name}/{output}": array for output, array in outputs.items()}


def _content(path: Path) -> Content:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Content(digest, path.stat().st_size)
