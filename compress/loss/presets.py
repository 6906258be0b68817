"""Presets: one word in a recipe for the terms of a published method; `compressor validate` prints the terms."""

from typing import Any, Literal

PresetName = Literal[
    "hinton",
    "born-again",
    "function-matching",
    "dkd",
    "dist",
    "fitnets",
    "attention-transfer",
    "tinybert",
    "minilm",
    "distilbert",
    "mobilebert",
    "word",
    "sequence",
    "distil-whisper",
    "gkd",
    "shrink-and-fine-tune",
]

CIFAR_KL = {"weight": 0.9, "temperature": 4.0}  # RepDistiller's and mdistiller's CIFAR-100 protocol, with hard 0.1
FIRST_HALF = {"end_fraction": 0.5}
SECOND_HALF = {"begin_fraction": 0.5}

PRESETS: dict[str, dict[str, Any]] = {
    # Hinton et al. 2015, as the CIFAR protocol sets it.
    "hinton": {"hard": {"weight": 0.1}, "kl": CIFAR_KL},
    # Furlanello et al. 2018 (arXiv 1805.04770): the earlier generation's outputs alone, unsoftened.
    "born-again": {"kl": {"temperature": 1.0}},
    # Beyer et al. 2022 (arXiv 2106.05237): no labels, one view for both, mixup for every sample.
    "function-matching": {"mixup": 1.0, "kl": {"temperature": 1.0}},
    # Zhao et al. 2022: CIFAR; 20 of 240 epochs of warm-up.
    "dkd": {"hard": {"weight": 1.0}, "dkd": {"schedule": {"warmup_fraction": 20 / 240}}},
    # Huang et al. 2022: CIFAR.
    "dist": {"hard": {"weight": 1.0}, "dist": {"temperature": 4.0}},
    # Romero et al. 2015 in RepDistiller's joint form.
    "fitnets": {"hard": {"weight": 0.1}, "kl": CIFAR_KL, "hint": {}},
    # Zagoruyko & Komodakis 2017, joined with the softened KL as in their section 4.1.2.
    "attention-transfer": {"hard": {"weight": 0.1}, "kl": CIFAR_KL, "attention_transfer": {}},
    # Jiao et al. 2020: first the transformer layers, then the prediction layer at temperature 1.
    "tinybert": {
        "layers": {"schedule": FIRST_HALF},
        "scores": {"schedule": FIRST_HALF},
        "kl": {"temperature": 1.0, "schedule": SECOND_HALF},
    },
    # Wang et al. 2021; the paper distils relations alone before fine-tuning, which the labels and the KL stand for.
    "minilm": {"hard": {"weight": 0.5}, "kl": {"weight": 0.5, "temperature": 2.0}, "relations": {}},
    # Sanh et al. 2019: 5 KL + 2 labels + 1 cosine; the task's labels take the place of masked words.
    "distilbert": {"hard": {"weight": 2.0}, "kl": {"weight": 5.0, "temperature": 2.0}, "cosine": {}},
    # Sun et al. 2020: feature maps and attention layer by layer, then labels and soft targets. Deviation: the layers
    # below the one in turn are not frozen.
    "mobilebert": {
        "layers": {"schedule": FIRST_HALF, "progressive": True, "embeddings": False},
        "scores": {"schedule": FIRST_HALF, "progressive": True, "divergence": "kl"},
        "hard": {"weight": 0.5, "schedule": SECOND_HALF},
        "kl": {"weight": 0.5, "temperature": 1.0, "schedule": SECOND_HALF},
    },
    # Kim and Rush 2016 (arXiv 1606.07947), section 3.1: each symbol against the teacher's distribution, and the label.
    "word": {"hard": {"weight": 0.5}, "kl": {"weight": 0.5, "temperature": 1.0}},
    # The same, section 3.2: what the teacher wrote is the label (`label` of the stage).
    "sequence": {"hard": {}},
    # Gandhi et al. 2023 (arXiv 2311.00430), the temperature as in their code; of texts that the teacher wrote.
    "distil-whisper": {"hard": {"weight": 0.8}, "kl": {"weight": 1.0, "temperature": 2.0}},
    # Agarwal et al. 2024 (arXiv 2306.13649), equation 1 and algorithm 1, mixed: half of the updates learn what the
    # student has just written; beta 1 is the reverse KL.
    "gkd": {
        "on_policy": {"fraction": 0.5},
        "kl": {"temperature": 1.0, "divergence": "jensen-shannon", "beta": 0.5},
    },
    # Shleifer and Rush 2020 (arXiv 2010.13002), section 3.1: a student with some of the teacher's layers learns the
    # labels alone. Which layers, the student says (`layers` of the family seq2seq).
    "shrink-and-fine-tune": {"hard": {}},
}
