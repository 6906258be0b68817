"""Arguments and options that several commands take, and what is made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

import typer

from compress.errors import UsageError

if TYPE_CHECKING:
    from compress.recipe import Recipe
    from compress.stage import BatchSize, Precision, Reduction

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="PATH=VALUE", help="Override, such as stages.prune.kept_macs_fraction=0.4."),
]
Code = Annotated[
    list[Path],
    typer.Option(
        "--code", metavar="FILE", help="A Python file, or a folder of them, that may be run, or pickled weights."
    ),
]
Allow = Annotated[
    list[str],
    typer.Option("--allow", metavar="WORDS", help="A launcher, interpreter or server that the recipe may use."),
]
StorePath = Annotated[
    Path, typer.Option("--store", metavar="DIR", envvar="COMPRESS_STORE", help="Artifacts, runs and tracked metrics.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage, or `teacher`.")]
Force = Annotated[list[str], typer.Option("--force", metavar="STAGE", help="Run again although it is stored.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Training threads; default: all cores.")]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Where to train: cpu, cuda, cuda:1, mps; default: the best."),
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, metavar="N", help="That share training; torchrun's are found by themselves."),
]
ReductionOf = Annotated[
    str | None, typer.Option("--reduction", metavar="WORD", help="Of gradients: exact or fast; default: exact on CPUs.")
]
BatchSizeOf = Annotated[
    str | None,
    typer.Option("--batch-size", metavar="WORD", help="Of a pass: asked, or auto, as much as fits the device."),
]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Whether torch's compiler is used in training.")
]
Reproduce = Annotated[
    bool, typer.Option("--reproduce", help="To the bit: reuse only what threads and device of this run made.")
]
PrecisionOf = Annotated[
    str | None,
    typer.Option("--precision", metavar="WORD", help="float32, bfloat16, or on CUDA tf32; default: fast."),
]
Smoke = Annotated[bool, typer.Option("--smoke", help="A few steps of everything, in a store of its own.")]
Strict = Annotated[bool, typer.Option("--strict", help="End with an error when the advice warns.")]
ForceTeacher = Annotated[
    bool, typer.Option("--force-teacher", help="Go on with a teacher that is no better than no model at all.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Python = Annotated[str, typer.Option("--python", metavar="PATH", help="Another interpreter, with its own runtimes.")]
Launcher = Annotated[
    str, typer.Option("--launcher", metavar="WORDS", help="Words before the interpreter, such as 'ssh edge-box'.")
]
STORE = Path("compress-store")
Word = TypeVar("Word", bound=str)


def read_recipe(path: Path, overrides: Sequence[str]) -> "Recipe":
    """Return the recipe of a file, with the values of ``--set`` in it."""
    from compress.recipe import Recipe

    return Recipe.load(path, overrides=overrides)


def read_precision(word: str | None) -> "Precision | None":
    """Return the value of ``--precision``, or None where it was not given.

    Raises:
        UsageError: when there is no such precision.
    """
    from compress.stage import Precision

    return _choose(word, get_args(Precision), option="--precision", refusal="no such precision")


def read_reduction(word: str | None) -> "Reduction | None":
    """Return the value of ``--reduction``, or None where it was not given.

    Raises:
        UsageError: when there is no such reduction.
    """
    from compress.stage import Reduction

    return _choose(word, get_args(Reduction), option="--reduction", refusal="no such reduction")


def read_batch_size(word: str | None) -> "BatchSize | None":
    """Return the value of ``--batch-size``, or None where it was not given.

    Raises:
        UsageError: when there is no such word.
    """
    from compress.stage import BatchSize

    refusal, hint = "a batch is as large as the recipe asks", "--set stages.distill.batch_size=64 asks for another one"
    return _choose(word, get_args(BatchSize), option="--batch-size", refusal=refusal, hint=hint)


def _choose(
    word: str | None, known: Sequence[Word], *, option: str, refusal: str, hint: str | None = None
) -> Word | None:
    """Return the known word that was given for an option, or None where none was."""
    if word is None:
        return None
    for choice in known:
        if word == choice:
            return choice
    raise UsageError(refusal, expected=", ".join(known), got=word, where=option, hint=hint)


def check_stages(recipe: "Recipe", options: Mapping[str, Sequence[str | None]]) -> None:
    """Refuse names that no stage of the recipe has; ``--until`` may name the teacher, too.

    Args:
        recipe: whose stages are meant.
        options: the names that were given, by option.

    Raises:
        UsageError: when there is no such stage.
    """
    for option, names in options.items():
        for name in names:
            if name is not None and (option, name) != ("--until", "teacher"):
                recipe.stage_index(name, option=option)
