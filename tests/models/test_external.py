"""Models of Hugging Face: no traceback for what is not there, and nothing but the artifact is needed to load one."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from compress.errors import EnvironmentFault, ModelError
from compress.models import HuggingFace, load_model
from compress.stages.create import Create
from compress.stages.prune import Prune

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def folder(tmp_path):
    """A published model: configuration and safetensors weights."""
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **SIZES)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_stored_model_needs_neither_the_folder_nor_the_hub(make_context, folder, monkeypatch):
    context = make_context()
    made = Create(model=HuggingFace(path=str(folder))).run(None, *context)
    batch = context.task.batch(context.data.select, torch.arange(4))
    reference = ViTForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = reference(batch.inputs[0]).logits
    shutil.rmtree(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert str(folder) not in (made.path / "structure.json").read_text()
    with torch.no_grad():
        torch.testing.assert_close(load_model(made.path)(*batch.inputs), expected)
    mlps = Prune(kept_macs_fraction=0.8, importance="magnitude", protected=("*.projection", "*attention*"))
    pruned = mlps.run(made, *context)
    assert load_model(pruned.path)(*batch.inputs).shape == (4, 10)


def test_the_key_is_the_content_of_the_folder_and_the_version_of_transformers(make_context, folder, tmp_path):
    context = make_context()

    def inputs(path):
        return Create(model=HuggingFace(path=str(path))).inputs(None, *context)

    before = inputs(folder)
    assert "transformers" in before["libraries"]
    assert inputs(shutil.copytree(folder, tmp_path / "copy")) == before
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors")
    assert inputs(folder) != before


def test_an_architecture_without_weights_is_built_from_its_configuration(make_context, folder):
    (folder / "model.safetensors").unlink()
    signature = make_context().task.signature
    with pytest.raises(ModelError, match="transformers cannot build"):
        HuggingFace(path=str(folder)).build(signature, code=())
    module = HuggingFace(path=str(folder), pretrained=False).build(signature, code=())
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("path", ["/nowhere/vit", "./nowhere"])
def test_a_folder_that_is_not_there_is_refused(make_context, path):
    with pytest.raises(ModelError, match="transformers cannot build the model"):
        HuggingFace(path=path).build(make_context().task.signature, code=())


def test_a_model_of_another_kind_is_refused(make_context):
    family = HuggingFace(path="bert", pretrained=False, config={"model_type": "bert", "hidden_size": 16})
    with pytest.raises(ModelError, match="classifier or encoder"):
        family.build(make_context().task.signature, code=())


def test_a_silent_hub_is_a_fault_of_the_environment(make_context, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFault, match="cannot be reached"):
        HuggingFace(path="compress-onnx-tests/no-such-model").build(make_context().task.signature, code=())
