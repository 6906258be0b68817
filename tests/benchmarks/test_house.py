import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("benchmarks_house", ROOT / "benchmarks" / "house.py")
house = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = house  # where its dataclasses look for their module
spec.loader.exec_module(house)

CONTRACT = '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["compress.cli", "compress.a | compress.b"]\n'
CLI = """
from compress.a import Cut as Chosen
KINDS = (Chosen, int)
print({"k": 1}["k"], isinstance(3, KINDS))
"""
CUT = """
'''Prose may say Blur.'''
class Stage: ...
class Base(Stage): ...
class Cut(Base): ...
"""
FUNCTIONS = """
def two(x: Literal["k"]):
    '''One line.

    And another.
    '''
    x["k"] = 2
    return x
def one():
    return 1
"""
BLUR = """
class Blur: ...
match 1:
    case Blur():
        pass
"""
TREE = {
    "pyproject.toml": CONTRACT,
    "compress/__init__.py": "",
    "compress/__main__.py": "",
    "compress/cli.py": CLI,
    "compress/a/__init__.py": "from .cut import Cut\n",
    "compress/a/cut.py": CUT,
    "compress/b/__init__.py": FUNCTIONS,
    "compress/b/blur.py": BLUR,
    "docs/architecture.md": f"before\n\n{house.MARKERS[0]}\n{house.MARKERS[1]}\n\nafter\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def figure(root, name, **parts):
    return next(found for found in house.measure(root, **parts) if found.name.startswith(name))


def test_rooms_are_folders_and_loose_modules_without_dunder_files(root):
    assert figure(root, "rooms").value == "3"
    for number in range(house.MAX_ROOMS):
        (root / f"compress/room{number}.py").touch()
    assert "28 rooms" in figure(root, "rooms").over[0]


def test_a_module_outside_every_layer_is_named(root):
    assert figure(root, "layers").over == ("compress.__main__ lies in no layer",)
    assert figure(root, "layers").value.startswith("2, ")


def test_functions_are_measured_without_their_docstring(root):
    assert house.functions(house.modules(root)).value == "2/2/2"  # 1 line and 2, linearly between
    (root / "compress/b/long.py").write_text("def g():\n" + "    x = 1\n" * 101)
    assert house.functions(house.modules(root)).value == "2/81/99"


def test_lookups_by_string_are_counted_and_types_are_not(root):
    lines = sum(len(text.splitlines()) for name, text in TREE.items() if name.endswith(".py"))
    found = figure(root, "string subscripts")
    assert found.value == f"{1000 * 2 / lines:.1f}"
    assert "compress.b 1" in found.over[0]


def test_a_question_for_a_stage_is_found_under_another_name_and_through_a_subclass(root):
    found = figure(root, "isinstance of a stage")
    assert found.value == "1"
    assert found.over == ("compress.cli:4 asks for KINDS",)


def test_the_module_that_makes_the_table_of_stages_may_ask(root):
    (root / "compress/cli.py").write_text((root / "compress/cli.py").read_text() + "VERBS: dict = {}\n")
    assert figure(root, "isinstance of a stage").value == "0"


def test_questions_for_other_classes_are_counted_by_room(root):
    assert figure(root, "isinstance of another").value == "b 1"


def test_places_are_the_modules_whose_code_names_a_part(root):
    parts = [house.Part("shade", "Blur", "blur")]
    assert figure(root, "places", parts=parts).value == "1: `compress.b.blur`"
    for name, text in (("x", "from compress.b.blur import Blur"), ("y", 'z = "blur"'), ("z", "compress.b.Blur")):
        (root / f"compress/{name}.py").write_text(text)
    assert "touches 4 modules" in figure(root, "places", parts=parts).over[0]


def test_the_table_is_written_between_the_markers_and_nowhere_else(root):
    assert house.main(["--root", str(root)]) == 0
    page = (root / "docs/architecture.md").read_text()
    assert page.startswith("before\n\n<!--")
    assert page.endswith("-->\n\nafter\n")
    assert "| rooms at the top level | 3 | at most 25 |" in page
    assert "\n```\ncli\na | b\n```\n" in page
    assert house.main(["--root", str(root)]) == 0
    assert (root / "docs/architecture.md").read_text() == page


def test_a_check_says_what_is_over_its_limit_and_writes_nothing(root, capsys):
    assert house.main(["--root", str(root), "--check"]) == 1
    assert "compress.cli:4 asks for KINDS" in capsys.readouterr().out
    assert (root / "docs/architecture.md").read_text() == TREE["docs/architecture.md"]


def test_a_page_without_markers_is_refused(root):
    (root / "docs/architecture.md").write_text("before")
    with pytest.raises(SystemExit, match="no place for the table"):
        house.main(["--root", str(root)])
