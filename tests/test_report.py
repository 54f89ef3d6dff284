"""The report: what it reads, what it writes, and that a browser opens it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from browser import check_page
from mlflow.tracking import MlflowClient
from pictures import check_picture
from small_data import choices, write_dataset
from workflows import ROOT, configuration

from monai_diffscore.__main__ import main
from monai_diffscore.errors import DataError, explain
from monai_diffscore.report import Cell, Page, Section, render
from monai_diffscore.report.card import BEGIN, END
from monai_diffscore.report.image_files import find_samples, read_images
from monai_diffscore.report.page import table
from monai_diffscore.report.runs import RunRecord, find_run, run_parser
from monai_diffscore.report.sources import _cases_of_folder, gather
from monai_diffscore.report.volumes import random_windows


def blobs(count: int, seed: int, size: int = 16) -> np.ndarray:
    """Smooth random pictures [N, 1, size, size], 0 to about 100."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing="ij"))
    centres, noise = random.uniform(4, size - 4, (count, 2, 1, 1)), random.normal(0, 1, (count, 1, size, size))
    return (100 * np.exp(-((grid - centres) ** 2).sum(1, keepdims=True) / 20) + noise).astype(np.float32)


@pytest.fixture
def folders(tmp_path):
    for name, seed in (("samples", 0), ("real", 1), ("train", 2)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "set.npy", blobs(16, seed))
    return tmp_path


def command(folders, *more: str) -> list[str]:
    samples, real, train, out = (str(folders / name) for name in ("samples", "real", "train", "out"))
    return ["report", samples, "--real", real, "--train", train, "--out", out, "--draws", "10", *more]


def test_the_command_writes_a_page_a_record_and_a_picture(folders, capsys):
    assert main(command(folders, "--unit", "HU", "--title", "a & b")) == 0
    html, record = (folders / "out/report.html").read_text(), json.loads((folders / "out/report.json").read_text())
    assert "<title>a &amp; b</title>" in html
    assert set(record["metrics"]) == {
        "spectrum",
        "intensity",
        "texture",
        "random_features",
        "diversity",
        "memorisation",
    }
    assert record["images_in_each_set"] == 8
    for metric in record["metrics"].values():
        assert metric["blind_to"][:40] in html
        assert {"model", "real", "blurred", "noisy", "copied"} <= set(metric["sets"])
    assert record["metrics"]["intensity"]["unit"] == "HU"
    check_picture(folders / "out/gallery.png", grey=True)
    assert "wrote" in capsys.readouterr().out


def test_the_page_is_one_file_that_fetches_nothing(folders):
    main(command(folders))
    html = (folders / "out/report.html").read_text()
    assert "<script" not in html
    sources = re.findall(r'(?:src|href)="([^"#]*)', html) + re.findall(r"url\(([^#)][^)]*)", html)
    assert all(source.startswith("data:") or source == "" for source in sources), sources
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))


def test_copies_are_named_on_the_page(folders):
    train = np.load(folders / "train/set.npy")
    np.save(folders / "samples/set.npy", np.concatenate([blobs(12, 0), train[:4]]))
    main(command(folders))
    record = json.loads((folders / "out/report.json").read_text())
    assert record["suspected_copies"] == [12, 13, 14, 15]
    assert "4 of the 16 samples" in (folders / "out/report.html").read_text()


def test_without_training_data_the_page_names_the_missing_metrics(folders):
    arguments = command(folders)
    at = arguments.index("--train")
    assert main(arguments[:at] + arguments[at + 2 :]) == 0
    assert "nothing is said about memorisation" in (folders / "out/report.html").read_text()
    assert "memorisation" not in json.loads((folders / "out/report.json").read_text())["metrics"]


def test_the_card_is_written_once_and_replaced(folders):
    docs = folders / "docs"
    docs.mkdir()
    (docs / "README.md").write_text("# Model\n\ntext\n")
    for draws in ("4", "5"):
        assert main(command(folders, "--draws", draws, "--card", str(docs))) == 0
    text = (docs / "README.md").read_text()
    assert text.startswith("# Model\n\ntext\n")
    assert text.count(BEGIN) == text.count(END) == text.count("| Power spectrum") == 1
    check_picture(docs / "panel.png")


def test_labels_beside_the_images_train_a_classifier(folders):
    def metrics() -> dict:
        assert main(command(folders)) == 0
        return json.loads((folders / "out/report.json").read_text())["metrics"]

    for name in ("samples", "real", "train"):
        np.save(folders / name / "labels.npy", np.arange(16) % 2)
        images = np.load(folders / name / "set.npy")
        images[1::2] *= 0.3
        np.save(folders / name / "set.npy", images)
    tstr = metrics()["tstr"]
    assert tstr["sets"]["model"]["value"] == 1
    assert not tstr["beyond_floor"]["model"]
    assert "more is better" in (folders / "out/report.html").read_text()
    np.save(folders / "samples/labels.npy", np.zeros(16, dtype=int))
    assert "tstr" not in metrics()
    assert "got [0] and [0, 1]" in (folders / "out/report.html").read_text()
    np.save(folders / "samples/labels.npy", np.full(16, -1))
    assert "tstr" not in metrics()
    assert "left out" not in (folders / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: np.save(f / "samples/labels.npy", np.arange(3)), r"integers of shape (16,)"),
        (lambda f: shutil.rmtree(f / "samples"), "got no such folder"),
        (lambda f: (f / "samples/set.npy").write_bytes(b"x"), "a readable image"),
        (lambda f: np.save(f / "samples/set.npy", np.full((4, 1, 9, 9), np.nan)), "voxels NaN"),
        (lambda f: np.save(f / "samples/two.npy", blobs(2, 0, 24)), "images of one size"),
        (lambda f: np.save(f / "real/set.npy", blobs(8, 0, 12)), "as the samples"),
    ],
)
def test_an_unusable_folder_is_one_line_and_leaves_no_file(folders, spoil, message, capsys):
    spoil(folders)
    assert main(command(folders)) == 1
    assert message in capsys.readouterr().err
    assert not (folders / "out").exists()


def test_a_folder_without_records_asks_for_real_images(folders):
    with pytest.raises(DataError, match="--real"):
        gather(folders / "samples")


def test_a_record_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"uri": "nowhere://server", "run_id": "0"}))
    with pytest.raises(DataError, match=r"mlflow_run.json .* the MLflow run"):
        find_run(tmp_path)


@pytest.mark.parametrize("commands", [0, 2])
def test_a_run_is_read_with_the_flags_of_its_last_command(tmp_path, commands):
    """A training that was started from Python has no command: then recorded parameters complete its train.json."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns.db")
    run = client.create_run(client.create_experiment("e", f"{tmp_path}/artifacts")).info.run_id
    client.log_param(run, "patch_size", "[8, 8]")
    client.log_dict(run, {"patch_size": [4, 4], "label_key": None}, "train.json")
    for iteration in range(commands):
        configuration = {"patch_size": [16, 16], "label_key": f"kind{iteration}"}
        client.log_dict(run, configuration, f"configuration_{7 * iteration:08d}.json")
    (tmp_path / "mlflow_run.json").write_text(json.dumps({"uri": f"sqlite:///{tmp_path}/mlruns.db", "run_id": run}))
    parser = run_parser(find_run(tmp_path / "samples"))
    values = parser["patch_size"], parser["label_key"]
    assert values == (([16, 16], "kind1") if commands else ([8, 8], None))


@pytest.mark.parametrize(
    "bundle", ["mri_unet3d", "ct_unet3d", "ct_unet2d", "natural_dit2d", "pathology_hierarchical_unet"]
)
def test_real_images_are_read_as_the_training_reads_them(bundle, tmp_path):
    """By the transforms of the bundle's own configuration: patches of the samples' size, between -1 and 1."""
    dataset = write_dataset(bundle, tmp_path)
    config = configuration(bundle, "train") | choices(bundle, dataset) | {"dataset_dir": dataset}
    size = {"natural_dit2d": (1, 8, 8), "pathology_hierarchical_unet": (3, 32, 32)}.get(bundle, (1, 16, 16, 16))
    size = (1, 16, 16) if bundle == "ct_unet2d" else size
    (tmp_path / "samples").mkdir()
    np.save(tmp_path / "samples/set.npy", np.random.default_rng(0).uniform(-1, 1, (4, *size)).astype(np.float32))
    record = RunRecord("", "", "run", {}, config, executed=True, bundle=str(ROOT / "bundles" / bundle))
    material = gather(tmp_path / "samples", record=record, count=4, intensity_range=(-1.0, 1.0))
    for images in (material.real, torch.stack([volume.flatten()[:4096] for volume in material.training])):
        assert images.abs().max() <= 1.001
        assert images.std() > 0.01
    assert material.real.shape[1:] == size


def test_real_images_of_a_folder_of_several_contrasts_are_those_of_the_run_or_of_the_flag(tmp_path):
    """The advice of the refusal, `--image ROLE`, is taken; without it the role of the training is read."""
    dataset = write_dataset("mri_translate3d", tmp_path)
    (tmp_path / "samples").mkdir()
    np.save(tmp_path / "samples/set.npy", np.random.default_rng(0).uniform(-1, 1, (4, 1, 16, 16, 16)))

    def names(image: str, flag: str) -> list[str]:
        config = configuration("mri_unet3d", "train") | choices("mri_unet3d", dataset) | {"image": image}
        record = RunRecord("", "", "run", {}, config, executed=True, bundle=str(ROOT / "bundles/mri_unet3d"))
        return [Path(case["image"]).name for case in _cases_of_folder(record, dataset, flag)]

    assert names("t2", "") == ["sub-1_T2w.nii.gz"]
    assert names("t2", "t1") == names("", "t1") == [f"sub-{number}_T1w.nii.gz" for number in (1, 2, 3)]
    with pytest.raises(DataError, match=r"the roles .*--image ROLE"):
        names("", "")


@pytest.mark.parametrize("bundle", ["natural_dit2d", "signal_dit1d", "pathology_hierarchical_unet"])
def test_real_pictures_slides_and_sequences_of_a_folder_are_listed_as_the_training_does(bundle, tmp_path):
    dataset = write_dataset(bundle, tmp_path)
    table = tmp_path / "cases.csv"
    files = sorted(
        path for path in Path(dataset).rglob("*") if path.suffix in (".npy", ".png", ".tif") and path.stem != "labels"
    )
    table.write_text("\n".join(["subject,one,two", *(f"{file.stem},{file},{file}" for file in files)]) + "\n")
    config = configuration(bundle, "train") | choices(bundle, dataset)
    record = RunRecord("", "", "run", {}, config, executed=True, bundle=str(ROOT / "bundles" / bundle))
    for folder, role in ((dataset, ""), (table, "two")):
        assert {case["image"] for case in _cases_of_folder(record, folder, role)} == set(map(str, files))
    with pytest.raises(RuntimeError) as refusal:
        _cases_of_folder(record, table, "")
    assert "--image ROLE" in explain(refusal.value)


def test_nifti_pictures_lose_their_third_axis(tmp_path):
    nib.save(nib.Nifti1Image(blobs(1, 0)[0, 0, :, :, None], np.eye(4)), tmp_path / "a.nii.gz")
    assert read_images(find_samples(tmp_path), 8)[0][0].shape == (1, 16, 16)


def test_windows_come_from_every_volume_and_whole_images_once():
    volumes = [torch.full((1, 8, 8), float(number)) for number in range(3)]
    assert random_windows(volumes, (1, 4, 4), 6)[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert len(random_windows(volumes, (1, 8, 8), 100)) == 3


def test_texts_on_a_page_are_escaped():
    section = Section("<b>", table(["<i>"], [[Cell("<u>", "<s>")]]), "<em>")
    html = render(Page("<a>", "<p1>", "<p2>", {"<k>": "<v>"}, [section], ["<w>"], "<f>"))
    for tag in ("<b>", "<i>", "<u>", "<s>", "<em>", "<a>", "<p1>", "<p2>", "<k>", "<v>", "<w>", "<f>"):
        assert tag not in html.split("<body>")[1]


@pytest.mark.slow
def test_a_browser_opens_the_page_without_a_complaint(folders):
    main(command(folders))
    check_page(folders / "out/report.html", folders)


def test_components_are_instantiated_ones_not_texts():
    window = {"_target_": "monai_diffscore.transforms.WindowHUd", "window_hu": [-1000, 1000]}
    config = {"title": "RandFlipd", "steps": [{"_target_": "LoadImaged"}, window], "note": "_target_: RandFlipd"}
    record = RunRecord("uri", "id", "name", {}, config)
    assert record.components == {"LoadImaged", "WindowHUd"}
    assert RunRecord("uri", "id", "name", {}).components == frozenset()
