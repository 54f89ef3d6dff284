"""Whole heads of a trained bundle beside unseen ones: panel, law of age, tissues, copies, seconds and memory a head.

    python -m benchmarks.whole FOLDER [--training OUTPUT_DIR] [--bundle BUNDLE] [--count 120]

Measures the demonstration weights of the bundle (``mri_whole3d``), or those of the training that wrote OUTPUT_DIR. It
draws a head for the age of each unseen subject, with the bundle's own network and inferer, and compares the heads with
those subjects: the held-out ones of the training's split, and 40 further simulated ones. FOLDER gets the
heads, ``measured.json``, ``heads.png`` (ages along the columns) and the report of the panel. After a kill, the same
command keeps the finished heads and continues."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser
from monai.utils import convert_to_tensor
from scipy.ndimage import binary_fill_holes, binary_opening, distance_transform_edt
from scipy.stats import ks_2samp
from sklearn.cluster import KMeans
from torch import Tensor

from monai_diffscore import data, samples
from monai_diffscore.atomic_files import whole_file, write_json
from monai_diffscore.gallery import save_gallery
from monai_diffscore.memory import peak_memory_bytes
from monai_diffscore.report.images import ImageReport, headline, report_images, write_report
from monai_diffscore.report.runs import RunRecord, find_run, run_parser
from monai_diffscore.report.sources import gather
from monai_diffscore.samples.simulated_heads import VENTRICLE_GROWTH
from scripts.demo_weights import DEMOS

BUNDLE = Path(__file__).resolve().parent.parent / "bundles/mri_whole3d"
FURTHER = 40  # unseen subjects beside those that the training holds out
PANEL = 40  # the floor of the panel compares 40 unseen subjects with 40 others
SHOWN_YEARS = (25, 37, 49, 61, 73, 85)
SPACING_MM = 2.0
CENTRE = (slice(26, 70), slice(32, 86), slice(38, 68))  # voxels around the ventricles of every subject
DEEP_MM = 22.0  # CSF that lies deeper in the brain than that is in the ventricles

#: draws head n of an age, normalised [1, 1, X, Y, Z]
DrawHead = Callable[[int, float], Tensor]


class Cohort:
    """The subjects of a training: those that it saw and those that it did not, as its transforms read them."""

    def __init__(self, record: RunRecord) -> None:
        parser = run_parser(record)
        self.train, self.unseen = parser.get_parsed_content("cases")
        fields = parser.get_parsed_content("fields")
        further = samples.heads(FURTHER, 1, ("T1",))
        self.unseen = self.unseen + data.attach_participants(
            data.listed_cases(further).images(), data.find_participants(further), fields
        )
        self._transform = parser.get_parsed_content("validate#preprocessing")

    def read(self, case: dict[str, Any]) -> Tensor:
        """A head [1, X, Y, Z] in [-1, 1]."""
        return convert_to_tensor(self._transform(case)["image"], track_meta=False, dtype=torch.float32)


def record_of(training: Path | None, bundle: Path) -> RunRecord:
    """The record of a training, or of the one that made the demonstration weights of a bundle."""
    if training is None:
        config = {**ConfigParser.load_config_file(bundle / "configs/train.json"), **DEMOS[bundle.name].options}
        return RunRecord("", "", f"demonstration weights of {bundle.name}", {}, config, True, str(bundle))
    record = find_run(training)
    if record is None or record.bundle is None:
        raise SystemExit(f"Expected the output folder of a training with its mlflow_run.json, got {training}.")
    return record


def sampler_of(bundle: Path, checkpoint: Path, steps: int | None = None) -> DrawHead:
    """What draws heads with the network and the inferer of a bundle; ``steps`` of each scale, or the bundle's own."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs/inference.json"))
    parser["bundle_root"], parser["checkpoint"] = str(bundle), str(checkpoint)
    parser["inferer#progress"] = False
    parser["steps"] = parser["steps"] if steps is None else steps
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu"))
    inferer, fields = parser.get_parsed_content("inferer"), parser.get_parsed_content("fields")
    blank = torch.zeros(1, parser["image_channels"], *parser.get_parsed_content("sample_size"))

    def draw(number: int, age_years: float) -> Tensor:
        condition = data.encode_conditions({"age_years": age_years}, fields)
        encoded = {name: torch.tensor([value]) for name, value in condition.items()}
        return inferer(blank, network, seed=torch.tensor([number]), **encoded)

    return draw


@dataclass(frozen=True)
class Drawing:
    """Drawn heads [N, 1, X, Y, Z], and what one takes."""

    heads: Tensor
    cpu_seconds: float
    seconds: float
    memory_bytes: int


def draw_heads(folder: Path, ages: Sequence[float], draw: DrawHead) -> Drawing:
    """A head of each age, read from the folder if it holds one.

    Memory is the peak of the process above its memory before the draw.
    """
    log = folder / "drawn.json"
    drawn = json.loads(log.read_text()) if log.is_file() else []
    known_ages = [head["age_years"] for head in drawn]
    if known_ages[: len(ages)] != list(ages)[: len(known_ages)]:
        raise SystemExit(f"{log}: expected heads of the ages {list(ages)}, got {known_ages}. Give another folder.")
    before = peak_memory_bytes()
    for number, age in enumerate(ages[len(drawn) :], start=len(drawn)):
        wall, cpu = time.perf_counter(), time.process_time()
        head = draw(number, age)
        took = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
        with whole_file(_head_file(folder, number)) as file:
            np.save(file, head.half().numpy())
        drawn.append({"age_years": age, **took, "memory_bytes": peak_memory_bytes() - before})
        write_json(log, drawn)
        print(json.dumps(drawn[-1]), flush=True)
    table = pd.DataFrame(drawn[: len(ages)])
    heads = [torch.from_numpy(np.load(_head_file(folder, number))).float() for number in range(len(ages))]
    return Drawing(torch.cat(heads), table.cpu_seconds.median(), table.seconds.median(), int(table.memory_bytes.max()))


def _head_file(folder: Path, number: int) -> Path:
    return folder / f"head_{number:04d}.npy"


def describe(volume: Tensor) -> dict[str, float]:
    """Shares of tissues and ventricles in the brain, and asymmetry, by grey values alone: real and drawn alike.

    The share of the ventricles also contains deep CSF: on 40 real heads it is 1.5 times the true one, correlates
    with it by 0.97, and its logarithm grows 0.0096 a year where the truth grows 0.0167. Asymmetry has no
    sign: the training mirrors heads, so the model does not know left from right.
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
    left, right = (half.sum() for half in np.array_split(brain, 2))
    shares = {name: count / total for name, count in counts.items()}
    volume_ml = total * SPACING_MM**3 / 1000
    asymmetry = abs(left - right) / total
    return {**shares, "ventricles": deep.sum() / total, "asymmetry": asymmetry, "brain_ml": volume_ml}


def compare(heads: Tensor, real: Tensor, ages: Sequence[float]) -> dict[str, Any]:
    """Volumes and the law of age, of drawn heads and of unseen ones of the same ages."""
    tables = {
        name: pd.DataFrame([describe(each) for each in set_]) for name, set_ in (("model", heads), ("real", real))
    }
    years = np.asarray(ages) - 20
    law = {}
    for name, table in tables.items():
        share = np.log(table.ventricles.clip(lower=1e-5))
        correlation = np.corrcoef(years, share)[0, 1]
        law[name] = {"slope": float(np.polyfit(years, share, 1)[0]), "correlation": float(correlation)}
    tests = {name: float(ks_2samp(tables["model"][name], tables["real"][name]).pvalue) for name in tables["real"]}
    means = {name: {"mean": table.mean().to_dict(), "std": table.std().to_dict()} for name, table in tables.items()}
    return {"stated_growth": VENTRICLE_GROWTH, "law": law, "kolmogorov_smirnov_p": tests, "volumes": means}


def summary(report: ImageReport, anatomy: dict[str, Any], drawing: Drawing) -> dict[str, Any]:
    """The metrics that say whether the heads are real, new and of their age."""
    values = {row.metric.name: row.sets["model"].value for row in report.rows}
    beyond = [row.metric.name for row in report.rows if row.beyond_floor("model")]
    model, real = anatomy["law"]["model"], anatomy["law"]["real"]
    return {
        "panel": headline(report),
        "beyond_the_floor": beyond,
        "diversity": values["diversity"],
        "distance_ratio": values["memorisation"],
        "suspected_copies": len(report.copies),
        "slope_ratio": model["slope"] / real["slope"],
        "correlation_ratio": model["correlation"] / real["correlation"],
        "kolmogorov_smirnov_p": anatomy["kolmogorov_smirnov_p"],
        "heads": len(drawing.heads),
        **{name: value for name, value in asdict(drawing).items() if name != "heads"},
    }


def measure(
    folder: Path, heads: Path, title: str, record: RunRecord, cohort: Cohort, draw: DrawHead, count: int
) -> dict[str, Any]:
    """Draws heads for the ages of unseen subjects, and writes measured.json, the picture and the report.

    Args:
        folder: of the results.
        heads: folder that keeps the drawn heads.
        title: of picture and report.
        record: of the training, whose split and transforms count.
        cohort: of the record.
        draw: the model.
        count: heads to draw, at most as many as there are unseen subjects.
    """
    subjects = cohort.unseen[:count]
    ages = [float(case["age_years"]) for case in subjects]
    heads.mkdir(parents=True, exist_ok=True)
    drawing = draw_heads(heads, ages, draw)
    real = torch.stack([cohort.read(case) for case in subjects])
    indices = [int(np.abs(np.asarray(ages) - years).argmin()) for years in SHOWN_YEARS]
    names = [f"{ages[index]:.0f} years" for index in indices]
    below = f"{title}; unseen subjects of these ages below"
    save_gallery(drawing.heads[indices], folder / "heads.png", below, real[indices], names=names)
    anatomy = compare(drawing.heads, real, ages)
    del real
    material = gather(heads, count=PANEL, intensity_range=(-1, 1), unit="normalised", record=record)
    report = report_images(title, material, progress=lambda name: print(name, flush=True))
    write_report(report, folder)
    result = {"summary": summary(report, anatomy, drawing), "anatomy": anatomy, "panel": report.record()}
    write_json(folder / "measured.json", result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of heads, pictures and metrics")
    parser.add_argument("--training", type=Path, help="output folder of a training; default: demonstration weights")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="whose demonstration weights are measured")
    parser.add_argument("--count", type=int, default=120, help="heads to draw")
    options = parser.parse_args()
    record = record_of(options.training, options.bundle)
    bundle = Path(str(record.bundle))
    weights = bundle / "models/demo" if options.training is None else run_parser(record).get_parsed_content("ckpt_dir")
    checkpoint = Path(weights) / "model.pt"
    heads = options.folder / f"heads_{data.file_hash(checkpoint)[-8:]}"
    result = measure(
        options.folder, heads, record.name, record, Cohort(record), sampler_of(bundle, checkpoint), options.count
    )
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
