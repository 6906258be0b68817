"""Create: a model from its family, with fresh or given weights; where every chain begins."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from compress.artifact import Artifact, Kind, hash_file, read_artifact
from compress.errors import ModelError
from compress.models import AnyModel, load_model, load_structure, load_weights
from compress.stage import Context, Need, Stage


class Create(Stage):
    """Builds a model; the weights are drawn from the stage's seed, or read from a file.

    Attributes:
        model: the family and its arguments.
        weights: safetensors or a state dict; None for fresh weights.
    """

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
            load_model(given.path, code=context.code),
            model=structure.model,
            signature=structure.signature,
            facts={"adopted": given.digest},
        )

    def inputs(self, source: Artifact | None, context: Context) -> dict[str, Any]:
        """Replace the path by the digest of what it holds."""
        inputs = super().inputs(source, context)
        inputs["fields"]["artifact"] = read_artifact(self.artifact, verify=False).digest
        return inputs
