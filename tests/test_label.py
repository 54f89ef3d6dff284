"""The MONAI Label app, asked over REST as clients ask it: a folder of files, a DICOMweb service, MONAI Label's own app.

Networks are small and trained for a few iterations: what is tested is that requests get what they asked for, not that a
proposal is right (benchmarks/label_ranking.py and benchmarks/anomaly.py measure that). One server serves
most tests, which build on each other's labels and scores in their order.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import shutil
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
import torch
from label_server import ROOT, LabelServer, Orthanc, missing, orthanc, ours, small_bundle, stock
from monai.data import MetaTensor
from small_data import stained, write_contrasts

from monai_diffscore.data import write_dicom_series
from monai_diffscore.data.pictures import write_pyramid

pytestmark = [pytest.mark.slow, pytest.mark.label, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2.0, 0, -50], [0, 0, 2.0, -30], [0, 0, 0, 1]])
#: of the tasks, so that a request takes a second
QUICK = {"noise_pairs": 1, "noise_levels": "0.5", "threshold": 0.01, "min_volume_ml": 0}
QUICK_SAMPLING = {"steps": 2, "samples": 2}
QUICK_SCORES = {"patches": 1, "likelihood_steps": 2, "noise_levels": "0.5"}


def head(seed: int, lesion: bool = False) -> np.ndarray:
    """A ball of shells with texture, 40 x 48 x 40."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in (40, 48, 40)], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    image = np.where(radius < 0.9, 600 + 300 * np.cos(6 * radius), 0.0)
    image += (radius < 0.9) * np.random.default_rng(seed).normal(0, 30, image.shape)
    if lesion:
        image[16:22, 20:26, 16:22] += 500
    return image.clip(0, None).astype(np.float32)


def save(image: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, AFFINE), path)
    return path


def read(answer: requests.Response) -> nib.Nifti1Image:
    """The NIfTI file that was sent."""
    assert answer.status_code == 200, answer.text
    return nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(answer.content)))


def wait_for(server: LabelServer, method: str) -> dict:
    """The last background task of a method, when it is done."""
    end = time.monotonic() + 300
    while (task := server.get(f"/{method}/").json())["status"] not in ("DONE", "ERROR") and time.monotonic() < end:
        time.sleep(1)
    return task


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("label")


@pytest.fixture(scope="module")
def studies(work) -> Path:
    """Three heads, one of them with a lesion, a slide, and a file that is no image."""
    folder = work / "studies"
    for name, seed in (("a", 0), ("b", 1), ("lesion", 2)):
        save(head(seed, name == "lesion"), folder / f"{name}.nii.gz")
    slide = stained((256, 256))
    slide[:, 96:160, 80:176] = np.array([40, 140, 90], np.uint8)[:, None, None]
    write_pyramid(slide, folder / "slide.tif", 0.5, tile=64)
    broken = head(3)
    broken[20, 20, 20] = math.nan
    save(broken, folder / "nan.nii.gz")
    return folder


@pytest.fixture(scope="module")
def mri(work) -> Path:
    for seed in (10, 11):
        save(head(seed), work / f"heads/sub-{seed}.nii.gz")
    return small_bundle("mri_unet3d", work / "bundles", work / "heads")


@pytest.fixture(scope="module")
def pathology(work) -> Path:
    for seed in (0, 1):
        (work / "slides").mkdir(exist_ok=True)
        write_pyramid(stained((256, 256), seed), work / f"slides/sub-{seed}.tif", 0.5, tile=64)
    return small_bundle("pathology_hierarchical_unet", work / "bundles", work / "slides")


@pytest.fixture(scope="module")
def ct(work) -> Path:
    for seed in (10, 11):
        save(head(seed) - 1000, work / f"cts/sub-{seed}.nii.gz")
    # voxels of the large CT below: nothing is resampled, all of it goes through the network
    return small_bundle("ct_unet3d", work / "bundles", work / "cts", spacing_mm=[0.8, 0.8, 2.5])


def test_a_server_draws_a_contrast_from_the_other_images_of_its_case(work):
    cohort = work / "contrasts"
    for file in Path(write_contrasts(work / "bids")).rglob("*.nii.gz"):
        cohort.mkdir(exist_ok=True)
        shutil.copy(file, cohort)
    bundle = small_bundle("mri_translate3d", work / "bundles", cohort)
    with LabelServer(ours(str(cohort), [bundle]), work / "translation.log") as server:
        asked = [("sub-1_T1w", {}), ("sub-3_T1w", {}), ("sub-1_T1w", {"result": "std"})]
        both, alone, std = (
            read(server.infer("mri_translate3d_translate", image, "image", **QUICK_SAMPLING, **params)).get_fdata()
            for image, params in asked
        )
    assert both.shape == alone.shape == std.shape == (40, 48, 40)
    assert std.min() >= 0
    assert std.std() > 0
    assert np.isfinite(both).all()
    assert not np.array_equal(both, alone)


@pytest.fixture(scope="module")
def command(work, studies, mri, pathology, ct):
    conf = {"work_dir": work / "kept", "healthy_dir_ct_unet3d": work / "cts"}
    options = [part for name, value in conf.items() for part in ("--conf", name, str(value))]
    return ours(str(studies), [mri, pathology, ct], *options)


@pytest.fixture(scope="module")
def server(command, work):
    with LabelServer(command, work / "server.log") as running:
        yield running


def test_info_lists_the_tasks_of_bundles(server):
    info = server.get("/info/").json()
    models = info["models"]
    tasks = ("anomaly", "denoise", "inpaint", "super_resolve")
    assert {f"mri_unet3d_{task}" for task in tasks} <= set(models)
    assert models["mri_unet3d_anomaly"]["type"] == "segmentation"
    assert models["mri_unet3d_anomaly"]["labels"] == {"anomaly": 1}
    assert models["mri_unet3d_denoise"]["type"] == "others"
    assert models["pathology_hierarchical_unet_anomaly"]["pathology"] is True
    panel = models["mri_unet3d_anomaly"]["config"]
    assert panel["noise_levels"] == "0.1, 0.2"  # as anomaly.json has them
    assert panel["result"] == ["label", "p", "score"]
    assert info["datastore"]["total"] == 5
    assert set(info["strategies"]) == {f"{name}_most_unlike" for name in info["scoring"]}


def test_a_proposal_is_a_label_map_on_the_grid_of_its_image(server, studies):
    source = nib.load(studies / "lesion.nii.gz")
    proposed = read(server.infer("mri_unet3d_anomaly", "lesion", "image", **QUICK))
    assert proposed.shape == source.shape
    np.testing.assert_allclose(proposed.affine, source.affine, atol=1e-5)
    assert proposed.get_data_dtype() == np.uint8
    assert set(np.unique(proposed.dataobj)) <= {0, 1}
    answer = server.infer("mri_unet3d_anomaly", "lesion", "json", **QUICK).json()
    assert answer["label_names"] == {"anomaly": 1}
    marked_ml = float(np.asarray(proposed.dataobj).sum()) * 0.008
    assert answer["result"]["marked_ml"] == pytest.approx(marked_ml, rel=1e-6)
    assert answer["calibration"] == "calibrated on 3 of the studies themselves"  # neither the slide nor the NaN
    latencies = answer["latencies"]
    stages = sum(latencies[name] for name in ("setup", "pre", "infer", "post"))
    assert 0 < stages <= latencies["total"]


def test_the_threshold_takes_effect(server):
    loose, strict = (
        np.asarray(read(server.infer("mri_unet3d_anomaly", "a", "image", **{**QUICK, "threshold": alpha})).dataobj)
        for alpha in (0.05, 0.002)
    )
    assert strict.sum() < loose.sum()
    assert not (strict.astype(bool) & ~loose.astype(bool)).any()
    p = read(server.infer("mri_unet3d_anomaly", "a", "image", **QUICK, result="p")).get_fdata()
    np.testing.assert_array_equal(p <= 0.05, loose.astype(bool))


@pytest.mark.parametrize(
    ("task", "params"), [("denoise", {"noise_level": 0.2}), ("inpaint", {"hole_share": 0.3}), ("super_resolve", {})]
)
def test_restorations_are_float_images_on_the_grid(server, studies, task, params):
    source = nib.load(studies / "a.nii.gz")
    restored = read(server.infer(f"mri_unet3d_{task}", "a", "image", **QUICK_SAMPLING, **params))
    assert restored.shape == source.shape
    assert restored.get_data_dtype() == np.float32
    np.testing.assert_allclose(restored.affine, source.affine, atol=1e-5)
    assert np.isfinite(restored.get_fdata()).all()
    assert restored.get_fdata().std() > 50  # in units of the source, whose are hundreds


def test_a_file_that_is_sent_along_and_another_format(server, studies, tmp_path):
    answer = server.infer("mri_unet3d_anomaly", file=studies / "b.nii.gz", output="image", **QUICK,
                          result_extension=".nrrd", result_dtype="uint16")  # fmt: skip
    header, _, content = answer.content.partition(b"\n\n")
    fields = dict(line.split(b": ", 1) for line in header.splitlines() if b": " in line)
    assert (fields[b"type"], fields[b"sizes"]) == (b"unsigned short", b"40 48 40")
    assert len(content) == 2 * 40 * 48 * 40


WRONG = [
    ("infer/mri_unet3d_anomaly?image=nobody", {}, 404, "no image 'nobody'"),
    ("infer/nothing?image=a", {}, 404, "mri_unet3d_denoise"),
    ("infer/mri_unet3d_anomaly", {}, 422, "its id as ?image="),
    ("infer/mri_unet3d_anomaly?image=a", {"threshold": 2}, 422, "from 1e-06 to 0.5, got 2"),
    ("infer/mri_unet3d_anomaly?image=a", {"threshold": 1e-6}, 422, "smallest p-value"),
    ("infer/mri_unet3d_anomaly?image=a", {"thresold": 0.1}, 422, "Did you mean threshold?"),
    ("infer/mri_unet3d_anomaly?image=a", {"noise_levels": "many"}, 422, "noise_levels"),
    ("infer/mri_unet3d_denoise?image=a", {"method": "magic"}, 422, "one of diffpir, pigdm, mmps, dps"),
    ("infer/mri_unet3d_anomaly?image=a", {**QUICK, "result_extension": ".bmp"}, 422, "one of .nii.gz"),
    ("infer/mri_unet3d_anomaly?image=slide", QUICK, 422, "a readable 3-D volume with 1 channel"),
    ("infer/mri_unet3d_anomaly?image=nan", QUICK, 422, "1 of 76800 voxels NaN or infinite"),
    ("infer/mri_unet3d_super_resolve?image=a", {"factors": "7, 1, 1"}, 422, "divisible by their factor"),
    ("infer/mri_unet3d_anomaly?image=a&output=dicom_seg", QUICK, 422, "DICOMweb"),
    ("scoring/nothing?run_sync=true", None, 404, "no method 'nothing'"),
    ("scoring/nothing", None, 404, "no method 'nothing'"),
    ("activelearning/nothing", None, 404, "mri_unet3d_most_unlike"),
    ("train/mri_unet3d?run_sync=true", {"max_epochs": 0}, 422, "max_epochs"),
    ("train/mri_unet3d", {"max_epochs": 0}, 422, "max_epochs"),
    ("train/nothing", {"max_epochs": 1}, 404, "no model 'nothing'"),
]


@pytest.mark.parametrize(("path", "params", "status", "message"), WRONG)
def test_the_impossible_is_answered_with_one_line(server, path, params, status, message):
    form = path.startswith("infer")
    sent = {"files": {"params": (None, json.dumps(params))}} if form else {"json": params}
    answer = server.post(f"/{path}", **sent)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_params_that_are_no_json(server):
    answer = server.post("/infer/mri_unet3d_anomaly?image=a", files={"params": (None, "{threshold")})
    assert (answer.status_code, "expected JSON" in answer.text) == (422, True)


def test_eight_requests_at_once_get_the_same_and_info_answers_meanwhile(server):
    with ThreadPoolExecutor(9) as pool:
        jobs = [pool.submit(server.infer, "mri_unet3d_anomaly", "a", "image", **QUICK) for _ in range(8)]
        begin = time.monotonic()
        assert server.get("/info/").status_code == 200
        info_seconds = time.monotonic() - begin
        answers = [read(job.result()) for job in jobs]
        all_seconds = time.monotonic() - begin
    for answer in answers[1:]:
        np.testing.assert_array_equal(np.asarray(answer.dataobj), np.asarray(answers[0].dataobj))
    assert info_seconds < all_seconds / 2


def test_a_slide_gets_polygons_in_its_own_pixels_in_three_formats(server, pathology):
    body = {"size": [0, 0], "location": [0, 0], "tile_size": [128, 128], "params": {"threshold": 0.05}}
    url = "/infer/wsi_v2/pathology_hierarchical_unet_anomaly?image=slide"
    answer = server.post(f"{url}&output=json", files={"wsi": (None, json.dumps(body))})
    assert answer.status_code == 200, answer.text
    tiles = answer.json()["annotations"]
    assert len(tiles) == 4
    contours = [c for tile in tiles for element in tile["annotation"]["elements"] for c in element["contours"]]
    points = np.concatenate(contours)
    assert points.min() >= 0
    assert points.max() <= 256
    dsa = server.post(f"{url}&output=dsa", files={"wsi": (None, json.dumps(body))}).json()
    assert [element["label"]["value"] for element in dsa["elements"]] == ["anomaly"] * len(contours)
    assert [np.array(element["points"])[:, :2].tolist() for element in dsa["elements"]] == contours
    asap = server.post(f"{url}&output=asap", files={"wsi": (None, json.dumps(body))})
    drawn = ElementTree.fromstring(asap.content).iter("Annotation")
    assert len(list(drawn)) == len(contours)
    for wrong, message in (({"tile_size": [0, 5]}, "tile_size"), ({"params": {"threshold": 9}}, "threshold")):
        refused = server.post(f"{url}&output=json", files={"wsi": (None, json.dumps(wrong))})
        assert (refused.status_code, message in refused.text) == (422, True)
    refused = server.post("/infer/wsi_v2/mri_unet3d_anomaly?image=a", files={"wsi": (None, "{}")})
    assert (refused.status_code, "a model of slides" in refused.text) == (422, True)


def test_a_large_ct_is_tiled_in_bounded_memory(server, tmp_path):
    """512 x 512 x 120 voxels at their own spacing. The layers of the network alone would need 8 channels of them, many
    times over, if the volume went through it at once."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in (512, 512, 120)], indexing="ij", sparse=True)
    radius = np.sqrt(sum(axis**2 for axis in axes))
    image = np.where(radius < 0.9, 100 * np.cos(9 * radius), -1000).astype(np.int16)
    path = tmp_path / "large.nii.gz"
    nib.save(nib.Nifti1Image(image, np.diag([0.8, 0.8, 2.5, 1])), path)
    before = server.most_memory_mb()
    begin = time.monotonic()
    proposed = read(server.infer("ct_unet3d_anomaly", file=path, output="image", **QUICK, overlap=0))
    used = server.most_memory_mb() - before
    print(f"512 x 512 x 120 CT: {time.monotonic() - begin:.0f} s, {used:.0f} MB above {before:.0f} MB")
    assert proposed.shape == image.shape
    volume_mb = image.size * 4 / 2**20
    assert used < 30 * volume_mb


def test_scores_are_computed_once_and_order_the_cases(server, work):
    first = server.post("/scoring/mri_unet3d?run_sync=true", json=QUICK_SCORES).json()
    assert set(first) == {"a", "b", "lesion", "nan", "slide"}
    assert "refused" in first["slide"]
    assert "NaN" in first["nan"]["refused"]
    assert all(math.isfinite(first[name]["nats_per_dim"]) for name in ("a", "b", "lesion"))
    for score in ("evidence", "nats_per_dim"):
        assert max(("a", "b", "lesion"), key=lambda name: first[name][score]) == "lesion", score
    files = {file: file.stat().st_mtime_ns for file in (work / "kept/scores/mri_unet3d").iterdir()}
    added = save(head(5), work / "c.nii.gz").read_bytes()
    put = server.put("/datastore/image?image=c", files={"file": ("c.nii.gz", added)})
    assert put.status_code == 200, put.text
    assert server.get("/datastore/image?image=c").content == added
    assert server.post("/scoring/mri_unet3d", json=QUICK_SCORES).status_code == 200  # in a process of its own
    assert wait_for(server, "scoring")["status"] == "DONE"
    second = server.post("/scoring/mri_unet3d?run_sync=true", json=QUICK_SCORES).json()
    assert {name: second[name] for name in first} == first
    kept = {file: file.stat().st_mtime_ns for file in files}
    assert kept == files
    assert len(list((work / "kept/scores/mri_unet3d").iterdir())) == len(files) + 1


def test_no_case_is_offered_to_two_annotators(server):
    url = "/activelearning/mri_unet3d_most_unlike"
    ada = server.post(url, json={"client_id": "ada"}).json()
    assert 0 < ada["case_p"] <= 1
    assert server.post(url, json={"client_id": "ada"}).json()["id"] == ada["id"]
    with ThreadPoolExecutor(5) as pool:
        others = list(pool.map(lambda n: server.post(url, json={"client_id": f"annotator{n}"}).json(), range(5)))
    offered = [answer["id"] for answer in others]
    assert len({ada["id"], *offered}) == 6  # the five images and c, and slide and nan last
    assert server.post(url, json={"client_id": "late"}).json() == {}
    skipped = server.post(url, json={"client_id": "ada", "skip": True}).json()
    assert skipped == {}
    assert server.post(url, json={"client_id": "late"}).json()["id"] == ada["id"]


def test_labels_are_stored_returned_and_no_longer_offered(server, work):
    label = save((head(0) > 700).astype(np.uint8), work / "label.nii.gz")
    put = server.put("/datastore/label?image=b&tag=final", files={"label": ("b.nii.gz", label.read_bytes())})
    assert put.status_code == 200, put.text
    assert server.get("/datastore/").json()["completed"] == 1
    stored = read(server.get("/datastore/label?label=b&tag=final"))
    np.testing.assert_array_equal(np.asarray(stored.dataobj), np.asarray(nib.load(label).dataobj))
    assert "b" not in server.post("/scoring/mri_unet3d?run_sync=true", json=QUICK_SCORES).json()
    wrong = server.put("/datastore/label?image=nobody&tag=final", files={"label": ("b.nii.gz", label.read_bytes())})
    assert (wrong.status_code, wrong.json()["detail"]) == (404, "Image nobody not found")


def test_training_on_unlabelled_images_serves_the_new_weights(server, mri):
    before = (mri / "models/model.pt").read_bytes()
    options = {"max_epochs": 3, "patches": 32, "batch_size": 4, "learning_rate": 0.002, "patience": 2}
    started = server.post("/train/mri_unet3d", json=options)
    assert started.status_code == 200, started.text
    task = wait_for(server, "train")
    assert task["status"] == "DONE", task["details"]
    report = server.get("/info/").json()["train_stats"]["mri_unet3d"]
    assert report["images"] + report["held_out"] == 3  # a, c and lesion; b is labelled
    assert report["served"]
    assert report["error_best"] < report["error_before"]
    assert (mri / "models/model_before.pt").read_bytes() == before
    assert (mri / "models/model.pt").read_bytes() != before
    answer = server.infer("mri_unet3d_anomaly", "a", "json", **QUICK)
    assert answer.status_code == 200, answer.text
    assert "slide" in server.post("/scoring/mri_unet3d?run_sync=true", json=QUICK_SCORES).json()


def test_a_restarted_server_knows_scores_leases_and_weights(server, command, work):
    asked = {"json": {"client_id": "ada"}}
    offered = server.post("/activelearning/mri_unet3d_most_unlike", **asked).json()
    proposed = read(server.infer("mri_unet3d_anomaly", "a", "image", **QUICK))
    server.stop()
    files = sorted((work / "kept/scores").rglob("*.json"))
    with LabelServer(command, work / "restarted.log") as again:
        proposed_again = read(again.infer("mri_unet3d_anomaly", "a", "image", **QUICK))
        np.testing.assert_array_equal(np.asarray(proposed_again.dataobj), np.asarray(proposed.dataobj))
        again_offered = again.post("/activelearning/mri_unet3d_most_unlike", **asked).json()
        assert again_offered.get("id") == offered.get("id")
        again.post("/scoring/mri_unet3d?run_sync=true", json=QUICK_SCORES)
    assert sorted((work / "kept/scores").rglob("*.json")) == files


def test_a_bundle_that_nobody_has_trained_serves_its_demonstration_weights(work, studies):
    bundle = work / "untrained/mri_unet3d"
    shutil.copytree(ROOT / "bundles/mri_unet3d", bundle, ignore=shutil.ignore_patterns("output"))
    (bundle / "models/model.pt").unlink(missing_ok=True)
    conf = {"work_dir": work / "kept_demo", "calibration_cases": 1}
    options = [part for name, value in conf.items() for part in ("--conf", name, str(value))]
    with LabelServer(ours(str(studies), [bundle], *options), work / "demo.log") as server:
        description = server.get("/info/").json()["models"]["mri_unet3d_anomaly"]["description"]
        assert "demonstration weights" in description
        assert read(server.infer("mri_unet3d_anomaly", "lesion", "image", **QUICK)).shape == (40, 48, 40)
        refused = server.post("/train/mri_unet3d", json={"max_epochs": 1})
        assert (refused.status_code, "Train it first" in refused.text) == (422, True)


# ---- DICOMweb


@pytest.fixture(scope="module")
def dicom(work):
    """Two MR series, and the folder of the first."""
    for number in (0, 1):
        volume = MetaTensor(torch.from_numpy(head(20 + number, bool(number)))[None], affine=torch.from_numpy(AFFINE))
        write_dicom_series(volume, work / f"dicom/{number}", modality="MR", model_hash="test")
    return work / "dicom"


@pytest.mark.skipif(orthanc() is None, reason="no Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
def test_a_dicomweb_service_gets_segmentations(work, dicom, mri, ct):
    with Orthanc(work) as archive:
        for folder in sorted(dicom.iterdir()):
            archive.store(folder)
        command = ours(archive.dicomweb, [mri], "--conf", "work_dir", str(work / "kept_dicom"))
        cache = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(work / "cache")}
        with LabelServer(command, work / "dicom.log", **cache) as server:
            check_dicomweb(server, archive, dicom)
        both = ours(archive.dicomweb, [mri, ct], "--conf", "work_dir", str(work / "kept_dicom"))
        cache["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] = '{"Modality": "MR"}'
        with LabelServer(both, work / "dicom.log", **cache) as server:
            wrong = server.infer("ct_unet3d_anomaly", uid_of(dicom / "0"))
            assert (wrong.status_code, "expected a series of modality CT, got MR" in wrong.text) == (422, True)


def uid_of(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.iterdir())).SeriesInstanceUID)


def check_dicomweb(server: LabelServer, archive: Orthanc, dicom: Path) -> None:
    assert server.get("/info/").json()["datastore"]["total"] == 2
    uid = uid_of(dicom / "1")
    proposed = np.asarray(read(server.infer("mri_unet3d_anomaly", uid, "image", **QUICK)).dataobj)
    assert proposed.shape == (40, 48, 40)
    answer = server.infer("mri_unet3d_anomaly", uid, "dicom_seg", **QUICK)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom"), answer.text
    seg = pydicom.dcmread(io.BytesIO(answer.content))
    assert seg.Modality == "SEG"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    assert seg.SegmentSequence[0].SegmentLabel == "anomaly"
    assert int(seg.pixel_array.sum()) == int(proposed.sum())
    nothing = server.infer("mri_unet3d_anomaly", uid, "dicom_seg", **{**QUICK, "min_volume_ml": 1e5})
    assert (nothing.status_code, "no voxel is that unusual" in nothing.text) == (422, True)
    unknown = server.infer("mri_unet3d_anomaly", "1.2.3", "dicom_seg", **QUICK)
    assert (unknown.status_code, "no image '1.2.3'" in unknown.text) == (404, True)
    scores = server.post("/scoring/mri_unet3d?run_sync=true", json=QUICK_SCORES).json()
    assert set(scores) == {uid_of(dicom / "0"), uid}
    offered = server.post("/activelearning/mri_unet3d_most_unlike", json={"client_id": "ada"}).json()
    assert offered["id"] in scores
    label = server.infer("mri_unet3d_anomaly", uid, "image", **QUICK).content
    info = {"label_info": [{"name": "anomaly", "model_name": "mri_unet3d_anomaly"}]}
    put = server.put(f"/datastore/label?image={uid}&tag=final", files={
        "label": ("label.nii.gz", label), "params": (None, json.dumps(info))})  # fmt: skip
    assert put.status_code == 200, put.text
    response = requests.get(
        f"{archive.dicomweb}/series?Modality=SEG", headers={"Accept": "application/json"}, timeout=30
    )
    assert len(response.json()) == 1


# ---- MONAI Label's own app


def test_bundles_work_unmodified_in_the_bundle_app_of_monai_label(work, mri, ct, pathology):
    folder = work / "stock_studies"
    source = save(head(0, True), folder / "head.nii.gz")
    save(head(0, True) - 1000, folder / "ct.nii.gz")
    write_pyramid(stained((96, 128)), folder / "tile.tif", 0.5, tile=64)
    dit = small_bundle("mri_dit3d", work / "bundles", work / "heads")
    flat = small_bundle("ct_unet2d", work / "bundles", work / "cts")
    bundles = [mri, dit, ct, flat, pathology]
    with LabelServer(stock(str(folder), work / "app", bundles), work / "stock.log", MONAI_ZOO_SOURCE="local") as server:
        assert set(server.get("/info/").json()["models"]) == {bundle.name for bundle in bundles}
        for bundle in bundles[:4]:
            image = "ct" if bundle.name.startswith("ct") else "head"
            marked = {}
            for threshold in (0.005, 0.02):
                params = {"noise_pairs": 1, "threshold": threshold, "min_volume_ml": 0}
                labels = read(server.infer(bundle.name, image, "image", **params))
                assert labels.shape == (40, 48, 40)
                np.testing.assert_allclose(labels.affine, nib.load(source).affine, atol=1e-4)
                marked[threshold] = float(np.asarray(labels.dataobj).mean())
            assert 0 < marked[0.005] < marked[0.02] < 0.03, bundle.name
        picture = server.infer("pathology_hierarchical_unet", "tile", "image", noise_pairs=1, threshold=0.02)
        assert picture.status_code == 200, picture.text
        assert picture.content[1:4] == b"PNG"
