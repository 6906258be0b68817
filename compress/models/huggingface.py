"""Models of Hugging Face transformers: encoders of text and classifiers of images, with or without their weights."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from compress.config import HubOrFolder
from compress.errors import EnvironmentFault, ModelError
from compress.models.external import LIBRARY_ERRORS
from compress.models.spec import Model, image_sizes
from compress.store.digest import hash_file, hash_values
from compress.tasks.image_classification import Normalize
from compress.tasks.signature import Signature
from compress.tasks.task import Problem, Task
from compress.tasks.tokenizer import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Encoders whose layers, heads and masks we know: they can be exported, tapped, pruned and quantized.
TEXT_FAMILIES = (
    "bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "deberta-v2", "mpnet", "albert",
    "modernbert",
)  # fmt: skip
COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
HALVES = (torch.float16, torch.bfloat16)
PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # numbers of its filters
UNNAMED = re.compile(r"LABEL_\d+|\d+")  # what classes are called that nobody named


class HuggingFace(Model):
    """A classifier of transformers, from a hub id or a local folder: of images, of texts, or of each word of a text.

    Attributes:
        path: hub id or folder.
        pretrained: start from the published weights; false builds the architecture from its configuration alone.
        fresh_head: draw the head anew though the weights have one, because it was trained on other classes.
        change: values of the configuration to change, such as ``{num_hidden_layers: 2}`` of a model from scratch.
        config: used instead of the configuration at ``path``; the content of a ``config.json``. A stored model has it,
            so that neither the hub nor the folder is needed to load it.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    family: Literal["huggingface"] = "huggingface"
    path: Annotated[str, HubOrFolder]
    pretrained: bool = True
    fresh_head: bool = False
    change: dict[str, int | float | str | bool] = Field(default={})
    config: dict[str, Any] | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse published weights for a changed architecture."""
        if self.pretrained and self.change:
            raise ValueError("published weights fit the published configuration; set pretrained: false to change it")

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:
        """Return the classifier, reduced to a plain module from tensors to logits.

        Remote code is never trusted. Weights are read from safetensors; a pickle is read only if ``code`` names its
        files. A head that was trained on the same classes in another order is brought into the task's order.

        Raises:
            EnvironmentFault: when transformers does not import, or the hub is needed and does not answer.
            ModelError: when there is no such model, its family is not supported, it is no classifier of the task's
                inputs, or its head was trained on other classes.
        """
        transformers = import_transformers(where=f"model {self.path}")
        text = signature.inputs[0].name == "input_ids"
        self._check_inputs(signature)
        outputs = signature.outputs[0].shape[-1] if text else image_sizes(signature, family=self.family)[-1]
        kind = "Image" if not text else "Token" if len(signature.outputs[0].shape) == 3 else "Sequence"
        auto = getattr(transformers, f"AutoModelFor{kind}Classification")
        try:
            config = self._configuration()
            self._check_family(config, text=text)
            trained_on = tuple(map(str, (config.id2label or {}).values()))
            names = signature.classes or tuple(f"LABEL_{number}" for number in range(int(outputs)))
            config.id2label = dict(enumerate(names))
            config.label2id = {name: number for number, name in enumerate(names)}
            config._attn_implementation = "eager"  # one form in every version; training gains nothing from fused
            if not self.pretrained:
                return wrap(auto.from_config(config, trust_remote_code=False), text=text)
            with quiet():
                model, loaded = auto.from_pretrained(
                    self.path,
                    config=config,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    use_safetensors=not self._may_unpickle(code),
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except ModelError:
            raise
        except LIBRARY_ERRORS as error:
            raise self._fault(error) from error
        self._check_weights(model, loaded)
        if self.fresh_head:
            drawn = auto.from_config(config, trust_remote_code=False)
            drawn.base_model.load_state_dict(model.base_model.state_dict())
            return wrap(drawn, text=text)
        if all(name.startswith(model.base_model_prefix + ".") for name in list_drawn(loaded)):
            self._order_head(model, trained_on, names)
        return wrap(model, text=text)

    def _configuration(self) -> "PreTrainedConfig":
        from transformers import AutoConfig
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if self.config is not None:
            return CONFIG_MAPPING[self.config["model_type"]].from_dict(dict(self.config))
        config = AutoConfig.from_pretrained(self.path, trust_remote_code=False)
        if config.dtype in HALVES:  # of a published checkpoint: training, surgery and export are in float32
            config.dtype = torch.float32
        for name, value in self.change.items():
            if not hasattr(config, name):
                known = sorted(key for key in config.to_dict() if not key.startswith("_"))
                raise ModelError("no such value of the configuration", expected=", ".join(known), got=name)
            setattr(config, name, value)
        kinds = getattr(config, "layer_types", None)
        if kinds is not None and "layer_types" not in self.change:
            if config.num_hidden_layers > len(kinds):
                known = f"at most {len(kinds)}, of which the configuration says what each layer sees"
                raise ModelError(
                    "too many layers", expected=known, got=f"num_hidden_layers: {config.num_hidden_layers}"
                )
            config.layer_types = kinds[: config.num_hidden_layers]
        return config

    def _check_inputs(self, signature: Signature) -> None:
        """Refuse data that are neither texts with labels nor images."""
        first = signature.inputs[0]
        if first.name == "input_ids" or len(first.shape) == 4:
            return
        where = f"model {self.path}"
        if first.symbols is not None:
            raise ModelError(
                "models of Hugging Face classify here, and write no texts",
                expected="causal or causal_lm, which continue prompts"
                if first.name == "prompt_ids"
                else "the transducer family: model: {transducer: {width: 128}}",
                got="texts to write",
                where=where,
            )
        raise ModelError(
            "models of Hugging Face classify images and texts",
            expected="a model of your own, for these inputs: model: {file: {path: my_model.py}}",
            got=", ".join(f"{tensor.name} {[*tensor.shape]}" for tensor in signature.inputs),
            where=where,
        )

    def _check_family(self, config: "PreTrainedConfig", *, text: bool) -> None:
        if text and config.model_type not in TEXT_FAMILIES:
            kind = ", a causal model: its tokens do not see what follows them" if _is_causal(config) else ""
            raise ModelError(
                f"the family {config.model_type!r} is not supported for text",
                expected=f"an encoder: one of {', '.join(TEXT_FAMILIES)}",
                got=config.model_type + kind,
                where=f"model {self.path}",
            )

    def _check_weights(self, model: "PreTrainedModel", loaded: Mapping[str, Any]) -> None:
        """Refuse weights that do not fit the body: transformers would draw the rest at random and only warn."""
        body = model.base_model_prefix + "."
        # A pooler belongs to the head: checkpoints for masked words have none.
        missing = [name for name in list_drawn(loaded) if name.startswith(body) and ".pooler." not in name]
        if missing:
            raise ModelError(
                "the weights do not fit the model",
                expected="a weight for every layer below the head",
                got=f"none, or another shape, for {len(missing)} of them: {', '.join(missing[:4])}",
                where=f"model {self.path}",
            )

    def _order_head(self, model: "PreTrainedModel", trained_on: tuple[str, ...], names: tuple[str, ...]) -> None:
        """Bring the head's rows into the task's order of classes.

        Raises:
            ModelError: when it was trained on other classes.
        """
        if trained_on == names or any(all(map(UNNAMED.fullmatch, side)) for side in (trained_on, names)):
            return
        if sorted(trained_on) != sorted(names):
            raise ModelError(
                "the model was trained on other classes",
                expected=", ".join(names),
                got=", ".join(trained_on),
                where=f"model {self.path}",
                hint="name the data's classes as the model does, in any order; or set fresh_head: true and train",
            )
        order = torch.tensor([trained_on.index(name) for name in names])
        head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        with torch.no_grad():
            head.weight.copy_(head.weight[order])
            if head.bias is not None:
                head.bias.copy_(head.bias[order])

    def _fault(self, error: BaseException) -> EnvironmentFault | ModelError:
        where = f"model {self.path}"
        if hub_is_silent(error):
            return EnvironmentFault(
                "the Hugging Face hub cannot be reached, and the model was not downloaded before",
                got=first_line(error),
                where=where,
                hint="check the network, or give a local folder as path",
            )
        if pickles := self._pickles():
            return ModelError(
                "the model's weights are a pickle, which may run any code when it is read",
                expected="model.safetensors, or the file named on the command line",
                got=", ".join(path.name for path in pickles),
                where=where,
                hint="where you trust it, add " + " ".join(f"--code {path}" for path in pickles),
            )
        return ModelError(
            "transformers cannot build the model",
            expected="the hub id or folder of a classifier or encoder with safetensors weights",
            got=first_line(error),
            where=where,
        )

    def _pickles(self) -> list[Path]:
        """Return the pickled weights of a folder that has no others."""
        folder = Path(self.path)
        return [] if list(folder.glob("*.safetensors")) else sorted(folder.glob("pytorch_model*.bin"))

    def _may_unpickle(self, code: Sequence[Path]) -> bool:
        pickles = {path.resolve() for path in self._pickles()}
        return bool(pickles) and pickles <= {path.resolve() for path in code}

    def check(self, module: nn.Module, task: Task, *, where: object) -> None:
        """Refuse fewer embeddings than the tokenizer has tokens, and fewer positions than texts may have.

        Raises:
            ModelError: saying which setting to change.
        """
        if task.token_limits is None or not isinstance(module, TextLogits):
            return
        num_tokens, max_length = task.token_limits
        if num_tokens > module.num_embeddings:
            raise ModelError(
                "the tokenizer has more tokens than the model has embeddings",
                expected=f"at most {module.num_embeddings} tokens",
                got=num_tokens,
                where=where,
                hint="name the model's own tokenizer under data.tokenize.tokenizer, or for a model from scratch set "
                f"change: {{vocab_size: {num_tokens}}}",
            )
        if module.max_positions is not None and max_length > module.max_positions:
            raise ModelError(
                "texts may have more tokens than the model has positions",
                expected=f"at most {module.max_positions} tokens",
                got=max_length,
                where=where,
                hint=f"set data.tokenize.max_length: {module.max_positions}",
            )

    @property
    def published(self) -> bool:
        """Whether it starts from the weights of the hub or folder."""
        return self.pretrained

    def normalization(self) -> Normalize | None:
        """Return what ``preprocessor_config.json`` beside the weights says, in units of images scaled to 0 to 1.

        Raises:
            EnvironmentFault: when the hub is needed and does not answer.
        """
        text = self._processor_text()
        found = {} if text is None else json.loads(text)
        rescaled = 255 * found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 255.0
        if not found or found.get("rescale_offset"):
            return None
        if not found.get("do_normalize", True):
            mean, std = [0.0], [1.0]
        elif "image_mean" in found and "image_std" in found:
            mean, std = (np.atleast_1d(found[name]) for name in ("image_mean", "image_std"))
        else:
            return None
        scaled = (tuple(round(float(value) / rescaled, 9) for value in side) for side in (mean, std))
        return Normalize(mean=next(scaled), std=next(scaled))

    def _processor_text(self) -> str | None:
        """Return the file that says how images enter, from the folder or the hub; None when there is none."""
        name = "preprocessor_config.json"
        if Path(self.path).is_dir():
            path = Path(self.path) / name
            return path.read_text(encoding="utf-8") if path.is_file() else None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

        try:
            return Path(hf_hub_download(self.path, name)).read_text(encoding="utf-8")
        except (EntryNotFoundError, RepositoryNotFoundError) as error:
            if hub_is_silent(error):
                raise self._fault(error) from error
            return None
        except LIBRARY_ERRORS as error:
            raise self._fault(error) from error

    def identity(self, *, code: Sequence[Path] = ()) -> dict[str, Any]:  # noqa: ARG002
        """Replace the path of a folder by the content that is read from it."""
        fields, folder = self.model_dump(mode="json"), Path(self.path)
        if not folder.is_dir():
            return fields
        patterns = ("config.json", "*.safetensors*") if self.pretrained else ("config.json",)
        files = sorted(path for pattern in patterns for path in folder.glob(pattern))
        files += self._pickles() if self.pretrained else []
        return fields | {"path": hash_values({path.name: hash_file(path) for path in files})}

    def strip(self, module: nn.Module) -> Model:
        """Keep the module's configuration, and of a folder the name; leave the weights out, the stored ones are read.

        Surgery keeps the configuration true where it can: numbers of layers and of tokens.
        """
        assert isinstance(module, Logits)
        config = json.loads(module.model.config.to_json_string(use_diff=False))
        for name in ("_name_or_path", "auto_map"):  # of this machine; of code that does not ship
            config.pop(name, None)
        name = Path(self.path).name if Path(self.path).is_dir() else self.path
        return HuggingFace(path=name, pretrained=False, config=config)

    def files(self, signature: Signature, *, problem: Problem, preprocessing: Mapping[str, Any]) -> Mapping[str, str]:
        """Return what optimum and transformers read: ``config.json`` with the task's classes, and how images enter."""
        if self.config is None:
            return {}
        names = dict(enumerate(signature.classes or map(str, self.config["id2label"].values())))
        kind = "regression" if problem == "regression" else f"{problem.replace('-', '_')}_classification"
        told = {"id2label": names, "label2id": {name: number for number, name in names.items()}, "problem_type": kind}
        found = {"config.json": json.dumps(self.config | told, indent=1)}
        if (processor := _image_processor(signature.inputs[0].shape, preprocessing)) is not None:
            found["preprocessor_config.json"] = json.dumps(processor, indent=1)
        return found


def _is_causal(config: "PreTrainedConfig") -> bool:
    """Whether transformers knows a family as a language model that reads one way, and not as one of masked words."""
    from transformers.models.auto import modeling_auto as known

    writes = config.model_type in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder
    return writes and config.model_type not in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _image_processor(axes: Sequence[int | str], preprocessing: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what makes image files a model's inputs in transformers; None where its pipelines cannot.

    They make every image RGB in 8 bits. What is done to files is told as far as their processors do it: an odd margin
    may be cut a pixel aside.

    Args:
        axes: of the model's first input.
        preprocessing: as the task describes it.
    """
    if len(axes) != 4 or axes[1] != 3 or preprocessing.get("scale") != 1 / 255:
        return None
    files = preprocessing.get("files", {"resize": "squash", "resize_to": axes[2:], "channels": "rgb"})
    height, width = files["resize_to"]
    if files["resize"] == "box" or files["channels"] != "rgb" or (files["resize"] == "shortest" and height != width):
        return None
    size = {"height": height, "width": width}
    cut = {"do_center_crop": True, "crop_size": {"height": axes[2], "width": axes[3]}}
    whole = files["resize"] == "squash" and [height, width] == [*axes[2:]]
    return {
        "image_processor_type": "ViTImageProcessor" if whole else "CLIPImageProcessor",
        "do_resize": True,
        "size": size if files["resize"] == "squash" else {"shortest_edge": height},
        **({} if whole else cut),
        "resample": PILLOW[files.get("interpolation", "bilinear")],
        "do_rescale": True,
        "rescale_factor": preprocessing["scale"],
        "do_normalize": True,
        "image_mean": preprocessing["mean"],
        "image_std": preprocessing["std"],
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back transformers' own report on weights, which ours replaces, and its progress bar."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def list_drawn(loaded: Mapping[str, Any]) -> list[str]:
    """Return the weights that were drawn at random, because the file had none, or one of another shape."""
    odd = [entry[0] if isinstance(entry, tuple) else entry for entry in loaded["mismatched_keys"]]
    return sorted([*odd, *loaded["missing_keys"]])


def hub_is_silent(error: BaseException | None) -> bool:
    """Whether the hub was not reached, rather than answering that there is no such model."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__
    return False


def first_line(error: BaseException) -> str:
    """Return the kind and the first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


class Logits(nn.Module):
    """Takes the logits out of a transformers output object; a subclass says what the inputs are."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def prepare(self, mask: Tensor) -> Tensor | dict[str, Tensor]:
        """Return a mask [B, L], 0 for padding, in a form that no device is waited for.

        transformers asks a mask of two dimensions whether anything is padded (`_ignore_bidirectional_mask_sdpa` of its
        version 5), and one of four, [B, 1, 1, L], which it adds to the scores, nothing. Where some layers see only the
        tokens around, each kind of layer has its own. The outputs are the same. On the CPU, where nothing waits and
        graphs are traced, the mask is returned as it is, and so is one that the head takes a mean over tokens by.
        """
        family, config = sys.modules[type(self.model).__module__], self.model.config
        averaged = getattr(config, "classifier_pooling", "cls") == "mean"
        if mask.device.type == "cpu" or averaged or not hasattr(family, "create_bidirectional_mask"):
            return mask
        everything = self._add_mask(mask[:, None, None].bool())
        if not hasattr(family, "create_bidirectional_sliding_window_mask"):
            return everything
        place = torch.arange(mask.shape[1], device=mask.device)
        around = (place - place[:, None]).abs() <= config.sliding_window
        local = self._add_mask(mask[:, None, None].bool() & around)
        return {"full_attention": everything, "sliding_attention": local}

    def _add_mask(self, seen: Tensor) -> Tensor:
        """Return what is added to scores so that nothing else is seen."""
        kept = torch.zeros((), dtype=self.model.dtype, device=seen.device)
        return torch.where(seen, kept, torch.finfo(self.model.dtype).min)


class ImageLogits(Logits):
    """From images to logits."""

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.model(pixel_values=image, return_dict=True).logits


class TextLogits(Logits):
    """From tokens to logits."""

    @property
    def num_embeddings(self) -> int:
        """How many token ids it knows."""
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding.num_embeddings

    @property
    def max_positions(self) -> int | None:
        """How many tokens it can read; None when positions are only told apart relative to each other."""
        config = self.model.config
        if config.model_type == "modernbert" or (
            config.model_type == "deberta-v2" and not config.position_biased_input
        ):
            return None
        return config.max_position_embeddings - (0 if self.counted_from is None else self.counted_from + 1)

    @property
    def counted_from(self) -> int | None:
        """The token id that positions are counted from, the first being its successor; None where they begin at 0."""
        if self.model.config.model_type not in COUNTED_FROM_PADDING:
            return None
        counted = self.model.base_model.get_submodule("embeddings").padding_idx
        assert isinstance(counted, int)
        return counted

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return logits [B, classes], or [B, L, classes] for each token of the ids, mask and types [B, L]."""
        knows = token_type_ids is not None and hasattr(self.model.config, "type_vocab_size")
        types = {"token_type_ids": token_type_ids} if knows else {}
        seen = self.prepare(attention_mask)
        return self.model(input_ids=input_ids, attention_mask=seen, **types, return_dict=True).logits


def wrap(model: "PreTrainedModel", *, text: bool) -> Logits:
    """Return a transformers model as a module from tensors to logits."""
    return TextLogits(model) if text else ImageLogits(model)
