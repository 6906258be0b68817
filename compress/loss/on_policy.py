"""On-policy distillation: which updates learn what the student has just written, and how it writes."""

from typing import Annotated

from pydantic import Field

from compress.config import Values


class OnPolicy(Values):
    """Updates whose targets the student draws itself (Agarwal et al. 2024, arXiv 2306.13649, algorithm 1).

    It is corrected where its own mistakes lead, which texts that others wrote never show. No gradient flows through the
    drawing, as in the paper.

    Attributes:
        fraction: probability that an update is of the student's own texts: lambda of the paper.
        temperature: that its logits are divided by when it draws.
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
