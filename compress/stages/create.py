"""Create: a model from its family, with fresh or given weights; where every chain begins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from compress.config.user_code import USER_ERRORS, users_lines
from compress.config.user_modules import content_of, folders_of
from compress.errors import CompressError, ModelError
from compress.models import AnyModel, Model, load_model, load_structure, load_weights
from compress.models.outputs import check_outputs, describe_outputs
from compress.stage import Host, Need, Stage, Work
from compress.store.artifact import Artifact, read_artifact
from compress.store.digest import hash_file
from compress.store.manifest import Kind
from compress.tasks.batch import Batch, split
from compress.tasks.probabilities import refuse_probabilities

SAME = (
    1e-3  # of the largest output, or of 1, when computed twice: ten times what is allowed between a module and its file
)
CHANGING = "leave out noise, F.dropout without training=self.training, and buffers that forward changes"
TOGETHER = (
    "in evaluation mode forward must not depend on x.shape[0] or statistics of a batch; squeeze() may take its axis"
)


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

    def run(self, source: Artifact | None, work: Work, host: Host) -> Artifact:
        """Build, load weights if given, commit.

        Raises:
            ModelError: when the model cannot be built, the weights do not fit it, or its outputs are not the task's or
                no logits.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed(source, work, host))
            module = self.build(work, host)
        for line in self.foresee(module, self.model, work, host):
            host.reporter.say(f"model: {line}")
        parameters = sum(value.numel() for value in module.parameters())
        return self.commit(
            module,
            source,
            work,
            host,
            model=self.model,
            signature=work.task.signature,
            facts={"parameters": parameters},
        )

    def build(self, work: Work, host: Host) -> nn.Module:
        """Return the module, with the given weights or fresh ones from torch's global generator.

        Raises:
            ModelError: see ``run``.
        """
        module = self.model.build(work.task.signature, code=host.code)
        if self.weights is not None:
            load_weights(module, self.weights)
        self.model.check(module, work.task, where=f"model {self.model}")
        self._check_outputs(module, work)
        return module

    def foresee(
        self, module: nn.Module, model: Model, work: Work, host: Host, *, after: Sequence[Stage] = ()
    ) -> tuple[str, ...]:
        """What is made of the model's outputs, where they are no plain logits, and what the model tells of itself."""
        del host, after
        told = describe_outputs(module, work.task.batch(work.data.select, torch.arange(2)).inputs)
        return (*([told] if told else []), *model.tell(module))

    def family(self) -> Model:
        """The one that the recipe names."""
        return self.model

    def _check_outputs(self, module: nn.Module, work: Work) -> None:
        """Run the plain module on two samples and on one, so that what does not fit is refused early."""
        batch = work.task.batch(work.data.select, torch.arange(2))
        expected = [batch.num_units, len(work.task.classes)]
        module.eval()
        outputs = self._forward(module, work, batch)
        if not isinstance(outputs, torch.Tensor) or list(outputs.shape) != expected:
            raise ModelError(
                "the model's outputs do not match the task's, and so not the teacher's",
                expected=f"logits {expected}: a row for each unit of two samples, one column per class",
                got=list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__,
                where=f"model {self.model}",
                hint="give the model as many outputs as there are classes",
            )
        single_label = work.task.problem == "single-label"
        check_outputs(module, batch.inputs, single_label=single_label, where=f"model {self.model}")
        if single_label:
            refuse_probabilities(outputs, module, where=f"model {self.model}")
        if self.model.from_user:
            self._check_constancy(module, work, batch, outputs)

    def _check_constancy(self, module: nn.Module, work: Work, batch: Batch, outputs: torch.Tensor) -> None:
        """Refuse a module that answers otherwise the next time, or for a sample alone: no file could agree with it.

        Nor with statistics of a batch in evaluation mode: a file has them, and is used at other batches than it is
        judged at.
        """
        for given, message, hint in (
            (batch, "the model's outputs for the same samples differ from time to time in evaluation mode", CHANGING),
            (split(batch, 1)[0], "the model's outputs for a sample depend on the samples beside it", TOGETHER),
        ):
            expected, found = outputs[: given.num_units], self._forward(module, work, given)
            near = SAME * max(1.0, float(expected.nan_to_num().abs().max()))
            if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=near, equal_nan=True):
                shapes = f"{list(found.shape)} instead of {list(expected.shape)}"
                differs = found.shape == expected.shape and f"a difference of {(found - expected).abs().max():.3g}"
                raise ModelError(message, got=differs or shapes, where=f"model {self.model}", hint=hint)

    def _forward(self, module: nn.Module, work: Work, batch: Batch) -> Any:
        """Return what the module makes of samples, without gradients."""
        try:
            with torch.no_grad():
                return work.task.forward(module, batch)
        except CompressError:
            raise
        except USER_ERRORS as error:
            raise ModelError(
                "the model does not take the task's inputs",
                expected=f"inputs {[list(value.shape) for value in batch.inputs]}",
                got="\n".join(f"{type(error).__name__}: {error}".splitlines()[:1]),
                where="; ".join([f"model {self.model}", *users_lines(error)[-1:]]),
            ) from error

    def inputs(self, source: Artifact | None, work: Work, host: Host) -> dict[str, Any]:
        """Add the content of the files that the fields name, and leave their paths out.

        Raises:
            EnvironmentFault: when a library that the model needs is not installed.
        """
        inputs = super().inputs(source, work, host)
        inputs["fields"]["model"] = self.model.identity(code=host.code)
        inputs["libraries"] |= self.model.versions()
        if self.weights is not None and self.weights.is_file():
            inputs["fields"]["weights"] = hash_file(self.weights)
        files = [path for path in host.code if path.is_file()] if self.model.from_user else []
        inputs["code"] = sorted(content_of(path, folders=folders_of(host.code)) for path in files)
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

    def run(self, source: Artifact | None, work: Work, host: Host) -> Artifact:
        """Check every file against the manifest, load the model and commit a copy of it.

        Raises:
            ArtifactError: when it is damaged.
            ModelError: when it is no trainable model, or made for other inputs or outputs.
        """
        given = read_artifact(self.artifact, verify=True)
        structure = load_structure(given.path)
        if given.kind != "model" or structure.signature != work.task.signature:
            raise ModelError(
                "the stored model does not fit",
                expected=f"a model for {work.task.signature}",
                got=f"a {given.kind} for {structure.signature}",
                where=self.artifact,
            )
        return self.commit(
            self.build(work, host),
            source,
            work,
            host,
            model=structure.model,
            signature=structure.signature,
            facts={"adopted": given.digest},
        )

    def build(self, work: Work, host: Host) -> nn.Module:
        """Return the stored module.

        Raises:
            ModelError: when it was made for another tokenizer than the task's.
        """
        if work.task.reading(self.artifact) is not work.task:
            writes = work.task.deployed.problem == "written"
            raise ModelError(
                f"the stored model reads text with {'symbols' if writes else 'a tokenizer'} of its own",
                expected=f"the task's {'symbols' if writes else 'tokenizer'}",
                where=self.artifact,
                hint="symbols are those of train: give the data that it was trained on, and the same data.symbols"
                if writes
                else f"set data.tokenize.tokenizer: {self.artifact}",
            )
        module = load_model(self.artifact, code=host.code)
        self.family().check(module, work.task, where=self.artifact)
        return module

    def family(self) -> Model:
        """The one that the stored model was built from."""
        return load_structure(self.artifact).model

    def inputs(self, source: Artifact | None, work: Work, host: Host) -> dict[str, Any]:
        """Replace the path by the digest of what it holds."""
        inputs = super().inputs(source, work, host)
        inputs["fields"]["artifact"] = read_artifact(self.artifact, verify=False).digest
        return inputs
