"""Prune: removes channels, heads and layers that the guided loss can best do without; a smaller module comes out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import nn

from compress.errors import StageError
from compress.loss import GuidedLoss
from compress.models import Model, load_model, load_structure, save_model
from compress.models.structure import Structure
from compress.progress import Bar
from compress.stage import Host, Need, Optimization, Quantity, Stage, Training, Work, coupling_faults
from compress.stage.stage import seed_of
from compress.store.artifact import Artifact
from compress.store.digest import hash_values
from compress.surgery import encoders
from compress.surgery.find import DEFAULT_UNITS
from compress.surgery.groups import Group
from compress.surgery.importance import Importance, magnitude
from compress.surgery.maps import mapped_groups
from compress.surgery.prune import Pruned, Reach, find_reach, prune, tell_left
from compress.surgery.widths import Measure, Ranking
from compress.tasks import Batch
from compress.training.guided import fit_guided
from compress.training.importance import loss_importance
from compress.training.numerics import numerics, place_batch, placed
from compress.training.teacher import teacher_outputs

VERIFIED_SAMPLES = 8
SHOWN = 3  # groups of channels that stay, in a refusal
LEAST_KEPT = 0.05  # nobody prunes a model to less, and no proportion holds that far
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Prune(Stage):
    """Removes whole channels, with everything coupled to them, until the model costs a fraction of what it did.

    In transformers (BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa version 2 and 3, ViT, DeiT) these are whole attention
    heads, feed-forward channels, channels of the hidden state and whole layers, and each layer may keep other numbers.
    In models that write (the transducer and the causal model of ours, Marian, BART, T5, GPT-2, Llama, Qwen2) they are
    those of encoder and decoder, but for the hidden state, and the cost is that of a text that is given: its source is
    read, and each of its symbols, once. Queries that share a head of keys and values leave with it.
    The result is checked against a masked copy of the unpruned model in float64.

    Attributes:
        kept_macs_fraction: share of the multiply-accumulates to keep, for inputs as long as the batch of select samples
            that the result is checked on; this or the next, not both.
        kept_params_fraction: share of the parameters to keep.
        importance: ``taylor`` scores channels by the guided loss on train samples, augmented and mixed as in training;
            ``magnitude`` by their weights.
        importance_batches: batches of ``importance_batch_size`` samples that taylor differentiates.
        importance_batch_size: samples per batch.
        units: what may be cut in a transformer. The hidden width is left alone unless named: it costs most.
        ranking: ``global`` ranks isomorphic groups together; ``uniform`` takes the same share of every group;
            ``per_cost`` weighs what the loss says of everything, whatever its kind, by what it costs, and needs taylor
            scores. None takes ``per_cost`` for a transformer with taylor scores, else ``global``.
        round_to: widths are multiples of it; None takes multiples of 8 up to 64, of 16 above; in transformers of 64, of
            32 below a width of 768. Heads and layers leave whole.
        tolerance: largest shortfall below the target, as a share of the unpruned cost; None takes the nearest below.
        protected: globs of module paths whose outputs keep all their channels; layers named so stay.
        steps: the target is approached in this many equal ratios, scored anew each time.
        recover: how the model is trained between steps, on the guided loss; needed when ``steps`` is above 1.
        loss: overrides the pipeline's loss.
    """

    version: ClassVar[int] = 3  # importance reads train as training does
    needs: ClassVar[frozenset[Need]] = frozenset({"data", "loss", "teacher"})
    libraries: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")
    cuts: ClassVar[bool] = True
    scales: ClassVar[bool] = True

    verb: Literal["prune"] = "prune"
    kept_macs_fraction: Fraction | None = None
    kept_params_fraction: Fraction | None = None
    importance: Literal["taylor", "magnitude"] = "taylor"
    importance_batches: Annotated[int, Field(ge=1, le=10_000)] = 16
    importance_batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    units: Annotated[tuple[encoders.Unit, ...], Field(min_length=1)] = DEFAULT_UNITS
    ranking: Ranking | None = None
    round_to: Annotated[int, Field(ge=1, le=256)] | None = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = None
    protected: tuple[str, ...] = ()
    steps: Annotated[int, Field(ge=1, le=100)] = 1
    recover: Optimization | None = None
    loss: GuidedLoss | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse no target, two targets, steps without recovery, and a ranking that the scores do not allow."""
        if (self.kept_macs_fraction is None) == (self.kept_params_fraction is None):
            raise ValueError("expected kept_macs_fraction or kept_params_fraction, and not both")
        if (self.steps > 1) != (self.recover is not None):
            raise ValueError("steps above 1 and recover go together: the model is trained between steps")
        if self.ranking == "per_cost" and self.importance == "magnitude":
            raise ValueError("ranking per_cost needs importance taylor: norms of unlike weights cannot be compared")

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Prune a copy of the source step by step and commit it with its plan.

        Raises:
            StageError: when the target cannot be reached, nothing was removed, or the result is not the masked model.
            ModelError: when a layer that depends on prunable channels cannot be cut; it is named.
        """
        for fault in self.misfits(work.loss):
            raise StageError(fault, where=self.title)
        structure = load_structure(source.path)
        current = source
        plans: list[dict[str, Any]] = []
        while len(plans) < self.steps - 1:
            inputs = self.inputs(source, work, host) | {"step": len(plans) + 1, "previous": current.digest}
            current = self._intermediate(inputs, current, structure, work, host, plans=plans)
            plans.append(current.read_json("plan.json"))
        pruned = self._step(current, work, host, plans=plans)
        plan = pruned.plan
        before = [*plans, plan][0]["before"]
        facts = {
            "before": before,
            "after": plan["after"],
            "kept_params_fraction": plan["after"]["parameters"] / before["parameters"],
            "kept_macs_fraction": plan["after"]["macs"] / before["macs"],
            "importance": plan["importance"],
            "masked_difference": plan["masked_difference"],
            "sample_shapes": plan["sample_shapes"],
            "loss_fingerprint": self.guided_loss(work.loss).fingerprint,
            "widths": {group["name"]: [group["width_before"], group["width_after"]] for group in plan["groups"]},
        }
        return self.commit(
            pruned.module,
            source,
            work,
            host,
            model=structure.model,
            signature=structure.signature,
            facts=facts,
            files={"plan.json": json.dumps({"steps": [*plans, plan]}, indent=1)},
        )

    def _step(self, current: Artifact, work: Work, host: Host, *, plans: Sequence[dict[str, Any]]) -> Pruned:
        """Return what the step after ``plans`` makes: after n of k steps the source's cost is down to target^(n / k).

        A later step may find that the one before, rounded down, has done its share already.
        """
        target, measure = self._target[1], self._measure
        pruned = prune(
            load_model(current.path, code=host.code),
            self._example(work),
            lambda module, groups: self._importance(module, groups, work, host, step=len(plans)),
            measure=measure,
            target=target ** ((len(plans) + 1) / self.steps),
            of=plans[0]["before"][measure] if plans else None,
            units=self.units,
            ranking=self.ranking,
            round_to=self.round_to,
            tolerance=self.tolerance,
            protected=self.protected,
            where=self.title,
        )
        host.reporter.say(f"  {self.title}: {pruned}")
        return pruned

    def _intermediate(
        self,
        inputs: dict[str, Any],
        current: Artifact,
        structure: Structure,
        work: Work,
        host: Host,
        *,
        plans: Sequence[dict[str, Any]],
    ) -> Artifact:
        """Prune and recover one step, commit it, or return it from the store."""
        found = host.store.find(hash_values(inputs))
        if found is not None:
            return found
        assert self.recover is not None
        pruned = self._step(current, work, host, plans=plans)
        fit_guided(
            pruned.module,
            work,
            host,
            loss=self.guided_loss(work.loss),
            optimization=self.recover,
            seed=seed_of(inputs),
            checkpoints=host.store.work(hash_values(inputs)),
            name=f"{self.title}, step {len(plans) + 1} of {self.steps}",
        )

        def write(directory: Path) -> dict[str, Any]:
            save_model(pruned.module, directory, model=structure.model, signature=structure.signature)
            (directory / "plan.json").write_text(json.dumps(pruned.plan, indent=1))
            return {"after": asdict(pruned.choice.after)}

        return host.store.commit(inputs, kind="step", rounding=host.execution.rounding, write=write)

    def _importance(
        self, module: nn.Module, groups: Sequence[Group], work: Work, host: Host, *, step: int
    ) -> Importance:
        if self.importance == "magnitude":
            return magnitude(module, groups)
        loss, train = self.guided_loss(work.loss), work.data.train
        # In a view that training draws from: what the teachers say of it is stored, or recovery will read it.
        views = work.task.views(mixup=loss.mixup)
        view = views[step % len(views)]
        teacher = teacher_outputs(work, host, train, views=(view,)) if loss.needs_teacher else None
        count = min(self.importance_batches * self.importance_batch_size, len(train))
        generator = torch.Generator().manual_seed(work.seed * 1000 + step)
        drawn = torch.randperm(len(train), generator=generator)[:count].sort().values

        def batches(bar: Bar) -> Iterator[Batch]:
            for index in drawn.split(self.importance_batch_size):
                yield place_batch(work.task.batch(train, index, view=view), host.device)
                bar.advance(len(index))

        hint = "lower importance_batch_size, and raise importance_batches by as much"
        with (
            host.reporter.bar(f"{self.title}, importance", count) as bar,
            numerics(host, seed=work.seed),
            placed(host, module, hint=hint),
        ):
            return loss_importance(
                module,
                groups,
                batches(bar),
                task=work.task,
                problem=work.task.problem,
                loss=loss,
                teacher=teacher,
                seed=work.seed,
            )

    def guided_loss(self, loss: GuidedLoss) -> GuidedLoss:
        """The stage's own loss if it has one, else the pipeline's."""
        return self.loss or loss

    @property
    def training(self) -> Training | None:
        """The recoveries between steps."""
        return None if self.recover is None else Training(self.recover, times=self.steps - 1, within=True)

    def gentler(self, path: str) -> str:
        """Keep more."""
        field, kept = self._target
        return f"raise {path}.{field} above {kept:g}"

    def cheaper(self, path: str, quantity: Quantity, *, missing: float, facts: Mapping[str, Any]) -> str:
        """Keep as much less as is missing, unless nobody prunes so far."""
        del quantity, facts
        field, kept = self._target
        return f"try {path}.{field}={kept * missing:.3g} instead of {kept:g}" if kept * missing >= LEAST_KEPT else ""

    @property
    def _target(self) -> tuple[str, float]:
        """The field that holds the share to keep, and that share."""
        if self.kept_macs_fraction is not None:
            return "kept_macs_fraction", self.kept_macs_fraction
        assert self.kept_params_fraction is not None
        return "kept_params_fraction", self.kept_params_fraction

    @property
    def _measure(self) -> Measure:
        return "macs" if self.kept_macs_fraction is not None else "parameters"

    @staticmethod
    def _example(work: Work) -> tuple[torch.Tensor, ...]:
        """The select samples that a cut is proved on."""
        count = min(VERIFIED_SAMPLES, len(work.data.select))
        return work.task.batch(work.data.select, torch.arange(count)).inputs

    def misfits(self, loss: GuidedLoss) -> list[str]:
        """Taylor scores need a term that gives each sample a value of its own, from its logits."""
        loss = self.loss or loss
        found = []
        if self.importance == "taylor" and not loss.final_logit_terms(per_unit=True):
            found.append(
                f"importance taylor needs a loss with a value for each sample from logits alone (hard, kl, dkd ...); "
                f"this one has {', '.join(loss.terms)}; give the stage a `loss` of its own, or importance: magnitude"
            )
        if self.recover is not None:
            found += coupling_faults(loss, self.recover)
        return found

    def check(self, module: nn.Module, work: Work) -> None:
        """Refuse a family of transformers that cannot be cut, or not in these units, and parameters it should not have.

        Raises:
            ModelError: names what is not known.
        """
        del work
        mapped_groups(module, self.units, protected=frozenset())

    def keeps(self, measure: Measure) -> float | None:
        """Return the share that it is to keep, in its own measure."""
        return self._target[1] if measure == self._measure else None

    def foresee(
        self, module: nn.Module, model: Model, work: Work, host: Host, *, after: Sequence[Stage] = ()
    ) -> tuple[str, ...]:
        """Tell what stays and what share can be reached; refuse a share, or a tolerance, that cannot be met.

        Behind other cuts a share is one of what they leave: it is refused where that is known, and told otherwise.

        Raises:
            StageError: names the layers that stay, and the reachable shares.
            ModelError: when the model cannot be traced.
        """
        del model, host
        field, target = self._target
        measure = self._measure
        reach = find_reach(
            module,
            self._example(work),
            measure=measure,
            units=self.units,
            round_to=self.round_to,
            protected=self.protected,
            where=self.title,
        )
        shares = [stage.keeps(measure) for stage in after]
        left = prod(share for share in shares if share is not None)
        smallest = min(reach.smallest / left, 1.0)
        if target < smallest and None not in shares:
            raise StageError(
                f"{field} cannot be reached",
                expected=f"{smallest:.4f} to 1" + (f", of the {left:g} that is left before" if left < 1 else ""),
                got=target,
                where=self.title,
                hint="; ".join(("ask for at least that, or lower round_to", *map(str, reach.left[:SHOWN]))),
            )
        known = f"{field} can be anything from {reach.smallest:.4f} on"
        lines = [known if {*shares} <= {1.0} else f"{known}, as a share of the model before all cuts"]
        if self.tolerance is not None and {*shares} <= {1.0}:
            lines += self._foresee_tolerance(reach, self.tolerance)
        if reach.folded:
            lines.append(f"computed weights become plain ones: {', '.join(reach.folded)}")
        return (*lines, *tell_left(reach.left))

    def _foresee_tolerance(self, reach: Reach, tolerance: float) -> list[str]:
        """Tell that widths may not come near enough to the target; where the ranking decides no width, they do not."""
        field, target = self._target
        first = target ** (1 / self.steps)
        nearest = reach.nearest(measure=self._measure, target=first, round_to=self.round_to)
        if first - nearest <= tolerance:
            return []
        told = f"with even shares {nearest:.4f} is the nearest below {first:.4f}: tolerance {tolerance:g} is missed"
        if self.ranking == "uniform":
            raise StageError(
                f"{field} cannot be met within the tolerance",
                expected=f"a share from {first - tolerance:.4f} to {first:.4f}",
                got=f"{nearest:.4f} is the nearest below",
                where=self.title,
                hint="ask for the nearest, raise tolerance, or lower round_to",
            )
        return [f"{told}, and by the scores it may be"]

    def smoke(self) -> Self:
        """One step, one small batch."""
        return self.model_copy(
            update={"steps": 1, "recover": None, "importance_batches": 1, "importance_batch_size": 16}
        )
