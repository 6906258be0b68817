import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from surgery_zoo import MODELS, build


@pytest.fixture(params=list(MODELS))
def network(request) -> torch.nn.Module:
    """Every network of the zoo in turn."""
    return build(request.param)
