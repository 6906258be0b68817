"""What a plan knows of a cut before it is made."""

from architectures import build

from compress.surgery.prune import find_reach


def test_the_nearest_share_is_found_where_fused_layers_are_taken_apart():
    module, example = build("ViT of timm")
    reach = find_reach(module.eval(), example, measure="macs")
    assert reach.smallest <= reach.nearest(measure="macs", target=0.9, round_to=None) <= 0.9
