"""Losses on logits, each per unit: a float32 [N] tensor in nats, summed over classes, not averaged.

Shape letters: N units (images, or valid tokens), C classes.
"""

from torch import Tensor
from torch.nn import functional as F


def softened_kl(student_NC: Tensor, teacher_NC: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 KL(teacher^T || student^T) of each unit.

    Hinton et al. 2015 (arXiv 1503.02531), section 2: both distributions are softmax(logits / T), and the factor T^2
    keeps the gradient's size when T changes. The sum runs over classes; nothing is divided by their number. Exactly 0
    where the logits are equal. A class of logit minus infinity in both counts nothing.

    Args:
        student_NC: student logits, any float dtype; computed in float32.
        teacher_NC: teacher logits, any float dtype; no gradient flows to them.
        temperature: T > 0.

    Returns:
        float32 [N], nats.
    """
    student = F.log_softmax(student_NC.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_NC.detach().float() / temperature, dim=-1)
    # Written out because exp(-inf) * (-inf - -inf) is NaN, while an impossible class adds nothing.
    possible = teacher.isfinite()
    terms = teacher.exp() * (teacher - student).masked_fill(~possible, 0.0)
    return terms.sum(dim=-1) * temperature**2
