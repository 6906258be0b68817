"""Strangers' projects, each in its own empty folder: from a recipe to plan, run, verify and predict.py.

The files in ``projects`` are written as their authors would write them: tutorials, papers' code, homework.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

import compress
from compress.cli.main import app
from compress.errors import CompressError
from compress.export.verify import verify_bundle
from compress.pipeline.plan import plan
from compress.progress import Reporter

pytestmark = pytest.mark.slow

PROJECTS = Path(__file__).parent / "projects"
RECIPE = """\
schema: 1
name: {name}
data:
  source: {source}
  split: {{test: 0.2, select: 0.15, calibration: 64}}
teacher:
  model: {{file: {{path: {model}.py, arguments: {{big: true}}}}}}
  train: {{epochs: {epochs}, batch_size: 32, optimizer: adamw, learning_rate: {rate}}}
student: {{file: {{path: {model}.py}}}}
{more}stages:
  - distill: {{epochs: {epochs}, batch_size: 32, optimizer: adamw, learning_rate: {rate}}}
  - prune: {{kept_macs_fraction: {kept}, tolerance: 0.5}}
  - distill: {{epochs: 1, batch_size: 32, optimizer: adamw, learning_rate: {rate}, name: recover}}
{quantize}  - export
benchmark: {{preset: smoke, profiles: [{{}}]}}
"""
QUANTIZE = "  - quantize: {max_accuracy_drop: 0.3, min_agreement: 0.5, min_int8_macs_fraction: 0.5}\n"
IMAGES = "{file: {path: fashion.py, factory: load_mnist}}"
STORIES: dict[str, dict] = {
    "cifar_tutorial": {"source": "{file: {path: fashion.py, factory: cifar}}"},
    "googlenet": {"source": IMAGES},
    "resnet": {"source": IMAGES},
    "shoe": {
        "source": "{file: {path: shoe.py, factory: shoes, classes: [other, shoe]}}",
        "epochs": 4,
        "rate": 0.01,
        "kept": 0.85,
    },
    "convnext": {"source": IMAGES},
    "vit": {"source": IMAGES},
    "unet": {"source": IMAGES, "epochs": 3, "rate": 0.01, "kept": 0.85},
    "squeezenet": {"source": IMAGES, "epochs": 5, "rate": 0.01},
    "shufflenet": {"source": IMAGES, "epochs": 5, "rate": 0.01},
    "multilabel": {
        "source": "{file: {path: fashion.py, factory: clothes_and_shoes}}",
        "more": "loss: {bernoulli: {}, hard: {}}\n",
    },
    "swiglu": {"source": "{file: {path: swiglu.py}}"},
    "lstm": {"source": "{file: {path: lstm.py, layout: NTF}}", "quantize": ""},
    "tagger": {"source": "{file: {path: tagger.py}}", "quantize": "", "epochs": 8, "rate": 0.01},
    "footsteps": {"source": "{file: {path: footsteps.py, layout: NTF}}", "quantize": "", "epochs": 4, "rate": 0.01},
    "siamese": {"source": "{file: {path: siamese.py, factory: pairs}}", "epochs": 8, "rate": 0.01},
    "heart": {
        "source": "{file: {path: heart.py, layout: NCL, classes: [rate]}}",
        "more": "loss: {hard: {}, mse: {}}\n",
        "quantize": QUANTIZE.replace("min_agreement: 0.5, ", ""),
        "epochs": 12,
        "rate": 0.01,
    },
}
BETTER_THAN = {  # 0.3 for others
    "shoe": 0.75,
    "tagger": 0.6,
    "footsteps": 0.85,
    "siamese": 0.7,
    "heart": 0.3,
    "lstm": 0.5,
    "multilabel": 0.5,
}


def compressor(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert done.exit_code == 0, f"{arguments}\n{done.output}"
    return done.output


def predicted(folder: Path, *arguments: str | Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout.splitlines()


def tell(folder: Path, *code: str, chance: float = 0.0) -> tuple[dict, Path]:
    """Plan and run the recipe of a folder, and verify its bundle; return report and bundle.

    Args:
        folder: the working directory.
        code: files that may be run.
        chance: the shipped file must be better than that on select.
    """
    options = [word for path in code for word in ("--code", path)] + ["--store", "store"]
    planned = json.loads(compressor("plan", "recipe.yaml", *options, "--json"))
    assert {step["name"] for step in planned["steps"]} >= {"teacher", "distill", "export"}
    report = json.loads(compressor("run", "recipe.yaml", *options, "--force-teacher", "--quiet", "--json"))
    bundle = Path(report["run_dir"]) / "bundle"
    assert verify_bundle(bundle).passed
    shipped = next(stage for stage in report["stages"] if stage["name"] == "export")
    assert shipped["scores"]["accuracy"] > chance, report["stages"]
    return report, bundle


@pytest.mark.parametrize("name", STORIES)
def test_a_model_as_others_write_it_ships(name, tmp_path, monkeypatch):
    for path in PROJECTS.glob("*.py"):
        if path.stem in (name, "fashion"):
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    told = {"epochs": 2, "rate": 0.003, "kept": 0.8, "more": "", "quantize": QUANTIZE} | STORIES[name]
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(name=name.replace("_", "-"), model=name, **told))
    _, bundle = tell(tmp_path, f"{name}.py", "fashion.py", chance=BETTER_THAN.get(name, 0.3))
    assert len(predicted(tmp_path, bundle / "predict.py")) >= 32


@pytest.mark.parametrize(
    ("name", "stages", "told"),
    [
        ("lstm", "  - distill: {epochs: 1}\n  - quantize\n  - export\n", r"recurrent network.*LSTM 'lstm'"),
        (
            "unet",
            "  - distill: {epochs: 1}\n  - quantize: {min_int8_macs_fraction: 0.99}\n  - export\n",
            r"too little of the model can run in int8.*at least 99\.0%.*up \(ONNX Runtime has no int8 kernel",
        ),
        (
            "unet",
            "  - distill: {epochs: 1}\n  - quantize: {max_weight_bytes_fraction: 0.2}\n  - export\n",
            "too many bytes",
        ),
        ("shufflenet", "  - prune: {kept_macs_fraction: 0.01}\n  - export\n", "kept_macs_fraction cannot be reached"),
    ],
    ids=["recurrent", "share", "bytes", "cut"],
)
def test_what_a_run_would_refuse_after_training_is_refused_by_plan(name, stages, told, tmp_path, monkeypatch):
    for path in PROJECTS.glob("*.py"):
        if path.stem in (name, "fashion"):
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    filled = {"epochs": 2, "rate": 0.003, "kept": 0.8, "more": "", "quantize": ""} | STORIES[name]
    recipe = RECIPE.format(name=name, model=name, **filled)
    head, _, tail = recipe.partition("  - distill")
    (tmp_path / "recipe.yaml").write_text(head + stages + "benchmark" + tail.partition("benchmark")[2])
    with pytest.raises(CompressError, match="(?s)" + told):
        CliRunner().invoke(
            app, ["plan", "recipe.yaml", "--code", f"{name}.py", "--code", "fashion.py"], catch_exceptions=False
        )


def test_a_table_of_categories_from_a_csv_is_held_against_boosted_trees(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECTS / "flats.py", tmp_path)
    draw = np.random.default_rng(2)
    towns, kinds = draw.choice(["Bonn", "Köln", "Ulm", "Wien"], 900), draw.choice(["attic", "flat", "house"], 900)
    area, floor = draw.uniform(20, 200, 900).round(1), draw.integers(0, 9, 900)
    worth = area * np.select([towns == "Wien", towns == "Bonn"], [2.0, 1.4], 1.0) + 40 * (kinds == "house") - 3 * floor
    level = np.select([worth < 100, worth < 200], ["low", "middle"], "high")
    rows = [f"{a};{f};{t};{k};{v}" for a, f, t, k, v in zip(area, floor, towns, kinds, level, strict=True)]
    (tmp_path / "flats.csv").write_text("\n".join(["area;floor;town;kind;level", *rows]), encoding="utf-8")
    (tmp_path / "new.csv").write_text(
        "\n".join(["town;kind;floor;area", "Wien;house;0;190", "Ulm;attic;8;21"]), encoding="utf-8"
    )
    source = "{table: {path: flats.csv, numbers: [area, floor], categories: [town, kind], label: level}}"
    told = {"epochs": 12, "rate": 0.01, "kept": 0.8, "more": "", "quantize": ""}
    recipe = RECIPE.format(name="flats", model="flats", source=source, **told)
    (tmp_path / "recipe.yaml").write_text(recipe.replace("  split", "  encode: {categories: index}\n  split"))
    report, bundle = tell(tmp_path, "flats.py", chance=0.7)
    assert report["simplest"]["title"] == "gradient-boosted trees on the columns"
    standing = report["simplest_on_select"]
    assert standing["reached"]["value"] > 0.8
    assert standing["teacher"]["low"] <= standing["teacher"]["value"] <= standing["teacher"]["high"]
    assert report["verdict"]["simplest"]["shipped"] is not None
    assert "boosted trees" in compressor("check", "recipe.yaml", "--code", "flats.py", "--store", "store")
    told = predicted(tmp_path, bundle / "predict.py", "new.csv")
    assert [line.split()[0] for line in told] == ["high", "low"]


def test_a_checkpoint_of_data_parallel_in_half_precision_and_a_folder_of_odd_pictures(  # noqa: PLR0915 - a story
    tmp_path, monkeypatch
):
    """A teacher that was trained elsewhere, and the photographs in the forms that people have them in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n"
        "def build(n=8):\n"
        "    return nn.Sequential(nn.Conv2d(3, n, 3, padding=1), nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(2),\n"
        "        nn.Conv2d(n, n, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * n, 3))\n"
    )
    digits = load_digits(n_class=3)
    kinds = ("rgb.jpg", "grey.jpeg", "palette.png", "trns.png", "la.png", "rgba.png", "cmyk.JPG", "turned.jpg")
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        kind, _, suffix = kinds[number % len(kinds)].partition(".")
        grey = Image.fromarray((pixels * 15).astype(np.uint8)).resize((24, 24))
        folder = tmp_path / "photos" / ("nought", "one", "two")[label]
        folder.mkdir(parents=True, exist_ok=True)
        path, options = folder / f"IMG {number:04}.{suffix}", {}
        alpha = Image.fromarray(np.full((24, 24), number % 255, np.uint8))
        image = grey.convert("RGB")
        if kind == "grey":
            image = grey
        elif kind == "palette":
            image = image.quantize(16)
        elif kind == "trns":
            image, options = image.quantize(16), {"transparency": bytes(range(0, 256, 16))}
        elif kind == "la":
            image = Image.merge("LA", (grey, alpha))
        elif kind == "rgba":
            image = Image.merge("RGBA", (*image.split(), alpha))
        elif kind == "cmyk":
            image = image.convert("CMYK")
        elif kind == "turned":
            options = {"exif": Image.Exif()}
            options["exif"][0x0112] = 6
            image = image.rotate(90)
        image.save(path, **options)
    (tmp_path / "photos" / "one" / "Thumbs.db").write_bytes(b"no image")
    sys.path.insert(0, str(tmp_path))
    try:
        from net import build  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(tmp_path))
    torch.manual_seed(0)
    images = torch.tensor(np.stack([digits.images * 15 / 255] * 3, 1), dtype=torch.float32)
    images, teacher = nn.functional.interpolate(images, 24, mode="bicubic").clamp(0, 1), build(16)
    optimizer = torch.optim.Adam(teacher.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher((images - 0.5) / 0.5), torch.tensor(digits.target)).backward()
        optimizer.step()
    saved = {"model": {"state_dict": nn.DataParallel(teacher).half().state_dict()}, "epoch": 40}
    torch.save(saved, tmp_path / "checkpoint.pth")
    (tmp_path / "recipe.yaml").write_text(
        "schema: 1\nname: photos\n"
        "data:\n"
        "  source: {image-folder: {root: photos, size: [24, 24]}}\n"
        "  split: {test: 0.2, select: 0.2, calibration: 64}\n"
        "  normalize: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}\n"
        "teacher: {model: {file: {path: net.py, arguments: {n: 16}}}, weights: checkpoint.pth}\n"
        "student: {file: {path: net.py}}\n"
        "stages:\n"
        "  - distill: {epochs: 6, batch_size: 32}\n"
        "  - quantize: {max_accuracy_drop: 0.3, min_agreement: 0.5}\n"
        "  - export: {variants: [fp32, int8-x86]}\n"
        "benchmark: {preset: smoke, profiles: [{}]}\n"
    )
    report, bundle = tell(tmp_path, "net.py", chance=0.8)
    assert report["stages"][0]["scores"]["accuracy"] > 0.95
    paths = sorted((tmp_path / "photos").glob("*/IMG*"))[::5]
    told = predicted(tmp_path, bundle / "predict.py", *paths)
    right = [path.parent.name == label for path, label in zip(paths, told, strict=True)]
    assert np.mean(right) > 0.8


def test_texts_in_a_csv_with_semicolons(tmp_path, monkeypatch):
    """As a German spreadsheet saves them."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    good, bad = ("gut", "schön", "prima", "toll", "klasse"), ("schlecht", "müde", "kaputt", "öde", "langsam")
    lines = ["Text;Urteil"]
    for number in range(400):
        words = [*draw.choice(good if number % 2 else bad, 2), *draw.choice(["das", "ist", "sehr", "und", "heute"], 4)]
        draw.shuffle(words)
        lines.append(f"{' '.join(words)} {number};{'positiv' if number % 2 else 'negativ'}")
    (tmp_path / "urteile.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    words = [*good, *bad, "das", "ist", "sehr", "und", "heute", *map(str, range(10))]
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "tok")
    model = "{huggingface: {path: bert, pretrained: false, config: {model_type: bert, hidden_size: %d, "
    model += "num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}}}"
    (tmp_path / "recipe.yaml").write_text(
        "schema: 1\nname: urteile\n"
        "data:\n"
        "  source: {table: {path: urteile.csv, text: Text, label: Urteil}}\n"
        "  tokenize: {tokenizer: tok, max_length: 16}\n"
        "  split: {test: 0.2, select: 0.2, calibration: 64}\n"
        f"teacher:\n  model: {model % 32}\n"
        "  train: {epochs: 10, batch_size: 16, optimizer: adamw, learning_rate: 0.005}\n"
        f"student: {model % 16}\n"
        "stages:\n"
        "  - distill: {epochs: 10, batch_size: 16, optimizer: adamw, learning_rate: 0.005}\n"
        "  - export: {variants: [fp32]}\n"
        "benchmark: {preset: smoke, profiles: [{}]}\n"
    )
    _, bundle = tell(tmp_path, chance=0.8)
    assert predicted(tmp_path, bundle / "predict.py", "heute ist das sehr toll und prima")[0].startswith("positiv")


def test_a_table_from_init_to_a_prediction(tmp_path, monkeypatch):
    """What `init` writes, with nothing of it changed but the marked lines and what of the run is long."""
    monkeypatch.chdir(tmp_path)
    frame = load_breast_cancer(as_frame=True)
    table = frame.data[["mean radius", "mean texture", "mean concavity"]].round(3)
    table["size"] = np.where(table["mean radius"] > 14, "large", "small")
    table["finding"] = np.array(["malignant", "benign"])[frame.target]
    table.to_csv("cells.csv", index=False)
    edits = [line for line in compressor("init", "table", "cells").splitlines() if line.startswith("edit: ")]
    assert len(edits) == 2
    recipe = Path("cells/recipe.yaml")
    text = recipe.read_text(encoding="utf-8")
    for old, new in {
        "rows.csv": "../cells.csv",
        "numbers: [a, b]": "numbers: [mean radius, mean texture, mean concavity]",
        "categories: [kind]": "categories: [size]",
        "label: label": "label: finding",
        "  - quantize\n": "  - quantize: {max_accuracy_drop: 0.05}\n",  # select has few rows
        "{profiles: [{}]}": "{preset: smoke, profiles: [{}]}",
        "max_accuracy_drop: 0.02": "max_accuracy_drop: 0.2",
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    recipe.write_text(text, encoding="utf-8")
    assert "gradient-boosted trees" in compressor("check", str(recipe))
    report = json.loads(compressor("run", str(recipe), "--quiet", "--json"))
    bundle = Path(report["run_dir"]) / "bundle"
    assert "agreement 100.00%" in compressor("verify", str(bundle))
    table.drop(columns="finding").to_csv("new.csv", index=False)
    told = [line.split()[0] for line in predicted(tmp_path, bundle / "predict.py", "new.csv")]
    assert np.mean(np.array(told) == table["finding"]) > 0.85


def test_a_pipeline_that_is_written_in_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("resnet", "fashion"):
        shutil.copy(PROJECTS / f"{name}.py", tmp_path)
    code, train = [Path("resnet.py"), Path("fashion.py")], {"epochs": 2, "batch_size": 32, "learning_rate": 0.01}
    recipe = compress.Recipe(
        name="in-python",
        data=compress.DataConfig(source=compress.File(path=Path("fashion.py"), factory="load_mnist")),
        teacher=compress.Teacher(
            model=compress.UserFile(path=Path("resnet.py"), arguments={"big": True}), train=compress.Train(**train)
        ),
        student=compress.UserFile(path=Path("resnet.py")),
        stages=[
            compress.Distill(**train),
            compress.Quantize(max_accuracy_drop=None, min_agreement=0.5),
            compress.Export(),
        ],
        benchmark=compress.Benchmark(preset="smoke"),
    )
    options = compress.Options(store=Path("store"), code=code, reporter=Reporter(quiet=True))
    assert {step.action for step in plan(recipe, options).steps} == {"run"}
    outcome = compress.run(recipe, options)
    bundle = outcome.run_dir / "bundle"
    assert verify_bundle(bundle).passed
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    np.save("three.npy", images)
    assert len(predicted(tmp_path, bundle / "predict.py", "three.npy")) == 3
