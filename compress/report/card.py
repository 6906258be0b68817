"""The model card: the ``README.md`` of a bundle, for the engineer who deploys it and was not there when it was made.

Its head is the metadata that the Hugging Face hub reads. What only people know, such as licences and what the model may
be used for, is asked for in plain words; nothing is invented.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from compress.benchmark.document import BenchmarkResult
from compress.benchmark.tables import doubts
from compress.export.manifest import Manifest
from compress.export.processor import can_saturate
from compress.measures.units import format_bytes, format_ms
from compress.report.document import Report
from compress.report.ending import summary
from compress.report.words import TEST_HEAD, fill_test_cells, gate_lines

MOST_LABELS = 20
PROGRAM = (
    "The primary file names the two graphs that write, an encoder and a decoder that keeps keys and values; "
    "`decoding.py` drives them, and is what to call in code of your own."
)
TO_STATE = "*not stated: write it here before you pass this file on*"


def card(report: Report, manifest: Manifest, *, labels: Sequence[str], preprocessing: Mapping[str, Any]) -> str:
    """Return the card of a bundle as Markdown.

    Args:
        report: of the run that made it.
        manifest: of the bundle.
        labels: names of the outputs, in their order.
        preprocessing: what turns raw data into inputs, as it ships.
    """
    parts = [
        f"---\n{yaml.safe_dump(_metadata(report, manifest), sort_keys=False, allow_unicode=True)}---",
        f"# {report.recipe}",
        _what(report, manifest),
        "## Accuracy",
        _accuracy(report),
        "## Speed and size",
        _speed(report),
        "## Run it",
        _usage(manifest, labels, preprocessing),
        "## Intended use, limits, licence",
        _limits(manifest),
        "## How it was made",
        _making(report),
        "## Versions and hashes",
        _versions(report, manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(report: Report, manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = {
        "library_name": "onnx",
        "license": "other",
        "license_name": "not-stated",
        "tags": ["onnx", "onnxruntime", "distillation", "pruning", "quantization"],
    }
    task = _task(manifest)
    if task is not None:
        found["pipeline_tag"] = task
    if report.verdict is not None:
        measured = report.verdict.shipped.measures
        found["model-index"] = [
            {
                "name": report.recipe,
                "results": [
                    {
                        "task": {"type": task or "other"},
                        "dataset": {"name": f"data {report.data.digest[:12]}", "type": "private", "split": "test"},
                        "metrics": [
                            {"type": name, "value": round(estimate.value, 4)}
                            for name, estimate in measured.items()
                            if not name.startswith("recall of ")
                        ],
                    }
                ],
            }
        ]
    return found


def _task(manifest: Manifest) -> str | None:
    """Return the hub's name of what the model does; None for what has no name there."""
    per_word = len(manifest.signature["outputs"][0]["shape"]) == 3
    if "tokenizer.json" in manifest.files:
        return "token-classification" if per_word else "text-classification"
    return "image-classification" if "read_image.py" in manifest.files and not per_word else None


def _what(report: Report, manifest: Manifest) -> str:
    kind = report.task.problem if report.task.problem == "regression" else f"{report.task.problem} classification"
    told = [f"A model for {kind} in ONNX, `{manifest.primary}`, made small from a larger teacher: {_teacher(report)}."]
    if table := summary(report):
        told.append("```\n" + "\n".join(table) + "\n```")
    gates = () if report.verdict is None else report.verdict.gates
    told.append("\n".join(f"- {line}" for line in gate_lines(gates)) or "No gate was judged.")
    return "\n\n".join(told)


def _teacher(report: Report) -> str:
    """Return what the teacher is, as the recipe says, and how large."""
    teacher = yaml.safe_load(report.recipe_yaml)["teacher"]
    given = teacher.get("model", {"artifact": teacher.get("artifact")})  # one of them is stated
    told = yaml.safe_dump(given, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()
    return f"`{told}`, {format_bytes(report.stages[0].scores.size_bytes)}"


def _accuracy(report: Report) -> str:
    if report.verdict is None:
        return "Test was not read."
    rows = [f"| {' | '.join(TEST_HEAD)} |", "|---|---:|---:|---:|"]
    rows += [f"| {' | '.join(fill_test_cells(row))} |" for row in report.verdict.test]
    samples = report.verdict.shipped.samples
    return "\n".join([f"{samples:,} samples of test, read once; 95% intervals.", "", *rows])


def _speed(report: Report) -> str:
    benchmark = report.benchmark
    if benchmark is None:
        return "Nothing was timed."
    where = report.environment
    told = [
        f"Median time of a call under `{benchmark.primary}`, on {where.cpu_model} ({where.day}).",
        "",
        "| file | size | ms |",
        "|---|---:|---:|",
    ]
    for row in benchmark.rows:
        if row.name in (benchmark.reference, benchmark.shipped.name):
            took = row.latency_ms.get(benchmark.primary)
            told.append(f"| {row.name} | {format_bytes(row.size_bytes)} | {'-' if took is None else format_ms(took)} |")
    if found := _doubt(benchmark):
        told += ["", f"The measurement was disturbed: {found}."]
    return "\n".join(told)


def _doubt(benchmark: BenchmarkResult) -> str:
    return "; ".join(dict.fromkeys(doubt for comparison in benchmark.comparisons for doubt in doubts(comparison)))


def _usage(manifest: Manifest, labels: Sequence[str], preprocessing: Mapping[str, Any]) -> str:
    inputs, outputs = manifest.signature["inputs"], manifest.signature["outputs"]
    shown = ", ".join(labels[:MOST_LABELS]) + (f" and {len(labels) - MOST_LABELS} more" * (len(labels) > MOST_LABELS))
    told = [
        "The first lines of `predict.py` say what it takes and needs. `compressor verify .` repeats on your machine "
        "the check that was made where it was exported.",
        "",
        *(_session(manifest) if manifest.primary.endswith(".onnx") else [PROGRAM]),
        "",
        "| tensor | type | shape |",
        "|---|---|---|",
        *(f"| input `{tensor['name']}` | {tensor['dtype']} | {_shape(tensor['shape'])} |" for tensor in inputs),
        *(f"| output `{tensor['name']}` | {tensor['dtype']} | {_shape(tensor['shape'])} |" for tensor in outputs),
    ]
    if shown:
        told += ["", f"Outputs are scores of, in this order: {shown}."]
    if preprocessing:
        steps = ", ".join(f"`{key}` {value}" for key, value in preprocessing.items())
        told += ["", f"What comes before the model, as in `preprocessing.json`: {steps}."]
    return "\n".join(told)


def _session(manifest: Manifest) -> list[str]:
    """Return how one graph is run in code of one's own."""
    inputs, outputs = manifest.signature["inputs"], manifest.signature["outputs"]
    feeds = ", ".join(f'"{tensor["name"]}": {tensor["name"]}' for tensor in inputs)
    given, found = (", ".join(f'"{tensor["name"]}"' for tensor in tensors) for tensors in (inputs, outputs))
    return [
        "In Python:",
        "",
        "```python",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{manifest.primary}")',
        f"({', '.join(tensor['name'] for tensor in outputs)},) = session.run(None, {{{feeds}}})",
        "```",
        "",
        "In C++:",
        "",
        "```cpp",
        "#include <onnxruntime_cxx_api.h>",
        "",
        "Ort::Env env;",
        f'Ort::Session session(env, ORT_TSTR("{manifest.primary}"), Ort::SessionOptions());',
        f"const char* inputs[] = {{{given}}};",
        f"const char* outputs[] = {{{found}}};",
        f"// values: Ort::Value[{len(inputs)}], of the types and shapes below",
        f"auto found = session.Run(Ort::RunOptions(), inputs, values, {len(inputs)}, outputs, {len(outputs)});",
        "```",
        "",
        "In a browser, or in Node with the same package:",
        "",
        "```js",
        'import * as ort from "onnxruntime-web";',
        "",
        f'const session = await ort.InferenceSession.create("{manifest.primary}");',
        "const outputs = await session.run({",
        *(f'  "{tensor["name"]}": {_web_tensor(tensor)},' for tensor in inputs),
        "});",
        "```",
        "",
        "Behind a server: `compressor package . --for triton`, or `mlflow`, which takes texts or image files where the "
        "model does.",
    ]


def _web_tensor(tensor: Mapping[str, Any]) -> str:
    """Return how onnxruntime-web is given one sample of an input; those of int64 lie in a BigInt64Array there."""
    axes = ", ".join(["1", *map(str, tensor["shape"][1:])])
    return f'new ort.Tensor("{tensor["dtype"]}", {tensor["name"]}, [{axes}])'


def _shape(axes: Sequence[Any]) -> str:
    return " x ".join(map(str, axes))


def _limits(manifest: Manifest) -> str:
    told = [
        f"- Intended use: {TO_STATE}",
        f"- Licence of this file, of its teacher and of the data: {TO_STATE}",
        "- What is said of accuracy holds for data like those of test; nothing is known of others.",
        "- Times are of one machine. On another, measure: `compressor compare A.onnx B.onnx`.",
    ]
    if can_saturate(manifest.primary):
        told.append(
            "- int8 sums may saturate on x86 processors without VNNI unless a session sets "
            "`session.x64quantprecision` to 1, as `predict.py` does where it has to."
        )
    return "\n".join(told)


def _making(report: Report) -> str:
    rows = ["| step | size | select % | made by |", "|---|---:|---:|---|"]
    rows += [
        f"| {stage.name} | {format_bytes(stage.scores.size_bytes)} | {100 * stage.scores.accuracy:.2f} "
        f"| `{stage.key[:12]}` |"
        for stage in report.chain
    ]
    samples = ", ".join(f"{role} {count:,}" for role, count in report.data.samples.items())
    told = [f"Data: {samples}, digest `{report.data.digest[:12]}`. Loss: `{report.loss.fingerprint}`.", "", *rows]
    return "\n".join(told)


def _versions(report: Report, manifest: Manifest) -> str:
    found = report.environment
    rows = ["| file | bytes | SHA-256 |", "|---|---:|---|"]
    names = dict.fromkeys([manifest.primary, *(bounds.file for bounds in manifest.variants.values())])
    rows += [f"| {name} | {manifest.files[name].size_bytes:,} | `{manifest.files[name].sha256}` |" for name in names]
    return "\n".join(
        [
            f"{found.installed}; Python {found.python}; {found.day}; seed {found.seed}; recipe "
            f"`{report.recipe_sha256[:12]}`. `{report.command}` makes it again.",
            "",
            *rows,
        ]
    )
