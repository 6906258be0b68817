"""Quantize: int8 where it costs little, float where it costs too much; a torch model with its plan comes out."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field

from compress.errors import StageError
from compress.export.feed import Feed
from compress.export.graph import to_onnx
from compress.loss import GuidedLoss
from compress.models import load_model, load_structure
from compress.quantization import kernels
from compress.quantization.calibration import Batches, Range, finder, observe
from compress.quantization.placement import Mode, layers, usual_mode
from compress.quantization.plan import QuantPlan
from compress.quantization.sensitivity import Choice, Quantizer, Score, Scorer, choose_layers, most_files
from compress.quantization.view import View
from compress.quantization.writer import write_quantized
from compress.stage import Host, Need, Quantity, Stage, Work
from compress.store.artifact import Artifact, Kind
from compress.tasks import Batch
from compress.training.loop import targets_of
from compress.training.teacher import teacher_outputs

if TYPE_CHECKING:
    from onnx import ModelProto

BATCH = 64  # one batch of activations is held at a time
Fraction = Annotated[float, Field(ge=0, le=1)]
ALL_INT8 = 0.95  # of the multiply-accumulates; the rest is seldom worth the accuracy


class Quantize(Stage):
    """Plans int8 for the source; its weights stay as they are, and export writes the plan.

    Layers are ranked by the guided loss on select with only that layer in int8, against the teacher's cached outputs;
    the fewest that keep the accuracy stay in float. The written file must then really run in int8.

    Attributes:
        mode: ``static`` (ranges from the calibration role; for convolutions) or ``dynamic`` (ranges of each batch; for
            matrix products; convolutions stay in float). By default dynamic for a graph with attention, else static.
            Embeddings are int8 in both.
        calibration: how a range is picked from what was seen.
        percentile: for ``calibration: percentile``, per cent of all elements on the near side of each bound.
        max_accuracy_drop: on select, as a share; None quantizes everything and ranks nothing.
        keep_float: globs of module paths that stay in float whatever the ranking says.
        reduce_range: 7-bit weights, for CPUs without VNNI.
        min_int8_macs_fraction: of the multiply-accumulates with a weight, in int8 kernels after ONNX Runtime's own
            optimisation.
        min_agreement: share of decisions on select equal to the float model's.
        max_weight_bytes_fraction: bytes of the quantized weights over their fp32 bytes.
        loss: overrides the pipeline's loss for the ranking.
    """

    version: ClassVar[int] = 2  # 2: embeddings too, and attention no longer counts in int8_macs_fraction
    produces: ClassVar[Kind] = "quantized"
    needs: ClassVar[frozenset[Need]] = frozenset({"data", "loss", "teacher"})
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime", "onnxscript")

    verb: Literal["quantize"] = "quantize"
    mode: Mode | None = None
    calibration: Literal["minmax", "percentile", "entropy"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    max_accuracy_drop: Fraction | None = 0.005
    keep_float: tuple[str, ...] = ()
    reduce_range: bool = False
    min_int8_macs_fraction: Fraction = kernels.MIN_INT8_MACS_FRACTION
    min_agreement: Fraction = kernels.MIN_AGREEMENT
    max_weight_bytes_fraction: Fraction = kernels.MAX_WEIGHT_BYTES_FRACTION
    loss: GuidedLoss | None = None

    @classmethod
    def unbounded(cls, *, mode: Mode) -> Self:
        """The baseline "quantization only": everything that has an int8 kernel, taken as it comes out."""
        return cls(
            mode=mode,
            max_accuracy_drop=None,
            min_int8_macs_fraction=0,
            min_agreement=0,
            max_weight_bytes_fraction=1,
        )

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Calibrate, rank, choose, check what runs, and commit the model with its plan.

        Raises:
            StageError: when a bound is missed, with the layers that did it; when a glob matches nothing, or when the
                loss cannot rank.
        """
        for fault in self.misfits(work.loss):
            raise StageError(fault, where=self.title)
        structure = load_structure(source.path)
        module = load_model(source.path, code=host.code)
        example = work.task.batch(work.data.select, torch.arange(2)).inputs
        model = to_onnx(module, structure.signature, example)
        mode = self.mode or usual_mode(model.graph)
        quantizer = Quantizer(model, mode=mode, keep_float=self._kept(model), reduce_range=self.reduce_range)
        ranges = {} if mode == "dynamic" else self._ranges(model, quantizer, work)
        if self.max_accuracy_drop is None:
            plan, ranking, curve = quantizer.plan(ranges, {}), {}, None
        else:
            scorer = select_scorer(self, work, host)
            with host.reporter.bar(f"{self.title}, ranking", most_files(len(quantizer.layers))) as bar:
                choice = choose_layers(
                    quantizer, ranges, scorer, max_accuracy_drop=self.max_accuracy_drop, done=bar.advance
                )
            plan, ranking, curve = choice.plan, choice.ranking, describe(choice)
        facts = {"mode": mode} | self._check(model, plan, work, host, ranking=ranking)
        files = {"quant_plan.json": plan.model_dump_json(indent=1)}
        if curve is not None:
            files["quant_curve.json"] = json.dumps(curve, indent=1)
        return self.commit(
            module,
            source,
            work,
            host,
            model=structure.model,
            signature=structure.signature,
            facts=facts | {"loss_fingerprint": self.guided_loss(work.loss).fingerprint},
            files=files,
        )

    def _kept(self, model: "ModelProto") -> dict[str, str]:
        """Layers that a glob keeps in float, with the reason."""
        names = [node.name for node in layers(View(model.graph))]
        kept = {name: f"keep_float: {glob}" for glob in self.keep_float for name in names if fnmatchcase(name, glob)}
        for glob in self.keep_float:
            if not any(fnmatchcase(name, glob) for name in names):
                raise StageError("keep_float matches no layer", expected=f"one of {names}", got=glob, where=self.title)
        return kept

    def _ranges(self, model: "ModelProto", quantizer: Quantizer, work: Work) -> dict[str, Range]:
        histograms = observe(model, quantizer.values, calibration_batches(work))
        find = finder(self.calibration, percent=self.percentile)
        return {name: find(histogram) for name, histogram in histograms.items()}

    def _check(
        self, model: "ModelProto", plan: QuantPlan, work: Work, host: Host, *, ranking: Mapping[str, float]
    ) -> dict[str, Any]:
        """What the written file runs, against the bounds; ``ranking`` is empty when layers were not ranked."""
        quantized = write_quantized(model, plan)
        report = kernels.inspect_kernels(model, quantized, plan)
        kernels.check_kernels(report, min_int8_macs_fraction=self.min_int8_macs_fraction)
        fraction = kernels.weight_bytes_fraction(model, quantized, plan)
        kernels.check_weight_bytes(
            fraction,
            copies=kernels.float_copies(model, quantized, plan),
            max_weight_bytes_fraction=self.max_weight_bytes_fraction,
        )
        feed = Feed(work.task, work.data.select, threads=host.execution.threads)
        reference, logits = (feed.outputs(graph) for graph in (model, quantized))
        int8 = [entry.at.path for entry in plan.weights]
        ranked = [f"{name} ({increase:+.4f} nats alone)" for name, increase in ranking.items() if name in int8]
        ours, theirs = work.task.decisions(logits), work.task.decisions(reference)
        agreement = None  # where nothing is decided, as in regression
        if ours is not None and theirs is not None:
            agreement = kernels.check_agreement(theirs, ours, layers=ranked or int8, min_agreement=self.min_agreement)
        return {
            "kernels": report.kernels,
            "int8_macs_fraction": report.int8_macs_fraction,
            "float_layers": report.float_layers,
            "weight_bytes_fraction": fraction,
            "agreement": agreement,
        }

    def guided_loss(self, loss: GuidedLoss) -> GuidedLoss:
        """The stage's own loss if it has one, else the pipeline's."""
        return self.loss or loss

    def gentler(self, path: str) -> str:
        """Leave more layers in float."""
        drop = self.max_accuracy_drop
        return f"lower {path}.max_accuracy_drop " + ("from none to 0.005" if drop is None else f"below {drop:g}")

    def cheaper(self, path: str, quantity: Quantity, *, missing: float, facts: Mapping[str, Any]) -> str:
        """Leave fewer layers in float, while there are some."""
        del quantity, missing
        drop = self.max_accuracy_drop
        if drop is None or (facts.get("int8_macs_fraction") or 0) >= ALL_INT8:
            return ""
        return f"raise {path}.max_accuracy_drop above {drop:g}, so that fewer layers stay in float"

    def misfits(self, loss: GuidedLoss) -> list[str]:
        """Ranking runs ONNX files, which give logits alone."""
        loss = self.loss or loss
        if self.max_accuracy_drop is None or loss.final_logit_terms():
            return []
        return [
            f"layers are ranked by the loss on logits, and {', '.join(loss.terms)} end with none; add a term such as "
            "kl, or set max_accuracy_drop: null"
        ]

    def smoke(self) -> Self:
        """The same search and the same writer; accuracy is not judged, because nothing is trained."""
        drop = None if self.max_accuracy_drop is None else 1.0
        return self.model_copy(update={"max_accuracy_drop": drop, "min_agreement": 0.0})


def calibration_batches(work: Work) -> Batches:
    """The calibration role in fixed batches, preprocessed."""
    samples = work.data.calibration
    return lambda: (
        tuple(tensor.numpy() for tensor in work.task.batch(samples, index).inputs)
        for index in torch.arange(len(samples)).split(BATCH)
    )


def select_scorer(stage: Stage, work: Work, host: Host) -> Scorer:
    """Scores a file by the stage's guided loss and by accuracy, both on select."""
    samples, loss = work.data.select, stage.guided_loss(work.loss)
    feed = Feed(work.task, samples, threads=host.execution.threads)
    teacher = teacher_outputs(work, host, samples, views=(None,)) if loss.needs_teacher else None
    labels = None if samples.labels is None else torch.from_numpy(work.task.labels(samples))
    batch = Batch(inputs=(), labels=labels, index=torch.arange(len(samples)), view=None)
    taught = None if teacher is None else teacher(batch)

    def score(path: Path) -> Score:
        logits = feed.outputs(path)
        student = torch.from_numpy(logits)
        return Score(
            loss=float(loss.on_logits(student, targets_of(work.task, batch, student, loss=loss, taught=taught)).total),
            accuracy=work.task.tally(logits, samples).value,
        )

    return score


def describe(choice: Choice) -> Mapping[str, Any]:
    """The search as JSON: loss increase by layer, and every file that was scored."""
    return {
        "float": asdict(choice.float_score),
        "loss_increase_nats": choice.ranking,
        "curve": [asdict(point) for point in choice.curve],
        "kept_float": choice.plan.kept_float,
    }
