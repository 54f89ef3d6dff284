r"""Segmenters of real and of synthetic data, on the same held-out real subjects.

Each arm is one choice of training data. All arms have the same network, the same number of steps and the same seeds.
For the Dice :math:`d_{sj}` of seed s and subject j, a mean over classes and cases of the subject, the result is the
mean over both. Its interval holds 95 % of the means over seeds and subjects that are drawn with replacement. The
difference to the reference pairs the same seeds and subjects.

The same network that was trained on real subjects is tested on the generated images. If it finds the labels there that
the generator was asked for as well as on real images, the images obey their labels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor

from monai_diffscore.atomic_files import write_json
from monai_diffscore.data.volumes import split_by_subject
from monai_diffscore.errors import DataError
from monai_diffscore.segmentation.label_pairs import class_values, labelled_cases, load_pairs
from monai_diffscore.segmentation.segmenter import Segmenter

_DRAWS = 2000


@dataclass(frozen=True)
class Arm:
    """A choice of training data: which sets, and with or without affine and intensity augmentation."""

    name: str
    sets: tuple[str, ...]
    augmented: bool

    @property
    def folder(self) -> str:
        """The name of the arm as the name of a folder."""
        return self.name.replace(" + ", "_").replace(", ", "_")


#: the arms; the others are compared with :data:`REFERENCE`
ARMS = (
    Arm("real", ("real",), False),
    Arm("real, augmented", ("real",), True),
    Arm("synthetic", ("synthetic",), False),
    Arm("real + synthetic", ("real", "synthetic"), False),
    Arm("real + synthetic, augmented", ("real", "synthetic"), True),
)
#: the usual training; its networks also segment the synthetic images
REFERENCE = "real, augmented"


@dataclass(frozen=True)
class Estimate:
    """A mean and the limits of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Study:
    """The Dice of all arms.

    Args:
        classes: values of the classes in the files.
        seeds: of the trainings.
        subjects: of each held-out case.
        held_out: arm to Dice [seeds, held-out cases, classes]; NaN where a case lacks the class.
        synthetic: Dice [seeds, synthetic cases, classes] of the networks of :data:`REFERENCE`.
        facts: numbers of subjects and cases, the network and its training.
        warnings: for the reader.
        names: of the classes, by value, where the files of the real cases state one.
    """

    classes: tuple[int, ...]
    seeds: tuple[int, ...]
    subjects: tuple[str, ...]
    held_out: Mapping[str, np.ndarray]
    synthetic: np.ndarray
    facts: Mapping[str, Any]
    warnings: Sequence[str] = ()
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def class_titles(self) -> list[str]:
        """The name of each class, or its number without a name."""
        return [self.names.get(value, f"class {value}") for value in self.classes]

    def dice(self, arm: str) -> Estimate:
        """The mean Dice of an arm over classes, cases and seeds."""
        return interval(by_subject(self.held_out[arm], self.subjects))

    def gain(self, arm: str) -> Estimate:
        """The mean Dice of an arm minus that of :data:`REFERENCE`."""
        return interval(
            by_subject(self.held_out[arm], self.subjects) - by_subject(self.held_out[REFERENCE], self.subjects)
        )

    def class_dice(self, arm: str) -> np.ndarray:
        """The mean Dice of each class [classes] over cases and seeds."""
        return np.nanmean(self.held_out[arm], axis=(0, 1))

    def obedience(self) -> np.ndarray:
        """The Dice of the asked labels on synthetic images over the Dice on held-out real ones, of each class."""
        return np.nanmean(self.synthetic, axis=(0, 1)) / self.class_dice(REFERENCE)


def by_subject(dice: np.ndarray, subjects: Sequence[str]) -> np.ndarray:
    """The mean over classes and the cases of each subject, [seeds, subjects], of Dice [seeds, cases, classes].

    It leaves out a subject without any class in the label maps."""
    names = np.where(np.isnan(dice[0]).all(1), "", np.asarray(subjects))
    chosen = sorted(set(names.tolist()) - {""})
    return np.stack([np.nanmean(dice[:, names == name], axis=(1, 2)) for name in chosen], axis=1)


def interval(values: np.ndarray, draws: int = _DRAWS, seed: int = 0) -> Estimate:
    """The mean of values [seeds, subjects], and the middle 95 % of the means of drawn seeds and drawn subjects."""
    random = np.random.default_rng(seed)
    rows, columns = (random.integers(size, size=(draws, size)) for size in values.shape)
    means = values[rows[:, :, None], columns[:, None, :]].mean((1, 2))
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def run_study(
    real: str | Path,
    synthetic: str | Path,
    out: str | Path,
    image: str = "",
    mask: str = "",
    subjects: int | None = None,
    iterations: int = 1000,
    repeats: int = 3,
    seed: int = 0,
    **choices: Any,
) -> Study:
    """Trains and tests a segmenter for each arm and seed. The same call continues a study that was stopped.

    Args:
        real, synthetic: paths of real and synthetic cases, in any layout.
        out: folder of the results of each training, and of the last checkpoint.
        image, mask: see :func:`~monai_diffscore.segmentation.label_pairs.labelled_cases`; two names of masks with a
            comma between them are those of the real and of the synthetic cases.
        subjects: number of real subjects to train on; the others are held out. None takes 80 %.
        iterations: steps of each training.
        repeats: number of seeds.
        seed: of the choice of subjects; the first seed of the trainings.
        choices: further arguments of :class:`~monai_diffscore.segmentation.segmenter.Segmenter`.
    Raises:
        DataError: for unusable data, a synthetic image that is a held-out one, and another study in ``out``.
    """
    masks = mask.split(",", 1)
    train, held_out = _split(labelled_cases(real, image, masks[0]), subjects, seed, real)
    generated = labelled_cases(synthetic, image, masks[-1])
    classes = class_values(train)
    sets = {"real": load_pairs(train, classes, desc="real subjects")}
    spacing_mm = np.median([pair["image"].pixdim for pair in sets["real"]], axis=0).round(3).tolist()
    if any(not np.allclose(pair["image"].pixdim, spacing_mm, atol=1e-2) for pair in sets["real"]):
        sets["real"] = load_pairs(train, classes, spacing_mm, "real subjects, resampled")
    sets["synthetic"] = load_pairs(generated, classes, spacing_mm, "synthetic cases")
    test = load_pairs(held_out, classes, spacing_mm, "held-out subjects")
    warnings = _repeats_of_held_out(sets, test)
    size = np.min([pair["image"].shape[1:] for pair in sets["real"]], axis=0)
    fitting = tuple(int(min(64, 16 * -(-side // 16))) for side in size)
    segmenter = Segmenter(
        len(classes) + 1, len(sets["real"][0]["image"]), iterations=iterations, **{"window": fitting, **choices}
    )
    facts = {
        "real": str(real), "synthetic": str(synthetic), "subjects_trained_on": len({case["subject"] for case in train}),
        "subjects_held_out": len({case["subject"] for case in held_out}), "real_cases": len(train),
        "held_out_cases": len(held_out), "synthetic_cases": len(generated), "classes": list(classes),
        "spacing_mm": spacing_mm, "segmenter": asdict(segmenter), "seed": seed, "image": image, "mask": mask,
    }  # fmt: skip
    out = Path(out)
    _open(out / "study.json", json.loads(json.dumps(facts)))
    seeds = tuple(range(seed, seed + repeats))
    held: dict[str, list[np.ndarray]] = {arm.name: [] for arm in ARMS}
    asked = []
    for place, arm in enumerate(ARMS):
        for repeat in seeds:
            print(f"{arm.name}, seed {repeat}: arm {place + 1} of {len(ARMS)}", flush=True)
            result = _train_and_test(segmenter, arm, sets, test, repeat, out / "trainings" / f"{arm.folder}_{repeat}")
            held[arm.name].append(result["held_out"])
            if arm.name == REFERENCE:
                asked.append(result["synthetic"])
    dice = {name: np.stack(values) for name, values in held.items()}
    names = tuple(str(case["subject"]) for case in held_out)
    titles = {value: texts[0] for value, texts in train[0]["class_names"].items() if len(texts) == 1}
    return Study(classes, seeds, names, dice, np.stack(asked), facts, warnings, titles)


def _split(
    cases: list[dict[str, Any]], subjects: int | None, seed: int, real: str | Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out cases; ``subjects`` of them to train on."""
    total = len({case["subject"] for case in cases})
    number = round(0.8 * total) if subjects is None else subjects
    if total < 2 or number < 1:
        raise DataError(
            real, key="subjects", expected="at least two labelled subjects, one of them to train on",
            got=f"{number} of {total} to train on", remedy="Add subjects with label maps, or raise --subjects.",
        )  # fmt: skip
    if number >= total:
        raise DataError(
            real, key="subjects", expected=f"at most {total - 1} of {total} labelled subjects to train on",
            got=f"{number}", remedy="Lower --subjects: the others are held out.",
        )  # fmt: skip
    train, held_out = split_by_subject(cases, 1 - number / total, seed, slabs=False)
    return sorted(train, key=lambda case: str(case["image"])), held_out  # in the order of other folders


def _repeats_of_held_out(
    sets: Mapping[str, Sequence[Mapping[str, Any]]], test: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Refuses synthetic images that are held-out ones; warns of their label maps."""
    of_test = {key: {_content(pair[key]) for pair in test} for key in ("image", "label")}
    repeated = {
        key: [pair for pair in sets["synthetic"] if _content(pair[key]) in of_test[key]] for key in ("image", "label")
    }
    if repeated["image"]:
        raise DataError(
            repeated["image"][0]["image"].meta["filename_or_obj"],
            expected="synthetic images", got="a held-out real one",
            remedy="Generate from the training subjects alone, or take these cases out.",
        )  # fmt: skip
    if repeated["label"]:
        return [
            f"{len(repeated['label'])} synthetic cases have the label map of a held-out subject: the arms with "
            "synthetic data know its shapes. Only the table of the asked labels is fair."
        ]
    return []


def _content(values: Any) -> bytes:
    array: np.ndarray = convert_to_tensor(values, track_meta=False).numpy()
    return array.tobytes()


def _open(file: Path, facts: Mapping[str, Any]) -> None:
    """Notes the study in its folder; refuses the folder of another."""
    if file.is_file():
        noted = json.loads(file.read_text())
        changed = [name for name in facts if noted.get(name) != facts[name]]
        if changed:
            raise DataError(
                file, key=", ".join(changed), expected=f"{[noted.get(name) for name in changed]}, as the study there",
                got=f"{[facts[name] for name in changed]}", remedy="Name another folder with --out.",
            )  # fmt: skip
    write_json(file, facts)


def _train_and_test(
    segmenter: Segmenter, arm: Arm, sets: Mapping[str, Any], test: Sequence[Mapping[str, Any]], seed: int, folder: Path
) -> dict[str, np.ndarray]:
    """The Dice of one training, from its file if it is done."""
    file = folder / "dice.json"
    if not file.is_file():
        begin = time.process_time()
        network = segmenter.train([sets[name] for name in arm.sets], arm.augmented, seed, folder)
        tests = {"held_out": test} | ({"synthetic": sets["synthetic"]} if arm.name == REFERENCE else {})
        dice = {
            name: torch.where(rows.isnan(), -1.0, rows).tolist()  # JSON has no NaN
            for name, pairs in tests.items()
            for rows in [segmenter.dice(network, pairs, f"testing on {name.replace('_', '-')} cases")]
        }
        write_json(file, {"arm": arm.name, "seed": seed, "cpu_seconds": round(time.process_time() - begin, 1), **dice})
    result = json.loads(file.read_text())
    arrays = {name: np.asarray(result[name]) for name in ("held_out", "synthetic") if name in result}
    return {name: np.where(values < 0, np.nan, values) for name, values in arrays.items()}
