"""A bundle that writes in the layout of optimum's ``ORTModelForSeq2SeqLM``.

optimum (optimum-onnx 0.1, ``modeling_seq2seq.py``) calls an encoder once and a decoder once a symbol. Between them it
keeps one tensor of the encoder's, the mask, and a cache that begins empty, in shapes that it takes from the
configuration. Our encoder gives keys and values for each layer of the decoder: here they lie side by side in that one
tensor, and the decoder takes them apart again, at the cost of copying them in every step. The ids are the tokenizer's
outside, our numbers inside; what our runner never writes is impossible here, too.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.errors import UsageError
from compress.export.decoding import Writing
from compress.export.manifest import Manifest
from compress.export.onnx_file import check_model, read_graph, write_model
from compress.export.program_file import DECODER, ENCODER, ProgramFile
from compress.tasks.special import BEGIN, END, PAD, UNKNOWN

CAUSAL = "a causal student as two graphs, one for prompts, which are padded behind, and one for each symbol"
CONFIG, VOCABULARY = "config.json", "vocabulary.json"
# As optimum looks for them. "Merged" is a decoder that serves the first step and the others.
ENCODER_FILE, DECODER_FILE = "encoder_model.onnx", "decoder_model_merged.onnx"


def write_optimum_program(bundle: Path, manifest: Manifest, target: Path) -> str:
    """Write a program's graphs, configurations and tokenizer as optimum reads them.

    Args:
        bundle: whose primary file is a program; checked already.
        manifest: of it.
        target: a directory that does not exist yet.

    Returns:
        How to load it, and below that what to know before.

    Raises:
        UsageError: when the student is no encoder-decoder of transformers with a tokenizer of theirs.
    """
    vocabulary = json.loads((bundle / VOCABULARY).read_text(encoding="utf-8"))
    source, target_side = vocabulary["source"], vocabulary["target"]
    if vocabulary.get("continues"):
        raise _refuse("one graph that reads a prompt and goes on with it, for ORTModelForCausalLM", CAUSAL, bundle)
    if CONFIG not in manifest.files:
        raise _refuse("a bundle with config.json, as the family seq2seq writes it", "none", bundle)
    if source.get("tokenizer") is None or source["tokenizer"] != target_side.get("tokenizer"):
        raise _refuse(
            "one tokenizer for what is read and written", f"{source['kind']} and {target_side['kind']}", bundle
        )
    if min(target_side["ids"][number] for number in (PAD, BEGIN, END)) < 0:
        raise _refuse("a tokenizer with a padding and an end", "symbols that were found on train", bundle)
    program = ProgramFile.read(bundle / manifest.primary)
    target.mkdir(parents=True)
    encoder, decoder = (read_graph(program.graphs[name]) for name in (ENCODER, DECODER))
    write_model(encoder_for_optimum(encoder, source["ids"]), target / ENCODER_FILE)
    write_model(decoder_for_optimum(decoder, target_side["ids"]), target / DECODER_FILE)
    config = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))
    special = _special_ids(target_side["ids"])
    size = 1 + max(target_side["ids"])
    config |= {
        **special,
        "vocab_size": size,
        **({"decoder_vocab_size": size} if "decoder_vocab_size" in config else {}),
    }
    config |= {"forced_bos_token_id": None, "forced_eos_token_id": None}  # some families have one unless told otherwise
    files = {
        CONFIG: config,
        "generation_config.json": _generation(program.writing, target_side["ids"]) | special,
        "tokenizer_config.json": _tokenizer(source, max_length=vocabulary["max_length"]),
    }
    for name, content in files.items():
        (target / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (target / "tokenizer.json").write_text(source["tokenizer"], encoding="utf-8")
    if (bundle / "README.md").exists():
        shutil.copyfile(bundle / "README.md", target / "README.md")
    return "\n".join([f'ORTModelForSeq2SeqLM.from_pretrained("{target}")', *_differences(program.writing)])


def encoder_for_optimum(model: onnx.ModelProto, ids: Sequence[int]) -> onnx.ModelProto:
    """Return our encoder as one from the tokenizer's ids to one tensor ``last_hidden_state``, [batch, source, width].

    Args:
        model: ids and mask [batch, source] to states [batch, heads, source, size]; not changed.
        ids: the tokenizer's, in the order of our numbers; -1 for what it has not.
    """
    made = _Adapter(model)
    numbers, mask = (value.name for value in model.graph.input)
    made.look_up("input_ids", numbers_of(ids), numbers)
    made.add("Identity", ["attention_mask"], mask)
    flat = []
    for state in model.graph.output:
        rows = made.add("Transpose", [state.name], f"{state.name}/rows", perm=[0, 2, 1, 3])
        flat.append(made.add("Reshape", [rows, made.constant("flat", [0, 0, -1])], f"{state.name}/flat"))
    made.add("Concat", flat, "last_hidden_state", axis=2)
    shape = ("batch", "source")
    width = sum(heads * size for heads, size in map(_sizes, model.graph.output))
    return made.finish(
        inputs=[_declare(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        outputs=[_declare("last_hidden_state", TensorProto.FLOAT, (*shape, width))],
    )


def decoder_for_optimum(model: onnx.ModelProto, ids: Sequence[int]) -> onnx.ModelProto:
    """Return our decoder as one that reads and scores the tokenizer's ids, and takes that tensor apart.

    Args:
        model: symbol, mask, cross states and cache to logits and the longer cache; not changed.
        ids: as for the encoder.
    """
    made = _Adapter(model)
    token, mask, *states = model.graph.input
    cross, past = states[: len(states) // 2], states[len(states) // 2 :]
    logits, *present = model.graph.output
    given = numbers_of(ids)
    given[ids[BEGIN]] = BEGIN  # where begin and end share an id, the end is never read
    made.look_up("input_ids", given, token.name)
    made.add("Identity", ["encoder_attention_mask"], mask.name)
    widths = [heads * size for heads, size in map(_sizes, cross)]
    parts = [f"{state.name}/flat" for state in cross]
    made.split("encoder_hidden_states", widths, parts)
    for state, part in zip(cross, parts, strict=True):
        heads, size = _sizes(state)
        rows = made.add("Reshape", [part, made.constant("rows", [0, 0, heads, size])], f"{state.name}/rows")
        made.add("Transpose", [rows], state.name, perm=[0, 2, 1, 3])
    outer = [_outer("past_key_values", state.name) for state in past]
    batch = made.add("Shape", ["input_ids"], "optimum/batch", start=0, end=1)
    length = made.add("Shape", outer[:1], "optimum/length", start=2, end=3)
    for state, name in zip(past, outer, strict=True):
        # An empty cache comes in the shape that the configuration suggests, not in that of this layer.
        heads, size = (made.constant("size", [value]) for value in _sizes(state))
        shape = made.add("Concat", [batch, heads, length, size], f"{state.name}/shape", axis=0)
        made.add("Reshape", [name, shape], state.name, allowzero=1)
    numbered = made.rename_output(logits.name)
    never = np.zeros(_last(logits), np.float32)
    never[[PAD, BEGIN]] = -np.inf
    possible = made.add("Add", [numbered, made.constant("never", never)], "optimum/possible")
    columns = made.constant("columns", numbers_of(ids, absent=PAD))
    chosen = made.add("Gather", [possible, columns], "optimum/logits", axis=1)
    made.add("Unsqueeze", [chosen, made.constant("axis", [1])], "logits")
    for state in present:
        made.add("Identity", [state.name], _outer("present", state.name))
    kept = [_declare(name, TensorProto.FLOAT, ("batch", f"{name}.heads", "past", f"{name}.size")) for name in outer]
    grown = [
        _declare(_outer("present", state.name), TensorProto.FLOAT, ("batch", heads, "past + 1", size))
        for state, (heads, size) in zip(present, map(_sizes, present), strict=True)
    ]
    return made.finish(
        inputs=[
            _declare("input_ids", TensorProto.INT64, ("batch", 1)),
            _declare("encoder_attention_mask", TensorProto.INT64, ("batch", "source")),
            _declare("encoder_hidden_states", TensorProto.FLOAT, ("batch", "source", sum(widths))),
            *kept,
        ],
        outputs=[_declare("logits", TensorProto.FLOAT, ("batch", 1, 1 + max(ids))), *grown],
    )


def numbers_of(ids: Sequence[int], *, absent: int = UNKNOWN) -> NDArray[np.int64]:
    """Return our number of each of the tokenizer's ids, int64 [ids]; of two that share an id the later, as in a text.

    Args:
        ids: the tokenizer's, in the order of our numbers.
        absent: for ids that no number stands for.
    """
    found = np.full(1 + max(ids), absent)
    for number, own in enumerate(ids):
        if own >= 0:
            found[own] = number
    return found


class _Adapter:
    """A copy of a graph that grows nodes before its inputs and behind its outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._before: list[onnx.NodeProto] = []
        self._after: list[onnx.NodeProto] = []
        # By the graph, or from what it computes.
        self._computed = {name for node in model.graph.node for name in node.output}

    def constant(self, name: str, values: Any) -> str:
        """Add a constant, and return its name."""
        array = np.asarray(values)
        label = f"optimum/{name}.{len(self._model.graph.initializer)}"
        self._model.graph.initializer.append(numpy_helper.from_array(array, label))
        return label

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, and return that."""
        node = helper.make_node(kind, inputs, [output], name=f"optimum/{output}", **attributes)
        behind = not self._computed.isdisjoint(inputs)
        (self._after if behind else self._before).append(node)
        if behind:
            self._computed.add(output)
        return output

    def split(self, value: str, sizes: Sequence[int], parts: Sequence[str]) -> None:
        """Cut a value's last axis into parts."""
        inputs = [value, self.constant("widths", sizes)]
        self._before.append(helper.make_node("Split", inputs, parts, name="optimum/split", axis=2))

    def look_up(self, ids: str, numbers: NDArray[np.int64], output: str) -> None:
        """Turn ids into numbers."""
        self.add("Gather", [self.constant("numbers", numbers), ids], output)

    def rename_output(self, name: str) -> str:
        """Free the name of an output for another value, and return what it is called then."""
        renamed = f"{name}/numbers"
        for node in self._model.graph.node:
            for names in (node.input, node.output):
                names[:] = [renamed if own == name else own for own in names]
        self._computed.add(renamed)
        return renamed

    def finish(
        self, *, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Return the graph with other inputs and outputs."""
        graph = self._model.graph
        nodes = [*self._before, *graph.node, *self._after]
        del graph.node[:], graph.input[:], graph.output[:]
        graph.node.extend(nodes)
        graph.input.extend(inputs)
        graph.output.extend(outputs)
        check_model(self._model)
        return self._model


def _declare(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _sizes(state: onnx.ValueInfoProto) -> tuple[int, int]:
    """Heads and size of keys or values, [batch, heads, length, size]."""
    _, heads, _, size = state.type.tensor_type.shape.dim
    return heads.dim_value, size.dim_value


def _last(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.shape.dim[-1].dim_value


def _outer(kind: str, name: str) -> str:
    """Return what optimum calls one of our ``past.0.key``: ``past_key_values.0.decoder.key``."""
    _, layer, state = name.split(".")
    return f"{kind}.{layer}.decoder.{state}"


def _special_ids(ids: Sequence[int]) -> dict[str, int]:
    names = {"pad_token_id": PAD, "bos_token_id": BEGIN, "decoder_start_token_id": BEGIN, "eos_token_id": END}
    return {name: ids[number] for name, number in names.items()}


def _generation(writing: Writing, ids: Sequence[int]) -> dict[str, Any]:
    """Return ``generation_config.json`` without the special ids."""
    beams = {"num_beams": writing.beams, "length_penalty": writing.length_penalty} if writing.beams > 1 else {}
    first = {} if writing.first is None else {"forced_bos_token_id": ids[writing.first]}
    return {"do_sample": False, "max_new_tokens": writing.max_length, **beams, **first}


def _tokenizer(side: dict[str, Any], *, max_length: int) -> dict[str, Any]:
    """Return ``tokenizer_config.json``: texts are read and spelt as `predict.py` does it."""
    from tokenizers import Tokenizer

    names, ids = Tokenizer.from_str(side["tokenizer"]), side["ids"]
    special = {"pad_token": ids[PAD], "eos_token": ids[END], "unk_token": ids[UNKNOWN]}
    # transformers below 5 takes the space before a text away again unless it is told here, too.
    cut = json.loads(side["tokenizer"])["pre_tokenizer"] or {}
    spaced = {"add_prefix_space": cut["add_prefix_space"]} if "add_prefix_space" in cut else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **spaced,
        **{name: names.id_to_token(own) for name, own in special.items() if own >= 0},
    }


def _differences(writing: Writing) -> list[str]:
    """Return where `generate` writes otherwise than the bundle."""
    found = []
    if writing.beams > 1:
        found.append("a beam of transformers ends by another rule than predict.py's; num_beams=1 writes the same texts")
    if writing.limit is not None:
        found.append("written_limit has no counterpart there: only max_new_tokens ends what repeats itself")
    return found


def _refuse(expected: str, got: str, bundle: Path) -> UsageError:
    return UsageError(
        "optimum runs encoder-decoders of transformers with their tokenizer",
        expected=expected,
        got=got,
        where=bundle,
        hint="--for plain takes any student that writes",
    )
