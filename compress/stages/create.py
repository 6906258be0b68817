"""Create: a model from its family, with fresh or given weights; where every chain begins."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from compress.errors import ModelError
from compress.models import AnyModel, load_model, load_structure, load_weights
from compress.models.huggingface import TextLogits
from compress.stage import Context, Need, Stage
from compress.store.artifact import Artifact, Kind, hash_file, read_artifact
from compress.tasks import TextTask


class Create(Stage):
    """Builds a model; the weights are drawn from the stage's seed, or read from a file.

    Attributes:
        model: the family and its arguments.
        weights: safetensors or a state dict; None for fresh weights.
    """

    version: ClassVar[int] = 2  # 2: images enter as pixel_values
    consumes: ClassVar[frozenset[Kind]] = frozenset()
    needs: ClassVar[frozenset[Need]] = frozenset()

    verb: Literal["create"] = "create"
    model: AnyModel
    weights: Path | None = None

    def run(self, source: Artifact | None, context: Context) -> Artifact:
        """Build, load weights if given, commit.

        Raises:
            ModelError: when the model cannot be built, the weights do not fit it, or its outputs are not the task's.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed(source, context))
            module = self.built(context)
        parameters = sum(value.numel() for value in module.parameters())
        return context.commit_model(
            self,
            source,
            module,
            model=self.model,
            signature=context.task.signature,
            facts={"parameters": parameters},
        )

    def built(self, context: Context) -> nn.Module:
        """Return the module, with the given weights or fresh ones from torch's global generator.

        Raises:
            ModelError: see ``run``.
        """
        module = self.model.build(context.task.signature, code=context.code)
        if self.weights is not None:
            load_weights(module, self.weights)
        check_tokens(module, context, where=f"model {self.model}")
        self._check_outputs(module, context)
        return module

    def _check_outputs(self, module: nn.Module, context: Context) -> None:
        """Run the plain module on two samples: what does not fit is refused before anything is exported or trained."""
        batch = context.task.batch(context.data.select, torch.arange(2))
        expected = [batch.num_units, len(context.task.classes)]
        module.eval()
        try:
            with torch.no_grad():
                outputs = context.task.forward(module, batch)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                "the model does not take the task's inputs",
                expected=f"inputs {[list(value.shape) for value in batch.inputs]}",
                got=str(error).splitlines()[0],
                where=f"model {self.model}",
            ) from error
        if not isinstance(outputs, torch.Tensor) or list(outputs.shape) != expected:
            raise ModelError(
                "the model's outputs do not match the task's, and so not the teacher's",
                expected=f"logits {expected}: a row for each unit of two samples, one column per class",
                got=list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__,
                where=f"model {self.model}",
                hint="give the model as many outputs as there are classes",
            )

    def inputs(self, source: Artifact | None, context: Context) -> dict[str, Any]:
        """Add the content of the files that the fields name, and leave their paths out.

        Raises:
            EnvironmentFault: when a library that the model needs is not installed.
        """
        inputs = super().inputs(source, context)
        inputs["fields"]["model"] = self.model.identity()
        inputs["libraries"] |= self.model.versions()
        if self.weights is not None and self.weights.is_file():
            inputs["fields"]["weights"] = hash_file(self.weights)
        inputs["code"] = (
            sorted(hash_file(path) for path in context.code) if inputs["fields"]["model"]["family"] == "file" else []
        )
        return inputs


def check_tokens(module: nn.Module, context: Context, *, where: object) -> None:
    """Refuse a text model with fewer embeddings than the tokenizer has tokens, or fewer positions than texts may have.

    Raises:
        ModelError: what a first long text or rare token would otherwise tell, after the training.
    """
    if not (isinstance(module, TextLogits) and isinstance(context.task, TextTask)):
        return
    tokenizer = context.task.tokenizer
    if tokenizer.size > module.num_embeddings:
        raise ModelError(
            "the tokenizer has more tokens than the model has embeddings",
            expected=f"at most {module.num_embeddings} tokens",
            got=tokenizer.size,
            where=where,
            hint="name the model's own tokenizer under data.tokenize.tokenizer, or for a model from scratch set "
            f"change: {{vocab_size: {tokenizer.size}}}",
        )
    if module.max_positions is not None and tokenizer.max_length > module.max_positions:
        raise ModelError(
            "texts may have more tokens than the model has positions",
            expected=f"at most {module.max_positions} tokens",
            got=tokenizer.max_length,
            where=where,
            hint=f"set data.tokenize.max_length: {module.max_positions}",
        )


class Adopt(Stage):
    """Takes a stored model from another store or pipeline into this one.

    Attributes:
        artifact: the directory of the stored model.
    """

    consumes: ClassVar[frozenset[Kind]] = frozenset()
    needs: ClassVar[frozenset[Need]] = frozenset()

    verb: Literal["adopt"] = "adopt"
    artifact: Path

    def run(self, source: Artifact | None, context: Context) -> Artifact:
        """Check every file against the manifest, load the model and commit a copy of it.

        Raises:
            ArtifactError: when it is damaged.
            ModelError: when it is no trainable model, or made for other inputs or outputs.
        """
        given = read_artifact(self.artifact, verify=True)
        structure = load_structure(given.path)
        if given.kind != "model" or structure.signature != context.task.signature:
            raise ModelError(
                "the stored model does not fit",
                expected=f"a model for {context.task.signature}",
                got=f"a {given.kind} for {structure.signature}",
                where=self.artifact,
            )
        return context.commit_model(
            self,
            source,
            self.built(context),
            model=structure.model,
            signature=structure.signature,
            facts={"adopted": given.digest},
        )

    def built(self, context: Context) -> nn.Module:
        """Return the stored module.

        Raises:
            ModelError: when it was made for another tokenizer than the task's.
        """
        if context.task.reading(self.artifact) is not context.task:
            raise ModelError(
                "the stored model reads text with a tokenizer of its own",
                expected="the task's tokenizer",
                where=self.artifact,
                hint=f"set data.tokenize.tokenizer: {self.artifact}",
            )
        module = load_model(self.artifact, code=context.code)
        check_tokens(module, context, where=self.artifact)
        return module

    def inputs(self, source: Artifact | None, context: Context) -> dict[str, Any]:
        """Replace the path by the digest of what it holds."""
        inputs = super().inputs(source, context)
        inputs["fields"]["artifact"] = read_artifact(self.artifact, verify=False).digest
        return inputs
