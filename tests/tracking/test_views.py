"""Saved views: the tags that MLflow's page reads. That it draws them, tests/test_seeing.py shows in a browser."""

import json

from compress.tracking import Tracker, database_uri, ui
from compress.tracking.headline import is_headline, select_headline
from compress.tracking.views import COLUMNS, TAG, varying, views


def start(store, key, params=None):
    tags = {"compress.role": "pipeline", "compress.pipeline_id": key}
    with Tracker.open(store) as tracker, tracker.run("p", experiment="digits", key=key, tags=tags) as run:
        run.params(params or {})


def test_an_experiment_has_its_views_and_their_links(store, client):
    start(store, "first")
    start(store, "second")
    mlflow = client(database_uri(store))
    experiment = mlflow.get_experiment_by_name("digits")
    found = {key.removeprefix(TAG): json.loads(value) for key, value in experiment.tags.items() if key.startswith(TAG)}
    assert found.keys() == {"compress-pipelines", "compress-stages", "compress-pareto"}
    stages = json.loads(found["compress-stages"]["state"])
    newest = mlflow.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0]
    assert newest.info.run_id in stages["searchFilter"]
    assert newest.data.tags["compress.pipeline_id"] == "second"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert all(identity in experiment.tags["mlflow.note.content"] for identity in found)
    (line,) = ui(store, port=5123).views
    assert line.startswith(f"digits: http://127.0.0.1:5123/#/experiments/{experiment.experiment_id}/runs?")


def test_pipelines_are_compared_by_the_numbers_in_which_they_differ(store, client):
    for key, kept in (("first", 0.5), ("second", 0.7)):
        start(store, key, {"stages": {"prune": {"kept_macs_fraction": kept, "steps": 1}}, "name": key})
    (experiment,) = client(database_uri(store)).search_experiments(filter_string="name = 'digits'")
    state = json.loads(json.loads(experiment.tags[TAG + "compress-pipelines"])["state"])
    (axes,) = [chart["selectedParams"] for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL"]
    assert axes == ["stages.prune.kept_macs_fraction"]


def test_the_settings_of_most_values_come_first_and_those_that_not_all_have_do_not():
    rows = [{"a": "1", "b": "1", "c": "x", "d": "1", "e": "nan"}, {"a": "1", "b": "2", "c": "y", "e": "0"}]
    rows.append({"a": "2", "b": "3", "c": "z", "e": "1"})
    assert varying(rows) == ["b", "a"]
    many = [{f"{key}": str(value) for key in range(9)} for value in range(2)]
    assert varying(many) == ["0", "1", "2", "3"]
    assert varying([]) == []


def test_the_filters_of_the_views_find_their_runs(store, client):
    tags = {"compress.role": "pipeline", "compress.pipeline_id": "p1"}
    with Tracker.open(store) as tracker, tracker.run("p", experiment="digits", key="p1", tags=tags) as parent:
        stage_tags = {"compress.role": "stage", "compress.pipeline_id": "p1"}
        for name, recovered in (("distill", "yes"), ("prune", "no")):
            with tracker.run(name, parent=parent, tags=stage_tags | {"compress.recovered": recovered}) as stage:
                stage.headline({"size_mb": 1.0})
    mlflow = client(database_uri(store))
    experiment = mlflow.get_experiment_by_name("digits")
    (newest,) = mlflow.search_runs([experiment.experiment_id], "tags.`compress.role` = 'pipeline'")
    found = {
        identity: [run.info.run_name for run in mlflow.search_runs([experiment.experiment_id], state["searchFilter"])]
        for identity, _, state in views(newest.info.run_id, settings=[])
    }
    assert {*found.pop("compress-stages")} == {"prune", "distill"}
    assert found == {"compress-pipelines": ["p"], "compress-pareto": ["distill"]}


def test_a_server_that_refuses_the_views_still_takes_the_run(store, client, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def refuse(self, experiment_id, key, value):
        raise MlflowException("no tags today")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    start(store, "first")
    mlflow = client(database_uri(store))
    experiment = mlflow.get_experiment_by_name("digits")
    (run,) = mlflow.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"


def test_headline_keys_stay_apart_where_the_page_cuts_them():
    facts = dict.fromkeys(("size_bytes", "parameters", "macs", "teacher_agreement", "teacher_kl_nats", "accuracy"), 1.0)
    keys = {*select_headline(role="select", **facts), *select_headline(role="test", **facts), *COLUMNS}
    keys |= {"delta_accuracy"}
    assert all(map(is_headline, keys))
    assert len({key[:6] for key in keys}) == len(keys)
    assert not is_headline("train/loss_total")
