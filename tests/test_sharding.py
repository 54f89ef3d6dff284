"""Sharded trainings: one network cut over the ranks; saved, and continued by the same or another number of ranks."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.handlers import LrScheduleHandler
from processes import KILL, ROOT, checkpoints, losses

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.engines import ScoreTrainer
from monai_diffscore.handlers import Attach, ClipGradients, PowerEMA, ShardedCheckpoint
from monai_diffscore.inferers import LossInferer
from monai_diffscore.losses import DenoisingLoss, LogNormalNoise
from monai_diffscore.networks import ScoreDiT
from monai_diffscore.sharding import is_sharded, sharded_copy

BUNDLES = sorted(path.parent.parent.name for path in ROOT.glob("bundles/*/configs/train.json"))
# 4 iterations an epoch on two ranks
DIT: dict = {"patch_size": [16, 16, 16], "patches_per_volume": 8, "batch_size": 2, "max_epochs": 3, "save_every": 4}
DIT |= {"validation_patches": 2, "val_interval": 3, "tracking_uri": "http://127.0.0.1:9", "sigmas#steps": 2}
DIT |= {"network_def#network#input_size": [16, 16, 16], "network_def#network#hidden_size": 24}
DIT |= {"network_def#network#depth": 2, "network_def#network#num_heads": 2, "autocast_dtype": "$None"}


def _train(folder: str, ranks: tuple[int, int, int], epochs: int, full: bool = False) -> None:
    """Continues a training of a small ScoreDiT and writes its whole state as resumed and at the end.

    With ``full``, rank 1 can write no file of more than 4 KiB from iteration 7 to 10.
    """
    import ignite.distributed as idist

    from monai_diffscore.data import ResumableLoader

    faulthandler.enable()
    rank, world_size, port = ranks
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    idist.initialize("gloo")
    torch.manual_seed(rank)  # rank 0's weights are everybody's
    whole = Denoiser(ScoreDiT(2, 1, 8, 4, hidden_size=16, depth=2, num_heads=2), EDMPreconditioning(0.5))
    for parameter in whole.parameters():  # a network of zeros has few gradients
        torch.nn.init.normal_(parameter, std=0.1)
    network, average = sharded_copy(whole, "cpu"), sharded_copy(whole, "cpu")
    assert is_sharded(network)
    local = sum(p.to_local().numel() for p in network.parameters())
    assert local <= sum(p.numel() for p in whole.parameters()) / world_size * 1.1
    torch.manual_seed(0)
    rows = [{"image": row} for row in torch.randn(32, 1, 8, 8)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    ema = PowerEMA(network, average=average)
    loss = DenoisingLoss(LogNormalNoise())
    batch_size = 8 // world_size
    checkpoint = ShardedCheckpoint(
        Path(folder) / "checkpoints",
        {"network": network, "loss": loss, "optimizer": optimizer, "lr_scheduler": scheduler, "ema": ema},
        weights=(ema.network, Path(folder) / "model.pt"),
        configuration={"batch_size": batch_size},
        save_every=4,
    )
    clip = ClipGradients(optimizer, 0.5)
    trainer = ScoreTrainer(
        device=torch.device("cpu"), max_epochs=epochs, network=network, optimizer=optimizer,
        train_data_loader=ResumableLoader(rows, batch_size, seed=1), inferer=LossInferer(loss),
        train_handlers=[
            Attach(ema), clip, LrScheduleHandler(scheduler, print_lr=False, epoch_level=False), checkpoint,
        ],
    )  # fmt: skip

    def dump(name: str) -> None:
        def whole_tensors(value):
            if isinstance(value, dict):
                return {key: whole_tensors(inner) for key, inner in value.items()}
            return value.full_tensor() if is_sharded(value) else value

        state = whole_tensors({**checkpoint._state(trainer), "iteration": trainer.state.iteration})
        if rank == 0:
            torch.save(state, Path(folder) / f"{name}_{world_size}.pt")

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    if full and rank == 1:
        trainer.add_event_handler(Events.ITERATION_STARTED(once=7), lambda _: limit(4096))
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=10), lambda _: limit(resource.RLIM_INFINITY))
    trainer.add_event_handler(Events.STARTED, lambda _: dump("resumed"))
    trainer.run()
    dump("ended")
    assert clip.norm is not None
    assert not is_sharded(clip.norm)
    idist.finalize()


def small(folder: Path, world_size: int, epochs: int, full: bool = False) -> list[int]:
    port = processes.free_port()
    started = [
        processes.context.Process(target=_train, args=(str(folder), (rank, world_size, port), epochs, full))
        for rank in range(world_size)
    ]
    for process in started:
        process.start()
    return processes.exit_codes(started)


@pytest.mark.slow
def test_saved_by_two_ranks_continued_by_one_and_by_two_again(tmp_path):
    """Network, optimizer, scheduler and average as loaded equal those that were saved, bit for bit; 2 -> 1 -> 2."""
    states = []
    for epochs, world_size in ((1, 2), (2, 1), (3, 2)):
        assert small(tmp_path, world_size, epochs) == [0] * world_size
        states.append([torch.load(tmp_path / f"{name}_{world_size}.pt") for name in ("resumed", "ended")])
    (start, first), (second_start, second), (third_start, third) = states
    assert (start["iteration"], first["iteration"], second["iteration"], third["iteration"]) == (0, 4, 8, 12)
    processes.assert_equal_states(first, second_start)
    processes.assert_equal_states(second, third_start)
    assert third["ema"]["updates"] == 12
    for before, after in ((start, first), (first, second), (second, third)):  # it did train in between
        assert not torch.equal(before["network"]["network.embed.weight"], after["network"]["network.embed.weight"])
        assert not torch.equal(
            before["ema"]["network"]["network.embed.weight"], after["network"]["network.embed.weight"]
        )
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    processes.assert_equal_states(dict(weights), third["ema"]["network"])
    assert [f.name for f in sorted((tmp_path / "checkpoints").iterdir())] == [
        "iteration_00000008.sharded", "iteration_00000012.sharded"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_rank(tmp_path):
    """All ranks go on without that checkpoint; no half of one stays; the next one is whole."""
    assert small(tmp_path, 2, 3, full=True) == [0, 0]
    assert [f.name for f in sorted((tmp_path / "checkpoints").iterdir())] == [
        "iteration_00000004.sharded", "iteration_00000012.sharded"
    ]  # fmt: skip


def test_another_total_batch_or_an_unsharded_checkpoint_is_refused(tmp_path):
    """Nothing is started anew beside them."""
    state = {"object": torch.nn.Linear(1, 1)}
    (tmp_path / "iteration_00000004.sharded").mkdir()
    from monai_diffscore.handlers import ResumableCheckpoint

    with pytest.raises(ValueError, match=r"got iteration_00000004.sharded: sharded checkpoints are continued with"):
        ResumableCheckpoint(tmp_path, state).resume(None)
    sharded = ShardedCheckpoint(tmp_path / "x", state, configuration={"batch_size": 4})
    assert sharded.choices == {"batch_size": "4 on all ranks together"}
    with pytest.raises(RuntimeError, match="Expected an initialized process group"):
        sharded_copy(torch.nn.Linear(1, 1), "cpu")


def dit(folder: Path, volumes: str, overlay: str = "fsdp", **keywords) -> list[int]:
    return processes.run("mri_dit3d", folder, world_size=2, overlays=(overlay,), dataset_dir=volumes, **DIT, **keywords)


@pytest.mark.slow
def test_sharded_training_equals_two_whole_ranks_and_survives_a_kill_and_a_damaged_shard(tmp_path, volumes):
    """Losses equal those of DistributedDataParallel up to the order of sums; a continued training is bit-equal."""
    whole, sharded, broken = (tmp_path / name for name in ("whole", "sharded", "broken"))
    for folder in (whole, sharded, broken):
        folder.mkdir()
    overlay = json.loads((ROOT / "configs/fsdp.json").read_text())
    adamw = overlay["optimizer"] | {"adamw_ratio": overlay["adamw_ratio"]}
    assert dit(whole, volumes, "multi_gpu", optimizer=adamw) == [0, 0]
    assert dit(sharded, volumes) == [0, 0]
    for rank in (0, 1):
        expected, got = ({i: float.fromhex(x) for i, x in losses(f, rank).items()} for f in (whole, sharded))
        assert sorted(got) == list(range(1, 13))
        assert got == pytest.approx(expected, rel=1e-4)
    codes = dit(broken, volumes, stop=(10, KILL), stopped_rank=1)
    assert codes[1] == -KILL
    assert codes[0] != 0
    older, newest = checkpoints(broken)
    assert (older.name, newest.name) == ("iteration_00000004.sharded", "iteration_00000008.sharded")
    shard = newest / "__1_0.distcp"  # of rank 1
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0x10
    shard.write_bytes(content)
    assert dit(broken, volumes) == [0, 0]
    assert newest.with_suffix(".damaged").is_dir()
    for rank in (0, 1):
        assert min(losses(broken, rank)) == 5
        assert losses(broken, rank).items() <= losses(sharded, rank).items()
    weights = [torch.load(folder / "models/model.pt", weights_only=True) for folder in (broken, sharded, whole)]
    processes.assert_equal_states(dict(weights[0]), dict(weights[1]))
    assert weights[1].keys() == weights[2].keys()  # inference knows no difference
    assert all(weights[1][name].shape == value.shape for name, value in weights[2].items())


@pytest.mark.slow
def test_under_torchrun_stopped_and_continued(tmp_path, volumes):
    """The overlay with no edit, with a gallery of the sharded average at the end of each part."""
    configs = f"['configs/train.json','{ROOT}/configs/fsdp.json']"

    def launch(epochs: int) -> None:
        flags = DIT | {"config_file": configs, "output_dir": tmp_path / "out", "ckpt_dir": tmp_path / "models"}
        flags |= {"dataset_dir": volumes, "max_epochs": epochs}
        words = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        command = ["torch.distributed.run", "--nproc_per_node=2", "--master_port", str(processes.free_port())]
        done = subprocess.run(
            [sys.executable, "-m", *command, "-m", "monai.bundle", "run", "training", *words],
            cwd=ROOT / "bundles/mri_dit3d", capture_output=True, text=True, timeout=600, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        outputs.append(done.stdout + done.stderr)

    outputs: list[str] = []
    launch(1)
    launch(2)
    assert "continuing at iteration" not in outputs[0]
    assert outputs[1].count("continuing at iteration 4 from") == 2
    kept = checkpoints(tmp_path)
    assert [path.name for path in kept] == ["iteration_00000004.sharded", "iteration_00000008.sharded"]
    facts = json.loads((kept[-1] / "training.json").read_text())
    assert {name.split("_")[2] for name in facts["files"] if name.endswith(".distcp")} == {"0", "1"}  # a share each
    assert [f.name for f in sorted((tmp_path / "out/gallery").iterdir())] == [
        "samples_00000004.png", "samples_00000008.png"
    ]  # fmt: skip


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_overlay_agrees_with_every_bundle(bundle):
    overlay = json.loads((ROOT / "configs/fsdp.json").read_text())
    train = json.loads((ROOT / f"bundles/{bundle}/configs/train.json").read_text())
    assert overlay["process_group"] == "$launcher.initialize()"
    begin = train["initialize"].index
    assert begin("$command_line.refuse_unknown_flags()") < begin("@process_group") < begin("@trainer")
    assert train["resumable_checkpoint"]["_target_"] == "monai_diffscore.handlers.ResumableCheckpoint"
    assert {"_target_": "monai_diffscore.handlers.Attach", "handler": "@resumable_checkpoint"} in train["train"][
        "handlers"
    ]
    parser = ConfigParser(train | {"ema": train["ema"] | {"relative_length": 0.05}})
    parser.update(overlay)
    ema = parser["ema"]
    assert ema.pop("average") == overlay["ema#average"]
    assert ema == train["ema"] | {"relative_length": 0.05}  # as the bundle, or its plan, has it
