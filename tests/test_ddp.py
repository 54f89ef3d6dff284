"""Trainings on several ranks: two processes on loopback, gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from processes import ROOT

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.engines import ScoreTrainer
from monai_diffscore.inferers import LossInferer
from monai_diffscore.losses import DenoisingLoss, LogNormalNoise
from monai_diffscore.networks import ScoreMLP

BUNDLES = sorted(path.parent.parent.name for path in ROOT.glob("bundles/*/configs/train.json"))


class _NoiseOfTheData(DenoisingLoss):
    """The loss with sigma and noise as functions of each sample, so that batches divide in any way."""

    def forward(self, denoiser, x0, generator=None, **condition):
        losses = []
        for row in x0:
            own = torch.Generator().manual_seed(int(row.abs().sum() * 1e6))
            losses.append(super().forward(lambda x, s: denoiser(x, s, **condition), row[None], own))
        return torch.cat(losses)


def _gradients(folder: str, ranks: tuple[int, int, int]) -> None:
    """Takes one step on rows of noise and writes the gradients; the body of a process."""
    import ignite.distributed as idist

    from monai_diffscore.data import ResumableLoader

    rank, world_size, port = ranks
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    idist.initialize("gloo")
    torch.manual_seed(0)
    rows = [{"image": row} for row in torch.randn(32, 2)]
    inner = Denoiser(ScoreMLP(2, 32, 2), EDMPreconditioning(0.5))
    for parameter in inner.parameters():  # a network of zeros has few gradients
        torch.nn.init.normal_(parameter, std=0.1)
    network = torch.nn.parallel.DistributedDataParallel(inner) if world_size > 1 else inner
    loss = _NoiseOfTheData(LogNormalNoise(), uncertainty=None)
    loose = torch.nn.Parameter(torch.zeros(()))  # of a loss with parameters, outside the wrapped network
    scaled = lambda x, n, **c: loss(n, x, **c) * torch.exp(loose)  # noqa: E731
    inferer = LossInferer(loss)
    inferer.__class__ = type("Scaled", (LossInferer,), {"__call__": lambda self, x, n, **c: scaled(x, n, **c)})
    trainer = ScoreTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=ResumableLoader(rows, 32 // world_size, seed=1),
        network=network,
        optimizer=torch.optim.SGD([*network.parameters(), loose], lr=0.0),
        inferer=inferer,
    )
    trainer.run()
    gradients = {name: parameter.grad for name, parameter in inner.named_parameters()} | {"loose": loose.grad}
    torch.save(gradients, Path(folder) / f"gradients_{world_size}_{rank}.pt")
    idist.finalize()


def test_two_ranks_have_the_gradient_of_one_with_twice_the_batch(tmp_path):
    for world_size in (1, 2):
        port = processes.free_port()
        ranks = [
            processes.context.Process(target=_gradients, args=(str(tmp_path), (rank, world_size, port)))
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        assert processes.exit_codes(ranks) == [0] * world_size
    alone, first, second = (torch.load(tmp_path / f"gradients_{name}.pt") for name in ("1_0", "2_0", "2_1"))
    for name, expected in alone.items():
        assert expected.abs().max() > 1e-3, name
        torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_overlay_agrees_with_every_bundle(bundle):
    """The ``initialize`` list of the bundle begins the process group of the overlay before it builds the trainer."""
    overlay = json.loads((ROOT / "configs/multi_gpu.json").read_text())
    train = json.loads((ROOT / f"bundles/{bundle}/configs/train.json").read_text())
    assert overlay["process_group"] == "$launcher.initialize()"
    assert train["process_group"] is None
    begin = train["initialize"].index
    assert begin("$command_line.refuse_unknown_flags()") < begin("@process_group") < begin("@trainer")
    assert train["finalize"] == []
    assert train["train"]["dataloader"]["_target_"] == "monai_diffscore.data.ResumableLoader"


@pytest.mark.slow
def test_under_torchrun_with_no_edit(tmp_path):
    """Both ranks train, one writes: one MLflow run, one line for each validation, keys without ``module.``."""
    configs = f"['configs/train.json','{ROOT}/configs/multi_gpu.json']"
    flags = {
        "config_file": configs, "output_dir": tmp_path / "out", "ckpt_dir": tmp_path / "models", "max_epochs": 2,
        "training_rows": 64, "validation_rows": 16, "batch_size": 8, "val_interval": 1, "sigmas#steps": 2,
    }  # fmt: skip
    words = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    launch = ["torch.distributed.run", "--nproc_per_node=2", "--master_port", str(processes.free_port())]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "monai.bundle", "run", "training", *words],
        cwd=ROOT / "bundles/toy2d_mlp", capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "out/validation.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 4, 8]  # 64 rows / (2 ranks of 8)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/out/mlruns.db")
    (run,) = client.search_runs([client.get_experiment_by_name("monai_diffscore").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["ranks"] == "2"
    assert "configuration_00000000.json" in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    weights = torch.load(tmp_path / "models/model.pt", weights_only=True)
    assert not [name for name in weights if name.startswith("module.")]
