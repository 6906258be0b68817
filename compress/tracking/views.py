"""Saved views of MLflow's runs page, so that pipelines can be compared without setting up a chart.

MLflow 3.17's page reads a saved view from the experiment tag ``mlflow.sharedViewState.<id>``: an envelope of name and
times around the page's state, which is JSON. Neither is documented: a version that knows neither shows its own charts,
and nothing else changes. What a state leaves out keeps the page's default.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TAG = "mlflow.sharedViewState."
MOST_SETTINGS = 4  # beside three metrics; more axes cannot be told apart
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the page opens in its mode for language models
COLUMNS = (
    "select_accuracy", "test_accuracy", "size_mb", "latency_p50_ms", "speedup_x", "compression_x", "kl_teacher_nats",
)  # fmt: skip


def experiment_tags(experiment_id: str, *, newest: str, settings: Sequence[str], now_ms: int) -> dict[str, str]:
    """Return the tags that give an experiment its views and a note with a link to each.

    Args:
        experiment_id: of the experiment.
        newest: run id of the newest pipeline, whose stages have a view of their own.
        settings: params that pipelines are compared by.
        now_ms: since 1970.
    """
    tags = dict(KIND)
    links = []
    for identity, name, state in views(newest, settings=settings):
        envelope = {"name": name, "createdAt": now_ms, "updatedAt": now_ms, "state": json.dumps(state)}
        tags[TAG + identity] = json.dumps(envelope)
        links.append(f"[{name}]({address(experiment_id, identity)})")
    tags["mlflow.note.content"] = " · ".join(links)  # one line: the page folds the others away
    return tags


def address(experiment_id: str, identity: str) -> str:
    """Return where a view is, behind the address of the server."""
    query = f"workflowType=machine_learning&viewStateShareKey={identity}&compareRunsMode=CHART"
    return f"#/experiments/{experiment_id}/runs?{query}"


def varying(params: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the numeric params that differ between pipelines, those of most values first, at most MOST_SETTINGS."""
    values = {key: {found.get(key) for found in params} for key in sorted({key for found in params for key in found})}
    numeric = [key for key, seen in values.items() if len(seen) > 1 and all(map(_is_number, seen))]
    return sorted(numeric, key=lambda key: -len(values[key]))[:MOST_SETTINGS]


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False


def views(newest: str, *, settings: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield identity, name and state of each view."""
    pipelines = "tags.`compress.role` = 'pipeline'"
    yield (
        "compress-pipelines",
        "Pipelines: size, latency, accuracy",
        _state(pipelines, [*_scatters(), _parallel(settings), *_bars("test_accuracy", "speedup_x", "latency_p50_ms")]),
    )
    yield (
        "compress-stages",
        "Stages of the newest pipeline",
        _state(
            f"tags.mlflow.parentRunId = '{newest}'",
            _bars("select_accuracy", "kl_teacher_nats", "size_mb", "latency_p50_ms"),
            order="metrics.`size_mb`",
        ),
    )
    yield (
        "compress-pareto",
        "Pareto of all students",
        _state(
            "tags.`compress.role` != 'pipeline' AND tags.`compress.recovered` = 'yes'",
            _scatters(),
            order="metrics.`size_mb`",
        ),
    )


def _state(search: str, charts: list[dict[str, Any]], *, order: str = "attributes.start_time") -> dict[str, Any]:
    """Return a page's state. Ordered by time, the page folds children below their parents and charts those alone."""
    section = "compress-charts"
    return {
        "searchFilter": search,
        "orderByKey": order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [f"metrics.`{key}`" for key in COLUMNS],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            {"uuid": f"{section}-{index}", "metricSectionId": section, "deleted": False, "isGenerated": False, **chart}
            for index, chart in enumerate(charts)
        ],
        "compareRunSections": [
            {
                "uuid": section,
                "name": "compress",
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
                "columns": 2,
            }
        ],
        "isAccordionReordered": True,
    }


def _scatters() -> list[dict[str, Any]]:
    pairs = (("latency_p50_ms", "error_percent"), ("size_mb", "error_percent"))
    return [
        {
            "type": "SCATTER",
            "xaxis": _axis(x),
            "yaxis": _axis(y),
            "runsCountToCompare": 100,
        }
        for x, y in pairs
    ]


def _axis(key: str) -> Mapping[str, str]:
    return {"key": key, "type": "METRIC"}


def _parallel(settings: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "PARALLEL",
        "selectedParams": [*settings],
        "selectedMetrics": ["size_mb", "latency_p50_ms", "select_accuracy"],
        "showAllRuns": False,
        "runsCountToCompare": 100,
    }


def _bars(*keys: str) -> list[dict[str, Any]]:
    return [{"type": "BAR", "metricKey": key, "runsCountToCompare": 50} for key in keys]
