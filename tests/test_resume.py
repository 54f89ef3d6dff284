"""A training that is stopped, in whatever way, and continued equals the one that was not: bit for bit, on a CPU."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import processes
import pytest
import small_data
import torch
from processes import INT, KILL, TERM, USR1, checkpoints, losses
from workflows import workflow

from monai_diffscore.command_line import last_lines
from monai_diffscore.data.loader import EpochBatches, ResumableLoader, scattered_seed
from monai_diffscore.handlers.checkpoint import find_damage, save_atomically

# 10 iterations an epoch; checkpoints at 7, 14, ...
TOY: dict = {"training_rows": 80, "validation_rows": 16, "batch_size": 8, "max_epochs": 3, "save_every": 7}
TOY |= {"tracking_uri": "http://127.0.0.1:9"}  # no server listens; test_tracking.py tests records
# 8 iterations an epoch on two small subjects, with random crops and flips, in worker processes or not
MRI: dict = {"patch_size": [16, 16, 16], "patches_per_volume": 8, "batch_size": 2, "max_epochs": 2, "save_every": 4}
MRI |= {"validation_patches": 2, "val_interval": 2, "network_def#network#channels": [8, 8, 16, 16]}
MRI |= {"network_def#network#num_head_channels": 16, "tracking_uri": TOY["tracking_uri"]}
# oneDNN's bfloat16 gradient of a 3-D convolution of 2^3 voxels reads memory that nothing was written to (torch 2.13)
MRI |= {"autocast_dtype": None}

TRAININGS = {
    "rows": ("toy2d_mlp", TOY),
    "accumulated gradients": ("toy2d_mlp", TOY | {"accumulation_steps": 4}),
    "grad scaler": ("toy2d_mlp", TOY | {"grad_scaler": True}),
    "cache in memory": ("mri_unet3d", MRI),
    "cache on disk and two workers": ("mri_unet3d", MRI | {"num_workers": 2, "cache_memory_gb": 0}),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, volumes):
    """The folder of an uninterrupted training by its name; each runs once. ``begin`` starts it beside another one."""
    started: dict[tuple, tuple[Path, list]] = {}

    def begin(name: str, world_size: int = 1) -> None:
        if (name, world_size) not in started:
            folder = tmp_path_factory.mktemp("uninterrupted")
            started[name, world_size] = folder, start(name, folder, volumes, world_size=world_size)

    def run(name: str, world_size: int = 1) -> Path:
        begin(name, world_size)
        folder, ranks = started[name, world_size]
        assert processes.exit_codes(ranks) == [0] * world_size
        return folder

    run.begin = begin
    return run


@pytest.fixture(scope="module")
def killed_at_16(tmp_path_factory, volumes):
    """A training that was killed after its checkpoints at 7 and 14; tests take copies."""
    folder = tmp_path_factory.mktemp("killed")
    assert train("rows", folder, volumes, stop=(16, KILL)) == [-KILL]
    assert [path.name for path in checkpoints(folder)] == ["iteration_00000007.pt", "iteration_00000014.pt"]
    return folder


def train(*arguments, **keywords) -> list[int]:
    return processes.exit_codes(start(*arguments, **keywords))


def start(name: str, folder: Path, volumes: str, world_size: int = 1, **keywords) -> list:
    bundle, options = TRAININGS[name]
    if bundle == "mri_unet3d":
        keywords["dataset_dir"] = volumes
    if world_size > 1:
        keywords["overlays"] = ("multi_gpu",)
        options = options | {"batch_size": options["batch_size"] // world_size}
    return processes.start(bundle, folder, world_size=world_size, **options, **keywords)


def assert_continued_exactly(folder: Path, whole: Path, first: int, ranks: int = 1) -> None:
    """Losses from iteration ``first`` on, the last checkpoint and the weights equal those of the training ``whole``."""
    for rank in range(ranks):
        expected, continued = losses(whole, rank), losses(folder, rank)
        assert min(continued) == first
        assert continued == {iteration: loss for iteration, loss in expected.items() if iteration >= first}
    (*_, last), (*_, other) = checkpoints(folder), checkpoints(whole)
    assert last.name == other.name
    states = [torch.load(file, weights_only=True) for file in (last, other)]
    processes.assert_equal_states(*states)
    weights = [torch.load(place / "models/model.pt", weights_only=True) for place in (folder, whole)]
    processes.assert_equal_states(*weights)


@pytest.mark.parametrize("bundle", ["natural_dit2d", "signal_dit1d", "tabular_mlp"])
def test_a_training_that_is_done_says_so_and_continues_where_its_data_moved(bundle, tmp_path, caplog):
    """Pictures, sequences and a table: the data is the same by its content, and --dataset_dir names its place."""
    (tmp_path / "here").mkdir()
    data = Path(small_data.write_dataset(bundle, tmp_path / "here")).name

    def start(place: str, **options):
        where = {"dataset_dir": str(tmp_path / place / data), "output_dir": str(tmp_path / "out")}
        choices = small_data.choices(bundle, where["dataset_dir"])
        return workflow(bundle, ["train"], ["smoke"], tracking_uri=TOY["tracking_uri"], **where, **choices, **options)

    start("here").run()
    with caplog.at_level("INFO"):
        start("here").run()
    assert "already done: 1 of 1 epochs" in caplog.text
    assert f"weights: {tmp_path}/out/models/model.pt, for sampling: --checkpoint {tmp_path}/out/mod" in caplog.text
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(RuntimeError) as caught:
        start("here")
    advice, problem = last_lines(caught.value).splitlines()
    assert advice.startswith("--dataset_dir PATH names the data")
    assert problem.startswith(f"error: {tmp_path}/here/{data}")
    caplog.clear()
    with caplog.at_level("INFO"):
        start("there", max_epochs=2).run()
    assert "continuing at iteration" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_killed_at_a_random_step(name, tmp_path, uninterrupted, volumes):
    """kill -9 within an iteration: nothing is lost but the iterations since the last checkpoint."""
    uninterrupted.begin(name)
    # four accumulated gradients are saved together: the first checkpoint is that of iteration 8
    step = processes.random_step(name, 9, 29 if TRAININGS[name][0] == "toy2d_mlp" else 15)
    assert train(name, tmp_path, volumes, stop=(step, KILL)) == [-KILL], step
    saved = int(checkpoints(tmp_path)[-1].stem.split("_")[1])
    assert step - 11 <= saved < step
    assert train(name, tmp_path, volumes) == [0]
    assert_continued_exactly(tmp_path, uninterrupted(name), saved + 1)


@pytest.mark.slow
def test_asked_to_stop(tmp_path, uninterrupted, volumes):
    """After a signal the training ends the step and saves. After one of the scheduler the exit code is "run me again".

    The three signals leave equal checkpoints. The test continues one of them.
    """
    signals = {TERM: 75, USR1: 75, INT: 1}
    folders = {number: tmp_path / number.name for number in signals}
    for folder in folders.values():
        folder.mkdir()
    ranks = [start("rows", folder, volumes, stop=(12, number)) for number, folder in folders.items()]
    assert [processes.exit_codes(rank) for rank in ranks] == [[code] for code in signals.values()]
    states = []
    for folder in folders.values():
        assert max(losses(folder)) == 12
        newest = checkpoints(folder)[-1]
        assert newest.name == "iteration_00000012.pt"
        states.append(torch.load(newest, weights_only=True))
    for state in states[1:]:
        processes.assert_equal_states(states[0], state)
    assert train("rows", folders[USR1], volumes) == [0]
    assert_continued_exactly(folders[USR1], uninterrupted("rows"), 13)


@pytest.mark.slow
def test_asked_to_stop_while_gradients_accumulate(tmp_path, uninterrupted, volumes):
    """Steps are taken after iterations 4, 8, 10 (the end of the epoch), 14, ...: it goes on from 12 to 14."""
    assert train("accumulated gradients", tmp_path, volumes, stop=(12, TERM)) == [75]
    assert checkpoints(tmp_path)[-1].name == "iteration_00000014.pt"
    assert train("accumulated gradients", tmp_path, volumes) == [0]
    assert_continued_exactly(tmp_path, uninterrupted("accumulated gradients"), 15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows", "accumulated gradients"])
def test_two_ranks_asked_to_stop(name, tmp_path, uninterrupted, volumes):
    """One rank gets the signal; both stop at the same iteration, and both continue exactly."""
    whole = uninterrupted(name, 2)
    assert losses(whole, 0) != losses(whole, 1)  # each rank has data and noise of its own
    assert train(name, tmp_path, volumes, 2, stop=(13, USR1), stopped_rank=1) == [75, 75]
    saved = 13 if name == "rows" else 14
    assert [max(losses(tmp_path, rank)) for rank in (0, 1)] == [saved, saved]
    assert train(name, tmp_path, volumes, 2) == [0, 0]
    assert_continued_exactly(tmp_path, whole, saved + 1, ranks=2)


@pytest.mark.slow
def test_one_rank_killed(tmp_path, uninterrupted, volumes):
    """The other rank ends with an error instead of waiting for ever; both continue from the last checkpoint."""
    codes = train("rows", tmp_path, volumes, 2, stop=(12, KILL), stopped_rank=1)
    assert codes[1] == -KILL
    assert codes[0] == 1
    assert checkpoints(tmp_path)[-1].name == "iteration_00000007.pt"
    assert train("rows", tmp_path, volumes, 2) == [0, 0]
    assert_continued_exactly(tmp_path, uninterrupted("rows", 2), 8, ranks=2)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_newest_checkpoint(damage, tmp_path, uninterrupted, volumes, killed_at_16):
    """The training renames it, and continues the next older one."""
    shutil.copytree(killed_at_16, tmp_path, dirs_exist_ok=True)
    _, newest = checkpoints(tmp_path)
    assert newest.name == "iteration_00000014.pt"
    spoil(newest, damage)
    if damage == "flipped":
        torch.load(newest, weights_only=True)  # torch alone loads it silently
    assert train("rows", tmp_path, volumes) == [0]
    assert newest.with_suffix(".damaged").is_file()
    assert_continued_exactly(tmp_path, uninterrupted("rows"), 8)


@pytest.mark.slow
def test_damaged_checkpoints_alone_are_refused(tmp_path, volumes, killed_at_16):
    """A new training in the folder would hide the damage."""
    shutil.copytree(killed_at_16, tmp_path, dirs_exist_ok=True)
    for file in checkpoints(tmp_path):
        spoil(file, "truncated")
    for _ in range(2):
        assert train("rows", tmp_path, volumes) == [1]
        assert len(list((tmp_path / "out/checkpoints").glob("*.damaged"))) == 2
        assert not checkpoints(tmp_path)


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        # within the numbers of some tensor
        state = torch.load(file, weights_only=True)
        tensor = max((t for t in state["network"].values()), key=torch.Tensor.nelement)
        place = content.find(tensor.numpy().tobytes())
        assert place > 0
        content[place + 5] ^= 0x10
        file.write_bytes(content)


def test_checksums_detect_damage(tmp_path):
    path = tmp_path / "state.pt"
    save_atomically({"network": {"weight": torch.randn(100)}}, path)
    assert find_damage(path) is None
    spoil(path, "flipped")
    assert "checksum" in find_damage(path)
    spoil(path, "truncated")
    assert find_damage(path) is not None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk(tmp_path, uninterrupted, volumes):
    """The training goes on, saved files stay whole, and the next save with enough space succeeds."""
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"this machine mounts no tmpfs: {mounted.stderr.decode().strip()}")
    try:
        assert train("rows", disk, volumes, stop=(9, KILL)) == [-KILL]
        (saved,) = checkpoints(disk)
        filler = disk / "filler"
        fill(filler)
        os.truncate(filler, filler.stat().st_size - 65536)  # losses and records are small; a checkpoint does not fit
        assert train("rows", disk, volumes, stop=(20, KILL)) == [-KILL]
        assert max(losses(disk)) >= 19  # it went on past the save at 14
        assert checkpoints(disk) == [saved]
        assert find_damage(saved) is None
        assert [f.name for f in saved.parent.iterdir()] == [saved.name]  # nor half a file
        filler.unlink()
        assert train("rows", disk, volumes) == [0]
        assert_continued_exactly(disk, uninterrupted("rows"), 8)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def fill(path: Path) -> None:
    """A file that takes the rest of the disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"0" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


# ---- order and randomness, without a training ----


def test_batches_of_all_ranks_are_one_permutation_of_the_epoch(monkeypatch):
    from monai_diffscore.data import loader

    def batches(rank, ranks, epoch, first=0):
        monkeypatch.setattr(loader, "_ranks", lambda: (rank, ranks))
        sampler = EpochBatches(25, 12 // ranks, seed=3)
        sampler.start_at(epoch, first)
        return list(sampler)

    alone, left, right = batches(0, 1, 2), batches(0, 2, 2), batches(1, 2, 2)
    assert [a + b for a, b in zip(left, right, strict=True)] == alone
    assert len({key for batch in alone for key in batch}) == 24
    assert batches(0, 1, 3) != alone
    assert batches(0, 1, 2, first=1) == alone[1:]


def test_seeds_of_a_stream_are_distinct():
    seeds = {scattered_seed(7, 1, number) for number in range(100_000)}
    assert len(seeds) == 100_000
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert scattered_seed(7, 1, 0) != scattered_seed(8, 1, 0) != scattered_seed(8, 2, 0)


class _Draws(torch.utils.data.Dataset):
    """Items of random numbers of every kind, and a list of the items read."""

    def __init__(self):
        from monai.transforms import Compose, RandGaussianNoise

        self.transform = Compose([RandGaussianNoise(prob=1.0)])
        self.made = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        import random

        import numpy as np

        self.made.append(index)
        draws = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])  # noqa: NPY002
        return torch.cat([torch.as_tensor(self.transform(torch.zeros(3))), draws, torch.tensor([index])])


def test_augmentation_does_not_depend_on_workers_or_earlier_items():
    def epoch(workers, first=0):
        data = _Draws()
        loader = ResumableLoader(data, 2, seed=1, num_workers=workers)
        loader.start_at(5, first)
        return torch.stack(list(loader)), data

    alone, data = epoch(0)
    assert sorted(data.made) == list(range(12))
    assert len(alone[..., :6].flatten(0, 1).unique(dim=0)) == 12
    torch.testing.assert_close(epoch(2)[0], alone, rtol=0, atol=0)
    continued, data = epoch(0, first=4)
    torch.testing.assert_close(continued, alone[4:], rtol=0, atol=0)
    assert len(data.made) == 4  # what is skipped is not loaded
