"""The sections of a recipe besides the student, the loss and the stages."""

import re
import shlex
from collections.abc import Sequence
from inspect import isfunction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
)

from compress.benchmark.measure import Profile, Scenario, default_profiles
from compress.benchmark.own import OwnRuntime
from compress.benchmark.process import Place
from compress.benchmark.runtimes import RUNTIMES
from compress.benchmark.runtimes.machine import count_allowed_cores
from compress.config import Values
from compress.config.permission import Ask
from compress.config.secrets import address
from compress.data import Data, Samples
from compress.data.preprocess import AnyPreprocess, Preprocess, Published
from compress.data.roles import Overlap, Split, assign
from compress.data.source import Opening, Raw, Source
from compress.data.sources import AnySource
from compress.data.teacher_labels import TeacherLabels
from compress.errors import DataError, ModelError
from compress.models import AnyModel
from compress.progress import Reporter
from compress.stage import BatchSize, Precision, Reduction
from compress.stages.export import Variant
from compress.stages.train import Train
from compress.tasks import (
    ArrayTask,
    Augment,
    Encode,
    ImageClassification,
    Judge,
    Normalize,
    StepTask,
    Symbols,
    Task,
    TextTask,
    Tokenize,
    Tokenizer,
    TransductionTask,
    WrittenLimit,
)
from compress.tasks.own import AnyTask, OwnTask, TaskMaker, make_task
from compress.tasks.pieces import load_pieces

Fraction = Annotated[float, Field(gt=0, le=1)]
OneNormalize = Annotated[
    Annotated[Literal["identity"], Tag("identity")] | Annotated[Normalize, Tag("numbers")],
    Discriminator(lambda value: "identity" if isinstance(value, str) else "numbers"),
]


def _form_of_normalize(value: object) -> str:
    if isinstance(value, str):
        return "identity"
    named = isinstance(value, dict) and bool(value) and not {"mean", "std"} & set(value)
    return "inputs" if named else "numbers"


AnyNormalize = Annotated[
    Annotated[Literal["identity"], Tag("identity")]
    | Annotated[Normalize, Tag("numbers")]
    | Annotated[dict[str, OneNormalize], Tag("inputs")],
    Discriminator(_form_of_normalize),
]
UNSTATED = "the input formula of the given weights is not stated, and other inputs than theirs make them worse silently"
STATED = (
    "data.normalize: {mean: [...], std: [...]} as they were trained, of images scaled to 0 to 1, or data.normalize: "
    "identity where they were trained on the scaled images themselves"
)
LATER = ("task", "encode", "preprocess", "symbols", "labels", "quote", "written_limit")
OF_FILE = re.compile(r"(?:sqlite:///|file://)?(/[^?#]*)$")  # an absolute path, nothing that could change its meaning


class DataConfig(Values):
    """Where samples come from, which role each plays, and how training varies them.

    Attributes:
        source: a place that samples come from.
        split: sizes of the roles that the source does not fix.
        overlap: what to do with train samples that are also in a role the source fixed: ``refuse`` the data, or
            ``drop-from-train`` and count them. The other roles are never touched.
        augment: views of the train samples; None trains on the plain ones.
        normalize: mean and deviation that given weights were trained with, or ``identity`` for images that are only
            scaled to 0 to 1; None takes what the weights' own configuration says, or of a teacher that is trained here
            those of the train role. Of arrays likewise, by column or channel; of several by the name of the input.
        tokenize: how text becomes tokens.
        judge: what counts as right.
        task: what samples are, where they are none of what is read here: the user's own; see `OwnTask`.
        encode: how the columns of a table become inputs, and targets what a model gives; None is `Encode`'s defaults.
        preprocess: how image files are resized, cropped and normalised, or the file that says it: ``config.json`` of a
            model of timm, ``preprocessor_config.json`` of transformers, or the name of published weights,
            ``{timm: resnet50.a1_in1k}``. None squashes them to the source's size; where that is not said either, a
            teacher with published weights says it.
        symbols: what texts that are read and written consist of; None is `Symbols`' defaults.
        labels: that the teacher decides what is right; None takes the labels of the source.
        quote: whether a report may hold samples, texts of select and pictures of test that the student gets wrong; None
            lets it.
        written_limit: how long what is written may be by the length of its source; None has ``max_length`` alone.
    """

    source: AnySource
    split: Split = Split()
    overlap: Overlap = "refuse"
    augment: Augment | None = None
    normalize: AnyNormalize | None = None
    tokenize: Tokenize = Tokenize()
    judge: Judge = Judge()
    task: AnyTask | None = None
    encode: Encode | None = None
    preprocess: AnyPreprocess | None = None
    symbols: Symbols | None = None
    labels: TeacherLabels | None = None
    quote: bool | None = None
    written_limit: WrittenLimit | None = None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that came later where they say nothing, so that stored runs are found as ever."""
        return {name: value for name, value in write(self).items() if name not in LATER or value is not None}

    def task_of(self, data: Data, *, tokenizer: str | None, teachers: Sequence["Teacher"] = ()) -> Task:
        """Return the task for these data: images, texts, words, or arrays and tables, or the user's own.

        Args:
            data: as ``load`` returned them.
            tokenizer: the teacher's, used when ``tokenize`` names none.
            teachers: of the recipe; what given weights were trained on decides how images enter.

        Raises:
            DataError: when the fields do not fit the data, or a measure of the user's own gives no number.
            ModelError: when there is no tokenizer, or the input formula of given weights is not known.
        """
        if self.task is not None:
            return self._own_task(self.task, data)
        task = self._our_task(data, tokenizer=tokenizer, teachers=teachers)
        if isfunction(self.judge.measure):  # tried before anything trains
            size = (int(task.units(data.select).sum()), len(task.classes))
            task.tally(np.random.default_rng(0).standard_normal(size).astype(np.float32), data.select)
        return task

    def _own_task(self, make: TaskMaker | OwnTask, data: Data) -> Task:
        ours = ("augment", "normalize", "tokenize", "judge", "encode", "symbols", "written_limit")
        given = [name for name in ours if self.__dict__[name] != type(self).model_fields[name].default]
        if given:
            raise DataError(
                "a task of your own reads and judges samples itself",
                expected=f"no {', '.join(ours)} beside it",
                got=", ".join(given),
                where=f"data.{given[0]}",
            )
        return make_task(make, data)

    def _our_task(self, data: Data, *, tokenizer: str | None, teachers: Sequence["Teacher"]) -> Task:
        inputs, labels = data.select.inputs, data.select.labels
        if data.select.written:
            return self._transduction(data, tokenizer)
        if self.symbols is not None:
            expected = "target_text, or prompt and completion"
            raise DataError("only texts to write are made of symbols", expected=expected, where="data.symbols")
        if self.written_limit is not None:
            raise DataError("nothing is written", expected="target_text", where="data.written_limit")
        if inputs.dtype != object and self.tokenize != Tokenize():
            raise DataError("only text is tokenized", got="no text", where="data.tokenize")
        classified = inputs.ndim == 4 and (labels is None or labels.ndim == 1)
        if self.encode is not None and (classified or inputs.dtype == object):
            raise DataError("only tables and targets of arrays are encoded", where="data.encode")
        if classified:
            normalize = self._normalization(data.train, teachers)
            return ImageClassification.of(
                data, augment=self.augment, normalize=normalize, judge=self.judge, preprocess=self.read_preprocess()
            )
        if inputs.dtype != object:
            return self._array_task(data, teachers)
        for name in ("augment", "normalize"):
            if self.__dict__[name] is not None:
                raise DataError(f"only images have {name}", got="text", where=f"data.{name}")
        path = self.tokenize.tokenizer or tokenizer
        if path is None:
            raise ModelError(
                "text needs a tokenizer, and the teacher names none",
                expected="a hub id or folder",
                where="data.tokenize.tokenizer",
            )
        words = labels is not None and labels.dtype == object
        loaded = Tokenizer.load(path, max_length=self.tokenize.max_length, words=words)
        return TextTask.of(data, tokenizer=loaded, judge=self.judge)

    def _transduction(self, data: Data, tokenizer: str | None) -> Task:
        path = self.tokenize.tokenizer or tokenizer
        if path is not None and self.symbols is None:
            symbols = Symbols(max_length=self.tokenize.max_length)
            pieces, limit = load_pieces(path, continues=data.continues), self.written_limit
            return TransductionTask.of(data, symbols=symbols, judge=self.judge, pieces=pieces, written_limit=limit)
        ours = ("augment", "normalize", "tokenize", "encode", "preprocess")
        given = [name for name in ours if self.__dict__[name] != type(self).model_fields[name].default]
        if given:
            raise DataError(
                "texts to write are made of symbols", expected=f"no {', '.join(ours)}", where=f"data.{given[0]}"
            )
        symbols = self.symbols or Symbols()
        return TransductionTask.of(data, symbols=symbols, judge=self.judge, written_limit=self.written_limit)

    def _array_task(self, data: Data, teachers: Sequence["Teacher"]) -> Task:
        """Return the task of tables, signals, sequences and arrays by name.

        Raises:
            DataError: when the fields do not fit the data.
            ModelError: when there are given weights and nothing says what numbers they were trained on.
        """
        if self.augment is not None:
            raise DataError("only images of one class each are augmented", where="data.augment")
        given = any(teacher.is_given for teacher in teachers)
        encode, normalize = self.encode or Encode(), self.normalize
        labels = data.select.labels
        kind = StepTask if labels is not None and labels.dtype == object else ArrayTask
        train = kind.of(data, encode=encode, normalize=None, judge=self.judge, given=given)
        kinds = data.train.inputs.dtype
        categories = [name for name in kinds.names or () if kinds[name].kind == "U"]
        if given and (categories or encode.targets == "standardised"):
            raise ModelError(
                "given weights number categories and scale targets as their training did, which nothing here states",
                expected="a teacher that is trained here, or weights that read numbers and answer in raw units",
                got=f"categories in {', '.join(categories)}" if categories else "data.encode.targets: standardised",
                where="teacher.weights",
                hint="give a `train` section instead of `weights`",
            )
        if normalize is None and given and train.numbers:
            raise ModelError(
                "the numbers that given weights were trained on are not stated, and others make them worse silently",
                expected="data.normalize: {mean: [...], std: [...]} with one of each for every column or channel, or "
                "data.normalize: identity where they were trained on the raw numbers; of several inputs by name",
                got="no data.normalize",
                where="data.normalize",
                hint=f"train's own would be {train.told_numbers()}",
            )
        if normalize is None:
            return train
        named = normalize if isinstance(normalize, dict) else dict.fromkeys(train.numbers, normalize)
        if isinstance(normalize, Normalize) and len(train.numbers) > 1:
            raise DataError(
                "data.normalize does not say which input it is for",
                expected="one of each for " + ", ".join(train.numbers) + ", by name",
                got="one for all",
                where="data.normalize",
            )
        stated = {name: own if isinstance(own, Normalize) else Normalize.identity(1) for name, own in named.items()}
        return kind.of(data, encode=encode, normalize=stated, judge=self.judge, given=given)

    def _normalization(self, samples: Samples, teachers: Sequence["Teacher"]) -> Normalize | None:
        """Return what is stated, or what the configuration of given weights says; None stands for the train role's.

        Raises:
            ModelError: when there are given weights and neither says anything that fits the images.
        """
        channels = samples.inputs.shape[1]
        preprocess = self.read_preprocess()
        if preprocess is not None and preprocess.scaled is not None:
            if self.normalize is not None:
                raise DataError(
                    "how images are normalised is said twice",
                    expected="data.preprocess with mean and std, or data.normalize",
                    got="both",
                    where="data.normalize",
                )
            mean, std = preprocess.scaled
            return Normalize(mean=mean, std=std).over(channels)
        if self.normalize == "identity":
            return Normalize.identity(channels)
        if isinstance(self.normalize, dict):
            raise DataError("images are a single input", got=f"data.normalize of {', '.join(self.normalize)}")
        given = [teacher for teacher in teachers if teacher.is_given]
        if self.normalize is not None or not given:
            return self.normalize
        told = [None if (own := teacher.normalization()) is None else own.over(channels) for teacher in given]
        if told[0] is not None and all(own == told[0] for own in told) and _is_scaled(samples):
            return told[0]
        train = Normalize.of_train(samples.inputs)
        raise ModelError(
            UNSTATED,
            expected=STATED,
            got="; ".join(f"mean {[*own.mean]}, std {[*own.std]} in their configuration" for own in told if own)
            or f"no data.normalize, and no configuration beside them for {channels} channel(s)",
            where="data.normalize",
            hint="look into the code that trained them: torchvision's ToTensor() alone is identity, its weights of "
            "ImageNet have {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}; your train images' own would be "
            f"{{mean: {[*train.mean]}, std: {[*train.std]}}}",
        )

    def expecting(self, teacher: "Teacher", others: Sequence["Teacher"] = ()) -> Self:
        """Return these data read as the teacher's published weights expect image files, where nothing else is said.

        Args:
            teacher: whose library may know.
            others: which read the same images; where given ones expect another normalization, nothing is taken over.
        """
        said = self.preprocess is not None or self.normalize is not None
        if said or not self.source.is_unsized or teacher.model is None:
            return self
        found = None if teacher.weights is not None else teacher.model.preprocess()
        agreed = all(other.normalization() == teacher.normalization() for other in others if other.is_given)
        return self if found is None or not agreed else self.model_copy(update={"preprocess": found})

    def load(self, *, code: Sequence[Path] = (), store: Path | None = None, reporter: Reporter | None = None) -> Data:
        """Return the samples in their roles, unlabelled ones where the teacher decides what is right.

        Args:
            code: the user's Python files that may be run.
            store: keeps what is found out of large folders; None keeps nothing.
            reporter: shows how far it is.

        Raises:
            DataError: when the samples cannot be used as they are.
            InputError: when the source is a user's file that ``code`` does not name.
        """
        raw = self.open(self.source, code=code, store=store, reporter=reporter)
        if self.labels is not None:
            raw = self.labels.strip(raw)
        return assign(raw, split=self.split, overlap=self.overlap, labelled=self.labels is None)

    def open(
        self, source: Source, *, code: Sequence[Path], store: Path | None = None, reporter: Reporter | None = None
    ) -> Raw:
        """Return the samples of this or another source, image files read as the data's; see ``load``.

        Raises:
            DataError: when they cannot be read.
        """
        opening = Opening(self.read_preprocess(), store, reporter or Reporter(quiet=True))
        return source.open(opening, code=code)

    def read_preprocess(self) -> Preprocess | None:
        """Return how image files are read, from its file or library if it is in one; None where nothing is said.

        Raises:
            DataError: when the file cannot be read, or the library knows no such weights.
            EnvironmentFault: when the library is not installed.
        """
        if isinstance(self.preprocess, Published):
            return self.preprocess.read()
        return Preprocess.read(self.preprocess) if isinstance(self.preprocess, Path) else self.preprocess


def _is_scaled(samples: Samples) -> bool:
    """Whether images are what configurations speak of: bytes, or numbers from 0 to 1."""
    return samples.inputs.dtype == np.uint8 or all(part.min() >= 0 and part.max() <= 1 for part in samples.parts())


class Teacher(Values):
    """The frozen large model: trained here, given as weights, or an artifact of an earlier run.

    Attributes:
        model: its architecture.
        train: how it is trained on the labels; None when it is trained already.
        weights: safetensors or a checkpoint, as `compress.models.load_weights` reads it; training starts from them when
            both are given.
        artifact: the directory of a stored model, instead of the three above.
        expected_accuracy: what it is known to reach, 0 to 1; checked on select before anything trains.
        accuracy_tolerance: how far below that it may be, 0 to 1; select is a sample.
        reference: a sample of what it was trained on, for `compressor check`; None when that is the train role.
    """

    model: AnyModel | None = None
    train: Train | None = None
    weights: Path | None = None
    artifact: Path | None = None
    expected_accuracy: Fraction | None = None
    accuracy_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.02
    reference: AnySource | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse a teacher from nowhere, and one from two places."""
        if (self.model is None) == (self.artifact is None):
            raise ValueError("a teacher is either a model or the artifact of an earlier run")
        if self.artifact is not None and (self.train is not None or self.weights is not None):
            raise ValueError("a teacher that is an artifact is trained already: leave out train and weights")
        if self.model is not None and not (self.train or self.weights or self.expected_accuracy):
            raise ValueError(
                "a teacher is trained (train), given (weights), or its model brings published weights and "
                "expected_accuracy proves them"
            )

    @property
    def is_given(self) -> bool:
        """Whether its weights come from outside, so that nothing here knows what they were trained on."""
        return self.model is not None and (self.train is None or self.weights is not None or self.model.published)

    def normalization(self) -> Normalize | None:
        """Return what the configuration of given weights says of their images; None where it says nothing."""
        return None if self.model is None or self.weights is not None else self.model.normalization()

    def check(self, accuracy: float) -> None:
        """Compare the measured accuracy with the expected one.

        Args:
            accuracy: on select, 0 to 1.

        Raises:
            ModelError: when it is too low: other weights, classes or preprocessing than it was trained with.
        """
        if self.expected_accuracy is not None and accuracy < self.expected_accuracy - self.accuracy_tolerance:
            raise ModelError(
                "the teacher is worse than expected",
                expected=f"accuracy {self.expected_accuracy:.2%}, less at most {self.accuracy_tolerance:.2%}",
                got=f"{accuracy:.2%} on select",
                where="teacher",
                hint="compare its preprocessing and the order of its classes with the data",
            )

    def smoke(self) -> Self:
        """The same teacher after a few steps, its accuracy not asked."""
        update = {"train": None if self.train is None else self.train.smoke()}
        if self.train is not None or self.weights is not None or self.artifact is not None:
            update["expected_accuracy"] = None
        return self.model_copy(update=update)


class Colleague(Values):
    """A further teacher, whose soft targets are averaged with the first one's.

    Attributes:
        teacher: trained here, given as weights, or an artifact.
        weight: against the first teacher's 1.
    """

    teacher: Teacher
    weight: Annotated[float, Field(gt=0, le=1e3)] = 1.0


class Baseline(Values):
    """A model trained alone, on labels: a row to compare the student with.

    Attributes:
        model: its architecture.
        train: how it is trained.
    """

    model: AnyModel
    train: Train = Train()


def _check_runtime(name: str) -> str:
    if name not in RUNTIMES:
        raise ValueError(f"unknown runtime {name!r}; expected one of {', '.join(RUNTIMES)}")
    return name


RuntimeName = Annotated[str, AfterValidator(_check_runtime), Field(json_schema_extra={"enum": [*sorted(RUNTIMES)]})]
AnyRuntime = Annotated[
    Annotated[RuntimeName, Tag("name")] | Annotated[OwnRuntime, Tag("own")],
    Discriminator(lambda value: "own" if isinstance(value, dict | OwnRuntime) else "name"),
]


class ProfileChoice(Values):
    """A runtime with batch size and threads, how queries come, and where the worker runs.

    Attributes:
        runtime: where models run; ``{file: my_runtime.py, class: Mine}`` is the user's own, see `OwnRuntime`.
        batch_size: samples per call.
        threads: of the runtime; ``all`` means every core this process may use.
        scenario: ``single_stream``, ``multistream``, ``server`` or ``offline``, as MLPerf means them.
        arrivals_per_s: calls that come per second in the server scenario.
        python: another interpreter, with its own runtimes; empty means this one. It, and a launcher, must be named on
            the command line (``--allow``).
        launcher: words before the interpreter, such as ``[ssh, edge-box]``; the model is sent there.
    """

    runtime: AnyRuntime = "ort-cpu"
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    threads: Annotated[
        int,
        BeforeValidator(lambda value: count_allowed_cores() if value == "all" else value),
        Field(ge=1, le=1024, json_schema_extra={"type": ["integer", "string"], "description": "a number, or `all`"}),
    ] = 1
    scenario: Scenario = "single_stream"
    arrivals_per_s: Annotated[float, Field(gt=0)] | None = None
    python: str = ""
    launcher: tuple[str, ...] = ()

    def model_post_init(self, _context: object) -> None:
        """Refuse what cannot be measured so."""
        _ = self.profile

    @property
    def profile(self) -> Profile:
        """The same for the harness."""
        place = Place(self.python, self.launcher)
        runtime = self.runtime.runtime if isinstance(self.runtime, OwnRuntime) else self.runtime
        return Profile(runtime, self.batch_size, self.threads, self.scenario, self.arrivals_per_s, place)

    def asks(self) -> tuple[Ask, ...]:
        """A worker that another command starts."""
        words = [*self.launcher, *filter(None, [self.python])]
        field = "launcher" if self.launcher else "python"
        return (Ask(field, "runs a command", shlex.join(words)),) if words else ()


class Benchmark(Values):
    """How speed is measured.

    Attributes:
        preset: how long; ``quick`` takes seconds per model, ``strict`` minutes; ``smoke`` shows that it runs, and no
            more.
        profiles: what is measured; empty means ONNX Runtime at batch 1 and 32, each on one thread and on all cores,
            and torch at batch 1 on one thread.
        primary: name of the headline's profile, such as ``ort-cpu-b1-t1``; empty means the first.
        price_per_hour: of the machine that will serve the model, in any currency: the report then says what a million
            predictions cost. None states none.
    """

    preset: Literal["smoke", "quick", "standard", "strict"] = "standard"
    profiles: tuple[ProfileChoice, ...] = ()
    primary: str = ""
    price_per_hour: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a price where none is stated, so that stored runs are found as ever."""
        return {name: value for name, value in write(self).items() if name != "price_per_hour" or value is not None}

    def model_post_init(self, _context: object) -> None:
        """Refuse a primary profile that is not measured, or that cannot run the shipped file."""
        names = [choice.name for choice in self._choose_profiles()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two profiles are called {', '.join(twice)}; give their environments other names")
        if self.primary and self.primary not in names:
            raise ValueError(f"primary names no profile; expected one of {', '.join(names)}, got {self.primary!r}")
        first = self.list_profiles()[0]
        if not first.takes_files:
            able = ", ".join(name for name, runtime in RUNTIMES.items() if runtime.takes_files)
            raise ValueError(
                f"the primary profile must run the exported files; expected one on {able}, got {first.name!r}, which "
                "runs torch modules; put another profile first, or name it as primary"
            )

    def list_profiles(self) -> tuple[Profile, ...]:
        """The profiles to measure, each once, the primary one first."""
        return tuple(sorted(self._choose_profiles(), key=lambda profile: profile.name != self.primary))

    def _choose_profiles(self) -> list[Profile]:
        # On one core `all` is 1, and two choices can be one profile.
        return list(dict.fromkeys(choice.profile for choice in self.profiles)) or default_profiles()

    def smoke(self) -> Self:
        """One timing that shows that it runs."""
        first = self.list_profiles()[0]
        choices = [choice for choice in self.profiles if choice.profile == first]
        if not choices:  # one of those that are measured unless others are named
            choices = [ProfileChoice(runtime=first.runtime, batch_size=first.batch_size, threads=first.threads)]
        return self.model_copy(update={"preset": "smoke", "profiles": (choices[0],)})


class Limits(Values):
    """What one file must reach.

    Attributes:
        max_accuracy_drop: accuracy lost against the teacher on test, 0 to 1 (0.01 is one point), at the upper bound of
            its interval.
        max_size_mb: size of the file, in units of 1,000,000 bytes.
        min_speedup: times faster than the teacher in the primary profile, at the lower bound of its interval.
        max_latency_ms: by profile, such as ``{ort-cpu-b1-t1: 0.5}``: milliseconds that the median query may take, at
            the upper bound of its interval.
    """

    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)] | None = None
    max_size_mb: Annotated[float, Field(gt=0)] | None = None
    min_speedup: Annotated[float, Field(gt=0)] | None = None
    max_latency_ms: dict[str, Annotated[float, Field(gt=0)]] = {}

    @property
    def judged(self) -> bool:
        """Whether any limit is set."""
        limits = (self.max_accuracy_drop, self.max_size_mb, self.min_speedup)
        return bool(self.max_latency_ms) or any(limit is not None for limit in limits)


class Gates(Limits):
    """Conditions on the exported files; a missed one ends the run with exit code 4.

    Attributes:
        max_accuracy_drop: of the primary variant, as the three below: accuracy lost against the teacher on test, 0 to
            1.
        max_size_mb: size of the file, in units of 1,000,000 bytes.
        min_speedup: times faster than the teacher in the primary profile.
        max_latency_ms: milliseconds of the median query, by profile.
        variants: limits of further variants, by their name; each of these files is read on test too.
    """

    variants: dict[Variant, Limits] = {}

    @property
    def judged(self) -> bool:
        """Whether any limit is set."""
        return super().judged or bool(self.variants)


class ExecutionChoice(Values):
    """How numbers are computed; the command line goes before it. Nothing here but the precision decides a key.

    Attributes:
        device: where models are trained and run, as torch names it; None for the best there is.
        precision: of training's forward passes; None for the fastest that the device computes in hardware.
        threads: torch's, of the CPU; None for all cores.
        processes: that share training on this machine; those that a launcher has started go before it.
        reduction: how processes add gradients; None for exactly on a CPU, and fast elsewhere.
        batch_size: of a pass in training: ``asked`` of the stage, or ``auto``: the largest power of two of it that fits
            the device, as often as makes up the asked one.
        compile: whether what is trained goes through torch's compiler.
    """

    device: Annotated[str, Field(pattern=r"^[a-z]+(:[0-9]+)?$")] | None = None
    precision: Precision | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    processes: Annotated[int, Field(ge=1, le=1024)] | None = None
    reduction: Reduction | None = None
    batch_size: BatchSize | None = None
    compile: bool | None = None


class Tracking(Values):
    """Where runs are recorded.

    Attributes:
        uri: MLflow's tracking URI; None keeps a database in the store. Outside the store it must be named on the
            command line (``--allow``). Passwords belong into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
        required: fail when the server is down at the start, instead of recording to disk until it is back.
        experiment: under which runs are grouped and share charts; None groups those on equal data, judged alike.
    """

    uri: str | None = None
    required: bool = False
    experiment: str | None = None

    def asks(self) -> tuple[Ask, ...]:
        """Another place than the store's own database, be it a file or a server."""
        if self.uri is None:
            return ()
        path = OF_FILE.match(self.uri)
        return (Ask("uri", "sends or writes what is recorded", address(self.uri), path and Path(path[1])),)
