"""Loaders: what an epoch holds depends on (seed, epoch) alone, wherever it is taken up again."""

import torch

from compress.stage import Optimization
from compress.tasks import Augment
from compress.training.loader import RoleLoader


def contents(updates):
    return [[(batch.index.tolist(), batch.view) for batch in batches] for batches in updates]


def test_an_epoch_taken_up_again_goes_on_with_the_same_batches_and_views(make_context):
    context = make_context(augment=Augment(crop_padding=1, views=4))
    views = context.task.views()

    def loader(seed: int) -> RoleLoader:
        return RoleLoader(
            context.task,
            context.data.train,
            Optimization(batch_size=30, accumulate=3),
            seed=seed,
            views=lambda _epoch, generator: views[int(torch.randint(len(views), (1,), generator=generator))],
        )

    whole = contents(loader(3).epoch(2))
    assert contents(loader(3).epoch(2, skip=4)) == whole[4:]
    assert len(whole) == loader(3).steps_per_epoch == 1000 // 90
    seen = [index for update in whole for indices, _ in update for index in indices]
    assert len(seen) == len(set(seen)) == 11 * 90
    assert {view for update in whole for _, view in update} == set(views)
    assert contents(loader(3).epoch(1)) != whole
    assert contents(loader(4).epoch(2)) != whole
