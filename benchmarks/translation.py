"""FLAIR of unseen simulated heads from T1, T2 and tissues: samples of mri_translate3d beside a regression.

    python -m benchmarks.translation FOLDER [--minutes 60] [--subjects 160] [--unseen 40] [--samples 8]
    python -m benchmarks.translation FOLDER --fine-tuning 20 [--minutes 10]

Trains the bundle, and the same network on the squared error for the same seconds: x is zero, so it sees the other
images alone. FOLDER gets both trainings, ``measured.json`` and ``spectrum.svg``. For each subset of T1, T2 and the map
of tissues the table has the error of the mean, of one sample and of the regression, the share of voxels in intervals of
95 %, the distance of the power spectra from the real one (with that between two halves of the real images), and the
Dice of lesions. Half of the subjects of the training have lesions, and all unseen ones. The same command continues a
training.

``--fine-tuning`` trains on so few other subjects, once from the weights of the first command in the folder, once from
nothing, and measures both on the unseen subjects: ``fine_tuning.json``. Its column of the regression is the answer of
the same network in one step."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import convert_to_tensor
from scipy.stats import t as student
from torch import Tensor, nn

from monai_diffscore.atomic_files import whole_file, write_json
from monai_diffscore.data import LoadGivend, listed_cases
from monai_diffscore.metrics.spectrum import SpectrumError, radial_power, ring_frequencies
from monai_diffscore.report.charts import spectrum_chart
from monai_diffscore.samples import heads
from monai_diffscore.tiling import any_size

CONFIGS = Path(__file__).resolve().parent.parent / "bundles/mri_translate3d/configs"
ROLES = ("t1", "t2", "dseg")
SIGMA = 80.0  # of the regression: the denoiser returns sigma_data times the output of its network
CENTRE = 48  # voxels of the cube whose spectrum is measured
WHITE = 3  # class of dseg
MARKED = 3.0  # robust standard deviations above the white matter: a lesion
COVERED = 0.95


class SquaredError(nn.Module):
    """The squared error of an image from the other images alone, [B], in place of a denoising loss."""

    def forward(self, network: nn.Module, x0: Tensor, **condition: Tensor) -> Tensor:
        estimate = network(torch.zeros_like(x0), x0.new_full((len(x0),), SIGMA), **condition)
        return (estimate - x0).square().flatten(1).mean(1)


def train(folder: Path, cohort: str, options: argparse.Namespace, **changes: Any) -> Path:
    """Trains the bundle on a cohort for the seconds of the options; returns its weights."""
    workflow = ConfigWorkflow(
        [str(CONFIGS / "train.json"), *map(str, options.overlay)], meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False, workflow_type="train", bundle_root=str(CONFIGS.parent), dataset_dir=cohort,
        output_dir=str(folder), image="flair", given=list(ROLES), time_limit_seconds=60 * options.minutes, **changes,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return folder / "models/model.pt"


class Model:
    """A trained network with the preprocessing and the inferer of the bundle's task."""

    def __init__(self, weights: Path, cohort: str, options: argparse.Namespace) -> None:
        self.parser = ConfigParser()
        self.parser.read_config([str(CONFIGS / "inference.json"), str(CONFIGS / "cases.json"), *options.overlay])
        changes = {"checkpoint": str(weights), "dataset_dir": cohort, "posterior_samples": options.samples}
        for name, value in (changes | {"steps": options.steps}).items():
            self.parser[name] = value
        self.network = self.parser.get_parsed_content("network")
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network.eval()
        self.inferer = self.parser.get_parsed_content("inferer")

    def cases(self) -> list[dict[str, Any]]:
        return list(self.parser.get_parsed_content("requests"))

    def read(self, case: dict[str, Any]) -> dict[str, Any]:
        return dict(self.parser.get_parsed_content("preprocessing")(case))

    @torch.no_grad()
    def draw(self, given: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation [*S], and the samples [count, *S]."""
        x = given.new_zeros(1, 1, *given.shape[1:])
        output = self.inferer(x, self.network, seed=torch.tensor([number]), given=given[None])[0]
        return output[0], output[1], output[2:]

    @torch.no_grad()
    def estimate(self, given: Tensor) -> Tensor:
        """The answer of a regression, [*S]."""
        window, overlap = self.inferer.window, self.inferer.overlap
        denoiser = any_size(self.network, window, given.ndim - 1, overlap, self.inferer.windows_at_once)
        x = given.new_zeros(1, 1, *given.shape[1:])
        answer: Tensor = denoiser(x, x.new_tensor([SIGMA]), given=given[None])
        return answer[0, 0]


def subsets() -> Iterator[tuple[str, ...]]:
    """The seven subsets of the roles, all of them first."""
    for count in range(len(ROLES), 0, -1):
        yield from itertools.combinations(ROLES, count)


def lesion_dice(image: Tensor, white: Tensor, lesions: Tensor) -> float:
    """Dice of the lesions and the voxels of the white matter that are brighter than the rest; NaN without lesions."""
    values = image[white]
    centre = values.median()
    scale = 1.4826 * (values - centre).abs().median()
    marked = white & (image > centre + MARKED * scale)
    both, total = int((marked & lesions).sum()), int(marked.sum() + lesions.sum())
    return 2 * both / total if bool(lesions.any()) else math.nan


def centre(image: Tensor) -> Tensor:
    """The cube in the middle, [1, 1, *S]."""
    edge = min(CENTRE, *image.shape)
    starts = [(size - edge) // 2 for size in image.shape]
    return image[tuple(slice(start, start + edge) for start in starts)][None, None]


def measure(
    score: Model, regression: Model, subset: Sequence[str], cohort: str
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The row of a subset, and the power spectra [N, planes, rings] of each kind of image."""
    truths = {item["image"]: item for item in listed_cases(cohort).pairs("flair", ["dseg", "lesion-mask"])}
    classes = {"dseg": dict.fromkeys("01234", ""), "lesion-mask": dict.fromkeys("01", "")}
    load_truth = LoadGivend("given", roles=list(classes), classes=classes)
    values: dict[str, list[float]] = {}
    spectra: dict[str, list[Tensor]] = {"real": [], "model": [], "mean": [], "regression": []}
    cube = None
    for number, case in enumerate(score.cases()):
        given = [path if role in subset else None for role, path in zip(ROLES, case["given"], strict=True)]
        item = score.read({**case, "given": given})
        truth = convert_to_tensor(item["image"], track_meta=False).float()[0]
        labels = load_truth({**item, "given": truths[case["image"]]["given"]})["given"]
        white, lesions = (convert_to_tensor(labels, track_meta=False)[channel] > 0.5 for channel in (WHITE, 6))
        others = convert_to_tensor(item["given"], track_meta=False).float()
        mean, std, samples = score.draw(others, number)
        images = {"real": truth, "model": samples[0], "mean": mean, "regression": regression.estimate(others)}
        half_width = float(student.ppf((1 + COVERED) / 2, len(samples) - 1)) * math.sqrt(1 + 1 / len(samples)) * std
        row = {"covered": float(((truth - mean).abs() <= half_width).float().mean())}
        for name, image in images.items():
            if name != "real":
                row[f"rmse_{name}"] = float((image - truth).square().mean().sqrt())
            row[f"lesion_dice_{name}"] = lesion_dice(image, white, lesions)
            cube = centre(image)
            spectra[name].append(radial_power(cube))
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    rows = {name: float(torch.tensor(numbers).nanmean()) for name, numbers in values.items()}
    powers = {name: torch.cat(parts) for name, parts in spectra.items()}
    compare, real = SpectrumError().compare, powers["real"]
    rows |= {f"spectrum_{name}": compare(powers[name], real) for name in ("model", "mean", "regression")}
    rows["spectrum_real"] = compare(real[::2], real[1::2]) if len(real) > 1 else math.nan
    assert cube is not None
    return rows, {"frequencies": ring_frequencies(tuple(cube.shape[2:])), **powers}


def fine_tuning(options: argparse.Namespace, unseen: str, **changes: Any) -> dict[str, dict[str, float]]:
    """The rows of trainings on few subjects: from the weights of the cohort, and from nothing."""
    cohort = {"init_from": str(options.folder / "score/models/model.pt")}
    few = heads(options.fine_tuning, 2, lesions=0.5)
    rows: dict[str, dict[str, float]] = {}
    for start, weights in {"cohort": cohort, "nothing": {}}.items():
        folder = options.folder / f"fine_tuning_from_{start}"
        model = Model(train(folder, few, options, **changes, **weights), unseen, options)
        rows[f"from {start}"], _ = measure(model, model, ROLES, unseen)
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows as a table of Markdown."""
    names = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    lines += [f"| {given} | {' | '.join(f'{row[name]:.3f}' for name in names)} |" for given, row in rows.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0, help="of each training (default: 60)")
    parser.add_argument("--subjects", type=int, default=160, help="of the training (default: 160)")
    parser.add_argument("--unseen", type=int, default=40, help="unseen subjects (default: 40)")
    parser.add_argument("--samples", type=int, default=8, help="of each case (default: 8)")
    parser.add_argument("--steps", type=int, default=24, help="of each sample (default: 24)")
    parser.add_argument("--fine-tuning", type=int, metavar="SUBJECTS", help="train on so few subjects, from two starts")
    parser.add_argument(
        "--overlay", nargs="*", default=[], metavar="FILE", help="further configurations of both models"
    )
    options = parser.parse_args()
    seen, unseen = heads(options.subjects, 0, lesions=0.5), heads(options.unseen, 1, lesions=1.0)
    long = {"max_epochs": 1_000_000}
    if options.fine_tuning:
        rows = fine_tuning(options, unseen, **long)
        write_json(options.folder / "fine_tuning.json", rows)
        print(table(rows))
        return
    score = Model(train(options.folder / "score", seen, options, **long), unseen, options)
    squared_error = {"loss": {"_target_": "benchmarks.translation.SquaredError"}}
    weights = train(options.folder / "regression", seen, options, **long, **squared_error)
    regression = Model(weights, unseen, options)
    rows = {}
    for subset in subsets():
        rows[" ".join(subset)], spectra = measure(score, regression, subset, unseen)
        if len(subset) == len(ROLES):
            chart = spectrum_chart(spectra.pop("frequencies"), spectra, ("sagittal", "coronal", "axial"))
            with whole_file(options.folder / "spectrum.svg") as file:
                file.write(chart.encode())
        write_json(options.folder / "measured.json", rows)
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
