"""PruneVocabulary: keeps the tokens that the data need, tokenizer and embedding together."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from compress.data import Samples
from compress.errors import DataError, ModelError, StageError
from compress.models import Model, load_model, load_structure, save_model
from compress.models.huggingface import TextLogits
from compress.stage import Host, Need, Quantity, Stage, Work
from compress.stages import symbols
from compress.store.artifact import Artifact
from compress.store.digest import hash_file
from compress.tasks import TextTask, Tokenizer, TransductionTask
from compress.tasks.vocabulary import keep_tokens

CHECKED = 64  # samples of train whose outputs must stay the same


class PruneVocabulary(Stage):
    """Removes the tokens that occur nowhere in the train role from the tokenizer and from the embedding.

    Of a model that writes these are symbols that are read and symbols that are written, and rows of the output layer;
    see `compress.stages.symbols`. How many texts cannot be read or written any more is told, and in the facts.

    Texts of kept tokens alone give exactly the outputs that they gave before, which is checked. A word with a token
    that is gone is split into shorter kept pieces, down to single characters, which are always kept. From here on the
    model has a tokenizer of its own, which ships with it; the teacher reads texts as before.

    Attributes:
        min_count: tokens that occur less often in the train role go.
        texts: a UTF-8 file of further texts or words, one a line, whose tokens are kept as well; for a model that
            writes, texts to be read.
    """

    version: ClassVar[int] = 2  # positions follow the padding token's number
    cuts: ClassVar[bool] = True
    renumbers: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"data"})
    libraries: ClassVar[tuple[str, ...]] = ("torch", "tokenizers")

    verb: Literal["prune-vocabulary"] = "prune-vocabulary"
    min_count: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    texts: Path | None = None

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Count, cut, check and commit.

        Raises:
            StageError: as ``check`` does, and when outputs on kept tokens changed.
            ModelError: as ``check`` does.
            DataError: as ``check`` does.
        """
        structure, module = load_structure(source.path), load_model(source.path, code=host.code)
        if isinstance(work.task, TransductionTask):
            return self._run_on_symbols(source, module, work.task, work, host)
        task, files, old = self._choose(module, work)
        assert isinstance(module, TextLogits)
        tokenizer = Tokenizer.from_files(files, max_length=task.tokenizer.max_length)
        unchanged = load_model(source.path, code=host.code)
        cut_embedding(module, torch.from_numpy(old), padding=tokenizer.pad_id)
        # Read back: what a model derives from its configuration changes only when it is built.
        with tempfile.TemporaryDirectory() as directory:
            save_model(module, Path(directory), model=structure.model, signature=structure.signature)
            module = load_model(Path(directory), code=host.code)
        split = {role: compare_splits(task, tokenizer, work.data.roles[role], old) for role in ("train", "select")}
        self._check(unchanged, module, work, same=split["train"], tokenizer=tokenizer)
        return self.commit(
            module,
            source,
            work,
            host,
            model=structure.model,
            signature=structure.signature,
            facts={
                "tokens_before": task.tokenizer.size,
                "tokens_after": len(old),
                "split_otherwise_fraction": {role: float(1 - same.mean()) for role, same in split.items()},
            },
            files=files,
        )

    def _run_on_symbols(
        self, source: Artifact, module: nn.Module, task: TransductionTask, work: Work, host: Host
    ) -> Artifact:
        """Do the step for a model that writes."""
        structure, fewer = load_structure(source.path), self._choose_symbols(module, task, work)
        smaller = load_model(source.path, code=host.code)
        assert isinstance(smaller, symbols.WRITERS)
        smaller.keep_symbols(torch.from_numpy(fewer.source), torch.from_numpy(fewer.target))
        symbols.check_logits(module, smaller, fewer, work.data.train, most=CHECKED, where=self.title)
        facts = fewer.facts(work.data)
        host.reporter.say(f"  {self.title}: {symbols.tell(facts)}")
        return self.commit(
            smaller,
            source,
            work,
            host,
            model=structure.model,
            signature=fewer.task.signature,
            facts=facts,
            files=dict(fewer.task.files()),
        )

    def _choose_symbols(self, module: nn.Module, task: TransductionTask, work: Work) -> symbols.Fewer:
        further = [] if self.texts is None else self._lines(self.texts)
        return symbols.choose_symbols(
            module, task, work.data, min_count=self.min_count, further=further, where=self.title
        )

    def foresee(
        self, module: nn.Module, model: Model, work: Work, host: Host, *, after: Sequence[Stage] = ()
    ) -> tuple[str, ...]:
        """Tell what a model that writes will not read and write any more."""
        del model, host, after
        if not isinstance(work.task, TransductionTask):
            return ()
        return (symbols.tell(self._choose_symbols(module, work.task, work).facts(work.data)),)

    def gentler(self, path: str) -> str:
        """Keep rarer tokens, or all."""
        return f"lower {path}.min_count below {self.min_count}" if self.min_count > 1 else f"leave {path} out"

    def cheaper(self, path: str, quantity: Quantity, *, missing: float, facts: Mapping[str, Any]) -> str:
        """Keep fewer tokens, which makes a file smaller and no faster."""
        del missing, facts
        return f"raise {path}.min_count above {self.min_count}" if quantity == "size" else ""

    def check(self, module: nn.Module, work: Work) -> None:
        """Refuse data and a tokenizer that this stage would fail on: neither changes while the pipeline trains.

        Raises:
            StageError: when all tokens are needed, or words lose their outputs.
            ModelError: when the task has no tokens, the model no embedding that is known, or it counts positions from
                a token whose number it cannot change.
            DataError: when the file of further texts cannot be read.
        """
        if isinstance(work.task, TransductionTask):
            self._choose_symbols(module, work.task, work)
        else:
            self._choose(module, work)

    def _choose(self, module: nn.Module, work: Work) -> tuple[TextTask, dict[str, str], NDArray[np.int64]]:
        """Return the task, the smaller tokenizer's files, and the id before of every id after, int64 [tokens]."""
        task = work.task
        if not (isinstance(task, TextTask) and isinstance(module, TextLogits)):
            raise ModelError(
                "the model has no vocabulary",
                expected="a Hugging Face encoder of text",
                got=type(module).__name__,
                where=self.title,
            )
        files, old = keep_tokens(task.tokenizer.files(), self._find_wanted(task, work))
        if len(old) == task.tokenizer.size:
            raise StageError(
                "all tokens are needed", got=f"{len(old)} tokens", where=self.title, hint="raise min_count"
            )
        tokenizer = Tokenizer.from_files(files, max_length=task.tokenizer.max_length)
        self._check_positions(module, old)
        self._check_units(task, task.with_tokenizer(tokenizer), work)
        return task, files, old

    def _check_positions(self, module: TextLogits, old: NDArray[np.int64]) -> None:
        """Refuse to move the token that positions are counted from where its number is not in the configuration.

        Raises:
            ModelError: for MPNet, and where the model counts from a token that the tokenizer does not keep.
        """
        counted = module.counted_from
        if counted is None:
            return
        now = int(np.searchsorted(old, counted))
        family = module.model.config.model_type
        if now == len(old) or old[now] != counted or (family == "mpnet" and now != counted):
            raise ModelError(
                "the model counts positions from a token that would go, or get another number",
                expected=f"token {counted} to stay where it is: {family} always counts from it"
                if family == "mpnet"
                else f"token {counted} to be the tokenizer's padding token",
                got="no such token" if now == len(old) or old[now] != counted else f"token {now}",
                where=self.title,
                hint="leave prune-vocabulary out",
            )

    def _find_wanted(self, task: TextTask, work: Work) -> set[int]:
        """Return the ids of tokens that occur often enough, and of those in the further texts."""
        counts = Counter(task.encode(work.data.train).ids.tolist())
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

    def _check_units(self, before: TextTask, after: TextTask, work: Work) -> None:
        """Refuse longer splits that push words over the length limit: they would be compared with other words.

        Raises:
            StageError: naming the role.
        """
        for role, samples in work.data.roles.items():
            lost = int((before.units(samples) != after.units(samples)).sum())
            if lost:
                raise StageError(
                    f"{lost} of the {role} role's samples lose words: their new tokens are over the length limit",
                    expected="as many words with an output as before",
                    where=self.title,
                    hint="lower min_count, raise data.tokenize.max_length, or split long samples",
                )

    def _check(
        self, before: nn.Module, after: nn.Module, work: Work, *, same: NDArray[np.bool_], tokenizer: Tokenizer
    ) -> None:
        """Compare outputs on texts of kept tokens alone, bit for bit.

        Raises:
            StageError: when one differs.
        """
        assert isinstance(work.task, TextTask)
        index = torch.from_numpy(np.flatnonzero(same)[:CHECKED])
        sides = ((work.task, before), (work.task.with_tokenizer(tokenizer), after))
        with torch.no_grad():
            ours, theirs = (
                task.forward(module, task.batch(work.data.train, index)) if len(index) else torch.empty(0)
                for task, module in sides
            )
        if not torch.equal(ours, theirs):
            raise StageError(
                "outputs changed on texts whose tokens are all kept",
                expected="the same bits",
                got=f"up to {float((ours - theirs).abs().max()):.3g} apart",
                where=self.title,
            )

    def inputs(self, source: Artifact | None, work: Work, host: Host) -> dict[str, Any]:
        """Replace the path of the texts by their content."""
        inputs = super().inputs(source, work, host)
        if self.texts is not None and self.texts.is_file():
            inputs["fields"]["texts"] = hash_file(self.texts)
        return inputs

    def smoke(self) -> Self:
        """The same stage: it takes no time."""
        return self


def compare_splits(task: TextTask, tokenizer: Tokenizer, samples: Samples, old: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which samples another tokenizer splits into the same tokens, bool [N].

    Args:
        task: with the tokenizer before.
        tokenizer: after.
        samples: a role.
        old: the id before of every id after.
    """
    sides = (task.encode(samples).split(), tokenizer.encode(samples, words=task.words).split())
    return np.array([np.array_equal(ours, old[theirs]) for ours, theirs in zip(*sides, strict=True)])


def cut_embedding(module: TextLogits, kept: torch.Tensor, *, padding: int) -> None:
    """Keep some rows of a model's token embedding, in place, for the model to be stored and built again.

    Where positions are counted from the padding token's number, rows of their embedding leave at its beginning, as many
    as that number falls.

    Args:
        module: a text model.
        kept: int64, ids to keep, ascending.
        padding: the padding token's new id.
    """
    config, counted = module.model.config, module.counted_from
    words = module.model.get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    _keep_rows(words, kept)
    for name, number in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(number, int):
            found = (kept == number).nonzero()
            setattr(config, name, int(found) if len(found) else None)
    config.vocab_size = len(kept)
    if counted is None:
        config.pad_token_id = padding
        return
    fallen = counted - int((kept == counted).nonzero())
    positions = module.model.base_model.get_submodule("embeddings.position_embeddings")
    assert isinstance(positions, nn.Embedding)
    _keep_rows(positions, torch.arange(fallen, positions.num_embeddings))
    config.max_position_embeddings = positions.num_embeddings


def _keep_rows(embedding: nn.Embedding, rows: torch.Tensor) -> None:
    embedding.weight = nn.Parameter(embedding.weight.detach()[rows].clone())
    embedding.num_embeddings = len(rows)
