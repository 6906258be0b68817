"""Images are laid out as convolutions like them wherever the module takes that."""

import pytest
import torch
from torch import nn

from compress.loss import GuidedLoss, bind
from compress.loss.logits import Hard
from compress.stage import Optimization
from compress.training.inference import predict
from compress.training.loader import RoleLoader
from compress.training.loop import fit
from compress.training.numerics import choose_layout


class Tutorial(nn.Module):
    """As every tutorial flattens: maps that are not contiguous cannot be viewed."""

    def __init__(self, *, by_view: bool):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4 * 64, 10)
        self.by_view = by_view
        self.seen: list[bool] = []

    def forward(self, image):
        self.seen.append(image.is_contiguous(memory_format=torch.channels_last))
        maps = self.norm(self.conv(image)).relu()
        return self.head(maps.view(maps.size(0), -1) if self.by_view else maps.flatten(1))


@pytest.mark.parametrize("by_view", [True, False])
def test_a_module_that_flattens_by_view_trains_and_predicts(make_context, by_view):
    context = make_context()
    torch.manual_seed(0)
    module = Tutorial(by_view=by_view)
    optimization = Optimization(epochs=1, batch_size=100)
    loader = RoleLoader(context.task, context.data.train, optimization, seed=3, views=lambda *_: None)
    loss = bind(GuidedLoss(hard=Hard()), module, None, (), seed=0)
    fit(
        module, context.task, loader, context.host, loss=loss, teacher=None, optimization=optimization, seed=3, name="t"
    )
    assert len(predict(module, context.task, context.host, context.data.select)) == len(context.data.select)


def test_trying_leaves_no_trace(make_context):
    context = make_context()
    torch.manual_seed(0)
    module = Tutorial(by_view=True).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    batch = context.task.batch(context.data.train, torch.arange(4))
    assert choose_layout(module, context.task, batch) == torch.contiguous_format
    module.by_view = False
    assert choose_layout(module, context.task, batch) == torch.channels_last
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
