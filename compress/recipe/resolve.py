"""The user's own classes and functions in the place of the values that name them: where a recipe meets code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from compress.config import Values
from compress.config.user_code import Own, OwnClass
from compress.errors import RecipeError
from compress.recipe.check import find_coerced
from compress.recipe.faults import Fault, Place, explain
from compress.recipe.plain import anchor, keys_of, plain
from compress.recipe.schema import OneKeySchema, keys_at
from compress.recipe.text import Document, Steps

Held = TypeVar("Held", bound=Values)


def resolve(value: Held, *, code: Sequence[Path]) -> Held:
    """Return a recipe with an object of the user's class where one was named, and the function; itself without any.

    Args:
        value: a recipe, or a part of one.
        code: the user's Python files that may be run.

    Raises:
        InputError: when a file was not named or fails, or has no such class or function.
        RecipeError: when a class refuses its fields, or the whole refuses what was made.
    """
    return _Resolution(code, Document("", plain(value))).value(value, ())


@dataclass(frozen=True)
class _Resolution:
    """One walk over a recipe.

    Attributes:
        code: the user's Python files that may be run.
        document: spells paths as ``--set`` does.
    """

    code: Sequence[Path]
    document: Document

    def value(self, given: Any, path: Steps) -> Any:
        """Return a value with everything in it resolved; the same object where there is nothing to do."""
        if isinstance(given, OwnClass):
            return self.make(given, path)
        if isinstance(given, Own):
            return given.find(code=self.code, where=self.document.spell(path))
        if isinstance(given, Values):
            return self.holder(given, path)
        if isinstance(given, dict):
            items = {key: self.value(item, (*path, key)) for key, item in given.items()}
            return items if any(items[key] is not item for key, item in given.items()) else given
        if isinstance(given, tuple):
            items = tuple(self.value(item, (*path, index)) for index, item in enumerate(given))
            return items if any(new is not old for new, old in zip(items, given, strict=True)) else given
        return given

    def holder(self, given: Values, path: Steps) -> Values:
        """Return an object made anew where something in it was resolved, so that it checks the whole."""
        before = keys_of(given)
        after = {key: self.value(item, (*path, key)) for key, item in before.items()}
        if all(after[key] is item for key, item in before.items()):
            return given
        try:
            return type(given).model_validate(after)
        except ValidationError as error:
            where = Place("with the user's own code")
            raise self.refusal([self.fault(details, type(given), where, path) for details in error.errors()]) from error

    def make(self, given: OwnClass, path: Steps) -> Values:
        """Return an object of the user's class; a relative path among its fields starts from the file's directory."""
        kind = given.find(code=self.code, where=self.document.spell(path))
        where = Place(f"{given.file}, class {given.class_name}")
        if "file" in kind.model_fields:
            raise self.refusal([Fault(where, self.document.spell(path), "a field cannot be called 'file'", None)])
        try:
            made = kind.model_validate(given.fields)
        except ValidationError as error:
            faults = [self.fault(details, kind, where, path) for details in error.errors(include_url=False)]
            raise self.refusal(faults) from error
        wrong = [
            Fault(where, self.document.spell((*path, *steps)), "wrong value", wanted, got=repr(got))
            for steps, wanted, got in find_coerced(given.fields, made)
        ]
        if wrong:
            raise self.refusal(wrong)
        made = anchor(made, given.file.absolute().parent)
        try:
            yaml.safe_dump(plain(made))
        except yaml.YAMLError as error:
            raise self.refusal(
                [Fault(where, self.document.spell(path), f"its fields cannot be written into a recipe: {error}", None)]
            ) from error
        return made

    def fault(self, details: Any, kind: type[Values], where: Place, path: Steps) -> Fault:
        """Return a fault of an object's fields."""
        beside = details["loc"][:-1] if details["type"] == "extra_forbidden" else details["loc"]
        keys = keys_at(kind.model_json_schema(schema_generator=OneKeySchema), beside)
        return explain(details, where=where, path=self.document.spell((*path, *details["loc"])), keys=keys)

    def refusal(self, faults: Sequence[Fault]) -> RecipeError:
        """Return the error that tells all faults."""
        return RecipeError("\n".join([f"the recipe has {len(faults)} fault(s):", *(f"  {fault}" for fault in faults)]))
