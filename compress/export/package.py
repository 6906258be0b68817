"""A bundle in the layout of the program that serves it: copies of what that program reads, under the names it expects.

::

    plain             the bundle as it is
    triton            NAME/config.pbtxt, NAME/labels.txt, NAME/1/model.onnx: a model repository of NVIDIA's Triton;
                      preprocessing and tokenizer stay in the bundle, for whoever calls it
    transformers.js   config.json, tokenizer.json, ..., onnx/model.onnx, onnx/model_quantized.onnx
    optimum           config.json, tokenizer.json, ..., model.onnx: what ORTModel reads; of a model that writes
                      encoder_model.onnx, decoder_model_merged.onnx and generation_config.json

MLflow's is in `tracking.served`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from compress.errors import UsageError
from compress.export.manifest import NAME, Manifest
from compress.export.processor import can_saturate
from compress.export.program_file import is_program
from compress.export.session import EXACT_INT8
from compress.export.verify import TOKENIZER, check_files

Layout = Literal["plain", "triton", "transformers.js", "optimum", "mlflow"]
CARD = "README.md"
LABELS = "labels.txt"
# https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
TRITON_TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
}  # fmt: skip
MAX_BATCH_SIZE = 64  # that Triton gathers; `config.pbtxt` is the place to change it
# https://huggingface.co/docs/transformers.js/guides/dtypes: the file of each precision, and what asks for it
BROWSER_FILES = {
    "fp32": "model.onnx", "fp16-gpu": "model_fp16.onnx", "int8-x86": "model_quantized.onnx",
    "int8-x86-7bit": "model_int8.onnx", "int4-weights": "model_q4.onnx",
}  # fmt: skip
BROWSER_DTYPES = {
    "fp32": "fp32", "fp16-gpu": "fp16", "int8-x86": "q8", "int8-x86-7bit": "int8", "int4-weights": "q4",
}  # fmt: skip
PROCESSOR = "preprocessor_config.json"


def package(bundle: Path, target: Path, *, layout: Layout, name: str) -> str:
    """Write a bundle in another layout.

    Args:
        bundle: the directory of an exported student; its files are checked first.
        target: a directory that does not exist yet.
        layout: of which program, but not MLflow's.
        name: of the model, where the layout has one.

    Returns:
        How to load it, and below that what to know before.

    Raises:
        ArtifactError: when the bundle is damaged.
        UsageError: when the target exists, or the program cannot run what the bundle holds.
    """
    manifest = Manifest.read(bundle)
    check_files(bundle, manifest)
    if target.exists():
        raise UsageError("the target exists", where=target, hint="name another directory with --to, or remove it")
    writers: dict[str, Callable[[Path, Manifest, Path, str], str]] = {
        "plain": _write_plain,
        "triton": _write_triton,
        "transformers.js": _write_browser,
        "optimum": _write_optimum,
    }
    if layout == "optimum" and is_program(bundle / manifest.primary):
        check_inline(bundle, manifest)
    elif layout != "plain":
        check_single(bundle, manifest)
    return writers[layout](bundle, manifest, target, name)


def check_single(bundle: Path, manifest: Manifest) -> None:
    """Refuse what is more than one file.

    Raises:
        UsageError: for a program, and for a file whose weights lie beside it.
    """
    if is_program(bundle / manifest.primary):
        raise _refuse_files(manifest.primary, bundle)
    check_inline(bundle, manifest)


def check_inline(bundle: Path, manifest: Manifest) -> None:
    """Refuse graphs whose weights lie beside them.

    Raises:
        UsageError: naming the file.
    """
    beside = [file for file in manifest.files if file.endswith(".onnx.data")]
    if beside:
        raise _refuse_files(beside[0], bundle)


def _refuse_files(got: str, bundle: Path) -> UsageError:
    return UsageError(
        "this layout takes a model of one file",
        expected="a bundle whose variants are .onnx files of less than 2 GB",
        got=got,
        where=bundle,
        hint="--for plain",
    )


def _write_plain(bundle: Path, manifest: Manifest, target: Path, name: str) -> str:
    del name
    target.mkdir(parents=True)
    for file in (NAME, *manifest.files):
        shutil.copyfile(bundle / file, target / file)
    return f"python {target / 'predict.py'} --help"


def _write_triton(bundle: Path, manifest: Manifest, target: Path, name: str) -> str:
    model = target / name
    (model / "1").mkdir(parents=True)
    shutil.copyfile(bundle / manifest.primary, model / "1" / "model.onnx")
    labels = json.loads((bundle / "labels.json").read_text(encoding="utf-8"))
    named = manifest.signature["outputs"][0]["shape"][1:] == [len(labels)]  # Triton numbers all values of a sample
    if named:
        lines = [" ".join(label.splitlines()) for label in labels]
        (model / LABELS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (model / "config.pbtxt").write_text(triton_config(manifest, name=name, named=named), encoding="utf-8")
    told = [f"tritonserver --model-repository {target}", "it takes tensors: preprocessing is the caller's part"]
    # Triton's backend hands on the few session entries that it names in its source (src/onnxruntime.cc), not this one.
    told += [
        f"on x86 without VNNI its int8 differs from what was verified: Triton cannot set {EXACT_INT8}, so serve it "
        "where /proc/cpuinfo has vnni, or export int8-x86-7bit or fp32 as the primary file"
    ] * can_saturate(manifest.primary)
    return "\n".join(told)


def triton_config(manifest: Manifest, *, name: str, named: bool) -> str:
    """Return Triton's ``config.pbtxt`` of a primary file: batches are gathered where its first axis is free.

    Args:
        manifest: of the bundle.
        name: of the model.
        named: whether ``labels.txt`` names the values of the first output.
    """
    tensors = [*manifest.signature["inputs"], *manifest.signature["outputs"]]
    batched = all(isinstance(tensor["shape"][0], str) for tensor in tensors)
    lines = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {MAX_BATCH_SIZE if batched else 0}"]
    lines += [_triton_tensor("input", tensor, batched=batched) for tensor in manifest.signature["inputs"]]
    for index, tensor in enumerate(manifest.signature["outputs"]):
        file = f' label_filename: "{LABELS}"' if named and index == 0 else ""
        lines.append(_triton_tensor("output", tensor, batched=batched, more=file))
    return "\n".join([*lines, *["dynamic_batching { }"] * batched]) + "\n"


def _triton_tensor(kind: str, tensor: dict[str, Any], *, batched: bool, more: str = "") -> str:
    axes = tensor["shape"][1 if batched else 0 :]
    dims = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in axes)
    return f'{kind} {{ name: "{tensor["name"]}" data_type: {TRITON_TYPES[tensor["dtype"]]} dims: [ {dims} ]{more} }}'


def _write_browser(bundle: Path, manifest: Manifest, target: Path, name: str) -> str:
    del name
    kind = _kind(manifest)
    if kind == "image" and "config.json" in manifest.files and PROCESSOR not in manifest.files:
        raise UsageError(
            "transformers.js cannot read images for this student",
            expected=f"a bundle with {PROCESSOR}",
            where=bundle,
            hint="--for plain or mlflow",
        )
    primary = next(name for name, bounds in manifest.variants.items() if bounds.file == manifest.primary)
    if primary not in BROWSER_FILES:
        raise UsageError(
            "transformers.js has no name for the primary file",
            expected=f"one of {', '.join(BROWSER_FILES)}",
            got=primary,
            where=bundle,
            hint="export another primary variant",
        )
    _copy_configuration(bundle, manifest, target)
    (target / "onnx").mkdir()
    for variant, bounds in manifest.variants.items():
        if variant not in BROWSER_FILES:
            continue
        shutil.copyfile(bundle / bounds.file, target / "onnx" / BROWSER_FILES[variant])
    task = f"{kind}-classification"
    return f'await pipeline("{task}", "{target.name}", {{ dtype: "{BROWSER_DTYPES[primary]}" }})'


def _write_optimum(bundle: Path, manifest: Manifest, target: Path, name: str) -> str:
    del name
    if is_program(bundle / manifest.primary):
        from compress.export.optimum_program import write_optimum_program

        return write_optimum_program(bundle, manifest, target)
    _copy_configuration(bundle, manifest, target)
    shutil.copyfile(bundle / manifest.primary, target / "model.onnx")
    named = {"text": "Sequence", "token": "Token", "image": "Image"}[_kind(manifest)]
    return f'ORTModelFor{named}Classification.from_pretrained("{target}")'


def _kind(manifest: Manifest) -> Literal["text", "token", "image"]:
    """Return what is classified: texts, each of their tokens (outputs [batch, length, classes]), or images."""
    if TOKENIZER not in manifest.files:
        return "image"
    return "token" if len(manifest.signature["outputs"][0]["shape"]) == 3 else "text"


def _copy_configuration(bundle: Path, manifest: Manifest, target: Path) -> None:
    """Copy what Hugging Face's libraries read beside a model.

    Raises:
        UsageError: when the student is no model of theirs.
    """
    if "config.json" not in manifest.files:
        raise UsageError(
            "this layout is for models of Hugging Face's families",
            expected="a bundle with config.json",
            where=bundle,
            hint="--for triton, mlflow or plain take any model",
        )
    target.mkdir(parents=True)
    kept = {"config.json", PROCESSOR, CARD, *_list_tokenizer(manifest)}
    for file in sorted(kept & manifest.files.keys()):
        shutil.copyfile(bundle / file, target / file)


def _list_tokenizer(manifest: Manifest) -> list[str]:
    names = ("tokenizer", "special_tokens", "vocab", "added_tokens")
    return [file for file in manifest.files if file.startswith(names)]
