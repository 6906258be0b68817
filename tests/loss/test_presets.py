"""The presets for transformers against the numbers that their papers and their authors' code publish."""

from compress.loss import GuidedLoss
from compress.loss.presets import PRESETS

# Of every loss that a stored artifact was made with: a change here would train everything anew.
FINGERPRINTS = {
    "hinton": "ed1956536848",
    "born-again": "6e22ce480910",
    "function-matching": "eaff31adbdfc",
    "dkd": "438b4159bb42",
    "dist": "abc709a2dd2b",
    "fitnets": "ddcc2597e5a6",
    "attention-transfer": "eb126f677256",
    "tinybert": "678a64769d4d",
    "minilm": "1724cfd8313c",
    "distilbert": "95bcdd67056a",
    "mobilebert": "d66212f2aab0",
    "word": "4e08f8f27cd6",
    "sequence": "8d00db67f915",
    "distil-whisper": "21657ad762fa",
    "gkd": "38629eed9339",
    "shrink-and-fine-tune": "8d00db67f915",
}


def told(name: str) -> dict[str, dict]:
    """The terms of a preset without what a schedule says."""
    terms = GuidedLoss.model_validate(name).terms
    return {key: term.model_dump(exclude={"schedule"}, exclude_none=True) for key, term in terms.items()}


def counts(name: str) -> dict[str, tuple[float, float]]:
    """When each term of a preset counts, in shares of the training."""
    terms = GuidedLoss.model_validate(name).terms
    return {key: (term.schedule.begin_fraction, term.schedule.end_fraction) for key, term in terms.items()}


def test_distilbert_is_five_two_one_at_temperature_two():
    """alpha_ce 5, alpha_mlm 2, alpha_cos 1, temperature 2; the task's labels stand where masked words do."""
    terms = told("distilbert")
    assert {name: term["weight"] for name, term in terms.items()} == {"kl": 5.0, "hard": 2.0, "cosine": 1.0}
    assert (terms["kl"]["temperature"], terms["kl"]["divergence"]) == (2.0, "forward")
    assert set(counts("distilbert").values()) == {(0.0, 1.0)}


def test_tinybert_trains_its_layers_and_then_its_predictions_at_temperature_one():
    """Scores before the softmax, hidden states and embeddings, unweighted; then soft cross-entropy, without labels."""
    terms = told("tinybert")
    assert {name: term["weight"] for name, term in terms.items()} == {"layers": 1.0, "scores": 1.0, "kl": 1.0}
    assert terms["scores"]["divergence"] == "mse"
    assert terms["layers"]["embeddings"] is True
    assert (terms["kl"]["temperature"], terms["kl"]["divergence"]) == (1.0, "forward")
    assert counts("tinybert") == {"layers": (0.0, 0.5), "scores": (0.0, 0.5), "kl": (0.5, 1.0)}


def test_minilm_is_the_relations_beside_fine_tuning_by_halves():
    """DistilBERT's fine-tuning weights labels and soft targets 0.5 and 0.5; the relations have no weight."""
    terms = told("minilm")
    assert {name: term["weight"] for name, term in terms.items()} == {"hard": 0.5, "kl": 0.5, "relations": 1.0}
    assert terms["kl"]["temperature"] == 2.0
    assert "relation_heads" not in terms["relations"]


def test_the_fingerprints_of_the_presets_stay():
    assert {name: GuidedLoss.model_validate(name).fingerprint for name in PRESETS} == FINGERPRINTS
