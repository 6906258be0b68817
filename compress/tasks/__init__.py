"""Tasks: what a batch is, what is right, and what a model takes and gives."""

from compress.measures.judge import Judge
from compress.measures.tally import Tally
from compress.tasks.arrays import ArrayTask
from compress.tasks.batch import Batch, View
from compress.tasks.image_classification import Augment, ImageClassification, Normalize
from compress.tasks.own import OwnTask
from compress.tasks.pieces import BytePairs
from compress.tasks.signature import Signature, Tensor
from compress.tasks.steps import StepTask
from compress.tasks.symbols import Symbols, WrittenLimit
from compress.tasks.tabular import Encode
from compress.tasks.task import Task
from compress.tasks.text import TextTask
from compress.tasks.tokenizer import Tokenize, Tokenizer
from compress.tasks.transduction import TransductionTask

__all__ = [
    "ArrayTask",
    "Augment",
    "Batch",
    "BytePairs",
    "Encode",
    "ImageClassification",
    "Judge",
    "Normalize",
    "OwnTask",
    "Signature",
    "StepTask",
    "Symbols",
    "Tally",
    "Task",
    "Tensor",
    "TextTask",
    "Tokenize",
    "Tokenizer",
    "TransductionTask",
    "View",
    "WrittenLimit",
]
