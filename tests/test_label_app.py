"""The parts of the MONAI Label app that need no server: options, leases, ranking, outlines, what is served."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from skimage.draw import polygon2mask

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts/label_app"))

from lib.leases import Leases  # noqa: E402
from lib.options import OPTIONS, Option, changes, panel, usable  # noqa: E402
from lib.outlines import polygons  # noqa: E402
from lib.ranking import case_p_values, choose, ranked, robust_z  # noqa: E402
from lib.scores import ScoreFolder  # noqa: E402
from lib.served import NothingToServe, ServedBundle, find_bundles  # noqa: E402
from lib.workflow import Calibration, configure, run_case  # noqa: E402
from small_data import write_contrasts  # noqa: E402

from monai_diffscore.errors import DataError  # noqa: E402

WITH_ANOMALIES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/anomaly.json"))
SERVED = [folder.name for folder in WITH_ANOMALIES if ServedBundle(folder).tasks]


# ---- options


@pytest.mark.parametrize("bundle", [name for name in SERVED if "pathology" not in name])
@pytest.mark.parametrize("task", ["anomaly", "denoise", "inpaint", "super_resolve"])
def test_every_volume_bundle_has_every_task_and_shows_its_own_defaults(bundle, task):
    served = ServedBundle(ROOT / "bundles" / bundle)
    assert task in served.tasks
    configuration = configure(served, task)
    options = usable(OPTIONS[task], configuration)
    assert options == list(OPTIONS[task])  # no option is of an id that the overlay lacks
    shown = panel(options, configuration)
    json.dumps(shown)
    read = changes(options, {name: value for name, value in shown.items() if not isinstance(value, list)})
    for option in options:
        if option.id in read:
            assert read[option.id] == configuration[option.id]


def test_bundles_of_whole_volumes_are_for_commands_alone():
    """MONAI Label's app takes the options of patches, such as their overlap, which they lack."""
    assert {folder.name for folder in WITH_ANOMALIES} - {*SERVED} == {"ct_whole3d", "mri_whole3d"}


def test_a_translation_draws_the_target_on_the_grid_of_the_image_of_a_request(trained, tmp_path):
    bundle = ServedBundle(trained("mri_translate3d").root)
    assert (bundle.tasks, bundle.translates) == (["translate"], True)
    cohort = Path(write_contrasts(tmp_path / "cohort"))
    path = cohort / "sub-1/anat/sub-1_T1w.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata()[4:], image.affine), path)
    options = changes(OPTIONS["translate"], {"samples": 2, "steps": 2, "result": "std"})
    assert options.pop("result") == "std"
    outcome = run_case(configure(bundle, "translate", options), str(path), tmp_path / "out")
    assert (outcome.row["case"], outcome.row["given"]) == ("sub-1_T1w_to_flair", "t1 t2")
    for kind in ("mean", "std", "sample1"):
        assert nib.load(outcome.file(kind)).shape == (36, 48, 40)
    with pytest.raises(DataError, match=r"label.nii.gz.*an image of the roles flair, t1, t2"):
        run_case(configure(bundle, "translate"), str(cohort / "sub-1/anat/label.nii.gz"), tmp_path / "out")


def test_a_choice_takes_its_first_entry_where_a_client_sends_the_whole_list():
    assert changes(OPTIONS["anomaly"], {"result": ["label", "p", "score"]}) == {"result": "label"}


def test_numbers_are_read_from_texts_and_lists():
    levels = Option("noise_levels", "levels", low=0, high=1, several=True)
    assert levels.read("0.2, 0.4 0.8") == levels.read([0.2, "0.4", 0.8]) == [0.2, 0.4, 0.8]
    assert Option("noise_level", "noise_std", may_be_empty=True).read("") is None
    whole = Option("steps", "steps", int, low=1, high=9).read("3")
    assert (whole, type(whole)) == (3, int)


@pytest.mark.parametrize("value", ["x", "0.5, y", "", 2, [], None, True, "nan"])
def test_values_that_are_not_allowed_are_refused(value):
    with pytest.raises(DataError, match="noise_levels"):
        Option("noise_levels", "levels", low=0, high=1, several=True).read(value)


def test_an_option_that_is_nearly_right_is_not_passed_over():
    with pytest.raises(DataError, match="Did you mean threshold"):
        changes(OPTIONS["anomaly"], {"treshold": 0.1})
    assert changes(OPTIONS["anomaly"], {"logging": "INFO", "client_id": "x"}) == {}


# ---- leases


def test_a_lease_ends_and_is_in_its_file(tmp_path):
    now = [1000.0]
    leases = Leases(tmp_path / "leases.json", 60, lambda: now[0])
    assert leases.take("a", "ada") == 1060
    again = Leases(tmp_path / "leases.json", 60, lambda: now[0])
    assert again.holder("a") == "ada"
    now[0] = 1060.5
    assert again.holder("a") is None
    again.take("a", "bob")
    again.skip("a", "bob")
    assert (again.holder("a"), again.held()["a"]["skipped"]) == (None, ["bob"])
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Leases(tmp_path / "leases.json", 0)


# ---- ranking


def test_distances_are_standard_deviations_of_normal_values_whatever_the_outliers():
    values = np.random.default_rng(0).normal(5, 2, 20_001)
    spoilt = np.concatenate([values, np.full(200, 1e6)])
    z = robust_z(spoilt)[: len(values)]
    assert z.std() == pytest.approx(1, abs=0.03)
    assert np.isfinite(robust_z(np.array([1.0, 1, 1, 1, 7]))).all()
    assert robust_z(np.array([3.0])).tolist() == [0.0]


def test_too_likely_is_as_unusual_as_too_unlikely_but_a_calm_map_is_not_unusual():
    bulk = {f"case{n}": {"nats_per_dim": n / 10, "largest_score": 0.4 + n / 100} for n in range(-4, 5)}
    pairs = {"blurred": (3.0, 0.4), "noisy": (-4.0, 0.4), "lesion": (0.0, 0.9), "calm": (0.0, 0.1)}
    odd = {name: {"nats_per_dim": nats, "largest_score": score} for name, (nats, score) in pairs.items()}
    order = list(ranked({**bulk, **odd}))
    assert set(order[:3]) == {"blurred", "noisy", "lesion"}
    assert order.index("calm") > 2


def test_slides_have_no_scan_and_are_ranked_by_the_evidence_of_their_map():
    slides = {f"slide{n}": {"evidence": 0.4 + n / 100} for n in range(5)} | {"stained": {"evidence": 2.0}}
    assert next(iter(ranked(slides))) == "stained"


def test_scores_of_another_calibration_are_not_taken_for_those_of_this_one(tmp_path):
    bundle = ServedBundle(bundle_without_weights(tmp_path))
    bundle.weights.write_bytes(b"weights")
    image = tmp_path / "image.nii.gz"
    image.write_bytes(b"image")
    folders = [ScoreFolder(tmp_path / "scores", Calibration(tmp_path, healthy)) for healthy in ("", "healthy")]
    folders[0].write(bundle, str(image), {"largest_score": 3.0})
    assert [folder.read(bundle, str(image)) for folder in folders] == [{"largest_score": 3.0}, None]
    bundle.weights.with_name("anomaly_calibration.json").write_text("{}")
    assert folders[0].read(bundle, str(image)) is None


def test_case_p_values_are_shares_of_cases_as_unusual():
    assert case_p_values(np.array([3.0, 1.0, 2.0, 2.0])).tolist() == [0.25, 1.0, 0.75, 0.75]


def test_the_next_case_is_the_most_unusual_and_of_tied_ones_the_most_different():
    scores = {name: {"nats_per_dim": 0.01 * n, "largest_score": 0.4} for n, name in enumerate("abcdefg")}
    scores["h"] = {"nats_per_dim": 2.0, "largest_score": 0.4, "thumbnail": [0.0, 0.0]}
    scores["i"] = {"nats_per_dim": 2.01, "largest_score": 0.4, "thumbnail": [0.1, 0.0]}
    scores["j"] = {"nats_per_dim": 1.99, "largest_score": 0.4, "thumbnail": [5.0, 0.0]}
    for score in scores.values():
        score.setdefault("thumbnail", [1.0, 1.0])
    scores["refused"] = {"refused": "no image"}
    ranking = ranked(scores)
    assert choose(list(scores), ranking) == "i"
    assert choose([name for name in scores if name != "i"], ranking) == "j"  # h is like i, which somebody has
    assert choose(["refused", "new"], ranking) == "new"
    assert choose(["refused"], ranking) == "refused"


# ---- outlines


def test_outlines_enclose_the_marked_area_in_pixels_of_the_slide():
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:50] = True
    mask[10:20, 50:56] = True
    marked = mask.copy()
    mask[30:32, 2:4] = True  # too small
    (outline,) = polygons(mask, (1000, 2000), 4.0, least_area=100)
    drawn = polygon2mask((160, 240), np.array(outline)[:, ::-1] - (2000, 1000))
    expected = np.kron(marked, np.ones((4, 4), bool))
    # outlines are simplified by up to a pixel of the mask
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.94
    assert polygons(np.zeros((4, 4), bool), (0, 0), 1.0, 0) == []


# ---- what is served, and scripts/label


def test_bundles_without_weights_or_tasks_are_named_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(NothingToServe, match=r"mri_unet3d has no weights.*\n.*bundle run training"):
        find_bundles(str(bundle_without_weights(tmp_path)))
    with pytest.raises(NothingToServe, match="no bundle 'nothing'"):
        find_bundles("nothing")
    with pytest.raises(NothingToServe, match="toy2d_mlp has no task for annotators"):
        find_bundles("toy2d_mlp")
    (tmp_path / "bundles").mkdir()
    with pytest.raises(NothingToServe, match="no image bundle has weights yet"):
        find_bundles("", tmp_path)


def test_demonstration_weights_serve_until_there_are_others(tmp_path):
    bundle = ServedBundle(bundle_with_demo_weights(tmp_path))
    assert bundle.for_a_first_look
    assert "demonstration weights" in bundle.title
    configuration = configure(bundle, "anomaly")
    network = configuration.get_parsed_content("network_def")
    assert not any(network.load_state_dict(torch.load(configuration["checkpoint"], weights_only=True)))
    (bundle.folder / "models/model.pt").write_bytes(b"trained")
    assert not bundle.for_a_first_look
    assert bundle.weights.read_bytes() == b"trained"


def bundle_with_demo_weights(folder: Path) -> Path:
    bundle = bundle_without_weights(folder)
    shutil.copytree(ROOT / "bundles/mri_unet3d/models/demo", bundle / "models/demo", dirs_exist_ok=True)
    return bundle


def bundle_without_weights(folder: Path) -> Path:
    without = shutil.ignore_patterns("*.pt", "output")
    return Path(shutil.copytree(ROOT / "bundles/mri_unet3d", folder / "mri_unet3d", ignore=without))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--help"], 0, "bound|127.0.0.1"),
        ([], 2, "--studies is missing"),
        (["--studies", "/nowhere"], 2, "no folder '/nowhere'"),
        (["--studies", ".", "--port", "x"], 2, "--port expects a number"),
        (["--frobnicate"], 2, "unknown option"),
        (["--studies"], 2, "needs a value"),
        (["--studies", ".", "--bundles", "toy2d_mlp"], 1, "no task for annotators"),
        (["--studies", ".", "--python", "no-such-python", "--venv", "/nonexistent"], 2, "no such interpreter"),
    ],
)
def test_the_script_answers_with_one_clear_line(options, code, message):
    done = subprocess.run([str(ROOT / "scripts/label"), *options], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code
    text = done.stdout if code == 0 else done.stderr
    assert any(part in text for part in message.split("|"))
    if code:
        assert len(text.strip().splitlines()) == 1
