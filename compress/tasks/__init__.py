"""Tasks: what a batch is, what is right, and what a model takes and gives."""

from compress.tasks.batch import Batch
from compress.tasks.image_classification import Augment, ImageClassification, Normalize
from compress.tasks.signature import Signature, Tensor

__all__ = ["Augment", "Batch", "ImageClassification", "Normalize", "Signature", "Tensor"]
