r"""The ranking of cases for annotators, on an unseen head; some cases are corrupted.

    python -m benchmarks.label_ranking --checkpoint bundles/mri_unet3d/models/model.pt [--sets 3]

**The cases.** No package holds a free population of MR volumes. Each case is Colin27 (one head, the average of 27
scans; Debian's ``mricron-data``), which no bundle trains on. It is turned by up to 10 degrees, scaled by up to 7 %,
shifted by up to 8 mm, deformed smoothly by about 2 mm, and gets a bias field of up to 15 % and noise of 1 %: 64 x 64 x
64 voxels of 2 mm. The 15 healthy cases of a set vary, but they are **one person's**. Real subjects differ more, which
makes a ranking harder. Five cases of a set are corrupted, one in each way: a bright sphere of 8 mm radius in tissue
(+40 % of the range), motion (every other line of k-space moved by 3 voxels: ghosts), a wrong window (all clipped to the
middle tenth of the intensities), a wrong body part (a block of the drawn chest phantom), noise of 10 % of the range.

**The rankings.** ``u`` is the score of the server (:mod:`lib.ranking`) with its defaults. By default it calibrates on
four of the cases, which may be corrupted. ``largest_score`` and ``nats`` are its two parts. ``evidence``, the mean of
the map, was the first part in earlier versions. ``variance`` ranks by the distance of the variance of an image from the
median variance (two-sided, like nats). ``random`` is the mean over permutations. Average precision of the corrupted
cases: 1 if they are the first five.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from scipy.spatial.transform import Rotation
from sklearn.metrics import average_precision_score

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts/label_app")]

from lib.ranking import robust_z, surprise  # noqa: E402
from lib.scores import volume_score  # noqa: E402
from lib.served import ServedBundle  # noqa: E402
from lib.workflow import Calibration  # noqa: E402

from monai_diffscore import samples  # noqa: E402
from monai_diffscore.samples.chests import ct_phantom  # noqa: E402

SIDE, SPACING_MM = 64, 2.0


def colin27(brain: bool = False) -> np.ndarray:
    """The head [X, Y, Z] of 1 mm, or its brain alone, the intensities scaled to 0..1."""
    path = Path(samples.sample_path("colin27"))
    image = nib.as_closest_canonical(nib.load(path.with_name("ch2bet.nii.gz") if brain else path))
    head = np.asarray(image.dataobj).astype(np.float64)
    return (head / np.quantile(head[head > 0], 0.99)).clip(0, 1.2)


def pseudo_subject(head: np.ndarray, rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """A case [side, side, side] of the head [X, Y, Z] of 1 mm."""
    turn = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True).as_matrix() * rng.uniform(0.93, 1.07, 3)
    grid = np.stack(np.meshgrid(*[SPACING_MM * (np.arange(side) - (side - 1) / 2)] * 3, indexing="ij"))
    centre = np.array(head.shape) / 2 + rng.uniform(-8, 8, 3)
    waves = np.stack([gaussian_filter(rng.normal(size=grid.shape[1:]), 8) for _ in range(3)])
    place = np.einsum("ij,jxyz->ixyz", turn, grid) + centre[:, None, None, None] + 2 * waves / waves.std()
    image = map_coordinates(gaussian_filter(head, 0.8), place, order=1)  # voxels of 2 mm average those of 1 mm
    field = gaussian_filter(rng.normal(size=image.shape), 16)
    image = image * (1 + 0.15 * field / np.abs(field).max())
    return image + rng.normal(0, 0.01, image.shape)


def lesion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tissue = np.argwhere(image[12:-12, 12:-12, 12:-12] > 0.35) + 12
    centre = tissue[rng.integers(len(tissue))]
    distance = np.sqrt(((np.indices(image.shape) - centre[:, None, None, None]) ** 2).sum(0)) * SPACING_MM
    return image + 0.4 * (distance <= 8)


def motion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    moved = np.roll(image, 3, axis=0)
    k = np.fft.fftn(image)
    k[:, ::2] = np.fft.fftn(moved)[:, ::2]
    return np.abs(np.fft.ifftn(k))


def wrong_window(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low, high = np.quantile(image[image > 0.1], [0.45, 0.55])
    return image.clip(low, high)


def wrong_body_part(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    chest, _ = ct_phantom(int(rng.integers(1000)))
    chest = zoom((chest.astype(np.float64).clip(-1000, 400) + 1000) / 1400, 2.5 / SPACING_MM, order=1)
    corner = [(size - SIDE) // 2 for size in chest.shape]
    return chest[tuple(slice(start, start + SIDE) for start in corner)]


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image + rng.normal(0, 0.1, image.shape)


CORRUPTIONS: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (
    lesion, motion, wrong_window, wrong_body_part, noise,
)  # fmt: skip


def write_cases(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Writes a set of cases; file to the name of its corruption ("" for a healthy case)."""
    head = colin27()
    rng = np.random.default_rng(seed)
    cases = {}
    for number in range(count):
        case = pseudo_subject(head, rng)
        corruption = ""
        if number < len(CORRUPTIONS):
            case, corruption = CORRUPTIONS[number](case, rng), CORRUPTIONS[number].__name__
        path = folder / f"case{rng.integers(10**9):09d}.nii.gz"  # the order of names tells nothing
        write_volume(1000 * case, path)
        cases[str(path)] = corruption
    return cases


def write_volume(image: np.ndarray, path: Path) -> None:
    """Writes an image with voxels of 2 mm; signals are not negative."""
    volume = image.clip(0, None).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([SPACING_MM] * 3 + [1.0])), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "bundles/mri_unet3d/models/model.pt")
    parser.add_argument("--sets", type=int, default=3, help="of cases, each with other deformations and corruptions")
    parser.add_argument("--cases", type=int, default=20, help="of a set, five of them corrupted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path, help="also write the tables there")
    a = parser.parse_args()
    precision: dict[str, list[float]] = {}
    places: dict[str, list[int]] = {}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        bundle = ServedBundle(Path(work) / "mri_unet3d")
        shutil.copytree(ROOT / "bundles/mri_unet3d", bundle.folder, ignore=shutil.ignore_patterns("*.pt", "output"))
        for name in ("model.pt", "data_statistics.json"):
            shutil.copyfile(a.checkpoint.with_name(name), bundle.folder / "models" / name)
        for number in range(a.sets):
            folder = Path(work) / f"set{number}"
            folder.mkdir()
            cases = write_cases(folder, a.cases, a.seed + number)
            calibration = Calibration(folder / "diffscore")
            scores = []
            for file in sorted(cases):
                scores.append(volume_score(bundle, file, calibration, sorted(cases)))
                numbers = {name: round(value, 3) for name, value in scores[-1].items() if name != "thumbnail"}
                elapsed = time.perf_counter() - begin
                print(f"{elapsed:6.0f} s  {cases[file] or 'healthy':16} {numbers}", file=sys.stderr, flush=True)
            corrupted = np.array([bool(cases[file]) for file in sorted(cases)])
            variances = np.array([nib.load(file).get_fdata().var() for file in sorted(cases)])
            ranks = {
                "u": surprise(scores),
                "largest_score": np.array([score["largest_score"] for score in scores]),
                "evidence": np.array([score["evidence"] for score in scores]),
                "nats": np.abs(robust_z(np.array([score["nats_per_dim"] for score in scores]))),
                "variance": np.abs(robust_z(variances)),
            }
            rng = np.random.default_rng(a.seed)
            chance = np.mean([average_precision_score(corrupted, rng.random(len(cases))) for _ in range(20_000)])
            precision.setdefault("random", []).append(float(chance))
            for name, rank in ranks.items():
                precision.setdefault(name, []).append(float(average_precision_score(corrupted, rank)))
            order = np.argsort(np.argsort(-ranks["u"], kind="stable"))
            for file, place in zip(sorted(cases), order, strict=True):
                if cases[file]:
                    places.setdefault(cases[file], []).append(int(place) + 1)
    lines = ["| ranking | average precision, mean | of each set |", "|---|---|---|"]
    for name in ("u", "nats", "largest_score", "evidence", "variance", "random"):
        values = precision[name]
        lines.append(f"| {name} | {np.mean(values):.2f} | {', '.join(f'{value:.2f}' for value in values)} |")
    lines += ["", "| corruption | place by u, of each set |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {', '.join(map(str, positions))} |" for name, positions in places.items()]
    trained = time.strftime("%Y-%m-%d %H:%M", time.localtime(a.checkpoint.stat().st_mtime))
    lines.append(f"\n{a.sets} sets of {a.cases} cases, 5 corrupted; seed {a.seed}; weights of {trained}.")
    print("\n".join(lines))
    if a.markdown:
        a.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
