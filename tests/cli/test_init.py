"""Each recipe that `init` writes runs once its two marked lines are edited."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import text_zoo
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typed import compressor

pytestmark = pytest.mark.parametrize("kind", ["image-folder", "onnx", "sequence", "table", "text"])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    (line,) = [line for line in text.splitlines() if old in line]
    assert "# <--" in line
    path.write_text(text.replace(old, new))


def prepare(folder: Path, kind: str) -> None:
    """Bring data of one's own, and edit what is marked."""
    draw, recipe, labels = np.random.default_rng(0), folder / "recipe.yaml", np.arange(600) % 2
    if kind == "image-folder":
        for name in ("cat", "dog"):
            (folder / "mine" / name).mkdir(parents=True)
            for number in range(250):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "mine" / name / f"{number}.png")
        edit(recipe, "root: photos, size: 64", "root: mine, size: 16")
        edit(recipe, "width: 64, blocks: [2, 2, 2]", "width: 8, blocks: [1, 1]")
    elif kind == "onnx":
        write_network(folder / "theirs.onnx", draw)
        np.save(folder / "photos.npy", draw.normal(size=(600, 1, 8, 8)).astype(np.float32))
        edit(recipe, "model: teacher.onnx, inputs: inputs.npy", "model: theirs.onnx, inputs: photos.npy")
        edit(recipe, "arguments: {model: teacher.onnx}", "arguments: {model: theirs.onnx}")
    elif kind == "sequence":
        np.savez(folder / "walks.npz", train_inputs=draw.normal(size=(600, 12, 2)), train_labels=labels)
        edit(recipe, "sequences.npz", "walks.npz")
        edit(folder / "my_model.py", "FEATURES, CLASSES = 3, 4", "FEATURES, CLASSES = 2, 2")
    elif kind == "table":
        rows = [f"{draw.normal():.3f},{draw.normal():.3f},{'xyz'[i % 3]},{label}" for i, label in enumerate(labels)]
        (folder / "houses.csv").write_text("\n".join(["age,area,town,sold", *rows]))
        edit(recipe, "rows.csv", "houses.csv")
        edit(recipe, "numbers: [a, b]", "numbers: [age, area]")
        recipe.write_text(recipe.read_text().replace("[kind]", "[town]").replace("label: label", "label: sold"))
    else:
        text_zoo.write_reviews(folder / "mine.csv", count=600)
        text_zoo.make_bert(folder / "bert", max_position_embeddings=128)
        edit(recipe, "path: texts.csv", "path: mine.csv")
        edit(recipe, "path: my-encoder", "path: bert")


def write_network(path: Path, draw: np.random.Generator) -> None:
    """Write a network that was exported elsewhere: it ends in a softmax."""
    shapes = {"kernel": (4, 1, 3, 3), "shift": (4,), "scale": (4,), "mean": (4,), "head": (3, 16), "bias": (3,)}
    weights = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["variance"] = np.ones(4, np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "head", "bias"], ["f"], transB=1, beta=0.5),
        helper.make_node("Softmax", ["f"], ["probabilities"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])
    given = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "theirs", [image], [answer], given)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


def begin(tmp_path: Path, kind: str) -> tuple[Path, list[str]]:
    """Let `init` write a recipe, edit it, and return its folder and the command that it names as the next one."""
    told = compressor("init", kind, "mine", cwd=tmp_path).stdout.splitlines()
    assert sum(line.startswith("edit: ") for line in told) == 2
    for line in told:
        if line.startswith("edit: "):
            path, _, number = line.removeprefix("edit: ").rpartition(":")
            assert "# <--" in (tmp_path / path).read_text().splitlines()[int(number) - 1]
    prepare(tmp_path / "mine", kind)
    program, *words = shlex.split(told[-1].removeprefix("next: "))
    assert program == "compressor"
    return tmp_path, words


def test_its_plan_refuses_nothing(kind, tmp_path):
    folder, (_, *words) = begin(tmp_path, kind)
    result = compressor("plan", *words, cwd=folder)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_next_command_takes_it_through_everything(kind, tmp_path):
    folder, words = begin(tmp_path, kind)
    result = compressor(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert next(folder.glob("compress-store/smoke/runs/*/bundle/predict.py"))
