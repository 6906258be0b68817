"""Recipe: a whole pipeline as values; YAML and Python objects are the same thing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError

from compress.config import Values
from compress.config.discretion import Discretion
from compress.config.secrets import mask
from compress.config.values import MOST_ENTRIES
from compress.data import Data
from compress.errors import RecipeError, UsageError, nearest
from compress.loss import GuidedLoss
from compress.loss.guided import TERMS
from compress.models import AnyModel, CausalLM, HuggingFace, Seq2Seq
from compress.recipe.chain import NAME, Link, chain_faults
from compress.recipe.check import chain, explain_all, find_coerced
from compress.recipe.faults import Fault
from compress.recipe.plain import anchor, leaves, names_code, plain
from compress.recipe.resolve import resolve
from compress.recipe.schema import OneKeySchema
from compress.recipe.sections import (
    STATED,
    UNSTATED,
    Baseline,
    Benchmark,
    Colleague,
    DataConfig,
    ExecutionChoice,
    Gates,
    Teacher,
    Tracking,
)  # fmt: skip
from compress.recipe.stages import VERBS, AnyStage, OwnStage
from compress.recipe.text import Document, read
from compress.store.digest import hash_values
from compress.tasks import Task
from compress.tasks.task import Problem

SCHEMA = 1
SUGGESTED: dict[Problem, str] = {
    "single-label": "loss: hinton",
    "multi-label": "loss: {hard: {}, bernoulli: {temperature: 2}}",
    "regression": "loss: {hard: {}, mse: {}}",
}

UNASKED = ExecutionChoice()
TOLD = (("data", "quote"), ("benchmark", "price_per_hour"))  # change a report, and no result that it is about

Student = Annotated[
    Annotated[Literal["teacher"], Tag("teacher")] | Annotated[AnyModel, Tag("model")],
    Discriminator(lambda value: "teacher" if value == "teacher" else "model"),
]


def to_text(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return every scalar of a recipe's plain values by its dotted path, as ``--set`` spells it.

    A list or mapping of more than `MOST_ENTRIES` is one value: a table of thousands of rows would bury the others.
    """
    document = Document("", values)
    return {document.spell(path): value for path, value in leaves(values, most=MOST_ENTRIES)}


class Recipe(Values):
    """A whole pipeline.

    Attributes:
        schema_version: of this format; ``schema`` in YAML.
        name: lower-case; names run directories, the tracked run and the registered model.
        seed: every stage derives its own from it.
        data: samples and their roles.
        teacher: the frozen large model.
        student: the model to make, or ``teacher`` for a copy of the teacher's weights.
        ensemble: further teachers, by the name of their row; their soft targets are averaged with the teacher's.
        baselines: models trained alone, by the name of their row.
        loss: trains, ranks channels, recovers and ranks layers.
        stages: what is done, in order.
        benchmark: how speed is measured.
        gates: what the exported file must reach.
        tracking: where runs are recorded.
        execution: how numbers are computed; no key knows of it but by the precision.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig
    teacher: Teacher
    student: Student
    ensemble: dict[str, Colleague] = {}
    baselines: dict[str, Baseline] = {}
    loss: GuidedLoss = GuidedLoss(preset="hinton")
    stages: Annotated[tuple[AnyStage, ...], Field(min_length=1)]
    benchmark: Benchmark = Benchmark()
    gates: Gates = Gates()
    tracking: Tracking = Tracking()
    execution: Annotated[ExecutionChoice, Field(exclude_if=lambda choice: choice == UNASKED)] = UNASKED

    def model_post_init(self, _context: object) -> None:
        """Refuse a chain whose stages do not fit together."""
        links = [Link(stage.title, stage.takes, stage.produces) for stage in self.stages]
        faults = chain_faults(links, baselines={*self.baselines, *self.ensemble}, judged=self.gates.judged)
        if faults:
            raise ValueError("; ".join(message for _, message in faults))

    @classmethod
    def load(cls, path: Path, *, overrides: Sequence[str] = ()) -> Self:
        """Read a recipe file; relative paths in it start from its directory.

        Args:
            path: the YAML file.
            overrides: ``dotted.path=value``, applied in order; a stage goes by its name.

        Raises:
            RecipeError: with every fault found: file, line, column, path, what was expected, the nearest valid name.
            UsageError: when an override is not ``path=value``.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                "the recipe cannot be read", got=error, where=path, hint="`compressor init digits` writes one"
            ) from error
        return cls.parse(text, origin=str(path), directory=path.absolute().parent, overrides=overrides)

    @classmethod
    def parse(cls, text: str, *, origin: str, directory: Path, overrides: Sequence[str] = ()) -> Self:
        """Read a recipe's text; see ``load``.

        Args:
            text: YAML.
            origin: shown before line and column.
            directory: where relative paths start from.
            overrides: as for ``load``.
        """
        document = read(text, origin=origin)
        if not isinstance(document.values, dict):
            raise RecipeError("the recipe is no mapping", expected="keys such as data, teacher, stages", where=origin)
        version = document.values.get("schema", SCHEMA)
        if isinstance(version, int) and version > SCHEMA:
            raise RecipeError(
                "the recipe is written for a newer compress",
                expected=f"schema {SCHEMA}",
                got=f"schema {version}",
                where=str(document.place(("schema",))),
                hint="pip install --upgrade compress-onnx",
            )
        for override in overrides:
            document.override(override)
        faults = list(document.faults)
        try:
            recipe = cls.model_validate(document.values)
            faults += [
                Fault(document.place(path), document.spell(path), "wrong value", wanted, got=repr(got))
                for path, wanted, got in find_coerced(document.values, recipe)
            ]
            faults += [
                Fault(document.place(("stages", index)), document.spell(("stages", index)), message, None)
                for index, message in recipe.misfits()
            ]
            for path, message in recipe.list_faults():
                faults.append(Fault(document.place(path), document.spell(path), message, None))
        except ValidationError as error:
            recipe = None
            faults += explain_all(document, error, schema=cls.json_schema()) + chain(document, verbs=VERBS)
        if faults or recipe is None:
            told = sorted(set(faults), key=lambda fault: fault.where.order)
            raise RecipeError("\n".join([f"the recipe has {len(told)} fault(s):", *(f"  {fault}" for fault in told)]))
        return anchor(recipe, directory)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of the YAML form."""
        return cls.model_json_schema(schema_generator=OneKeySchema)

    def to_yaml(self) -> str:
        """Return the recipe as YAML with every default written out; reading it gives an equal recipe.

        A user, password or query in the tracking server's address is left out, because YAML is shown and kept.
        """
        return to_text(plain(self.mask()))

    def publish(self, discretion: Discretion) -> dict[str, Any]:
        """Return the recipe as plain YAML values for others to read: without the tracking server and absolute paths.

        Args:
            discretion: tells paths.
        """
        values = plain(self)
        values["tracking"].pop("uri", None)
        return discretion.tell(values)

    @property
    def sha256(self) -> str:
        """Of all values that decide results; a secret in the tracking server's address could be guessed from it."""
        return hash_values(self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """All values that decide results, as JSON: of how they are computed the precision alone."""
        values = self.report_identity
        for section, key in TOLD:
            values[section].pop(key, None)
        return values

    @property
    def report_identity(self) -> dict[str, Any]:
        """All values that decide a report, as JSON: those of the identity, and what may be told of the results."""
        values = self.mask().model_dump(mode="json", exclude={"execution"})
        precision = self.execution.precision
        return values if precision is None else values | {"precision": precision}

    def mask(self) -> Self:
        """Return the recipe without user, password and query in the tracking server's address."""
        if self.tracking.uri is None:
            return self
        return self.model_copy(update={"tracking": self.tracking.model_copy(update={"uri": mask(self.tracking.uri)})})

    def resolve(self, *, code: Sequence[Path]) -> Self:
        """Return the recipe with the user's own classes and functions in the place of the values that name them.

        Also with what the teacher's published weights expect of image files, where nothing else says how to read them.
        Reading a recipe runs no code, so this comes before it is used; see `compress.recipe.resolve`.

        Args:
            code: the user's Python files that may be run.
        """
        found = resolve(self, code=code)
        data = found.data.expecting(found.teacher, found.teachers)
        return found if data is found.data else found.model_copy(update={"data": data})

    def task(self, data: Data) -> Task:
        """Return the task for these data; see `DataConfig.task_of`.

        Raises:
            RecipeError: when a loss has terms that mean nothing for the task's outputs.
        """
        model = self.teacher.model
        tokenizer = model.path if isinstance(model, CausalLM | HuggingFace | Seq2Seq) else None
        task = self.data.task_of(data, tokenizer=tokenizer, teachers=self.teachers)
        losses = {"the pipeline": self.loss} | {
            stage.title: own for stage in self.stages if (own := stage.guided_loss(self.loss)) is not self.loss
        }
        fitting = [name for name, kind in TERMS.items() if task.problem in kind.problems]
        for where, loss in losses.items():
            odd = [name for name, term in loss.terms.items() if task.problem not in term.problems]
            if odd:
                raise RecipeError(
                    f"the loss has terms that mean nothing for {task.problem} outputs",
                    expected=f"some of {', '.join(fitting)}",
                    got=", ".join(odd),
                    where=f"the loss of {where}",
                    hint=SUGGESTED[task.problem],
                )
            if loss.mixup and not task.fixed_size:
                raise RecipeError("only images can be mixed", got=f"mixup {loss.mixup:g}", where=f"the loss of {where}")
            if loss.on_policy and not data.select.written:
                raise RecipeError(
                    "only texts can be written by the student",
                    expected="data with target_text or completion, or a loss without on_policy",
                    got=f"a task judged by {task.measure}",
                    where=f"the loss of {where}",
                )
        return task

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The teacher and the others of the ensemble."""
        return (self.teacher, *(colleague.teacher for colleague in self.ensemble.values()))

    def list_faults(self) -> list[tuple[tuple[str, ...], str]]:
        """Return what is wrong with the recipe as a whole, by path, and why, before any sample is read."""
        return [*self.list_unshipped(), *self.list_untimed(), *self.list_unstated(), *self.list_untaught()]

    def misfits(self) -> list[tuple[int, str]]:
        """Return the stages that cannot work with the loss, or where they stand, by position, and why.

        Of unread code nothing is told.
        """
        if names_code(self.loss):
            return []
        drawn = self.student != "teacher" and not names_code(self.student) and not self.student.published
        found: list[tuple[int, str]] = []
        for index, stage in enumerate(self.stages):
            if names_code(stage):
                continue
            after = self.stages[:index]
            found += [(index, message) for message in stage.misfits(self.loss)]
            if not any(map(names_code, after)):
                found += [(index, message) for message in stage.misplaced(self.loss, after=after, drawn=drawn)]
        return found

    def list_unshipped(self) -> list[tuple[tuple[str, ...], str]]:
        """Return the variants whose gates judge no file, and why: only files besides the primary one have their own."""
        if any(isinstance(stage, OwnStage) for stage in self.stages):
            return []  # what those ship is not known yet
        if self.gates.variants and any(stage.leaves_primary_open for stage in self.stages):
            said = "primary: auto leaves open which file has limits of its own; name the primary file under export"
            return [(("gates", "variants"), f"{said}, or state every limit under gates themselves")]
        quantized = any(stage.produces == "quantized" for stage in self.stages)
        shipped = [names for stage in self.stages if (names := stage.ships(quantized=quantized))]
        written: tuple[str, ...] = shipped[-1] if shipped else ()
        found: list[tuple[tuple[str, ...], str]] = []
        for name in self.gates.variants:
            path = ("gates", "variants", name)
            if name not in written:
                found.append((path, f"no stage exports {name}; expected one of {', '.join(written) or 'none'}"))
            elif written[:1] == (name,):
                found.append((path, f"{name} is the primary variant, whose limits stand under gates themselves"))
        return found

    def list_untimed(self) -> list[tuple[tuple[str, ...], str]]:
        """Return the limits of latency whose profile times no file, and why."""
        able = [profile.name for profile in self.benchmark.list_profiles() if profile.takes_files]
        limits = {("gates",): self.gates.max_latency_ms} | {
            ("gates", "variants", name): found.max_latency_ms for name, found in self.gates.variants.items()
        }
        return [
            (
                (*path, "max_latency_ms", profile),
                f"no profile times files as {profile}; expected one of {', '.join(able)}",
            )
            for path, found in limits.items()
            for profile in found
            if profile not in able
        ]

    def list_unstated(self) -> list[tuple[tuple[str, ...], str]]:
        """Return the section that does not state the input formula of given weights, if no configuration can."""
        given = [teacher for teacher in self.teachers if teacher.is_given]
        alone = any(teacher.weights or not (teacher.model and teacher.model.published) for teacher in given)
        said = self.data.normalize is not None or self.data.task is not None or self.data.preprocess is not None
        if not alone or said or not self.data.source.of_images:
            return []
        return [(("data",), f"{UNSTATED}; expected {STATED}")]

    def list_untaught(self) -> list[tuple[tuple[str, ...], str]]:
        """Return what needs labels where the teacher itself decides what is right: its training, and losses."""
        if self.data.labels is None:
            return []
        found: list[tuple[tuple[str, ...], str]] = []
        if self.teacher.train is not None:
            told = "a teacher that decides what is right cannot learn it here; give its weights or its artifact"
            found.append((("teacher", "train"), told))
        for name, member in self.ensemble.items():
            if member.teacher.train is not None:
                told = "train has no labels; give its weights or its artifact"
                found.append((("ensemble", name, "teacher", "train"), told))
        learning = [
            stage.title
            for stage in self.stages
            if not names_code(stage) and "loss" not in stage.needs and stage.training is not None
        ]
        if learning:
            found.append((("data", "labels"), f"{', '.join(learning)} learns from labels, and train has none"))
        guided = [stage for stage in self.stages if not names_code(stage) and "loss" in stage.needs]
        needing = [
            stage.title
            for stage in guided
            if not names_code(loss := stage.guided_loss(self.loss)) and loss.needs_labels
        ]
        if needing:
            told = f"the loss of {', '.join(needing)} reads labels, and train has none; leave the term hard out of it"
            found.append((("data", "labels"), told))
        return found

    def parameters(self) -> dict[str, Any]:
        """Return every scalar by its dotted path, as ``--set`` spells it."""
        return parameters(plain(self.mask()))

    def stage_index(self, name: str, *, option: str) -> int:
        """Return the position of a stage.

        Raises:
            UsageError: when there is no such stage; with the nearest one.
        """
        titles = [stage.title for stage in self.stages]
        if name not in titles:
            guess = nearest(name, titles)
            raise UsageError(
                f"{option} names no stage of this recipe",
                expected=", ".join(titles),
                got=name,
                hint=f"did you mean {guess}?" if guess else None,
            )
        return titles.index(name)

    def smoke(self) -> Self:
        """Return the recipe with a few steps per stage, one brief timing and nothing judged."""
        return self.model_copy(
            update={
                "teacher": self.teacher.smoke(),
                "ensemble": {
                    name: colleague.model_copy(update={"teacher": colleague.teacher.smoke()})
                    for name, colleague in self.ensemble.items()
                },
                "baselines": {
                    name: baseline.model_copy(update={"train": baseline.train.smoke()})
                    for name, baseline in self.baselines.items()
                },
                "stages": tuple(stage.smoke() for stage in self.stages),
                "benchmark": self.benchmark.smoke(),
                "gates": Gates(),
            }
        )
