"""YAML text to values that remember where they stand: strict, bounded and without code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from compress.config.secrets import mask
from compress.errors import RecipeError, UsageError, nearest
from compress.recipe.faults import Fault, Place

MAX_CHARACTERS = 256 * 1024
MAX_VALUES = 20_000  # after aliases are expanded: ten nested lists of ten aliases are ten billion
MAX_FIGURES = 300  # no float has more before its point, and Python converts no more than 4,300
OCTAL = re.compile(r"[-+]?0[0-7_]+")
TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null"))
NUMBERS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float"))

Steps = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The safe loader, with YAML 1.2's floats: PyYAML reads ``1e-3`` as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class Document:
    """A parsed file.

    Attributes:
        origin: shown before line and column.
        values: plain mappings, lists and scalars.
        places: by path from the root.
        faults: what is wrong with the text itself.
    """

    origin: str
    values: Any = None
    places: dict[Steps, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def resolve(self, location: Sequence[str | int]) -> Steps:
        """Return the path in the file of a location, leaving out what the file does not spell: tags, missing keys."""
        path: Steps = ()
        value: Any = self.values
        for step in location:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                continue
            path = (*path, step)
        return path

    def place_of(self, node: yaml.Node) -> Place:
        """Return where a node starts."""
        return Place(self.origin, node.start_mark.line + 1, node.start_mark.column + 1)

    def place(self, path: Steps) -> Place:
        """Return where a path stands, or the nearest mapping around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.origin, 1, 1))

    def spell(self, path: Sequence[str | int]) -> str:
        """Return a path as ``--set`` spells it: a stage goes by its name."""
        words: list[str] = []
        skip = False
        for depth, step in enumerate(path):
            if skip:
                skip = False
            elif depth == 1 and path[0] == "stages" and isinstance(step, int):
                verb, name = stage_names(self.values["stages"][step])
                words.append(name or f"{step + 1}")
                skip = len(path) > depth + 1 and path[depth + 1] == verb
            else:
                words.append(str(step))
        return ".".join(words)

    def override(self, text: str) -> None:
        """Set one value from ``dotted.path=value``; the value is read as YAML.

        Raises:
            UsageError: when the text has no ``=`` or its value is no YAML.
        """
        address, equals, value = text.partition("=")
        if not equals or not address:
            raise UsageError("--set needs a path and a value", expected="stages.prune.name=value", got=mask(text))
        place = Place(f"--set {mask(text)}")
        try:
            parsed = read(value, origin=place.origin)
        except RecipeError as error:
            raise UsageError("the value of --set is no YAML", got=mask(text)) from error
        self.faults += parsed.faults
        path = self._open(address.split("."), place)
        if path is None:
            return
        target = self.values
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = parsed.values
        self.places = {known: at for known, at in self.places.items() if known[: len(path)] != path}
        for depth in range(1, len(path) + 1):  # mappings that the override made stand where it does
            self.places.setdefault(path[:depth], place)

    def _open(self, keys: list[str], place: Place) -> Steps | None:
        """Return the path that an address means, making mappings on the way; None, and a fault, when there is none."""
        path: Steps = ()
        target = self.values
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if path == ("stages",) and isinstance(target, list):
                named = {name: (index, verb) for index, item in enumerate(target) for verb, name in [stage_names(item)]}
                if key not in named:
                    choices = sorted(name for name in named if name)
                    self.faults.append(
                        Fault(place, "stages", f"unknown stage {key!r}", tuple(choices), guess=nearest(key, choices))
                    )
                    return None
                index, verb = named[key]
                if not isinstance(target[index], dict) or target[index][verb] is None:
                    target[index] = {verb: {}}
                path, target = (*path, index, verb), target[index][verb]
                continue
            if not isinstance(target, dict):
                self.faults.append(Fault(place, self.spell(path), f"has no {key!r}: it is no mapping", None))
                return None
            path = (*path, key)
            if last:
                return path
            if key == "loss" and isinstance(target.get(key), str):  # a preset, which the next key changes
                target[key] = {"preset": target[key]}
            if target.get(key) is None or target[key] == keys[depth + 1]:  # absent, or a bare choice such as `cnn`
                target[key] = {} if target.get(key) is None else {target[key]: {}}
            target = target[key]
        self.faults.append(
            Fault(place, ".".join(keys), "a stage is set field by field, as in stages.NAME.FIELD=value", None)
        )
        return None


def stage_names(item: Any) -> tuple[str, str]:
    """Return verb and name of an item under ``stages``, empty where it has none."""
    if isinstance(item, str):
        return item, item
    if not isinstance(item, dict) or len(item) != 1:
        return "", ""
    verb, fields = next(iter(item.items()))
    name = fields.get("name") if isinstance(fields, dict) else None
    return verb, name if isinstance(name, str) and name else verb


def read(text: str, *, origin: str) -> Document:
    """Parse YAML.

    Raises:
        RecipeError: when the text is no YAML, too large, too deep, or expands to too much; with line and column.
    """
    if len(text) > MAX_CHARACTERS:
        raise RecipeError("the recipe is too large", expected=f"at most {MAX_CHARACTERS} characters", got=len(text))
    document = Document(origin)
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.places[()] = document.place_of(node)
            document.values = _Reading(document, loader).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = origin if mark is None else f"{origin}:{mark.line + 1}:{mark.column + 1}"
        raise RecipeError("the recipe is no valid YAML", got=error.problem, where=where) from error
    except yaml.YAMLError as error:
        raise RecipeError("the recipe is no valid YAML", got=error, where=origin) from error
    except RecursionError as error:
        raise RecipeError("the recipe is nested too deeply", where=origin) from error
    finally:
        if loader is not None:
            loader.dispose()
    return document


class _Reading:
    """One walk over the nodes of a file: values, places and faults go to the document."""

    def __init__(self, document: Document, loader: _Loader) -> None:
        self.document, self.loader = document, loader
        self.count = 0

    def value(self, node: yaml.Node, path: Steps) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:  # also ends an alias that contains itself
            raise RecipeError("the recipe's aliases expand to too much", expected=f"at most {MAX_VALUES} values")
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        if node.tag not in TAGS:
            self.fault(node, path, f"the tag {node.tag} is not allowed")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.document.places[(*path, index)] = self.document.place_of(item)
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag in NUMBERS and isinstance(node, yaml.ScalarNode):
            if ":" in node.value:
                self.fault(node, path, f"YAML reads {node.value} in base 60: write the number, or quote the text")
                return None
            if OCTAL.fullmatch(node.value):
                self.fault(node, path, f"YAML reads {node.value} in base 8: write it without the 0, or quote the text")
                return None
            if len(node.value) > MAX_FIGURES:
                self.fault(node, path, f"a number has at most {MAX_FIGURES} figures, not {len(node.value):,}")
                return None
        return self.loader.construct_object(node)

    def mapping(self, node: yaml.MappingNode, path: Steps) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.fault(key_node, path, "a key is no word")
                continue
            key = key_node.value  # as written, so that `on` stays a word
            if key in values:
                self.fault(key_node, (*path, key), "the key stands here twice")
                continue
            self.document.places[(*path, key)] = self.document.place_of(key_node)
            values[key] = None
            values[key] = self.value(value_node, (*path, key))
        return values

    def fault(self, node: yaml.Node, path: Steps, message: str) -> None:
        self.document.faults.append(Fault(self.document.place_of(node), ".".join(map(str, path)), message, None))
