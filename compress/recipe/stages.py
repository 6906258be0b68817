"""The one table of verbs: what a recipe can name under ``stages``, the user's own stages among it."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    InstanceOf,
    PlainSerializer,
    Tag,
)
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema
from pydantic_core import CoreSchema

from compress.config import Values, one_key
from compress.config.user_code import OwnClass, dump, is_own
from compress.stage import Stage
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.stages.prune import Prune
from compress.stages.quantize import Quantize
from compress.stages.shorten import Shorten
from compress.stages.train import Train
from compress.stages.vocabulary import PruneVocabulary

OurStage = Annotated[
    Distill | Export | Prune | PruneVocabulary | Quantize | Shorten | Train, Field(discriminator="verb")
]
VERBS: dict[str, type[Stage]] = {kind.model_fields["verb"].default: kind for kind in get_args(get_args(OurStage)[0])}


class OwnStage(OwnClass):
    """A stage in the user's own Python file, which must be named on the command line (``--code``).

    What it takes and leaves is not known before its file is run.

    Attributes:
        file: the Python file.
        class_name: a subclass of `Stage`; the further keys are its fields.
        verb: the key under which it stands in the recipe; no verb of ours.
        name: unique in a pipeline; default: the verb.
    """

    bases: ClassVar[tuple[type[Values], ...]] = (Stage,)
    takes: ClassVar[None] = None
    produces: ClassVar[None] = None

    verb: str
    name: str = ""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One key that is no verb of ours."""
        return {
            "type": "object",
            "propertyNames": {"not": {"enum": sorted(VERBS)}},
            "additionalProperties": handler(core),
            "minProperties": 1,
            "maxProperties": 1,
        }

    @property
    def title(self) -> str:
        """The stage's unique name in its pipeline: ``name``, or its verb."""
        return self.name or self.verb

    @property
    def fields(self) -> dict[str, Any]:
        """The further keys, unchecked, and what every stage has."""
        return {"verb": self.verb, **({"name": self.name} if self.name else {}), **super().fields}


def _form(value: Any) -> str:
    if isinstance(value, Stage):
        return "<object>" if is_own(type(value)) else "<ours>"
    if isinstance(value, dict) and value.get("verb") not in VERBS and {"file", "class"} & set(value):
        return "<own>"
    return "<own>" if isinstance(value, OwnStage) else "<ours>"


def _title(stage: Stage) -> Stage:
    """Return a stage of the user's class with a verb, which its name is where the class has none."""
    return stage if stage.verb else stage.model_copy(update={"verb": stage.name})


if TYPE_CHECKING:
    AnyStage = Stage  # nothing else, once a recipe is resolved
else:
    AnyStage = Annotated[
        Annotated[OurStage, Tag("<ours>")]
        | Annotated[OwnStage, Tag("<own>")]
        | Annotated[SkipJsonSchema[InstanceOf[Stage]], PlainSerializer(dump), BeforeValidator(_title), Tag("<object>")],
        Discriminator(_form),
        BeforeValidator(one_key("verb")),
    ]
