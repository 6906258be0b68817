"""Terms of the user's own: objects of their classes in Python, and in a recipe the file, the class and its fields."""

from typing import Annotated, Any, ClassVar

from pydantic import PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError
from torch import nn

from compress.config import Values
from compress.config.user_code import OwnClass, dump, is_own
from compress.loss.features import FeatureTerm
from compress.loss.logits import LogitTerm
from compress.loss.term import Term

MAX_NAME = 40


class OwnTerm(OwnClass):
    """A term in the user's own Python file, which must be named on the command line (``--code``).

    Attributes:
        file: the Python file.
        class_name: a subclass of `LogitTerm` or `FeatureTerm`; the further keys are its fields.
    """

    bases: ClassVar[tuple[type[Values], ...]] = (LogitTerm, FeatureTerm)


def name_fault(name: str) -> str | None:
    """Return why a term cannot have a name, if it cannot: curves, projectors and columns are called after it."""
    if name == "total" or hasattr(nn.ModuleDict, name):
        return f"{name!r} means something else already; give the term another name"
    if not (name.isidentifier() and name.islower() and name.isascii() and len(name) <= MAX_NAME):
        return f"a term's name is lower-case letters, digits and _, at most {MAX_NAME}; got {name!r}"
    return None


def _check(given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Return an object of the user's class as it is; anything that names no class is an unknown key."""
    if isinstance(given, Term) and is_own(type(given)):
        return given
    if isinstance(given, OwnTerm) or (isinstance(given, dict) and {"file", "class"} & set(given)):
        return validate(given)
    raise PydanticCustomError("extra_forbidden", "Extra inputs are not permitted")


AnyOwnTerm = Annotated[OwnTerm, WrapValidator(_check), PlainSerializer(dump)]
