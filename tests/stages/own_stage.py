"""A stage that nothing in compress has heard of: it spoils the weights, trains, has a loss of its own and quantizes."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch

from compress.export.graph import to_onnx
from compress.loss import GuidedLoss
from compress.loss.logits import Kl
from compress.models import load_model, load_structure
from compress.quantization.sensitivity import Quantizer
from compress.stage import Host, Need, Optimization, Quantity, Stage, Training, Work
from compress.store.artifact import Artifact
from compress.store.manifest import Kind
from compress.training.guided import fit_guided


class AddNoise(Stage):
    """Adds noise to the weights, recovers from it on its own loss, and plans int8 for all layers."""

    produces: ClassVar[Kind] = "quantized"
    needs: ClassVar[frozenset[Need]] = frozenset({"data", "loss", "teacher"})
    cuts: ClassVar[bool] = True

    verb: Literal["add-noise"] = "add-noise"
    scale: float = 0.01
    epochs: int = 2
    loss: GuidedLoss = GuidedLoss(kl=Kl(temperature=3.0))

    @property
    def training(self) -> Training:
        return Training(Optimization(epochs=self.epochs, batch_size=64))

    def guided_loss(self, loss: GuidedLoss) -> GuidedLoss:
        return self.loss

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        structure, module = load_structure(source.path), load_model(source.path, code=host.code)
        seed = self.seed(source, work, host)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in module.parameters():
                value += self.scale * torch.randn(value.shape, generator=generator)
        done = fit_guided(
            module,
            work,
            host,
            loss=self.loss,
            optimization=self.training.optimization,
            seed=seed,
            checkpoints=host.store.work(self.key(source, work, host)),
            name=self.title,
        )
        example = work.task.batch(work.data.select, torch.arange(2)).inputs
        quantizer = Quantizer(to_onnx(module, structure.signature, example), mode="dynamic", keep_float={})
        return self.commit(
            module,
            source,
            work,
            host,
            model=structure.model,
            signature=structure.signature,
            facts={"images_per_s": done.images_per_s, "loss_fingerprint": self.loss.fingerprint},
            files={"quant_plan.json": quantizer.plan({}, {}).model_dump_json()},
        )

    def smoke(self) -> Self:
        return self.model_copy(update={"epochs": 1})

    def gentler(self, path: str) -> str:
        return f"lower {path}.scale below {self.scale:g}"

    def cheaper(self, path: str, quantity: Quantity, *, missing: float, facts: Mapping[str, Any]) -> str:
        return f"no noise makes {path} cheaper"
