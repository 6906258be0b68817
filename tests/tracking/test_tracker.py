import hashlib
import itertools
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import EnvironmentFault
from compress.tracking import Run, Tracker, database_uri, select_headline, ui


def log_pipeline(tracker: Tracker, folder: Path, *, steps: int = 5) -> None:
    """One parent with one stage, using every kind of event but the registry's."""
    file = folder / "plan.json"
    file.write_text("{}")
    with tracker.run("digits", experiment="digits", key="p1", tags={"compress.role": "pipeline"}) as parent:
        parent.params({"data": {"name": "digits"}, "seed": 0})
        with tracker.run("distill", parent=parent, tags={"compress.stage": "distill"}) as stage:
            for step in range(steps):
                stage.metrics({"train/loss_total": 1.0 / (step + 1)}, step=step)
            stage.headline({"size_mb": 1.5})
            stage.artifact(file, "plans")
        parent.headline({"size_mb": 1.5})


def runs_by_name(client, experiment: str = "digits") -> dict[str, list]:
    found = client.get_experiment_by_name(experiment)
    by_name: dict[str, list] = {}
    for run in client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]):
        by_name.setdefault(run.info.run_name, []).append(run)
    return by_name


def test_importing_the_tracker_imports_neither_mlflow_nor_torch():
    code = "import sys, compress.tracking; print(sorted({'mlflow', 'torch', 'onnx', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_pipeline_arrives_as_one_parent_and_its_children(store: Path, client):
    with Tracker.open(store) as tracker:
        log_pipeline(tracker, store)
    mlflow = client(database_uri(store))
    runs = runs_by_name(mlflow)
    (parent,), (stage,) = runs["digits"], runs["distill"]
    assert parent.info.status == stage.info.status == "FINISHED"
    assert parent.data.params == {"data.name": "digits", "seed": "0"}
    assert parent.data.tags["compress.role"] == "pipeline"
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.metrics == {"size_mb": 1.5}
    assert stage.data.metrics == {"size_mb": 1.5, "train/loss_total": 0.2}
    history = mlflow.get_metric_history(stage.info.run_id, "train/loss_total")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (step + 1)) for step in range(5)]
    assert [file.path for file in mlflow.list_artifacts(stage.info.run_id, "plans")] == ["plans/plan.json"]
    assert stage.info.artifact_uri.startswith((store / "mlflow-artifacts").as_uri())
    assert not list(store.glob("tracking/*/*/files/*"))


def test_nan_and_infinity_are_left_out_and_named_in_a_tag(store: Path, client):
    with Tracker.open(store) as tracker, tracker.run("r", experiment="digits") as run:
        run.metrics({"train/a": float("nan"), "train/b": 1.0, "train/c": float("inf")}, step=1)
    (run,) = runs_by_name(client(database_uri(store)))["r"]
    assert run.data.metrics == {"train/b": 1.0}
    assert run.data.tags["compress.nonfinite"] == "train/a, train/c"


def test_a_clock_that_is_set_back_makes_nothing_negative(store: Path, client, monkeypatch):
    clock = itertools.count(2_000_000_000, -1000)
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
    with Tracker.open(store) as tracker:
        parent = tracker.run("p", experiment="digits", key="k")
        with tracker.run("s", parent=parent):
            pass
    with Tracker.open(store) as tracker, tracker.run("p", experiment="digits", key="k") as parent:  # it was not ended
        run = tracker.run("s", parent=parent)
        with run:
            for step in range(3):
                run.metrics({"train/loss_total": 1.0}, step=step)
    mlflow = client(database_uri(store))
    ended = runs_by_name(mlflow)
    for run in (*ended["p"], *ended["s"]):
        assert run.info.end_time >= run.info.start_time
        times = [point.timestamp for point in mlflow.get_metric_history(run.info.run_id, "train/loss_total")]
        assert times == sorted(times)


def test_a_run_says_how_it_ended(store: Path, client):
    with Tracker.open(store) as tracker, tracker.run("p", experiment="digits") as parent:
        with pytest.raises(RuntimeError), tracker.run("failed", parent=parent):
            raise RuntimeError
        with pytest.raises(KeyboardInterrupt), tracker.run("killed", parent=parent):
            raise KeyboardInterrupt
    runs = runs_by_name(client(database_uri(store)))
    assert runs["failed"][0].info.status == "FAILED"
    assert runs["killed"][0].info.status == "KILLED"


def test_a_point_that_mlflow_refuses_does_not_take_its_batch_with_it(store: Path, client, caplog):
    with Tracker.open(store) as tracker, tracker.run("r", experiment="digits") as run:
        run.metrics({"train/good": 1.0, "train/bad?": 2.0}, step=0)
        run.params({"a": 1})
        run.params({"a": 2, "b": 3})
    (run,) = runs_by_name(client(database_uri(store)))["r"]
    assert run.data.metrics == {"train/good": 1.0}
    assert run.data.params["b"] == "3"
    assert "train/bad?" in caplog.text


def test_misuse_is_refused_at_once(store: Path):
    with Tracker.open(store) as tracker, tracker.run("p", experiment="digits") as parent:
        with tracker.run("stage", parent=parent) as stage:
            with pytest.raises(ValueError, match="no children"):
                tracker.run("deeper", parent=stage)
            with pytest.raises(ValueError, match="headline"):
                stage.metrics({"size_mb": 1.0}, step=3)
        with pytest.raises(ValueError, match="experiment"):
            tracker.run("orphan")


KILLED_MIDWAY = """
import os, signal, sys
from pathlib import Path
from compress.tracking import Tracker
tracker = Tracker.open(Path(sys.argv[1]), sys.argv[2] or None)
parent = tracker.run("digits", experiment="digits", key="p1")
with tracker.run("distill", parent=parent) as stage:
    stage.headline({"size_mb": 2.0})
stage = tracker.run("prune", parent=parent)
for step in range(100):
    stage.metrics({"train/loss_total": float(step)}, step=step)
if sys.argv[3] == "flush":
    tracker.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_midway(store: Path, *, uri: str = "", flush: bool) -> None:
    arguments = [sys.executable, "-c", KILLED_MIDWAY, str(store), uri, "flush" if flush else "no"]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("flush", [True, False])
def test_a_killed_pipeline_goes_on_under_the_same_parent(store: Path, client, flush: bool):
    kill_midway(store, flush=flush)
    with Tracker.open(store) as tracker, tracker.run("digits", experiment="digits", key="p1") as parent:
        for name in ("distill", "prune"):
            with tracker.run(name, parent=parent) as stage:
                stage.headline({"size_mb": 2.0})
    mlflow = client(database_uri(store))
    runs = runs_by_name(mlflow)
    assert [run.info.status for run in runs["digits"]] == ["FINISHED"]
    assert [run.info.status for run in runs["distill"]] == ["FINISHED"]
    assert len(mlflow.get_metric_history(runs["distill"][0].info.run_id, "size_mb")) == 1
    stale, fresh = runs["prune"]
    assert (stale.info.status, fresh.info.status) == ("KILLED", "FINISHED")
    assert len(mlflow.get_metric_history(stale.info.run_id, "train/loss_total")) == 100
    assert fresh.data.tags["compress.attempt"] == "2"


def test_another_pipeline_delivers_what_a_killed_one_left(store: Path, client):
    kill_midway(store, flush=False)
    with Tracker.open(store) as tracker, tracker.run("other", experiment="digits"):
        pass
    runs = runs_by_name(client(database_uri(store)))
    assert [run.info.status for run in runs["digits"] + runs["prune"]] == ["KILLED", "KILLED"]


def test_a_finished_pipeline_run_again_is_a_new_parent(store: Path, client):
    for _ in range(2):
        with Tracker.open(store) as tracker:
            log_pipeline(tracker, store)
    assert len(runs_by_name(client(database_uri(store)))["digits"]) == 2


def test_delivery_that_forgot_how_far_it_came_adds_nothing(store: Path, client):
    with Tracker.open(store) as tracker:
        log_pipeline(tracker, store)
    (delivery,) = store.glob("tracking/*/*/delivery.ndjson")
    delivery.unlink()
    delivery.with_name("settled").unlink()
    with Tracker.open(store):
        pass
    mlflow = client(database_uri(store))
    runs = runs_by_name(mlflow)
    assert {name: len(found) for name, found in runs.items()} == {"digits": 1, "distill": 1}
    assert len(mlflow.get_metric_history(runs["distill"][0].info.run_id, "train/loss_total")) == 5


def test_a_server_that_is_down_costs_one_warning_and_gets_everything_later(store: Path, server, client, caplog, capfd):
    caplog.set_level(logging.WARNING)
    before_ms = time.time() * 1000
    path = save_linear(store / "student.onnx")
    with Tracker.open(store, server.uri) as tracker:
        log_pipeline(tracker, store)
        with tracker.run("export", experiment="digits") as run:
            register(run, path)
    path.unlink()
    after_ms = time.time() * 1000
    assert caplog.text.count("is down") == 1
    server.start()
    with Tracker.open(store, server.uri):
        pass
    mlflow = client(server.uri)
    (stage,) = runs_by_name(mlflow)["distill"]
    assert before_ms <= stage.info.start_time <= stage.info.end_time <= after_ms
    points = mlflow.get_metric_history(stage.info.run_id, "train/loss_total")
    assert len(points) == 5
    assert all(before_ms - 1 <= point.timestamp <= after_ms for point in points)
    assert [file.path for file in mlflow.list_artifacts(stage.info.run_id, "plans")] == ["plans/plan.json"]
    version = mlflow.get_model_version_by_alias("digits-student", "candidate")
    (export,) = runs_by_name(mlflow)["export"]
    assert version.run_id == export.info.run_id
    (model,) = mlflow.search_logged_models([export.info.experiment_id])
    assert (model.status, model.source_run_id) == ("READY", export.info.run_id)
    assert capfd.readouterr().out == ""


def test_a_server_that_dies_midway_and_returns_loses_nothing(store: Path, server, client):
    server.start()
    with Tracker.open(store, server.uri) as tracker, tracker.run("digits", experiment="digits") as parent:
        parent.metrics({"train/loss_total": 0.0}, step=0)
        assert tracker.flush()
        server.stop()
        for step in range(1, 50):  # would take MLflow's 15 seconds each, if one waited for the server
            parent.metrics({"train/loss_total": float(step)}, step=step)
        with tracker.run("distill", parent=parent):
            pass
        assert not tracker.flush()
        server.start()
        assert tracker.flush()
    runs = runs_by_name(client(server.uri))
    history = client(server.uri).get_metric_history(runs["digits"][0].info.run_id, "train/loss_total")
    assert [point.step for point in history] == list(range(50))
    assert runs["distill"][0].info.status == "FINISHED"


def test_a_required_server_that_is_down_is_an_error(store: Path, server):
    with pytest.raises(EnvironmentFault, match="does not answer"):
        Tracker.open(store, server.uri, required=True)


def test_a_password_in_the_address_stays_out_of_messages_and_files(store: Path, server, caplog):
    uri = server.uri.replace("//", "//user:pass-4711@")
    with pytest.raises(EnvironmentFault) as caught:
        Tracker.open(store, uri, required=True)
    assert "4711" not in str(caught.value) + caplog.text
    assert not any(b"4711" in file.read_bytes() for file in store.rglob("*") if file.is_file())


def test_a_database_of_another_mlflow_version_is_named(store: Path):
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    database.close()
    with pytest.raises(EnvironmentFault, match=r"(?s)another version of MLflow.*451aebb31d03.*db upgrade"):
        Tracker.open(store)


def test_a_damaged_database_and_an_unwritable_store_are_named(tmp_path: Path):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all")
    with pytest.raises(EnvironmentFault, match="damaged"):
        Tracker.open(tmp_path)
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        Tracker.open(tmp_path / "mlflow.db")


def test_a_registered_model_is_the_exported_file_byte_for_byte(tmp_path: Path, store: Path, client):
    path = save_linear(tmp_path / "student.onnx")
    x = EXAMPLE
    with Tracker.open(store) as tracker, tracker.run("digits", experiment="digits") as run:
        sha256 = register(run, path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    import mlflow

    mlflow.set_tracking_uri(database_uri(store))
    version = client(database_uri(store)).get_model_version_by_alias("digits-student", "candidate")
    assert version.tags == {"compress.sha256": sha256, "size_mb": "0.1"}
    folder = Path(mlflow.artifacts.download_artifacts("models:/digits-student@candidate", dst_path=str(tmp_path / "d")))
    assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == sha256
    expected = x @ np.arange(8, dtype=np.float32).reshape(4, 2)
    loaded = mlflow.onnx.load_model("models:/digits-student@candidate")
    assert loaded == onnx.load(path)
    served = mlflow.pyfunc.load_model("models:/digits-student@candidate")
    np.testing.assert_allclose(served.predict({"image": np.repeat(x, 3, axis=0)})["logits"], np.repeat(expected, 3, 0))
    assert served.metadata.signature.inputs.to_dict()[0]["tensor-spec"]["shape"] == (-1, 4)
    np.testing.assert_array_equal(served.metadata.load_input_example(str(folder))["image"], x)


def test_a_registered_model_takes_its_weights_along(tmp_path: Path, store: Path, client):
    whole = onnx.load(save_linear(tmp_path / "whole.onnx"))
    path, weights = tmp_path / "student.onnx", tmp_path / "student.onnx.data"
    onnx.save_model(whole, path, save_as_external_data=True, location=weights.name, size_threshold=0)
    content = weights.read_bytes()
    with Tracker.open(store) as tracker, tracker.run("digits", experiment="digits") as run:
        sha256 = register(run, path, data=[weights])
        weights.unlink()  # what is registered is a copy
    import mlflow

    mlflow.set_tracking_uri(database_uri(store))
    folder = Path(mlflow.artifacts.download_artifacts("models:/digits-student@candidate", dst_path=str(tmp_path / "d")))
    assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == sha256
    assert (folder / weights.name).read_bytes() == content
    served = mlflow.pyfunc.load_model("models:/digits-student@candidate")
    expected = EXAMPLE @ np.arange(8, dtype=np.float32).reshape(4, 2)
    np.testing.assert_allclose(served.predict({"image": EXAMPLE})["logits"], expected)


def test_a_store_that_was_copied_or_moved_has_its_files_and_writes_to_itself(tmp_path: Path, store: Path, client):
    path = save_linear(tmp_path / "student.onnx")
    with Tracker.open(store) as tracker, tracker.run("digits", experiment="digits", key="first") as run:
        register(run, path)
    copy, moved = tmp_path / "a copy", tmp_path / "moved"
    shutil.copytree(store, copy)
    with Tracker.open(copy) as tracker, tracker.run("digits", experiment="digits", key="second") as run:
        run.artifact(path)
    for place, runs in ((copy, 2), (store, 1)):
        mlflow = client(database_uri(place))
        (experiment,) = mlflow.search_experiments(filter_string="name = 'digits'")
        found = mlflow.search_runs([experiment.experiment_id])
        assert len(found) == runs
        for address in (experiment.artifact_location, *(run.info.artifact_uri for run in found)):
            assert address.startswith((place / "mlflow-artifacts").as_uri())
    assert not list((store / "mlflow-artifacts").rglob("artifacts/student.onnx"))
    shutil.move(store, moved)
    ui(moved, port=5123)
    version = client(database_uri(moved)).get_model_version_by_alias("digits-student", "candidate")
    assert version.source.startswith((moved / "mlflow-artifacts").as_uri())
    import mlflow

    mlflow.set_tracking_uri(database_uri(moved))
    assert mlflow.onnx.load_model("models:/digits-student@candidate") == onnx.load(path)


EXAMPLE = np.arange(4, dtype=np.float32).reshape(1, 4)


def register(run: Run, path: Path, **given) -> str:
    return run.register_onnx(
        path,
        name="digits-student",
        inputs=[("image", "float32", ("batch", 4))],
        outputs=[("logits", "float32", ("batch", 2))],
        example={"image": EXAMPLE},
        tags={"size_mb": 0.1},
        **given,
    )


def save_linear(path: Path) -> Path:
    weights = numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["image", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [weights],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_the_user_interface_is_served_on_loopback_only(store: Path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=rf"(?s)the port cannot be used.*127\.0\.0\.1:{port}.*--port"):
            ui(store, port=port)
    command = ui(store, port=port)
    assert command.arguments[command.arguments.index("--host") + 1] == "127.0.0.1"
    assert command.environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert os.environ.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION") is None


def test_headline_keys_carry_their_unit_and_the_role():
    found = select_headline(role="select", accuracy=0.9, size_bytes=2_000_000, macs=None)
    assert found == pytest.approx({"size_mb": 2.0, "select_accuracy": 0.9, "error_percent": 10.0})


def test_a_long_list_is_one_param(store: Path, client):
    rows = [{"row": number} for number in range(3000)]
    with Tracker.open(store) as tracker, tracker.run("a", experiment="digits", key="k") as run:
        run.params({"arguments": {"rows": rows, "few": rows[:2]}})
    ((found,),) = runs_by_name(client(database_uri(store))).values()
    assert found.data.params.keys() == {"arguments.rows", "arguments.few.0.row", "arguments.few.1.row"}
    assert found.data.params["arguments.rows"].startswith('[{"row": 0}, {"row": 1}')
