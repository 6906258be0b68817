"""Export: the bundle that ships, every variant from one artifact."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from compress.benchmark.model_file import macs_of
from compress.errors import StageError
from compress.export.bundle import MIN_REFERENCE_ROWS, write_bundle
from compress.export.checks import check_against_module, compare
from compress.export.deployable import Deployable
from compress.export.feed import first_inputs
from compress.export.graph import OPSET
from compress.export.half import to_half
from compress.export.metadata import Ancestor, Lineage, Metadata
from compress.export.onnx_file import size_bytes
from compress.export.program_file import file_of
from compress.export.stored import deployable_of
from compress.models import Model, load_model, load_structure
from compress.quantization.plans import quantized, read_plans
from compress.quantization.weight_only import has_products, write_weight_only
from compress.stage import Host, Need, Stage, Work
from compress.store.artifact import Artifact, ancestry
from compress.store.manifest import Kind

Variant = Literal["fp32", "fp16-gpu", "int8-x86", "int8-x86-7bit", "int8-weights", "int4-weights"]
INT8: tuple[Variant, ...] = ("int8-x86", "int8-x86-7bit")
WEIGHT_ONLY: Mapping[str, int] = {"int8-weights": 8, "int4-weights": 4}  # bits


class Export(Stage):
    """Writes the bundle: fp32 is compared with the torch module first, the other variants are made from it.

    Attributes:
        variants: which files to ship; by default fp32, and int8-x86 when the source has a quant plan.
        primary: the variant that the headline and the gates are about; by default int8-x86 if there is one, else the
            first. ``auto`` takes the one that serves the gates best on select, once all are measured.
            int8-x86-7bit is the same plan with weights of 7 bits, whose products saturate on no CPU: for those without
            VNNI, in programs that cannot ask ONNX Runtime for exact products.
            int8-weights and int4-weights need no quant plan: blocks of weights of 8 or 4 bits, for models that write
            (docs/programs.md says where they are faster).
        opset: of every variant.
        reference_rows: inputs of the select role that ship with their outputs, to check another machine by.
        synthetic_reference: ship noise instead, when data may not leave; parity is measured on real inputs anyway.
    """

    version: ClassVar[int] = 5  # 5: multiply-accumulates are counted in the float file
    consumes: ClassVar[frozenset[Kind]] = frozenset({"model", "quantized"})
    produces: ClassVar[Kind] = "bundle"
    needs: ClassVar[frozenset[Need]] = frozenset({"data"})
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime", "onnxscript")

    verb: Literal["export"] = "export"
    variants: tuple[Variant, ...] | None = None
    primary: Variant | Literal["auto"] | None = None
    opset: int = Field(default=OPSET, ge=18, le=23)
    reference_rows: int = Field(default=64, ge=MIN_REFERENCE_ROWS, le=1024)
    synthetic_reference: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.variants is not None and (not self.variants or len(set(self.variants)) < len(self.variants)):
            raise ValueError(f"variants must name at least one variant, each once; got {list(self.variants)}")
        if self.variants is not None and self.primary not in (None, "auto", *self.variants):
            raise ValueError(f"primary must be one of the variants {list(self.variants)}; got {self.primary!r}")
        if self.variants is None and self.primary in ("fp16-gpu", "int8-x86-7bit", *WEIGHT_ONLY):
            raise ValueError(f"{self.primary} is no default variant; name it under variants too")
        return self

    @property
    def takes(self) -> frozenset[Kind]:
        """A quantized model for an int8 variant, and no quantized one when that would be lost."""
        if self._names_int8:
            return frozenset({"quantized"})
        return self.consumes if self.variants is None else frozenset({"model"})

    @property
    def _names_int8(self) -> bool:
        return any(name in INT8 for name in (*(self.variants or ()), self.primary))

    def list_variants(self, *, quantized: bool) -> tuple[Variant, ...]:
        """Return the variants that are shipped.

        Args:
            quantized: whether the source has a quant plan.
        """
        return self.variants or (("fp32", "int8-x86") if quantized else ("fp32",))

    def ships(self, *, quantized: bool) -> tuple[str, ...]:
        """Return the names of the variants, the primary one first."""
        written = self.list_variants(quantized=quantized)
        primary = self.primary_of(written)
        return (primary, *(name for name in written if name != primary))

    @property
    def leaves_primary_open(self) -> bool:
        """Whether the race chooses the primary file."""
        return self.primary == "auto"

    def primary_of(self, written: Sequence[Variant]) -> Variant:
        """Return the variant that the bundle is written for, among those that are shipped."""
        if self.primary is None or self.primary == "auto":
            preferred: tuple[Variant, ...] = (*(name for name in INT8 if name in written), *written)
            return preferred[0]
        return self.primary

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Write, compare and commit.

        Raises:
            StageError: when fp32 does not compute what the module computes, or a variant needs a quant plan that is
                not there.
        """
        wanted = self._variants(source)
        primary = self.primary_of(wanted)
        module, structure = load_model(source.path, code=host.code), load_structure(source.path)
        example = work.task.batch(work.data.select, torch.arange(2)).inputs
        rows = first_inputs(work.task.deployed, work.data.select, self.reference_rows)
        reference = rows
        if self.synthetic_reference:
            reference = work.task.deployed.noise(self.reference_rows, seed=work.seed)
        fp32 = deployable_of(module, structure.model, structure.signature, work.task, example, host, opset=self.opset)
        with tempfile.TemporaryDirectory() as directory:
            path = fp32.write(Path(directory), "fp32")
            parity = check_against_module(path, module, work.task, work.data.select, first=self.reference_rows)
        metadata = Metadata(
            variant=primary,
            lineage=lineage_of(source, work),
            labels=work.task.classes,
            preprocessing=work.task.preprocessing,
            signature=structure.signature if fp32.writing is None else work.task.deployed.signature,
        )

        def write(directory: Path) -> dict[str, Any]:
            graphs = {name: variant_of(fp32, name, source) for name in wanted}
            manifest = write_bundle(
                directory,
                fp32=fp32,
                variants=graphs,
                primary=primary,
                metadata=metadata,
                inputs=reference,
                files={
                    **work.task.files(),
                    **structure.model.files(
                        structure.signature, problem=work.task.problem, preprocessing=work.task.preprocessing
                    ),
                },
            )
            files = {name: file_of(directory, name) for name in wanted}
            return {
                "parameters": sum(parameter.numel() for parameter in module.parameters()),
                "macs": macs_of(fp32),
                "parity": parity,
                "primary": primary,
                **({"auto": True} if self.primary == "auto" else {}),
                "sha256": manifest.sha256,
                "variants": {
                    name: compare(file, module, rows) | {"size_bytes": size_bytes(file)} for name, file in files.items()
                },
            }

        inputs = self.inputs(source, work, host)
        return host.store.commit(inputs, kind="bundle", rounding=host.execution.rounding, write=write)

    def foresee(
        self, module: nn.Module, model: Model, work: Work, host: Host, *, after: Sequence[Stage] = ()
    ) -> tuple[str, ...]:
        """Refuse half precision of a model that writes, and weights of few bits of one without products.

        Raises:
            StageError: likewise.
        """
        del after
        if model.writing is not None and "fp16-gpu" in (*(self.variants or ()), self.primary):
            raise _refuse_half()
        if few := [name for name in self.variants or () if name in WEIGHT_ONLY]:
            example = work.task.batch(work.data.select, torch.arange(2)).inputs
            made = deployable_of(module, model, work.task.signature, work.task, example, host, opset=self.opset)
            if not any(map(has_products, made.graphs.values())):
                raise StageError(
                    "the model has no products whose weights could have few bits",
                    expected="a layer that is Gemm or MatMul in its graph",
                    got=few,
                    where=self.title,
                    hint="leave them out of `variants`",
                )
        return ()

    def _variants(self, source: Artifact) -> tuple[Variant, ...]:
        wanted = self.list_variants(quantized=source.kind == "quantized")
        if self._names_int8 and source.kind != "quantized":
            raise StageError(
                "an int8 variant needs a quant plan",
                got=f"a source of kind {source.kind!r}",
                where=self.title,
                hint="put `- quantize` before `- export`, or leave int8 out of `variants`",
            )
        return wanted

    def inputs(self, source: Artifact | None, work: Work, host: Host) -> dict[str, Any]:
        """Add the lineage, which the files tell."""
        inputs = super().inputs(source, work, host)
        if source is not None:
            inputs["lineage"] = lineage_of(source, work).model_dump(mode="json")
        return inputs


def lineage_of(source: Artifact, work: Work) -> Lineage:
    """Where the exported model comes from: verbs, keys and digests; no paths, no dates."""
    stages = (
        Ancestor(stage=made.inputs["fields"].get("verb", made.inputs["stage"]), key=made.key, digest=made.digest)
        for made in ancestry(source)
    )
    teacher = work.teacher.artifact.digest if work.teachers else None
    return Lineage(teacher=teacher, stages=tuple(stages))


def _refuse_half() -> StageError:
    return StageError("a program has no half precision", expected=f"fp32, {' or '.join(INT8)}", got="fp16-gpu")


def variant_of(fp32: Deployable, name: Variant, source: Artifact) -> Deployable:
    """One variant.

    Raises:
        StageError: for half precision of a program.
    """
    if name in WEIGHT_ONLY:
        return fp32.map(lambda _, graph: write_weight_only(graph, bits=WEIGHT_ONLY[name]))
    if name == "fp16-gpu":
        if fp32.writing is not None:
            raise _refuse_half()
        return fp32.map(lambda _, graph: to_half(graph))
    if name in INT8:
        plans = read_plans(source.path)
        if name == "int8-x86-7bit":
            plans = {graph: plan.model_copy(update={"reduce_range": True}) for graph, plan in plans.items()}
        return quantized(fp32, plans)
    return copy.deepcopy(fp32)
