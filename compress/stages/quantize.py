"""Quantize: int8 where it costs little, float where it costs too much; a torch model with its plan comes out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from compress.data.ahead import make_ahead
from compress.errors import StageError
from compress.export.deployable import ALONE, Deployable
from compress.export.feed import Feed
from compress.export.stored import deployable_of
from compress.loss import GuidedLoss
from compress.models import Model, load_model, load_structure
from compress.quantization import kernels
from compress.quantization.calibration import Batches, finder
from compress.quantization.placement import Mode, usual_mode
from compress.quantization.plans import FILE, dump_plans
from compress.quantization.programs import quantize_program, reach_of_program
from compress.quantization.quantize import Bounds, find_reach, quantize
from compress.quantization.sensitivity import Choice, Score, Scorer
from compress.stage import Host, Need, Quantity, Stage, Work
from compress.store.artifact import Artifact
from compress.store.manifest import Kind
from compress.tasks import Batch
from compress.training.teacher import teacher_outputs
from compress.training.teaching import targets_of

if TYPE_CHECKING:
    from onnx import ModelProto

Facts = dict[str, Any]
Files = dict[str, str]
BATCH = 64  # one batch of activations is held at a time
Fraction = Annotated[float, Field(ge=0, le=1)]
ALL_INT8 = 0.95  # of the multiply-accumulates; the rest is seldom worth the accuracy


class Quantize(Stage):
    """Plans int8 for the source; its weights stay as they are, and export writes the plan.

    Layers are ranked by the guided loss on select with only that layer in int8, against the teacher's cached outputs;
    the fewest that keep the accuracy stay in float. The written file must then really run in int8. The graphs of a
    program are quantized whole, and refused when what they write loses more than is allowed.

    Attributes:
        mode: ``static`` (ranges from the calibration role; for convolutions) or ``dynamic`` (ranges of each batch; for
            matrix products; convolutions stay in float). By default dynamic for a graph with attention whose
            multiply-accumulates are not in convolutions, else static. Embeddings are int8 in both.
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
    def without_limits(cls, *, mode: Mode) -> Self:
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
        model = deployable_of(module, structure.model, structure.signature, work.task, example, host)
        if model.writing is None:
            facts, files = self._quantize_graph(model.graphs[ALONE], work, host)
        else:
            facts, files = self._quantize_program(model, work, host)
        facts["loss_fingerprint"] = self.guided_loss(work.loss).fingerprint
        return self.commit(
            module,
            source,
            work,
            host,
            model=structure.model,
            signature=structure.signature,
            facts=facts,
            files=files,
        )

    def check(self, module: nn.Module, work: Work) -> None:
        """Refuse recurrent layers: their products cannot be counted, so nothing could tell how much runs in int8.

        Raises:
            StageError: names the layer.
        """
        del work
        for name, part in module.named_modules():
            if isinstance(part, nn.RNNBase):
                raise StageError(
                    "quantize cannot tell how much of a recurrent network runs in int8",
                    expected="a network without GRU, LSTM and RNN",
                    got=f"{type(part).__name__} {name!r}",
                    where=self.title,
                    hint="leave quantize out, and export fp32",
                )

    def foresee(
        self, module: nn.Module, model: Model, work: Work, host: Host, *, after: Sequence[Stage] = ()
    ) -> tuple[str, ...]:
        """Tell what share int8 kernels can cover, and refuse one that is too little, or fewer bytes than int8 takes.

        Where the model is cut before, shares change with what is left: they are told, and not refused.

        Raises:
            StageError: names what would stay in float, and why.
        """
        kernels.check_weight_bytes(
            kernels.INT8_BYTES_FRACTION, copies={}, max_weight_bytes_fraction=self.max_weight_bytes_fraction
        )
        example = work.task.batch(work.data.select, torch.arange(2)).inputs
        made = deployable_of(module, model, work.task.signature, work.task, example, host)
        cut, where = any(stage.cuts for stage in after), self.title
        bound = 0.0 if cut else self.min_int8_macs_fraction
        if made.writing is None:
            graph = made.graphs[ALONE]
            mode = self.mode or usual_mode(graph, min_int8_macs_fraction=self.min_int8_macs_fraction)
            reach = find_reach(graph, mode=mode, keep_float=self.keep_float, bound=bound, where=where)
        else:
            reach = reach_of_program(made, mode=self.mode, keep_float=self.keep_float, bound=bound, where=where)
        stays = "; ".join(f"{name} ({reason})" for name, reason in list(reach.float_layers.items())[: kernels.SHOWN])
        share = f"{reach.mode} int8 kernels can take {reach.int8_macs_fraction:.1%} of the MACs with a weight"
        if cut:
            share += ", before it is cut"
            if reach.int8_macs_fraction < (least := self.min_int8_macs_fraction):
                share += f"; less than {least:.1%} of what is left will be refused (min_int8_macs_fraction)"
        return (share + (f"; in float: {stays}" if stays else ""),)

    def _quantize_graph(self, model: "ModelProto", work: Work, host: Host) -> tuple[Facts, Files]:
        """Return what came of quantizing one graph, and the files of its plan."""
        feed = Feed(work.task, work.data.select, threads=host.execution.threads)
        made = quantize(
            model,
            calibration_batches(work),
            find=finder(self.calibration, percent=self.percentile),
            decide=lambda graph: work.task.decisions(feed.outputs(graph)),
            mode=self.mode,
            keep_float=self.keep_float,
            reduce_range=self.reduce_range,
            scorer=None if self.max_accuracy_drop is None else select_scorer(self, work, host),
            max_accuracy_drop=self.max_accuracy_drop or 0.0,
            bounds=Bounds(self.min_int8_macs_fraction, self.min_agreement, self.max_weight_bytes_fraction),
            where=self.title,
            reporter=host.reporter,
        )
        files = {FILE: dump_plans({ALONE: made.plan})}
        if made.choice is not None:
            files["quant_curve.json"] = json.dumps(describe(made.choice), indent=1)
        return describe_result(made.plan.mode, made.report, made.weight_bytes_fraction, made.agreement), files

    def _quantize_program(self, model: Deployable, work: Work, host: Host) -> tuple[Facts, Files]:
        """Return what came of quantizing a program: what it writes is judged, and no layer is ranked.

        Raises:
            StageError: when a bound is missed, or more accuracy is lost than is allowed.
        """
        task, select, threads = work.task.deployed, work.data.select, host.execution.threads
        feed, written = Feed(task, select, threads=threads), list[NDArray[Any]]()

        def decide(program: Deployable) -> NDArray[Any]:
            written.append(feed.through(program.open(threads=threads)))
            decided = task.decisions(written[-1])
            assert decided is not None, "a text is a decision"
            return decided

        made = quantize_program(
            model,
            decide=decide,
            mode=self.mode,
            keep_float=self.keep_float,
            reduce_range=self.reduce_range,
            bounds=Bounds(self.min_int8_macs_fraction, self.min_agreement, self.max_weight_bytes_fraction),
            where=self.title,
        )
        before, after = (task.tally(texts, select).value for texts in written)
        if self.max_accuracy_drop is not None and before - after > self.max_accuracy_drop:
            raise StageError(
                "the int8 program loses too much",
                expected=f"at most {self.max_accuracy_drop:g} less {task.measure} on select than {before:.4f}",
                got=f"{after:.4f}",
                where=self.title,
                hint="keep layers in float (keep_float), or raise max_accuracy_drop",
            )
        files = {FILE: dump_plans(made.plans)}
        return describe_result("dynamic", made.report, made.weight_bytes_fraction, made.agreement), files

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

    def make(index: torch.Tensor) -> tuple[np.ndarray, ...]:
        return tuple(tensor.numpy() for tensor in work.task.batch(samples, index).inputs)

    def batches() -> Iterable[tuple[np.ndarray, ...]]:
        positions = torch.arange(len(samples)).split(BATCH)
        return make_ahead(make, positions) if samples.on_disk else map(make, positions)

    return batches


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


def describe_result(
    mode: Mode, report: kernels.KernelReport, weight_bytes_fraction: float, agreement: float | None
) -> Facts:
    """What is worth knowing of an int8 model."""
    return {
        "mode": mode,
        "kernels": report.kernels,
        "int8_macs_fraction": report.int8_macs_fraction,
        "float_layers": report.float_layers,
        "weight_bytes_fraction": weight_bytes_fraction,
        "agreement": agreement,
    }


def describe(choice: Choice) -> Mapping[str, Any]:
    """The search as JSON: loss increase by layer, and every file that was scored."""
    return {
        "float": asdict(choice.float_score),
        "loss_increase_nats": choice.ranking,
        "curve": [asdict(point) for point in choice.curve],
        "kept_float": choice.plan.kept_float,
    }
