"""Is the house still in order? Measures the source tree by its syntax and writes what it finds into the docs.

``docs/architecture.md`` has the table of figures and the layers between markers.

    python benchmarks/house.py           rewrites both between their markers
    python benchmarks/house.py --check   writes nothing; says what is over its limit and exits with 1 if anything is

Nothing is imported from the package, so that a tree that does not run is measured too. What a figure means:

- **rooms**: folders and loose modules at the top level of ``compress/``, dunder files left out.
- **layers**: of the import contract in ``pyproject.toml``, and whether every module lies in one.
- **lines a function**: of its body, without the docstring, nested functions counted twice.
- **string subscripts**: ``x["name"]``, read or written, for each 1,000 lines; names of fields that no tool checks.
- **isinstance**: calls of `isinstance` and `issubclass`, and class patterns, that ask for a class of our own; of a
  stage, outside the module that makes the one table of their names.
- **places to touch**: modules that name a part which was added like any other of its kind, itself included. Tests and
  docs, and the modules that have a use for it, such as a preset, are not places that a new part has to touch: so the
  part is chosen among those without.
"""

import argparse
import ast
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import quantiles

HERE = Path(__file__).parent
PACKAGE = "compress"
PAGE = "docs/architecture.md"
MARKERS = ("<!-- house: written by `python benchmarks/house.py`, do not edit -->", "<!-- end of house -->")

MAX_ROOMS = 25
MAX_SUBSCRIPTS = 12.0  # a 1,000 lines
MAX_PLACES = 3
MAX_STAGE_QUESTIONS = 0
STAGE = "Stage"  # the class whose subclasses nobody may ask for
TABLE = "VERBS"  # the one table of their names; where it is made, values are told apart
GENERIC = frozenset({"Annotated", "Callable", "Iterable", "Iterator", "Literal", "Sequence", "list", "tuple", "type"})


@dataclass(frozen=True)
class Part:
    """One of its kind: the class or module that defines it, and its name in a recipe, if a recipe can hold it."""

    kind: str
    name: str
    key: str | None = None


PARTS = (
    Part("stage", "Shorten", "shorten"),
    Part("term", "HardToken", "hard_token"),
    Part("source", "Idx", "idx"),
    Part("task", "ImageClassification"),
    Part("runtime", "openvino_models", "openvino"),
)


@dataclass(frozen=True)
class Module:
    """A source file; `name` is dotted, and the name of an ``__init__.py`` is that of its folder."""

    name: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax."""
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """The folder or loose module at the top level; empty for the package itself."""
        return self.name.partition(".")[2].partition(".")[0]


@dataclass(frozen=True)
class Figure:
    """A line of the table; `over` says, one entry each, what is over the limit."""

    name: str
    value: str
    limit: str
    over: tuple[str, ...] = ()


def modules(root: Path) -> list[Module]:
    """Every module of the package under `root`, by name."""
    found = []
    for path in (root / PACKAGE).rglob("*.py"):
        is_package = path.stem == "__init__"
        owner = path.parent if is_package else path.with_suffix("")
        name = ".".join(owner.relative_to(root).parts)
        found.append(Module(name, path.read_text(encoding="utf-8"), is_package))
    return sorted(found, key=lambda module: module.name)


def measure(root: Path, *, parts: Sequence[Part] = PARTS) -> list[Figure]:
    """All figures of the tree under `root`, which holds the package and its ``pyproject.toml``."""
    found = modules(root)
    return [rooms(found), layers(found, root / "pyproject.toml"), functions(found), subscripts(found)] + [
        *questions(found),
        *(places(found, part) for part in parts),
    ]


def rooms(found: Sequence[Module]) -> Figure:
    """Folders and loose modules at the top level."""
    names = sorted({module.room for module in found if module.room and not module.room.startswith("__")})
    over = (f"{len(names)} rooms at the top level: {', '.join(names)}",) if len(names) > MAX_ROOMS else ()
    return Figure("rooms at the top level", str(len(names)), f"at most {MAX_ROOMS}", over)


def layer_names(configuration: Path) -> list[list[str]]:
    """The packages and modules of each layer of the import contract, from the top down."""
    contracts = tomllib.loads(configuration.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def layers(found: Sequence[Module], configuration: Path) -> Figure:
    """Layers of the import contract; every module has to lie in one."""
    named = layer_names(configuration)
    known = {name for layer in named for name in layer}
    outside = [
        module.name for module in found if module.name != PACKAGE and not known.intersection(ancestors(module.name))
    ]
    within = f"{len(outside)} modules in none" if outside else "every module in one"
    over = tuple(f"{name} lies in no layer" for name in outside)
    return Figure("layers", f"{len(named)}, {within}", "every module in one", over)


def ancestors(name: str) -> list[str]:
    """A module's name and those of the packages around it."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]


def functions(found: Sequence[Module]) -> Figure:
    """How long functions are: the median, and what one in ten and one in a hundred exceed."""
    lengths = [
        length(node)
        for module in found
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    cuts = quantiles(lengths, n=100, method="inclusive")
    return Figure("lines a function (50/90/99%)", "/".join(f"{cuts[percent - 1]:.0f}" for percent in (50, 90, 99)), "")


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def subscripts(found: Sequence[Module]) -> Figure:
    """``x["name"]`` for each 1,000 lines."""
    counts = {module.name: sum(map(is_lookup, ast.walk(module.tree))) for module in found}
    share = 1000 * sum(counts.values()) / sum(len(module.text.splitlines()) for module in found)
    most = ", ".join(f"{name} {count}" for name, count in Counter(counts).most_common(8))
    over = (f"{share:.1f} string subscripts a 1,000 lines; most in {most}",) if share > MAX_SUBSCRIPTS else ()
    return Figure("string subscripts a 1,000 lines", f"{share:.1f}", f"at most {MAX_SUBSCRIPTS:g}", over)


def is_lookup(node: ast.AST) -> bool:
    """Whether a string is looked up; ``Literal["name"]`` and the like are types."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Constant):
        return False
    generic = isinstance(node.value, ast.Name) and node.value.id in GENERIC
    return isinstance(node.slice.value, str) and not generic


def questions(found: Sequence[Module]) -> list[Figure]:
    """Who asks whether a value is of a class of ours: of a stage, and of anything else, by the room of the class."""
    stages = derived(found, STAGE)
    asked = [
        (kind, f"{module.name}:{line} asks for {text}")
        for module in found
        for kind, line, text in asks(module, stages=stages)
    ]
    tables = tuple(f"{module.name}:" for module in found if makes(module, TABLE))
    faults = [place for kind, place in asked if kind == STAGE and not place.startswith(tables)]
    others = Counter(kind for kind, _ in asked if kind != STAGE)
    over = tuple(faults) if len(faults) > MAX_STAGE_QUESTIONS else ()
    return [
        Figure("isinstance of a stage", str(len(faults)), f"at most {MAX_STAGE_QUESTIONS}", over),
        Figure("isinstance of another class of ours, by its room", in_words(others) or "none", ""),
    ]


def makes(module: Module, name: str) -> bool:
    """Whether a module assigns a name at its top level."""
    targets = [
        target
        for node in module.tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def derived(found: Sequence[Module], base: str) -> set[str]:
    """The names of a class and of all its subclasses."""
    bases = {
        node.name: {name.id for held in node.bases for name in ast.walk(held) if isinstance(name, ast.Name)}
        for module in found
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    names = {base}
    while more := {name for name, held in bases.items() if held & names} - names:
        names |= more
    return names


def in_words(counts: Counter[str]) -> str:
    """How many of what, the most first."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def asks(module: Module, *, stages: set[str]) -> Iterator[tuple[str, int, str]]:
    """Yield, for every question for a class of the package: its room, or that it is a stage; line; class as written."""
    owners = own_names(module, stages=stages)
    for node in ast.walk(module.tree):
        for asked in asked_for(node):
            kinds = {owners[name.id] for name in ast.walk(asked) if isinstance(name, ast.Name) and name.id in owners}
            yield from ((kind, asked.lineno, ast.unparse(asked)) for kind in sorted(kinds))


def asked_for(node: ast.AST) -> list[ast.expr]:
    """The class, or the classes, that a node asks for."""
    if isinstance(node, ast.MatchClass):
        return [node.cls]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
        return node.args[1:]
    return []


def own_names(module: Module, *, stages: set[str]) -> dict[str, str]:
    """What names of this module mean: the room that defines them, or that they are stages; others are absent."""
    owners: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            home = source_of(node, module)
            for alias in node.names if home.partition(".")[0] == PACKAGE else ():
                room = STAGE if alias.name in stages else Module(f"{home}.{alias.name}", "").room
                owners[alias.asname or alias.name] = room
        elif isinstance(node, ast.ClassDef):
            owners[node.name] = STAGE if node.name in stages else module.room
    for node in module.tree.body:  # a union or a tuple of such classes, under a name of its own
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            held = [
                owners[name.id] for name in ast.walk(node.value) if isinstance(name, ast.Name) and name.id in owners
            ]
            owners |= {node.targets[0].id: held[0]} if held else {}
    return owners


def source_of(node: ast.ImportFrom, module: Module) -> str:
    """The absolute name of the module that names are imported from."""
    if not node.level:
        return node.module or ""
    package = module.name.split(".")[: module.is_package - node.level or None]
    return ".".join([*package, node.module or ""]).rstrip(".")


def places(found: Sequence[Module], part: Part) -> Figure:
    """The modules that name a part, or define it."""
    naming = [module.name for module in found if mentions(module, part)]
    over = (f"a new {part.kind} touches {len(naming)} modules: {', '.join(naming)}",)
    return Figure(
        f"places to touch for a new {part.kind}",
        f"{len(naming)}: {', '.join(f'`{name}`' for name in naming)}",
        f"at most {MAX_PLACES}",
        over if len(naming) > MAX_PLACES else (),
    )


def mentions(module: Module, part: Part) -> bool:
    """Whether a module is the part, or its code, prose left out, names it."""
    if module.name.endswith(f".{part.name}"):
        return True
    for node in ast.walk(module.tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
        if part.name in identifiers(node) or (text is not None and text in (part.name, part.key)):
            return True
    return False


def identifiers(node: ast.AST) -> set[str]:
    """The names that a node writes itself, not those in its children."""
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
    if isinstance(node, ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    return {node.id} if isinstance(node, ast.Name) else set()


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown."""
    lines = ["| figure | here | limit |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {figure.name} | {figure.value} | {figure.limit} |" for figure in figures)])


def layer_picture(configuration: Path) -> str:
    """The layers in Markdown, from the top down; what stands on one line does not import each other."""
    named = [[name.removeprefix(f"{PACKAGE}.") for name in layer] for layer in layer_names(configuration)]
    return "\n".join(["The layers, from the top down:", "", "```", *map(" | ".join, named), "```"])


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the markers.

    Raises:
        SystemExit: when the page has no markers.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the table; expected {' ... '.join(MARKERS)}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, or check the limits; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 when a limit is missed")
    parser.add_argument("--root", type=Path, default=HERE.parent, help="the checkout")
    given = parser.parse_args(arguments)
    figures = measure(given.root)
    if not given.check:
        picture = layer_picture(given.root / "pyproject.toml")
        write_between_markers(given.root / PAGE, f"{table(figures)}\n\n{picture}")
    for fault in (faults := [fault for figure in figures for fault in figure.over]):
        print(fault)
    return int(given.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
