"""The quant plans of a model: one for each graph that it ships as, in one file."""

import json
from collections.abc import Mapping
from pathlib import Path

from compress.export.deployable import ALONE, Deployable
from compress.quantization.plan import QuantPlan
from compress.quantization.writer import write_quantized

FILE = "quant_plan.json"
Plans = Mapping[str, QuantPlan]  # by the name of the graph


def dump_plans(plans: Plans) -> str:
    """Return the text of the file: the plan of a single graph, or the plans of a program by the name of the graph."""
    if ALONE in plans:
        return plans[ALONE].model_dump_json(indent=1)
    return json.dumps({name: plan.model_dump(mode="json") for name, plan in plans.items()}, indent=1)


def read_plans(directory: Path) -> Plans:
    """Return the plans of a stored model."""
    found = json.loads((directory / FILE).read_text(encoding="utf-8"))
    told = {ALONE: found} if "format_version" in found else found
    return {name: QuantPlan.model_validate(plan) for name, plan in told.items()}


def quantized(model: Deployable, plans: Plans) -> Deployable:
    """Return a float model in int8; see `write_quantized`."""
    return model.map(lambda name, graph: write_quantized(graph, plans[name]))
