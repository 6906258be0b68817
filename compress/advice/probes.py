"""What can be known of a distillation before it is paid for: pure functions on arrays, in float64.

Shape letters: N samples, C classes, D features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.measures.intervals import CONFIDENCE, Estimate

Array = NDArray[np.float64]
BINS = 15  # of Guo et al. 2017
RESAMPLES = 500
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
ENOUGH_MASS = 0.1  # on the classes that the teacher does not decide for; the suggested temperature reaches it
COARSE = 8  # pixels on each side of the images that the domain classifier sees
NORMAL = 1.959963984540054  # the 0.975 quantile of the normal distribution


def bootstrap(statistic: Callable[..., float], *groups: tuple[NDArray[np.generic], ...], seed: int) -> Estimate:
    """Return a statistic with its percentile bootstrap interval.

    Args:
        statistic: takes the arrays of all groups, in order.
        groups: arrays [N, ...] that are resampled together; groups are resampled apart.
        seed: of the resamples.
    """
    low, high = np.quantile(_resample(statistic, groups, seed=seed), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(statistic(*(array for group in groups for array in group)), float(low), float(high))


def debias(statistic: Callable[..., float], *groups: tuple[NDArray[np.generic], ...], seed: int) -> Estimate:
    """Return a statistic that is never negative less its bias, with its basic bootstrap interval; see `bootstrap`.

    Davison and Hinkley 1997, sections 2.1 and 5.2: the resamples are as far above the sample as the sample is above the
    truth. For statistics that noise alone makes larger; a percentile interval would count that noise twice.
    """
    values = _resample(statistic, groups, seed=seed)
    twice = 2 * statistic(*(array for group in groups for array in group))
    high, low = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(*(max(0.0, float(twice - value)) for value in (values.mean(), low, high)))


def _resample(
    statistic: Callable[..., float], groups: Sequence[tuple[NDArray[np.generic], ...]], *, seed: int
) -> Array:
    """Return a statistic of RESAMPLES draws with replacement."""
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        drawn = [(group, generator.integers(0, len(group[0]), len(group[0]))) for group in groups]
        values.append(statistic(*(array[rows] for group, rows in drawn for array in group)))
    return np.array(values)


def softmax(logits: NDArray[np.floating], *, temperature: float = 1.0) -> Array:
    """Return probabilities [N, C]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def confidence(logits: NDArray[np.floating]) -> Array:
    """Return the probability of each decision [N]."""
    return softmax(logits).max(axis=1)


def expected_calibration_error(confidences: Array, correct: NDArray[np.bool_]) -> float:
    """Return the mean gap between confidence and accuracy over 15 bins of equal width, weighted by their samples.

    Guo et al. 2017 (arXiv 1706.04599), equation 3. Biased upwards on few samples: a calibrated model has one above 0;
    see `debias`.

    Args:
        confidences: probability of each decision [N].
        correct: whether it is right [N].
    """
    bins = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidences, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, temperature: float = 1.0
) -> float:
    """Return the mean negative log-probability of the labels, in nats."""
    probabilities = softmax(logits, temperature=temperature)
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-300)).mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Estimate:
    """Return the temperature, 0.02 to 50, under which the labels are likeliest (Guo et al. 2017, section 4.2).

    Above 1 the model is over-confident. The likelihood is concave in 1 / T, so its slope has one root: bisected. The
    interval is the sandwich estimate's of 1 / T (White 1982).
    """
    scores = logits.astype(np.float64)
    given = scores[np.arange(len(labels)), labels]
    low, high = np.log(1 / 50), np.log(50)
    for _ in range(50):
        middle = (low + high) / 2
        expected = (softmax(scores, temperature=np.exp(-middle)) * scores).sum(axis=1)
        low, high = (low, middle) if expected.mean() > given.mean() else (middle, high)
    inverse = float(np.exp((low + high) / 2))
    probabilities = softmax(scores, temperature=1 / inverse)
    expected = (probabilities * scores).sum(axis=1)
    curvature = float(((probabilities * scores**2).sum(axis=1) - expected**2).mean())
    if curvature <= 0:  # one-hot to the last bit: nothing bounds the temperature
        return Estimate(1 / inverse, 1 / 50, 50.0)
    half = NORMAL * float((expected - given).std()) / float(np.sqrt(len(labels))) / curvature
    return Estimate(1 / inverse, 1 / min(inverse + half, 50.0), 1 / max(inverse - half, 1 / 50))


def non_target_mass(logits: NDArray[np.floating], *, temperature: float) -> Array:
    """Return the probability on all classes but the decision, for each sample [N]."""
    return 1 - softmax(logits, temperature=temperature).max(axis=1)


def effective_classes(logits: NDArray[np.floating], *, temperature: float) -> float:
    """Return the mean over samples of exp(entropy): 1 for a one-hot teacher, C for a uniform one."""
    probabilities = softmax(logits, temperature=temperature)
    entropies = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1)
    return float(np.exp(entropies).mean())


def suggest_temperature(logits: NDArray[np.floating]) -> float:
    """Return the lowest of TEMPERATURES with ENOUGH_MASS on the classes not decided for; the highest if none has."""
    for temperature in TEMPERATURES:
        if non_target_mass(logits, temperature=temperature).mean() >= ENOUGH_MASS:
            return temperature
    return TEMPERATURES[-1]


def summaries(inputs: NDArray[Any]) -> Array:
    """Return what a domain classifier sees of samples, [N, D]: texts, images, columns, or means along other arrays."""
    if inputs.dtype == object:
        return text_summaries(inputs)
    if inputs.dtype.names is not None:
        return np.concatenate([column_summaries(inputs[name]) for name in inputs.dtype.names], axis=1)
    if inputs.ndim == 4:
        return image_summaries(inputs)
    rows = inputs.reshape(len(inputs), -1).astype(np.float64)
    starts = np.linspace(0, rows.shape[1], min(COARSE**2, rows.shape[1]) + 1).astype(int)
    return np.add.reduceat(rows, starts[:-1], axis=1) / np.diff(starts)


def column_summaries(values: NDArray[Any]) -> Array:
    """Return what a domain classifier sees of one of several inputs: the numbers and which are missing, or words."""
    if values.dtype.kind == "U":
        from sklearn.feature_extraction.text import HashingVectorizer

        # Whole cells: a category may be a single letter, which is no word.
        whole: Any = lambda cell: [cell]  # noqa: E731 # scikit-learn's types know words alone
        counts: Any = HashingVectorizer(n_features=512, alternate_sign=False, analyzer=whole).transform(values)
        return counts.toarray()
    if values.ndim > 1:
        return summaries(values)
    gaps = np.isnan(values.astype(np.float64))
    return np.stack([np.where(gaps, 0.0, values), gaps], axis=1)


def image_summaries(images: NDArray[np.generic]) -> Array:
    """Return what a domain classifier sees of images [N, C, H, W]: coarse pixels, mean, spread and roughness [N, D].

    Roughness is the mean absolute difference of neighbours, which blur lowers and noise raises.
    """
    pixels = images.astype(np.float64)
    rows, columns = (np.linspace(0, size, min(COARSE, size) + 1).astype(int)[:-1] for size in pixels.shape[2:])
    coarse = np.add.reduceat(np.add.reduceat(pixels, rows, axis=2), columns, axis=3)
    roughness = [np.abs(np.diff(pixels, axis=axis)).mean(axis=(2, 3)) for axis in (2, 3) if pixels.shape[axis] > 1]
    parts = [coarse.reshape(len(pixels), -1), pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3)), *roughness]
    return np.concatenate(parts, axis=1)


def text_summaries(texts: NDArray[Any]) -> Array:
    """Return words counted in hashed bins, scaled to length 1, float64 [N, 512], of strings or tuples of them."""
    from sklearn.feature_extraction.text import HashingVectorizer

    joined = [text if isinstance(text, str) else " ".join(text) for text in texts]
    counts: Any = HashingVectorizer(n_features=512, alternate_sign=False).transform(joined)
    return counts.toarray()


def domain_auc(reference: Array, data: Array, *, seed: int) -> Estimate:
    """Return how well a linear classifier tells two samples apart: the area under its ROC curve, 0.5 for not at all.

    Logistic regression on standardised features, each sample scored by a model of the other four fifths. The interval
    is Hanley and McNeil's (1982): it takes the scores as given.

    Args:
        reference: features [N, D].
        data: features [M, D].
        seed: draws the fifths.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([reference, data])
    origin = np.repeat([0, 1], [len(reference), len(data)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, features, origin, cv=folds, method="decision_function")
    area = float(roc_auc_score(origin, scores))
    return area_interval(area, len(reference), len(data))


def area_interval(area: float, negatives: int, positives: int) -> Estimate:
    """Return the area under a ROC curve with the interval of Hanley and McNeil 1982, equation 1."""
    both_above, both_below = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (both_above - area**2) + (negatives - 1) * (both_below - area**2)
    half = NORMAL * float(np.sqrt(variance / (negatives * positives)))
    return Estimate(area, max(0.0, area - half), min(1.0, area + half))


def linear_cka(ours: Array, theirs: Array) -> float:
    """Return the similarity of two sets of features of the same samples, [N, D] each, N of at least 4: 1 for equal.

    Linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) with the unbiased estimate of HSIC (Song
    et al. 2012, equation 5), since the plain one tends to 1 where features outnumber samples. It can fall below 0.
    """
    grams = [side @ side.T for side in (ours - ours.mean(axis=0), theirs - theirs.mean(axis=0))]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    cross, own, other = (_hsic(*pair) for pair in ((grams[0], grams[1]), (grams[0], grams[0]), (grams[1], grams[1])))
    return float(cross / np.sqrt(own * other)) if own > 0 and other > 0 else 0.0


def _hsic(left: Array, right: Array) -> float:
    """Return the unbiased HSIC of two Gram matrices without their diagonals, times N (N - 3)."""
    count = len(left)
    sums = left.sum(axis=0), right.sum(axis=0)
    total = sums[0].sum() * sums[1].sum() / ((count - 1) * (count - 2))
    return float((left * right).sum() + total - 2 * (sums[0] @ sums[1]) / (count - 2))


def jackknife(statistic: Callable[..., float], *arrays: Array, groups: int = 8) -> Estimate:
    """Return a statistic of paired samples with the t interval of the delete-a-group jackknife (Shao and Wu 1989).

    For statistics that the bootstrap's repeated samples would bias, as they do `linear_cka`. Its variance has one
    degree of freedom less than there are groups.
    """
    from scipy.special import stdtrit

    parts = np.array_split(np.arange(len(arrays[0])), groups)
    value = statistic(*arrays)
    left = np.array([statistic(*(np.delete(array, part, axis=0) for array in arrays)) for part in parts])
    quantile = float(stdtrit(groups - 1, (1 + CONFIDENCE) / 2))
    half = quantile * float(np.sqrt((groups - 1) / groups * ((left - left.mean()) ** 2).sum()))
    return Estimate(value, value - half, value + half)


def norm_ratio(gradient: Array, reference: Array) -> float:
    """Return the length of one gradient over another's; 0 over 0 is 1."""
    ours, theirs = float(np.linalg.norm(gradient)), float(np.linalg.norm(reference))
    return ours / theirs if theirs else (1.0 if ours == 0 else float("inf"))


def cosine(left: Array, right: Array) -> float:
    """Return the cosine of the angle between two gradients, -1 to 1; 0 when one of them is 0."""
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else 0.0


def over_batches(values: Sequence[float]) -> Estimate:
    """Return the median of what some batches gave, with their smallest and largest.

    The range of four batches holds the median of all batches in 7 of 8 cases; fewer are worth less.
    """
    return Estimate(float(np.median(values)), min(values), max(values))


def best_match(similarities: Mapping[tuple[str, str], float]) -> dict[str, str]:
    """Return for each student layer the teacher layer that is most similar to it."""
    best: dict[str, tuple[float, str]] = {}
    for (ours, theirs), value in similarities.items():
        if ours not in best or value > best[ours][0]:
            best[ours] = value, theirs
    return {ours: theirs for ours, (_, theirs) in best.items()}
