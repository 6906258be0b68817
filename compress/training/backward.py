"""A model that writes sources from targets: a pair whose source it finds unlikely is a bad one.

What Firefox Translations (mozilla/translations) does before it trains a student: all pairs are scored by such a model,
and the worst 5% are dropped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from compress.config import Values
from compress.data import Data, Samples
from compress.data.answers import objects
from compress.errors import StageError
from compress.models import load_model
from compress.stage import Host
from compress.store.artifact import read_artifact
from compress.tasks import TransductionTask
from compress.tasks.symbols import UNKNOWN
from compress.tasks.transduction import FILE
from compress.training.numerics import numerics, place_batch, placed

ROWS = 256  # pairs of an ordinary length that are scored at a time
PROBED = 1000  # pairs of train on which it is seen what it reads and writes
PROVED = 256  # on which it is measured whether it goes that way
MAX_UNKNOWN = 0.1  # of their symbols


class Backward(Values):
    """Drops the pairs whose source a backward model finds unlikeliest, given what was written for it.

    Attributes:
        artifact: the directory of a stored model that reads what is written here, and writes what is read here: of a
            recipe with ``text`` and ``target_text`` in each other's place.
        drop_fraction: the share of pairs with the lowest log-probability a symbol of the source that is dropped.
    """

    artifact: Path
    drop_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05

    def identity(self) -> dict[str, Any]:
        """Return what decides which pairs are dropped, as JSON values.

        Raises:
            ArtifactError: when there is no stored model.
        """
        return {"artifact": read_artifact(self.artifact, verify=False).digest, "drop_fraction": self.drop_fraction}

    def check(self, task: TransductionTask, data: Data) -> None:
        """Refuse a model that does not write, and one that does not know the symbols of the data, the other way round.

        Where both sides have the same symbols, as with one tokenizer, they do not tell which way a model goes;
        ``prove`` does.

        Args:
            task: as the student reads samples.
            data: train is looked at.

        Raises:
            StageError: likewise.
            ArtifactError: when there is no stored model.
        """
        kind = read_artifact(self.artifact, verify=False).kind
        if kind != "model" or not (self.artifact / FILE).exists():
            raise StageError(
                "the backward model does not write",
                expected="the stored model of a recipe with text and target_text in each other's place",
                got=f"a {kind} {'with' if (self.artifact / FILE).exists() else 'without'} {FILE}",
                where=self.artifact,
            )
        sides, train = task.reading(self.artifact).vocabularies, data.train
        assert train.labels is not None
        texts = {
            "read": (sides.source, [targets[0] for targets in train.labels[:PROBED]]),
            "written": (sides.target, train.array[:PROBED].tolist()),
        }
        for verb, (side, known) in texts.items():
            numbers = np.concatenate([np.asarray(row, np.int64) for row in side.encode_all(known)])
            unknown = float((numbers == UNKNOWN).mean()) if len(numbers) else 1.0
            if unknown > MAX_UNKNOWN:
                raise StageError(
                    f"the backward model has not {verb} such texts",
                    expected=f"at most {MAX_UNKNOWN:.0%} of their symbols unknown to it",
                    got=f"{unknown:.0%} of train's {'targets' if verb == 'read' else 'sources'}",
                    where=self.artifact,
                    hint="train it on a recipe with text and target_text in each other's place",
                )

    def prove(self, task: TransductionTask, data: Data, host: Host) -> None:
        """Refuse a model to which train's pairs mean nothing, or mean more the other way round.

        What a pair means is how much likelier a text is after its own than after another pair's, in nats a text: what
        two texts tell of each other is the same both ways, however long they are. A mean within two standard errors of
        nothing is nothing.

        Args:
            task: as the student reads samples.
            data: train is looked at.
            host: execution, progress.

        Raises:
            StageError: likewise.
        """
        assert data.train.labels is not None
        sources, targets = data.train.array[:PROVED].tolist(), [texts[0] for texts in data.train.labels[:PROVED]]
        count = len(sources)
        others = np.random.default_rng(0).permutation(count)
        ways = [(sources, targets), (targets, sources)]
        pairs = [
            (text, read[place])
            for text_side, read in ways
            for order in (range(count), others)
            for text, place in zip(text_side, order, strict=True)
        ]
        means, symbols = self._score(pairs, task, host)
        scores = (means * symbols).reshape(2, 2, count)
        gains = scores[:, 0] - scores[:, 1]
        gains = gains[:, np.isfinite(gains).all(axis=0)]
        ours, theirs = gains.mean(axis=1) if gains.size else (0.0, 0.0)
        error = gains[0].std() / gains.shape[1] ** 0.5 if gains.size else 0.0
        if ours <= max(2 * error, theirs / 2):
            raise StageError(
                "the backward model does not write train's sources from its targets",
                expected="sources that are likelier after their own targets than after others, and not the other way "
                "round",
                got=f"by {ours:.3g} ± {error:.2g} nats a text; targets after their own sources by {theirs:.3g}",
                where=self.artifact,
                hint="train it on a recipe with text and target_text in each other's place, until it has learnt",
            )

    def score(self, pairs: Sequence[tuple[str, str]], task: TransductionTask, host: Host) -> NDArray[np.float64]:
        """Return the log-probability a symbol, its end among them, of each source given its text, float64 [N].

        Args:
            pairs: sources, and what was written for each.
            task: as the student reads samples.
            host: execution, progress.

        Raises:
            KeyboardInterrupt: when ``host.interrupted`` says so.
        """
        return self._score(pairs, task, host)[0]

    def _score(
        self, pairs: Sequence[tuple[str, str]], task: TransductionTask, host: Host
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return ``score``, and how many symbols each source has with its end; 0 where nothing can be read."""
        own = task.reading(self.artifact)
        samples = Samples(objects(text for _, text in pairs), objects((source,) for source, _ in pairs))
        found, symbols = np.full(len(pairs), -np.inf), np.zeros(len(pairs), np.int64)
        readable = torch.from_numpy(np.flatnonzero(own.sources(samples).lengths))
        model = load_model(self.artifact, code=host.code)
        showing = host.reporter.bar("backward model", len(pairs))
        with numerics(host, seed=0), placed(host, model), torch.no_grad(), showing as bar:
            for part in own.parts(samples, readable, size=ROWS):
                if host.interrupted():
                    raise KeyboardInterrupt
                batch = place_batch(own.batch(samples, readable[part]), host.device)
                assert batch.units is not None
                assert batch.labels is not None
                with host.autocast():
                    logits = own.forward(model, batch)
                nats = torch.zeros(batch.units.shape, dtype=torch.float32, device=host.device)
                nats[batch.units] = -torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="none")
                counts = batch.units.sum(dim=1)
                found[readable[part].numpy()] = (nats.sum(dim=1) / counts).cpu().double().numpy()
                symbols[readable[part].numpy()] = counts.cpu().numpy()
                bar.advance(len(part))
        return found, symbols
