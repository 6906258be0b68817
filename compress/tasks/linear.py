"""Linear models as the simplest ones: on n-grams of text, on what words look like, on pixels."""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from compress.data.samples import Samples
from compress.tasks.simplest import Parameters, Simplest
from compress.tasks.task import Problem

MAX_FEATURES = 100_000  # of text, the most frequent ones
MAX_WEIGHTS = 10_000_000  # with many outputs there are fewer features
MAX_CHARACTERS = 4_000  # of a text, from its beginning
MAX_SIDE = 32  # pixels; larger images are averaged down
MAX_WORK = 1e12  # multiply-accumulates of a fit on pixels: half a minute on one core
ITERATIONS = (20, 100)  # of a fit on pixels, at least and at most
NEVER = -1e6  # the output of a class that train does not hold
# Words, single marks, and each character of scripts that put no spaces between words.
TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+|[^\w\s]")


@dataclass(frozen=True)
class LinearText(Simplest):
    """A linear support vector machine on words and pairs of neighbours, weighted by TF-IDF; ridge for numbers.

    Of scikit-learn's linear classifiers `LinearSVC` was the most accurate on held-out texts of 30 classes (84.4%, SGD
    on the logistic loss 82.5%, logistic regression 81.7%), in half a second; marks as tokens gave 1.5 points, n-grams
    of characters took six times as long and gave none.

    Attributes:
        problem: what the outputs of a text are.
        outputs_count: how many there are.
    """

    title: ClassVar[str] = "a linear model on words and pairs of words"

    problem: Problem
    outputs_count: int

    @property
    def state(self) -> str:
        """Problem and number of outputs."""
        return f"{self.problem} {self.outputs_count}"

    def fit(self, samples: Samples) -> Parameters:
        """Return terms, their inverse document frequencies, weights and intercepts."""
        assert samples.labels is not None
        most = _most_features(self.outputs_count)
        vectorizer = _weigher(max_features=most)
        features = vectorizer.fit_transform(samples.array)
        terms, inverse = _written(vectorizer.get_feature_names_out()), vectorizer.idf_.astype(np.float32)
        return {
            "terms": terms,
            "idf": inverse,
            **fit_linear(features, samples.labels, self.problem, self.outputs_count),
        }

    def outputs(self, parameters: Parameters, samples: Samples) -> NDArray[np.float32]:
        """Return one row a text."""
        terms = _read(parameters["terms"])
        vectorizer = _weigher(vocabulary=terms)
        vectorizer.idf_ = parameters["idf"]
        return apply_linear(vectorizer.transform(samples.array), parameters)


@dataclass(frozen=True)
class LinearTags(Simplest):
    """A linear support vector machine on each word: itself, its beginning, end and shape, and its neighbours.

    Attributes:
        outputs_count: how many tags there are.
        seen: the words of a sample, by its position, that have a row of outputs.
    """

    title: ClassVar[str] = "a linear model on words, their parts and their neighbours"

    outputs_count: int
    seen: Callable[[Samples, int], NDArray[np.integer]] = field(compare=False, repr=False)

    @property
    def state(self) -> str:
        """The number of tags."""
        return f"{self.outputs_count}"

    def fit(self, samples: Samples) -> Parameters:
        """Return features, weights and intercepts."""
        assert samples.labels is not None
        most = _most_features(self.outputs_count)
        vectorizer = _marker(max_features=most)
        features = vectorizer.fit_transform(_described(samples.array))
        learnt = fit_linear(features, np.concatenate(samples.labels), "single-label", self.outputs_count)
        return {"terms": _written(vectorizer.get_feature_names_out()), **learnt}

    def outputs(self, parameters: Parameters, samples: Samples) -> NDArray[np.float32]:
        """Return one row for each word that has one."""
        terms = _read(parameters["terms"])
        vectorizer = _marker(vocabulary=terms)
        rows = apply_linear(vectorizer.transform(_described(samples.array)), parameters)
        starts = np.cumsum([0, *map(len, samples.array)])
        return rows[np.concatenate([starts[row] + self.seen(samples, row) for row in range(len(samples))])]


@dataclass(frozen=True)
class LinearPixels(Simplest):
    """Logistic regression on standardised pixels, averaged down to at most 32 on a side.

    Attributes:
        outputs_count: how many classes there are.
    """

    title: ClassVar[str] = "a linear model on pixels"
    max_samples: ClassVar[int] = 10_000

    outputs_count: int

    @property
    def state(self) -> str:
        """The number of classes."""
        return f"{self.outputs_count}"

    def fit(self, samples: Samples) -> Parameters:
        """Return weights and intercepts of pixels as they are: the standardisation is folded into them."""
        from sklearn.linear_model import LogisticRegression

        assert samples.labels is not None
        pixels = np.concatenate([_pixels(part) for part in samples.parts()])
        mean, spread = pixels.mean(axis=0), pixels.std(axis=0)
        spread[spread < 1e-6] = 1.0
        each = pixels.size * self.outputs_count * 4  # forward, backward, and the line search
        most = int(np.clip(MAX_WORK / each, *ITERATIONS))
        model = LogisticRegression(max_iter=most)
        learnt = _classify(model, (pixels - mean) / spread, samples.labels, self.outputs_count)
        weights = learnt["weights"] / spread[:, None]
        return {"weights": weights, "intercepts": (learnt["intercepts"] - mean @ weights).astype(np.float32)}

    def outputs(self, parameters: Parameters, samples: Samples) -> NDArray[np.float32]:
        """Return one row an image."""
        return np.concatenate([apply_linear(_pixels(part), parameters) for part in samples.parts()])


def _weigher(*, max_features: int | None = None, vocabulary: Sequence[str] | None = None) -> Any:
    """Return what makes sparse float32 rows of texts: of these terms, or of the most frequent ones that it finds."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    kind: Any = TfidfVectorizer  # whose types are guessed from its defaults
    return kind(analyzer=_terms, sublinear_tf=True, max_features=max_features, vocabulary=vocabulary, dtype=np.float32)


def _marker(*, max_features: int | None = None, vocabulary: Sequence[str] | None = None) -> Any:
    """Return what makes sparse rows of 0 and 1 of lists of features; see `_weigher`."""
    from sklearn.feature_extraction.text import CountVectorizer

    kind: Any = CountVectorizer
    return kind(analyzer=_itself, binary=True, max_features=max_features, vocabulary=vocabulary, dtype=np.float32)


def _terms(sample: str | tuple[str, ...]) -> list[str]:
    """Return words and pairs of neighbours of a text; of two texts, those of each apart."""
    texts = (sample,) if isinstance(sample, str) else sample
    found: list[str] = []
    for number, text in enumerate(texts):
        words = TOKEN.findall(text[:MAX_CHARACTERS].lower())
        mark = f"{number}\t" if number else ""
        found += [mark + term for term in (*words, *map(" ".join, zip(words, words[1:], strict=False)))]
    return found


def _described(sentences: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """Yield what describes each word of each sentence."""
    for words in sentences:
        lower = ["", *(word.lower() for word in words), ""]
        for position, word in enumerate(words, start=1):
            own = lower[position]
            yield [
                f"={own}", f"^{own[:3]}", f"${own[-3:]}", f"@{_shape(word)}",
                f"<{lower[position - 1]}", f">{lower[position + 1]}",
            ]  # fmt: skip


def _shape(word: str) -> str:
    """Return capitals as X, other letters as x, digits as 0, runs of one kind as one of it."""
    kinds = ("X" if c.isupper() else "x" if c.isalpha() else "0" if c.isdigit() else c for c in word)
    return re.sub(r"(.)\1+", r"\1", "".join(kinds))


def _itself(features: list[str]) -> list[str]:
    return features


def _pixels(images: NDArray[Any]) -> NDArray[np.float32]:
    """Return the pixels of images [N, C, H, W], at most `MAX_SIDE` on a side, [N, C h w]."""
    values = torch.from_numpy(np.ascontiguousarray(images))
    height, width = values.shape[2:]
    sides = min(MAX_SIDE, height), min(MAX_SIDE, width)
    if sides == (height, width):
        return values.float().flatten(1).numpy()
    return torch.cat([F.adaptive_avg_pool2d(part.float(), sides).flatten(1) for part in values.split(256)]).numpy()


def _most_features(outputs: int) -> int:
    return min(MAX_FEATURES, MAX_WEIGHTS // outputs)


def fit_linear(features: Any, labels: NDArray[Any], problem: Problem, outputs: int) -> dict[str, NDArray[np.float32]]:
    """Return weights [features, outputs] and intercepts [outputs]."""
    from sklearn.linear_model import Ridge
    from sklearn.svm import LinearSVC

    if problem == "single-label":
        return _classify(LinearSVC(random_state=0), features, labels, outputs)
    if problem == "regression":
        model = train_on_one_core(Ridge(), features, labels)
        weights, intercepts = model.coef_.reshape(outputs, -1), np.broadcast_to(model.intercept_, outputs)
        return {"weights": weights.T.astype(np.float32), "intercepts": intercepts.astype(np.float32)}
    learnt = [_classify(LinearSVC(random_state=0), features, column.astype(np.int64), 2) for column in labels.T]
    return {name: np.stack([np.diff(one[name])[..., 0] for one in learnt], axis=-1) for name in learnt[0]}


def _classify(model: Any, features: Any, labels: NDArray[Any], outputs: int) -> dict[str, NDArray[np.float32]]:
    """Return weights [features, outputs] and intercepts [outputs] of a classifier.

    scikit-learn has one column for two classes, none for classes that it does not see, and takes no single class.
    """
    weights, intercepts = np.zeros((features.shape[1], outputs), np.float32), np.full(outputs, NEVER, np.float32)
    classes = np.unique(labels)
    intercepts[classes] = 0
    if len(classes) > 1:
        train_on_one_core(model, features, labels)
        seen = classes if len(classes) > 2 else classes[1:]
        weights[:, seen], intercepts[seen] = model.coef_.T, model.intercept_
    return {"weights": weights, "intercepts": intercepts}


def train_on_one_core(model: Any, features: Any, labels: NDArray[Any]) -> Any:
    """Fit a model of scikit-learn on one core, so that its bits do not depend on how many there are; return it."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # how long it is fitted is a choice here
        return model.fit(features, labels)


def apply_linear(features: Any, parameters: Parameters) -> NDArray[np.float32]:
    """Return outputs [N, outputs] of features [N, F] by weights and intercepts."""
    return np.asarray(features @ parameters["weights"] + parameters["intercepts"], np.float32)


def _written(terms: Iterable[str]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps([*terms], ensure_ascii=False).encode("utf-8", "surrogatepass"), np.uint8)


def _read(terms: NDArray[np.uint8]) -> list[str]:
    return json.loads(terms.tobytes().decode("utf-8", "surrogatepass"))
