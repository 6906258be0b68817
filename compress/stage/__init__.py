"""The contract of stages: what one is, what it works on, where it happens, and how it trains."""

from compress.stage.group import Group
from compress.stage.host import BatchSize, Compute, Execution, Host, Precision, Recorder, Reduction, Unrecorded
from compress.stage.stage import Need, Quantity, Stage
from compress.stage.training import CACHE_LIMIT_GB, Optimization, Training, Writing, coupling_faults, size_faults
from compress.stage.work import Member, Work

__all__ = [
    "CACHE_LIMIT_GB",
    "BatchSize",
    "Compute",
    "Execution",
    "Group",
    "Host",
    "Member",
    "Need",
    "Optimization",
    "Precision",
    "Quantity",
    "Recorder",
    "Reduction",
    "Stage",
    "Training",
    "Unrecorded",
    "Work",
    "Writing",
    "coupling_faults",
    "size_faults",
]
