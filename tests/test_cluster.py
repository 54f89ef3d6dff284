"""The scripts for Slurm, under a real Slurm of one node: requeued, preempted, in arrays."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from processes import losses
from slurm_cluster import SlurmCluster, missing

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts/slurm"
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

# 300 iterations an epoch, seconds in all on an idle machine
OPTIONS = {"training_rows": 4800, "validation_rows": 16, "batch_size": 16, "max_epochs": 5, "save_every": 500}
OPTIONS |= {"tracking_uri": "http://127.0.0.1:9", "val_interval": 100, "sigmas#steps": 2}
ITERATIONS = 300 * OPTIONS["max_epochs"]


def flags(**changes) -> str:
    return " ".join(f"--{name} {value}" for name, value in {**OPTIONS, "gallery_every": 0, **changes}.items())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder of the same training without Slurm, for a number of ranks."""
    done: dict[int, Path] = {}

    def run(ranks: int) -> Path:
        if ranks not in done:
            folder = tmp_path_factory.mktemp("uninterrupted")
            options = OPTIONS | {"batch_size": OPTIONS["batch_size"] // ranks}
            overlays = ("multi_gpu",) if ranks > 1 else ()
            codes = processes.run("toy2d_mlp", folder, world_size=ranks, overlays=overlays, **options)
            assert codes == [0] * ranks
            done[ranks] = folder
        return done[ranks]

    return run


class Job:
    """A training under ``train.sbatch``."""

    def __init__(self, cluster: SlurmCluster, folder: Path, ranks: int = 1, **environment: str) -> None:
        self.cluster, self.out, self.log = cluster, folder / "out", folder / "job.log"
        self.number = cluster.submit(
            "-n", str(ranks), "-t", "30", "-o", str(self.log), str(SCRIPTS / "train.sbatch"), "bundles/toy2d_mlp",
            cwd=ROOT, RUN_DIR=str(self.out), PYTHON=sys.executable, PYTHONPATH=str(ROOT),
            FLAGS=flags(batch_size=OPTIONS["batch_size"] // ranks), **environment,
        )  # fmt: skip

    @property
    def iteration(self) -> int:
        lines = (self.out / "tracking.jsonl").read_text().splitlines() if (self.out / "tracking.jsonl").exists() else []
        steps = [row[3] for line in lines for row in json.loads(line).get("metrics", ()) if row[0] == "loss"]
        return max(steps, default=0)

    def wait_until_it_trains(self, more_than: int = 15) -> None:
        self.cluster.wait_for(lambda: self.iteration > more_than, f"{more_than} iterations of job {self.number}")

    def text(self) -> str:
        return self.log.read_text(errors="replace")  # a kill may cut a character of the progress bar


def assert_equals(job: Job, whole: Path) -> None:
    name = f"iteration_{ITERATIONS:08d}.pt"
    states = [torch.load(out / "checkpoints" / name, weights_only=True) for out in (job.out, whole / "out")]
    processes.assert_equal_states(*states)
    assert job.iteration == ITERATIONS


def test_a_signal_before_the_time_is_up_requeues_up_to_a_cap_and_the_folder_continues_exactly(
    cluster, tmp_path, uninterrupted
):
    """USR1 twice, one restart allowed: saved, requeued, continued, saved, ended with 75; and continued by hand."""
    job = Job(cluster, tmp_path, MAX_RESTARTS="1")
    job.wait_until_it_trains()
    cluster.command("scancel", "-s", "USR1", str(job.number))  # what --signal=USR1@300 sends
    cluster.wait_for(lambda: cluster.job(job.number)["Restarts"] == "1", "restart")
    job.wait_until_it_trains(more_than=job.iteration + 15)
    cluster.command("scancel", "-s", "USR1", str(job.number))
    facts = cluster.wait_for_end(job.number)
    text = job.text()
    assert (facts["JobState"], facts["Restarts"], facts["ExitCode"]) == ("FAILED", "1", "75:0"), text[-3000:]
    assert "attempt 0: exit code 75" in text
    assert "continuing at iteration" in text
    assert "attempt 1: exit code 75" in text
    assert "stopped after 1 restarts; the same RUN_DIR continues" in text
    assert processes.run("toy2d_mlp", tmp_path, **OPTIONS) == [0]
    assert min(losses(tmp_path)) > 30
    assert_equals(job, uninterrupted(1))


def test_two_ranks_preempted_by_a_higher_partition_continue_exactly(cluster, tmp_path, uninterrupted):
    job = Job(cluster, tmp_path, ranks=2)
    job.wait_until_it_trains()
    urgent = cluster.submit(
        "-p", "high", "-n", str(cluster.cores), "-o", "/dev/null", "--wrap", "sleep 3", cwd=tmp_path
    )
    cluster.wait_for(lambda: cluster.job(job.number)["Restarts"] == "1", "restart")
    assert cluster.wait_for_end(urgent)["JobState"] == "COMPLETED"
    facts = cluster.wait_for_end(job.number)
    text = job.text()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), text[-3000:]
    assert "SIGTERM: stopping after this step" in text
    assert text.count("continuing at iteration") == 2  # on both ranks
    assert_equals(job, uninterrupted(2))


def test_requeued_by_an_administrator(cluster, tmp_path, uninterrupted):
    """``scontrol requeue`` takes the node away, for any exit code of the job."""
    job = Job(cluster, tmp_path)
    job.wait_until_it_trains()
    cluster.command("scontrol", "requeue", str(job.number))
    cluster.wait_for(lambda: cluster.job(job.number)["Restarts"] == "1", "restart")
    facts = cluster.wait_for_end(job.number)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), job.text()[-3000:]
    assert "continuing at iteration" in job.text()
    assert_equals(job, uninterrupted(1))


def test_an_array_samples_one_seed_a_task(cluster, tmp_path, uninterrupted):
    checkpoint = uninterrupted(1) / "models/model.pt"
    number = cluster.submit(
        "--array=0-1", "-t", "30", "-o", f"{tmp_path}/%a.log", str(SCRIPTS / "sample.sbatch"), "bundles/toy2d_mlp",
        cwd=ROOT, CHECKPOINT=str(checkpoint), OUT_DIR=str(tmp_path / "samples"), PYTHON=sys.executable,
        PYTHONPATH=str(ROOT), FLAGS="--num_samples 3 --steps 4",
    )  # fmt: skip
    for task in (0, 1):
        assert cluster.wait_for_end(f"{number}_{task}")["JobState"] == "COMPLETED", (
            tmp_path / f"{task}.log"
        ).read_text()
    first, second = (np.load(tmp_path / f"samples/000{task}/samples.npy") for task in (0, 1))
    assert first.shape == second.shape == (3, 2)
    assert not np.array_equal(first, second)
