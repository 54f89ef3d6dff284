r"""Whole heads from a model of scales, trained on the simulated cohort by its own clock of CPU seconds, and measured.

    python -m benchmarks.whole FOLDER [--cpu-minutes 120] [--every 10] [--only-measure]

Three scales of T1 at 2 mm (96 x 112 x 96 voxels): the coarse image at 8 mm, its details to 4 mm (7 channels), those to
2 mm (7 channels, in windows of 96 mm). 160 subjects train, 80 are held out. FOLDER gets the checkpoint, a picture of
samples at each checkpoint, and ``measured.json``: the panel of 40 samples beside the held-out heads, the ventricles
over age, tissues and asymmetry. The same command continues from the checkpoint, also after a kill. The learning rate
falls to 0 over the last 30 % of the time, which is that of this process on its cores: a busy machine changes nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_fill_holes, binary_opening, distance_transform_edt
from scipy.stats import ks_2samp
from sklearn.cluster import KMeans
from torch import Tensor, nn

from benchmarks.heads import read_image
from monai_diffscore import (
    ConditionEncoder,
    Denoiser,
    DenoisingLoss,
    EDMPreconditioning,
    LogNormalNoise,
    MultiScale,
    MultiScaleLoss,
    Pyramid,
    Scales,
    ScoreUNet,
    asinh_sigmas,
    measure_scales,
    sample_scales,
    samples,
)
from monai_diffscore.atomic_files import whole_path, write_json
from monai_diffscore.gallery import save_gallery
from monai_diffscore.handlers.ema import power_function_exponent
from monai_diffscore.metrics import assess, image_panel_metrics
from monai_diffscore.optimizers import MuonAdamW
from monai_diffscore.samples.simulated_heads import VENTRICLE_GROWTH

SUBJECTS, HELD_OUT, DRAWN = 240, 80, 40  # the floor of the panel compares 40 unseen subjects with 40 others
SHAPE = (96, 112, 96)
WINDOW = (24, 24, 24)  # of the finest details, in voxels of 4 mm
BATCH, LEARNING_RATE, EMA_LENGTH = 4, 2e-3, 0.1
STEPS = 24  # of the sampler, in each scale
SPACING_MM = 2.0
CENTRE = (slice(26, 70), slice(32, 86), slice(38, 68))  # voxels around the ventricles of every subject
DEEP_MM = 22.0  # CSF that lies deeper in the brain than that is in the ventricles


def read_cohort(folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """T1 of all subjects, int16 [N, 1, X, Y, Z], and their age and sex."""
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    images = np.stack([read_image(folder, name, "T1w") for name in table.participant_id])
    age = torch.tensor(table.age_years.to_numpy(), dtype=torch.float32)
    return torch.from_numpy(images)[:, None], {
        "age_years": age,
        "sex": torch.tensor((table.sex == "M").to_numpy()).long(),
    }


def normalised(images: Tensor) -> Tensor:
    """Grey values 0 to 1000 as -1 to 1."""
    return images.float() / 500 - 1


def build(statistics: dict[str, list[list[float]]] | None = None) -> MultiScale:
    """The model: 8.7 million parameters."""

    def fields(**concat: int) -> ConditionEncoder:
        return ConditionEncoder({"sex": 2}, {"age_years": (55.0, 20.0)}, concat=concat, dropout=0.1)

    scales = Scales(Pyramid(3, 2), statistics=statistics, position_key="position")
    networks = [
        ScoreUNet(3, 1, 1, (32, 64, 128), num_res_blocks=(1, 2, 2), condition=fields()),
        ScoreUNet(3, 7, 7, (32, 64, 96), num_res_blocks=1, condition=fields(coarse=1, position=3)),
        ScoreUNet(3, 7, 7, (32, 64, 96), [False] * 3, num_res_blocks=1, condition=fields(coarse=1, position=3)),
    ]
    return MultiScale(scales, [Denoiser(n, EDMPreconditioning(1.0), torch.bfloat16) for n in networks])


class Training:
    """The model, its average, optimizer and clock; saved whole or not at all."""

    def __init__(self, folder: Path, images: Tensor, condition: dict[str, Tensor], cpu_seconds: float) -> None:
        self.file, self.cpu_seconds = folder / "checkpoint.pt", cpu_seconds
        self.images, self.condition = images, condition
        torch.manual_seed(0)
        saved = torch.load(self.file, weights_only=True) if self.file.is_file() else None
        statistics = measure_scales(Pyramid(3, 2), map(normalised, images)) if saved is None else None
        self.model = build(statistics)
        self.average = copy.deepcopy(self.model)
        self.optimizer = MuonAdamW(self.model.parameters(), LEARNING_RATE)
        noise = [LogNormalNoise(0.0, 1.6), LogNormalNoise(-0.5, 1.4), LogNormalNoise(-0.5, 1.4)]
        losses = [DenoisingLoss(each, lambda sigma: (sigma**2 + 1) / sigma**2) for each in noise]
        self.loss = MultiScaleLoss(self.model.scales, losses, [None, None, WINDOW])
        self.iteration, self.used, self.record = 0, 0.0, []
        if saved is not None:
            self._restore(saved)

    def run(self, every_seconds: float) -> Any:
        """Trains; yields at each checkpoint, of which the last one is at the end."""
        last, recent = self.used, []
        clock = time.process_time() - self.used
        while self.used < self.cpu_seconds:
            recent.append(self._step())
            self.used = time.process_time() - clock
            if self.used - last > every_seconds or self.used >= self.cpu_seconds:
                last = self.used
                by_scale = np.mean(recent, 0).round(4).tolist()
                self.record.append({"iteration": self.iteration, "cpu_seconds": round(self.used), "loss": by_scale})
                recent = []
                print(json.dumps(self.record[-1]), flush=True)
                self._save()
                yield self.iteration
                clock = time.process_time() - self.used  # what the caller did is no training

    def _step(self) -> list[float]:
        chosen = torch.randint(len(self.images), (BATCH,))
        x0 = normalised(self.images[chosen])
        if torch.rand(()) < 0.5:
            x0 = x0.flip(2)  # left and right
        values = self.loss.by_scale(self.model, x0, **{name: field[chosen] for name, field in self.condition.items()})
        self.optimizer.zero_grad()
        torch.stack(values).mean().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        left = 1 - self.used / self.cpu_seconds
        share = min(1.0, (self.iteration + 1) / 20, max(left, 0.0) / 0.3)
        for group, ratio in zip(self.optimizer.param_groups, (1.0, 0.5), strict=True):
            group["lr"] = LEARNING_RATE * ratio * share
        self.optimizer.step()
        self.iteration += 1
        weight = 1 - (1 - 1 / self.iteration) ** (power_function_exponent(EMA_LENGTH) + 1)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), weight)
        return [float(value.detach().mean()) for value in values]

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "clock": {"iteration": self.iteration, "used": self.used, "record": self.record},
        }
        with whole_path(self.file) as path:
            torch.save(state, path)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.iteration, self.used, self.record = (state["clock"][name] for name in ("iteration", "used", "record"))


def draw(model: MultiScale, condition: dict[str, Tensor], seed: int = 0) -> Tensor:
    """A head for each row of the condition, normalised; the same whatever the batch."""
    model.eval()
    grids = [asinh_sigmas(STEPS, 80.0)] * 3
    heads = []
    for first in range(0, len(condition["sex"]), 4):
        part = {name: field[first : first + 4] for name, field in condition.items()}
        count = len(part["sex"])
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(count)]
        heads.append(sample_scales(model, (count, 1, *SHAPE), grids, generator=generators, **part))
    return torch.cat(heads)


def describe(volume: Tensor) -> dict[str, float]:
    """Shares of tissues and ventricles in the brain, and asymmetry, by grey values alone: real and drawn alike.

    The share of the ventricles has deep CSF besides in it: on 40 real heads it is 1.5 times the true one, correlates
    with it by 0.97, and its logarithm grows 0.0096 a year where the truth grows 0.0167.
    """
    image = volume[0].numpy()
    brain = binary_fill_holes(binary_opening(image > -0.85))
    values = image[brain]
    start = np.quantile(values, [0.02, 0.4, 0.9])[:, None]
    means = np.sort(KMeans(3, init=start, n_init=1).fit(values[::7, None]).cluster_centers_[:, 0])
    classes = np.digitize(image, (means[1:] + means[:-1]) / 2)
    total = brain.sum()
    counts = {name: (brain & (classes == number)).sum() for number, name in enumerate(("csf", "grey", "white"))}
    dark = image < means[0] + 0.3 * (means[1] - means[0])
    deep = dark[CENTRE] & (distance_transform_edt(brain)[CENTRE] > DEEP_MM / SPACING_MM)
    left, right = brain[: SHAPE[0] // 2].sum(), brain[SHAPE[0] // 2 :].sum()
    shares = {name: count / total for name, count in counts.items()}
    return {**shares, "ventricles": deep.sum() / total, "asymmetry": (left - right) / total, "brain_ml": total * 0.008}


def compare(generated: Tensor, real: Tensor, age: Tensor) -> dict[str, Any]:
    """Volumes and the law of age, of drawn and of held-out heads of the same ages."""
    tables = {
        name: pd.DataFrame([describe(v) for v in volumes]) for name, volumes in (("model", generated), ("real", real))
    }
    years = age.numpy() - 20
    law = {}
    for name, table in tables.items():
        share = np.log(table.ventricles.clip(lower=1e-5))
        law[name] = {
            "slope": float(np.polyfit(years, share, 1)[0]),
            "correlation": float(np.corrcoef(years, share)[0, 1]),
        }
    tests = {
        column: float(ks_2samp(tables["model"][column], tables["real"][column]).pvalue) for column in tables["real"]
    }
    means = {name: table.mean().to_dict() for name, table in tables.items()}
    return {"stated_growth": VENTRICLE_GROWTH, "law": law, "kolmogorov_smirnov_p": tests, "means": means}


def measure(model: MultiScale, images: Tensor, condition: dict[str, Tensor], folder: Path) -> None:
    """Draws heads for the condition of held-out subjects; the panel and measured.json."""
    real = normalised(images[-HELD_OUT:])
    wanted = {name: field[-HELD_OUT:][:DRAWN] for name, field in condition.items()}
    start = time.perf_counter()
    generated = draw(model, wanted)
    seconds = (time.perf_counter() - start) / DRAWN
    with whole_path(folder / "samples.pt") as path:
        torch.save({"heads": generated.half(), **wanted}, path)
    save_gallery(generated[:4], folder / "samples.png", "generated; held out below", reference=real[:4])
    anatomy = compare(generated, real[:DRAWN], wanted["age_years"])
    print(json.dumps(anatomy, indent=1), flush=True)
    training = [normalised(volume) for volume in images[:-HELD_OUT]]
    rows = assess(image_panel_metrics(training=training, mirrored=True, coarse=4), generated, real, draws=100)
    panel = [row.record() for row in rows]
    write_json(folder / "measured.json", {"seconds_a_head": seconds, "anatomy": anatomy, "panel": panel})
    for row in rows:
        print(row.metric.title, row.sets["model"], row.sets["real"], "beyond the floor:", row.beyond_floor("model"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of checkpoint, pictures and figures")
    parser.add_argument("--cpu-minutes", type=float, default=120, help="length of the training, in minutes of one core")
    parser.add_argument("--every", type=float, default=10, help="minutes of one core between checkpoints")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    parser.add_argument("--only-measure", action="store_true", help="the checkpoint that is there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    images, condition = read_cohort(Path(samples.heads(SUBJECTS, 0, ("T1",))))
    training = Training(
        options.folder,
        images[:-HELD_OUT],
        {name: field[:-HELD_OUT] for name, field in condition.items()},
        60 * options.cpu_minutes,
    )
    shown = {"age_years": torch.tensor([25.0, 45.0, 65.0, 85.0]), "sex": torch.tensor([0, 1, 0, 1])}
    nearest = [int((condition["age_years"][-HELD_OUT:] - age).abs().argmin()) for age in shown["age_years"]]
    real = normalised(images[-HELD_OUT:][nearest])
    if not options.only_measure:
        for iteration in training.run(60 * options.every):
            title = f"iteration {iteration}: 25, 45, 65, 85 years; held out below"
            picture = options.folder / f"heads_{iteration:06d}.png"
            save_gallery(draw(training.average, shown), picture, title, reference=real)
    measure(training.average, images, condition, options.folder)


if __name__ == "__main__":
    main()
