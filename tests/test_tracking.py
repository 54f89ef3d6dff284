"""The record of a training: complete, cheap, and never in the way, whatever the tracker does."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import processes
import pytest
import torch
from ignite.engine import Engine, Events
from mlflow.tracking import MlflowClient
from workflows import workflow

from monai_diffscore.__main__ import main
from monai_diffscore.handlers import Tracking
from monai_diffscore.handlers.delivery import Courier, Delivery, sync
from monai_diffscore.handlers.fingerprint import fingerprint
from monai_diffscore.handlers.spool import Spool

TOY = {"training_rows": 80, "validation_rows": 16, "batch_size": 8, "max_epochs": 3, "save_every": 7}


def engine(tracking: Tracking, iterations: int, every_iteration=None) -> Engine:
    """Runs and records a training that only has a loss of 1 / iteration."""
    engine = Engine(lambda e, _: {"loss": torch.tensor(1.0 / e.state.iteration)})
    engine.register_events("saving", "interrupted")
    for event, action in ((Events.STARTED, tracking.open), (Events.ITERATION_COMPLETED, tracking.record_iteration)):
        engine.add_event_handler(event, action)
    if every_iteration is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, every_iteration)
    engine.add_event_handler(Events.COMPLETED, tracking.close)
    engine.run(range(iterations), max_epochs=1)
    return engine


def recorded(folder: Path) -> list[int]:
    return [row[3] for entry, _ in Spool(folder).read() for row in entry.get("metrics", ()) if row[0] == "loss"]


def delivered(uri: str, run_id: str) -> list[int]:
    return sorted(metric.step for metric in MlflowClient(uri).get_metric_history(run_id, "loss"))


class Server:
    """``mlflow server`` on loopback, in a process group of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        where += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip

    def wait(self, seconds: float = 300) -> None:
        import requests

        deadline = time.monotonic() + seconds
        while True:
            try:
                if requests.get(f"{self.uri}/health", timeout=1).ok:
                    return
            except requests.RequestException:
                pass
            assert self.process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, f"no server within {seconds:g} s"
            time.sleep(0.3)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.mark.slow
def test_a_server_that_is_down_then_up_then_dies(tmp_path):
    """A server that starts late gets the whole record. After the death of the server ``sync`` delivers the rest."""
    port = processes.free_port()
    tracking = Tracking(f"http://127.0.0.1:{port}", tmp_path / "out", facts={"seed": 3}, every=5, patience=5.0)
    servers: list[Server] = []
    places = []

    def act(trainer: Engine) -> None:
        courier = tracking._courier
        if trainer.state.iteration == 10:
            wait(lambda: courier.problem is not None)  # it has been tried, and was refused
            assert tracking.run_id is None
            servers.append(Server(tmp_path, port))
            servers[0].wait()
        if trainer.state.iteration == 20:
            wait(lambda: tracking.run_id is not None and courier.problem is None and courier.delivery.place > 0)
            places.append(courier.delivery.place)
            servers[0].kill()  # and its children

    try:
        engine(tracking, 40, act)
        assert recorded(tmp_path / "out") == list(range(1, 41))
        delivery = Delivery(Spool(tmp_path / "out"), tracking.uri)
        assert 0 < places[0] <= delivery.place < (tmp_path / "out/tracking.jsonl").stat().st_size
        assert main(["sync", str(tmp_path / "out")]) == 1  # still dead
        servers.append(Server(tmp_path, port))
        servers[1].wait()
        assert main(["sync", str(tmp_path / "out")]) == 0
        assert delivered(tracking.uri, tracking.run_id) == list(range(1, 41))
        run = MlflowClient(tracking.uri).get_run(tracking.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params["seed"] == "3"
    finally:
        for server in servers:
            server.kill()


def wait(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class _Slow(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        time.sleep(30)

    do_POST = do_GET

    def log_message(self, *arguments) -> None:
        pass


def test_a_server_that_hangs_slows_no_iteration(tmp_path, caplog):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    patience = 4.0
    tracking = Tracking(f"http://127.0.0.1:{server.server_port}", tmp_path, patience=patience)
    times = []
    engine(tracking, 500, lambda _: times.append(time.perf_counter()))
    wait(lambda: _Slow.asked > 0)  # it was asked, and did not answer
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < patience  # no iteration waited
    assert recorded(tmp_path) == list(range(1, 501))
    assert "python -m monai_diffscore sync" in caplog.text
    server.shutdown()


def test_recording_costs_under_two_milliseconds_an_iteration(tmp_path):
    """All work of the training thread, while another thread delivers to a database."""
    tracking = Tracking(f"sqlite:///{tmp_path}/mlruns.db", tmp_path)
    trainer = Engine(lambda e, _: {"loss": torch.tensor(1.0)})
    trainer.state.output = {"loss": torch.tensor(1.0)}
    tracking.open(trainer)
    wait(lambda: tracking.run_id is not None)
    started = time.thread_time()
    for iteration in range(1, 1001):
        trainer.state.iteration = iteration
        tracking.record_iteration(trainer)
    assert (time.thread_time() - started) / 1000 < 0.002
    tracking.close(trainer)
    assert delivered(tracking.uri, tracking.run_id) == list(range(1, 1001))


def _job(folder: str, uri: str, start) -> None:
    start.wait()
    tracking = Tracking(uri, folder, every=2)
    engine(tracking, 40)
    assert tracking.run_id is not None


@pytest.mark.slow
def test_two_jobs_on_one_new_sqlite_file(tmp_path):
    """Both make the tables at once; neither fails, neither loses a number, and the runs stay two."""
    uri = f"sqlite:///{tmp_path}/shared.db"
    start = processes.context.Event()
    jobs = [processes.context.Process(target=_job, args=(str(tmp_path / name), uri, start)) for name in "ab"]
    for job in jobs:
        job.start()
    time.sleep(2)
    start.set()
    assert processes.exit_codes(jobs) == [0, 0]
    runs = [json.loads((tmp_path / name / "mlflow_run.json").read_text())["run_id"] for name in "ab"]
    assert runs[0] != runs[1]
    for run_id in runs:
        assert delivered(uri, run_id) == list(range(1, 41))
        assert MlflowClient(uri).get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_the_averaged_model_is_registered_and_samples(tmp_path):
    """From a real SQLite store and registry; the same number is the same sample, and that of the average."""
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlruns.db"
    codes = processes.run("toy2d_mlp", tmp_path, overlays=("register_model",), tracking_uri=uri, **TOY)
    assert codes == [0]
    sync(tmp_path / "out")  # delivering again registers nothing again
    client = MlflowClient(uri)
    (version,) = client.search_model_versions("name = 'toy2d_mlp'")
    assert version.run_id == json.loads((tmp_path / "out/mlflow_run.json").read_text())["run_id"]
    previous = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        model = mlflow.pyfunc.load_model(f"models:/toy2d_mlp/{version.version}")
    finally:
        mlflow.set_tracking_uri(previous)
    samples = model.predict([0, 1, 2])
    assert samples.shape == (3, 2)
    assert len({tuple(row) for row in samples}) == 3
    assert model.predict([2])[0] == pytest.approx(samples[2], abs=1e-5)  # sums of another batch size
    weights = torch.load(tmp_path / "models/model.pt", weights_only=True)
    inside = model.unwrap_python_model().network.state_dict()
    processes.assert_equal_states(dict(inside), dict(weights))


@pytest.mark.slow
def test_a_training_killed_and_continued_is_one_run_without_repetition(tmp_path):
    """Iterations that are run again after kill -9 are in the record once; the run is KILLED, then FINISHED."""
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    MlflowClient(uri).search_experiments()  # makes the tables
    assert processes.run("toy2d_mlp", tmp_path, stop=(12, signal.SIGKILL), tracking_uri=uri, **TOY) == [-signal.SIGKILL]
    assert recorded(tmp_path / "out")[-1] == 7  # what a checkpoint stands for is on the record
    assert processes.run("toy2d_mlp", tmp_path, stop=(18, signal.SIGTERM), tracking_uri=uri, **TOY) == [75]
    run_id = sync(tmp_path / "out")[0]
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "KILLED"
    assert processes.run("toy2d_mlp", tmp_path, tracking_uri=uri, **TOY) == [0]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert delivered(uri, run_id) == list(range(1, 31))
    (only,) = client.search_runs([run.info.experiment_id])
    assert only.info.run_id == run_id
    for name in ("learning_rate", "ema_decay", "iterations_per_second", "peak_memory_mib", "denoising_error",
                 "error_at_sigma_0.5", "checkpoint_iteration"):  # fmt: skip
        assert name in run.data.metrics, name
    for name in ("parameter_count", "data_fingerprint", "git_commit", "sigma_data", "batch_size"):
        assert name in run.data.params, name
    names = {
        artifact.path for folder in (None, "model", "samples") for artifact in client.list_artifacts(run_id, folder)
    }
    assert {"train.json", "README.md", "model/model.pt", "model/data_statistics.json"} <= names
    assert "samples/samples_00000030.png" in names


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 16])
def test_a_nan_ends_the_run_as_failed_with_sigma_files_and_step(every, tmp_path, write_volume):
    """A network that diverges on a real file: at once or late, the message names everything, and the run is FAILED."""
    from workflows import workflow

    write_volume("data/sub-1/t1.nii.gz", seed=1)
    write_volume("data/sub-2/t1.nii.gz", seed=2)
    training = workflow(
        "mri_unet3d", ["train"], ["smoke"], dataset_dir=str(tmp_path / "data"), output_dir=str(tmp_path / "out"),
        ckpt_dir=str(tmp_path / "models"), max_epochs=3, tracking_uri="http://127.0.0.1:9", gallery_every=0,
    )  # fmt: skip
    trainer = training.parser.get_parsed_content("train#trainer")

    def spoil(_engine) -> None:
        with torch.no_grad():
            next(iter(trainer.network.parameters())).fill_(torch.nan)

    for watch in trainer.watches:
        watch.every = every
    fed = {}
    trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda e: fed.update({e.state.iteration: e.state.batch["image"]})
    )
    trainer.add_event_handler(Events.ITERATION_STARTED(once=3), spoil)
    with pytest.raises(RuntimeError) as caught:
        training.run()
    message = str(caught.value.__cause__)
    assert "at sigma [" in message
    names = dict.fromkeys(fed[3].meta["filename_or_obj"])
    assert f"iteration 3, files {', '.join(names)})" in message
    assert trainer.state.iteration == (3 if every == 1 else 4)  # at the end of the epoch if not before
    states = [entry["status"] for entry, _ in Spool(tmp_path / "out").read() if "status" in entry]
    assert states == ["FAILED"]


def test_a_torn_line_is_passed_over(tmp_path):
    spool = Spool(tmp_path)
    spool.append({"metrics": [["loss", 1.0, 0, 1]]}, {"metrics": [["loss", 1.0, 0, 2]]})
    content = spool.path.read_bytes()
    spool.path.write_bytes(content[:-9])  # killed while writing
    assert spool.last_steps() == {"loss": 1}
    spool.append({"metrics": [["loss", 1.0, 0, 2]]})
    assert spool.last_steps() == {"loss": 2}
    assert len(list(spool.read())) == 2


def test_one_program_delivers_a_spool_at_a_time(tmp_path, caplog):
    spool = Spool(tmp_path)
    spool.append({"run": {"uri": "sqlite:///x"}})
    with spool.delivering():
        courier = Courier(Spool(tmp_path), "sqlite:///x")
        courier.run()
        assert "another program delivers" in caplog.text
        with pytest.raises(ValueError, match="being delivered by another program"):
            sync(tmp_path)


def test_sync_says_what_is_wrong(tmp_path, capsys):
    assert main(["sync", str(tmp_path)]) == 1
    assert "Expected the record of a training" in capsys.readouterr().err


def test_folders_as_tracking_uris_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a tracking URI that begins with"):
        Tracking(str(tmp_path), tmp_path)


def test_the_fingerprint_follows_the_data_not_its_place(tmp_path):
    class Loader:
        def __init__(self, data):
            self.dataset = type("Data", (), {"data": data})

    for place, text in (("a", "xy"), ("b", "xy"), ("c", "xyz")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "scan.nii").write_text(text)
    same, moved, changed = (fingerprint(Loader([{"image": str(tmp_path / place / "scan.nii")}])) for place in "abc")
    assert same == moved != changed
    assert fingerprint(Loader([{"image": torch.zeros(2)}])) != fingerprint(Loader([{"image": torch.ones(2)}]))


def delete_run(client: MlflowClient, run_id: str) -> None:
    client.delete_run(run_id)


def delete_experiment(client: MlflowClient, run_id: str) -> None:
    client.delete_experiment(client.get_run(run_id).info.experiment_id)


def restore(client: MlflowClient, run_id: str) -> None:
    experiment_id = client.get_run(run_id).info.experiment_id
    if client.get_experiment(experiment_id).lifecycle_stage == "deleted":
        client.restore_experiment(experiment_id)
    if client.get_run(run_id).info.lifecycle_stage == "deleted":
        client.restore_run(run_id)


@pytest.mark.parametrize("delete", [delete_run, delete_experiment])
@pytest.mark.parametrize("while_it_runs", [False, True])
def test_what_is_deleted_at_the_tracker_loses_nothing(delete, while_it_runs, tmp_path, caplog):
    """The error names the command that restores it. Then sync delivers all."""
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    engine(Tracking(uri, tmp_path / "out", every=1), 3)
    run_id = json.loads((tmp_path / "out/mlflow_run.json").read_text())["run_id"]
    client = MlflowClient(uri)
    if not while_it_runs:
        delete(client, run_id)
    spool = Spool(tmp_path / "out")
    delivery = Delivery(spool, uri)
    if while_it_runs:
        delivery.deliver()
        spool.append({"metrics": [["loss", 1.0, 0, 4]]})
        delivery.deliver()  # it is connected
        delete(client, run_id)
    spool.append({"metrics": [["loss", 1.0, 0, 5]]}, {"params": {"late": "1"}})
    place = delivery.place
    assert main(["sync", str(tmp_path / "out")]) == 1
    with pytest.raises(
        RuntimeError, match=r"is deleted: MLFLOW_TRACKING_URI=.* mlflow (runs|experiments) restore .*sync"
    ):
        delivery.deliver()
    assert Delivery(spool, uri).place == place
    restore(client, run_id)
    assert main(["sync", str(tmp_path / "out")]) == 0
    assert delivered(uri, run_id)[-1] == 5
    assert client.get_run(run_id).data.params["late"] == "1"


def test_a_new_training_of_a_deleted_experiment_is_told_and_synced_later(tmp_path, caplog):
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("monai_diffscore")
    client.delete_experiment(experiment)
    engine(Tracking(uri, tmp_path / "out", patience=2.0), 3)
    assert f"mlflow experiments restore --experiment-id {experiment}" in caplog.text
    client.restore_experiment(experiment)
    run_id, _ = sync(tmp_path / "out")
    assert delivered(uri, run_id) == [1, 2, 3]


@pytest.mark.parametrize("name", ["elsewhere", "my runs", "deep/er"])
def test_a_folder_that_moved_keeps_its_run_and_is_not_made_anew(name, tmp_path, caplog):
    before, after = tmp_path / "out", tmp_path / name
    (tmp_path / "note.txt").write_text("a")
    tracking = Tracking(f"sqlite:///{before}/mlruns.db", before, configuration={"a": 1})
    engine(tracking, 3)
    run_id = json.loads((before / "mlflow_run.json").read_text())["run_id"]
    after.parent.mkdir(exist_ok=True)
    before.rename(after)
    (after / "inside.txt").write_text("b")
    moved = Tracking(f"sqlite:///{after}/mlruns.db", after, configuration={"a": 1})

    def log(trainer: Engine) -> None:
        moved.log_artifact(after / "inside.txt")
        moved.log_artifact(tmp_path / "note.txt", "notes")

    engine(moved, 5, log)
    assert not before.exists()
    assert moved.run_id == run_id
    assert delivered(moved.uri, run_id) == [1, 2, 3, 4, 5]
    (artifacts,) = (after / "mlartifacts").glob("*/artifacts")
    assert (artifacts / "inside.txt").is_file()
    assert (artifacts / "notes/note.txt").is_file()
    assert f"ln -s {after}" in caplog.text or f"ln -s '{after}'" in caplog.text


@pytest.mark.parametrize("name", ["out", "my runs", "it's"])
def test_the_command_that_delivers_later_runs_as_it_is_written(name, tmp_path, caplog):
    courier = Courier(Spool(tmp_path / name), "http://127.0.0.1:9")
    courier.problem = OSError("no server")
    courier.finish(0.0)
    command = caplog.messages[-1].split("this does it later: ")[1]
    assert shlex.split(command) == ["python", "-m", "monai_diffscore", "sync", str(tmp_path / name)]


def test_a_tracker_that_hangs_delays_the_end_by_ten_seconds_at_most(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    started = time.monotonic()
    engine(Tracking(f"http://127.0.0.1:{server.server_port}", tmp_path), 5)
    assert time.monotonic() - started < 10
    server.shutdown()


def answer_a_byte_a_second(connection: socket.socket) -> None:
    """No limit of the time between two bytes ends this answer."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + 1000 * b"x":
        connection.sendall(bytes([byte]))
        time.sleep(1)


def send_half_an_answer(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


def keep_silent(connection: socket.socket) -> None:
    pass


def accept_no_connection(server: socket.socket) -> list[socket.socket]:
    """The queue of the server is full: further connections wait for a place."""
    server.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for connection in waiting:
        connection.setblocking(False)
        connection.connect_ex(server.getsockname())
    return waiting


def accept_and(answer, server: socket.socket) -> list[socket.socket]:
    """Connections, each with a thread that answers; a socket that the test closes ends its thread."""
    server.listen()
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            answer(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(server.accept()[0])
                threading.Thread(target=serve, args=(connections[-1],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return connections


HANGING = {
    "accepts no connection": accept_no_connection,
    "keeps silent": partial(accept_and, keep_silent),
    "answers a byte a second": partial(accept_and, answer_a_byte_a_second),
    "sends half an answer": partial(accept_and, send_half_an_answer),
}


def idle_seconds() -> float:
    """Seconds that this thread has slept: neither computed nor waited for a core. A busy machine does not matter."""
    computed, queued, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    return time.monotonic() - (int(computed) + int(queued)) / 1e9


def idle_seconds_of_a_training(port: int, folder: Path) -> float:
    """Start, iterations, validation, pictures, checkpoints and end, with a tracker on a port."""
    started = idle_seconds()
    workflow(
        "toy2d_mlp", ["train"], ["smoke"], tracking_uri=f"http://127.0.0.1:{port}", output_dir=str(folder),
        val_interval=1, save_every=2, gallery_every=2,
    ).run()  # fmt: skip
    assert recorded(folder) == [1, 2, 3, 4]
    return idle_seconds() - started


@pytest.fixture(scope="module")
def idle_with_a_closed_port(tmp_path_factory) -> float:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # without listen: it refuses at once
        return idle_seconds_of_a_training(closed.getsockname()[1], tmp_path_factory.mktemp("refused"))


@pytest.mark.slow
@pytest.mark.parametrize("hang", HANGING)
def test_a_whole_training_waits_ten_seconds_at_most_for_a_server_that_hangs(hang, idle_with_a_closed_port, tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        connections = HANGING[hang](server)
        idle = idle_seconds_of_a_training(server.getsockname()[1], tmp_path)
    assert connections  # it was asked
    assert 7 < idle < idle_with_a_closed_port + 10
    for connection in connections:
        connection.close()


LENGTHS = {"max_epochs": (1, 3, 5), "val_interval": (1, 2, 3), "save_every": (2, 3, 4), "num_workers": (0, 1, 0)}


@pytest.mark.slow
def test_the_record_of_a_continued_training_has_the_present_values_of_what_may_change(tmp_path):
    """Length, validation, checkpoints and workers, in the tags of the run and in the newest configuration."""
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    for number in range(3):
        values = {name: options[number] for name, options in LENGTHS.items()}
        started = workflow("toy2d_mlp", ["train"], ["smoke"], tracking_uri=uri, output_dir=str(tmp_path), **values)
        started.run()
        trainer = started.parser.get_parsed_content("train#trainer")
        assert trainer.state.epoch == trainer.state.max_epochs == values["max_epochs"]
        (run,) = MlflowClient(uri).search_runs(["1"])
        assert run.data.params.keys().isdisjoint(values)
        assert {name: run.data.tags[name] for name in values} == {name: str(value) for name, value in values.items()}
        newest = max((tmp_path / "mlartifacts").rglob("configuration_*.json"))
        configuration = json.loads(newest.read_text())
        assert {name: configuration[name] for name in values} == values
        assert run.info.status == "FINISHED"
