"""PruneVocabulary: keeps the tokens that the data need, tokenizer and embedding together."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from compress.artifact import Artifact, hash_file
from compress.data import Samples
from compress.errors import DataError, ModelError, StageError
from compress.models import load_model, load_structure
from compress.models.huggingface import Logits
from compress.stage import Context, Need, Stage
from compress.tasks import TextTask, Tokenizer
from compress.tasks.vocabulary import keep_tokens

CHECKED = 64  # samples of train whose outputs must stay the same


class PruneVocabulary(Stage):
    """Removes the tokens that occur nowhere in the train role from the tokenizer and from the embedding.

    Texts of kept tokens alone give exactly the outputs that they gave before, which is checked. A word with a token
    that is gone is split into shorter kept pieces, down to single characters, which are always kept. From here on the
    model has a tokenizer of its own, which ships with it; the teacher reads texts as before.

    Attributes:
        min_count: tokens that occur less often in the train role go.
        texts: a UTF-8 file of further texts or words, one a line, whose tokens are kept as well.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"data"})
    libraries: ClassVar[tuple[str, ...]] = ("torch", "tokenizers")

    verb: Literal["prune-vocabulary"] = "prune-vocabulary"
    min_count: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    texts: Path | None = None

    def run(self, source: Artifact, context: Context) -> Artifact:
        """Count, cut, check and commit.

        Raises:
            StageError: as ``check`` does, and when outputs on kept tokens changed.
            ModelError: as ``check`` does.
            DataError: as ``check`` does.
        """
        structure, module = load_structure(source.path), load_model(source.path, code=context.code)
        task, files, old = self._kept(module, context)
        assert isinstance(module, Logits)
        tokenizer = Tokenizer.from_files(files, max_length=task.tokenizer.max_length)
        unchanged = load_model(source.path, code=context.code)
        cut_embedding(module, torch.from_numpy(old), padding=tokenizer.pad_id)
        split = {role: kept_splits(task, tokenizer, context.data.roles[role], old) for role in ("train", "select")}
        self._check(unchanged, module, context, same=split["train"], tokenizer=tokenizer)
        return context.commit_model(
            self,
            source,
            module,
            model=structure.model,
            signature=structure.signature,
            facts={
                "tokens_before": task.tokenizer.size,
                "tokens_after": len(old),
                "split_otherwise_fraction": {role: float(1 - same.mean()) for role, same in split.items()},
            },
            files=files,
        )

    def check(self, module: nn.Module, context: Context) -> None:
        """Refuse data and a tokenizer that this stage would fail on: neither changes while the pipeline trains.

        Raises:
            StageError: when all tokens are needed, or words lose their outputs.
            ModelError: when the task has no tokens, or the model no embedding that is known.
            DataError: when the file of further texts cannot be read.
        """
        self._kept(module, context)

    def _kept(self, module: nn.Module, context: Context) -> tuple[TextTask, dict[str, str], NDArray[np.int64]]:
        """Return the task, the smaller tokenizer's files, and the id before of every id after, int64 [tokens]."""
        task = context.task
        if not (isinstance(task, TextTask) and isinstance(module, Logits)):
            raise ModelError(
                "the model has no vocabulary",
                expected="a Hugging Face encoder of text",
                got=type(module).__name__,
                where=self.title,
            )
        files, old = keep_tokens(task.tokenizer.files(), self._wanted(task, context))
        if len(old) == task.tokenizer.size:
            raise StageError(
                "all tokens are needed", got=f"{len(old)} tokens", where=self.title, hint="raise min_count"
            )
        tokenizer = Tokenizer.from_files(files, max_length=task.tokenizer.max_length)
        self._check_units(task, task.with_tokenizer(tokenizer), context)
        return task, files, old

    def _wanted(self, task: TextTask, context: Context) -> set[int]:
        """Return the ids of tokens that occur often enough, and of those in the further texts."""
        counts = Counter(task.encoded(context.data.train).ids.tolist())
        wanted = {number for number, count in counts.items() if count >= self.min_count}
        if self.texts is not None:
            lines = [line for line in self._lines(self.texts) if line.strip()]
            inputs = np.empty(len(lines), object)
            inputs[:] = lines
            wanted |= set(task.tokenizer.encode(Samples(inputs, None), words=False).ids.tolist())
        return wanted

    def _lines(self, path: Path) -> list[str]:
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                "the file of further texts cannot be read",
                expected="UTF-8, one text a line",
                got=error,
                where=f"{self.title}, texts: {path}",
            ) from error

    def _check_units(self, before: TextTask, after: TextTask, context: Context) -> None:
        """Refuse longer splits that push words over the length limit: they would be compared with other words.

        Raises:
            StageError: naming the role.
        """
        for role, samples in context.data.roles.items():
            lost = int((before.units(samples) != after.units(samples)).sum())
            if lost:
                raise StageError(
                    f"{lost} of the {role} role's samples lose words: their new tokens are over the length limit",
                    expected="as many words with an output as before",
                    where=self.title,
                    hint="lower min_count, raise data.tokenize.max_length, or split long samples",
                )

    def _check(
        self, before: nn.Module, after: nn.Module, context: Context, *, same: NDArray[np.bool_], tokenizer: Tokenizer
    ) -> None:
        """Compare outputs on texts of kept tokens alone, bit for bit.

        Raises:
            StageError: when one differs.
        """
        assert isinstance(context.task, TextTask)
        index = torch.from_numpy(np.flatnonzero(same)[:CHECKED])
        sides = ((context.task, before), (context.task.with_tokenizer(tokenizer), after))
        with torch.no_grad():
            ours, theirs = (
                task.forward(module, task.batch(context.data.train, index)) if len(index) else torch.empty(0)
                for task, module in sides
            )
        if not torch.equal(ours, theirs):
            raise StageError(
                "outputs changed on texts whose tokens are all kept",
                expected="the same bits",
                got=f"up to {float((ours - theirs).abs().max()):.3g} apart",
                where=self.title,
            )

    def inputs(self, source: Artifact | None, context: Context) -> dict[str, Any]:
        """Replace the path of the texts by their content."""
        inputs = super().inputs(source, context)
        if self.texts is not None and self.texts.is_file():
            inputs["fields"]["texts"] = hash_file(self.texts)
        return inputs

    def smoke(self) -> Self:
        """The same stage: it takes no time."""
        return self


def kept_splits(task: TextTask, tokenizer: Tokenizer, samples: Samples, old: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which samples another tokenizer splits into the same tokens, bool [N].

    Args:
        task: with the tokenizer before.
        tokenizer: after.
        samples: a role.
        old: the id before of every id after.
    """
    sides = (task.encoded(samples).split(), tokenizer.encode(samples, words=task.words).split())
    return np.array([np.array_equal(ours, old[theirs]) for ours, theirs in zip(*sides, strict=True)])


def cut_embedding(module: Logits, kept: torch.Tensor, *, padding: int) -> None:
    """Keep some rows of a model's token embedding, in place.

    Args:
        module: a text model.
        kept: int64, ids to keep, ascending.
        padding: the padding token's new id.
    """
    embedding = module.model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    embedding.weight = nn.Parameter(embedding.weight.detach()[kept].clone())
    embedding.num_embeddings = len(kept)
    if embedding.padding_idx is not None:
        embedding.padding_idx = padding
    config = module.model.config
    for name, number in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(number, int):
            found = (kept == number).nonzero()
            setattr(config, name, int(found) if len(found) else None)
    config.vocab_size, config.pad_token_id = len(kept), padding
