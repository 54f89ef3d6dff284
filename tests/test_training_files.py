"""The files of a training by side and role: in the model card of its record, and what a listing skips."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import case_folders
import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image
from small_data import write_dataset
from torch import nn

from monai_diffscore.data import card_of_training, count_intake, intake_lines, listed_arrays, used_files
from monai_diffscore.data.cases import list_cases
from monai_diffscore.errors import explain
from monai_diffscore.handlers import Tracking

BUNDLES = sorted(folder.name for folder in Path("bundles").iterdir() if (folder / "configs").is_dir())
OF_VOLUMES = {"ct_unet2d", "ct_unet3d", "ct_whole3d", "mri_dit3d", "mri_translate3d", "mri_unet3d", "mri_whole3d"}
OF_FILES = {"natural_dit2d", "pathology_hierarchical_unet", "signal_dit1d"}


def parser_of(bundle: str, *names: str, **changes: object) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([f"bundles/{bundle}/configs/{name}.json" for name in names or ("train",)])
    parser.update({"bundle_root": f"bundles/{bundle}", **changes})
    return parser


@pytest.mark.parametrize("bundle", sorted(OF_VOLUMES | OF_FILES | {"tabular_mlp", "toy2d_mlp"}))
def test_the_card_of_a_training_says_which_files_it_used(bundle, tmp_path):
    """By side and role, with the layout; rows of other kinds have counts alone."""
    data = write_dataset(bundle, tmp_path)
    changes = {"image": "flair", "given": "t1,dseg"} if bundle == "mri_translate3d" else {}
    parser = parser_of(bundle, dataset_dir=data, output_dir=str(tmp_path / "out"), **changes)
    front, section = parser.get_parsed_content("tracking#card").split("## Files of this training\n\n")
    assert front.rstrip("\n") == Path(f"bundles/{bundle}/docs/README.md").read_text().rstrip("\n")
    lines = [f"- {line}" for line in intake_lines(parser.get_parsed_content("intake"), data)]
    if bundle in OF_VOLUMES | OF_FILES:
        lines.append(f"- layout: {parser.get_parsed_content('listing').layout}")
    head, _, table = section.partition("\n\n")
    assert head.splitlines() == lines
    rows = re.findall(r"^\| (trained on|held out) \| (.+?) \| (\d+) \| (.*) \|$", table, flags=re.MULTILINE)
    sides: dict[str, set[str]] = {}
    for side, role, count, names in rows:
        files = set(re.findall(r"`(.+?)`", names))
        assert len(files) == int(count)
        sides.setdefault(side, set()).update(() if "given" in role else files)
    cases = zip(("trained on", "held out"), parser.get_parsed_content("cases"), strict=True)
    right = (
        {side: {str(Path(item["image"]).relative_to(data)) for item in items} for side, items in cases} if rows else {}
    )
    assert sides == right
    assert bool(rows) == (bundle in OF_VOLUMES | OF_FILES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_bundle_keeps_the_card_of_its_training(bundle):
    parser = parser_of(bundle)
    own = "$data.card_of_training(@bundle_root + '/docs/README.md', @intake, @dataset_dir, @used_files)"
    assert parser.get("tracking#card") == own
    assert "@listing" in parser.get("used_files") or bundle not in OF_VOLUMES | OF_FILES


def test_a_card_names_files_by_layout_and_role_below_the_folder(tmp_path):
    case_folders.nnunet(tmp_path)
    listing = list_cases(tmp_path)
    items = listing.images("t1,t2")
    files = used_files(items[:2], items[2:], listing)
    assert files["layout"] == "nnunet"
    text = card_of_training("nowhere", count_intake(items[:2], items[2:], {"mask": 1}), tmp_path, files)
    assert text == (
        "## Files of this training\n\n"
        f"- data: 2 subject(s), 2 case(s) trained on; 1 subject(s), 1 case(s) held out ({tmp_path})\n"
        "- passed over: 1 x mask\n- layout: nnunet\n\n"
        "| side | role | files | which |\n|---|---|---|---|\n"
        "| trained on | t1 | 2 | `imagesTr/brain_1_0000.nii.gz`, `imagesTr/brain_2_0000.nii.gz` |\n"
        "| trained on | t2 | 2 | `imagesTr/brain_1_0001.nii.gz`, `imagesTr/brain_2_0001.nii.gz` |\n"
        "| held out | t1 | 1 | `imagesTs/brain_9_0000.nii.gz` |\n"
        "| held out | t2 | 1 | `imagesTs/brain_9_0001.nii.gz` |\n"
    )


def test_a_training_writes_its_card_once_and_keeps_it_in_its_record(tmp_path):
    def record(card: str) -> Tracking:
        return Tracking(f"sqlite:///{tmp_path}/runs.db", tmp_path / "out", card=card, network=nn.Linear(1, 1))

    assert record("")._written_card() == []
    assert record("# Card\n")._written_card() == [tmp_path / "out/README.md"]
    assert (tmp_path / "out/README.md").read_text() == "# Card\n"


def write_pictures(root: Path) -> None:
    for number in range(4):
        (root / "images").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/p{number}.png")
    (root / "masks").mkdir()
    shutil.copy(root / "images/p0.png", root / "masks/p0.png")
    (root / ".DS_Store").write_bytes(b"\0")
    (root / "notes.docx").write_bytes(b"\0")
    (root / "gone.png").symlink_to(root / "nowhere.png")


PASSED_OVER = {
    "hidden file": 1, "link to a missing file (not fetched?)": 1,
    "mask of another file": 1, "no image by its ending": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("bundle", "names"),
    [("natural_dit2d", ("train",)), ("pathology_hierarchical_unet", ("train",)),
     ("pathology_hierarchical_unet", ("inference", "anomaly"))],
    ids=["training on pictures", "training on slides", "calibrating on slides"],
)  # fmt: skip
def test_pictures_and_slides_are_passed_over_by_reason(bundle, names, tmp_path):
    """The training and the calibration print it first, and count whom they hold out."""
    write_pictures(tmp_path / "data")
    parser = parser_of(bundle, *names, dataset_dir=str(tmp_path / "data"), image_size=[8, 8], image_channels=1)
    intake = parser.get_parsed_content("intake")
    assert intake["passed_over"] == PASSED_OVER
    assert (intake["training_cases"], intake["validation_cases"]) == ((3, 1) if names == ("train",) else (0, 1))
    first = parser.get("initialize" if names == ("train",) else "calibrating")
    assert [text for text in first if "report_intake" in str(text)]


@pytest.mark.parametrize("bundle", ["natural_dit2d", "pathology_hierarchical_unet"])
def test_a_table_of_cases_names_pictures_and_slides_of_subjects(bundle, tmp_path):
    """Subjects stay on one side; the column ``label`` has the classes of pictures; other files are not read."""
    write_pictures(tmp_path / "data")
    rows = [f"{'AABB'[number]},data/images/p{number}.png,{'yx'[number % 2]}" for number in range(4)]
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(["subject,image,label", *rows]) + "\n")
    parser = parser_of(bundle, dataset_dir=str(table), image_size=[8, 8], image_channels=1, num_classes=2)
    sides = [{(c["subject"], Path(c["image"]).name) for c in side} for side in parser.get_parsed_content("cases")]
    right = [{("A", "p0.png"), ("A", "p1.png")}, {("B", "p2.png"), ("B", "p3.png")}]
    assert sides in (right, right[::-1])
    assert parser.get_parsed_content("intake")["passed_over"] == {}
    if bundle == "natural_dit2d":
        listed = parser.get_parsed_content("listed")
        labels = {Path(case["image"]).name: case["label"] for case in listed}
        assert labels == {"p0.png": 1, "p1.png": 0, "p2.png": 1, "p3.png": 0}
        item = listed[0]
        for step in parser.get_parsed_content("reading"):
            item = step(item)
        assert item["image"].shape == (1, 8, 8)


IDS = {"layout": "auto", "image": "", "subject": "", "left_out": []}


@pytest.mark.parametrize("bundle", sorted(OF_VOLUMES | OF_FILES))
def test_every_bundle_of_images_chooses_them_by_the_same_ids(bundle):
    ids = {name: parser_of(bundle).get(name) for name in IDS}
    assert ids == (IDS | {"image": "flair"} if bundle == "mri_translate3d" else IDS)


@pytest.mark.parametrize("bundle", sorted(OF_FILES))
def test_a_role_of_a_table_is_chosen_and_what_does_not_apply_is_refused(bundle, tmp_path):
    """By name, with what to do, for pictures, slides and sequences alike."""
    folder = tmp_path / "data"
    folder.mkdir()
    ending = "npy" if bundle == "signal_dit1d" else "png"
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 255, 600 if ending == "npy" else (16, 16)).astype(np.uint8)
        file = folder / f"p{number}.{ending}"
        np.save(file, values) if ending == "npy" else Image.fromarray(values).save(file)
    rows = [f"{number // 2},p{number}.{ending},p{(number + 1) % 6}.{ending}" for number in range(0, 6, 2)]
    table = folder / "cases.csv"
    table.write_text("\n".join(["subject,before,after", *rows]) + "\n")

    def listed(**ids: object) -> tuple[str, list[str]]:
        parser = parser_of(bundle, image_channels=1, **{"dataset_dir": str(table), **ids})
        cases = [case for side in parser.get_parsed_content("cases") for case in side]
        return parser.get_parsed_content("listing").layout, sorted({Path(case["image"]).stem for case in cases})

    def refusal(**ids: object) -> str:
        with pytest.raises(RuntimeError) as error:
            listed(**ids)
        return explain(error.value)

    noun = {"signal_dit1d": "sequences"}.get(bundle, "pictures")
    assert listed(image="before") == ("table", ["p0", "p2", "p4"])
    assert listed(image="after", layout="table") == ("table", ["p1", "p3", "p5"])
    assert listed(dataset_dir=str(folder)) == (noun, [f"p{number}" for number in range(6)])
    assert listed(dataset_dir=str(folder), layout=noun, image="image")[0] == noun
    assert "the roles after (3), before (3). Choose one with --image ROLE" in refusal()
    assert "--image ROLE" in refusal(image="before,after")
    assert f"expected auto or {noun}, got 'bids'. Leave --layout out" in refusal(dataset_dir=str(folder), layout="bids")
    assert f"the one role of {noun} in a folder, 'image', got 't1'" in refusal(dataset_dir=str(folder), image="t1")
    assert listed(image="before", left_out=[f"p0.{ending}"])[1] == ["p2", "p4"]
    assert "no " + str(folder / "gone.png") in refusal(image="before", left_out=["gone.png"])


def test_masks_and_copies_in_a_table_of_pictures_are_left_out_by_name(tmp_path):
    write_pictures(tmp_path)
    label = np.zeros((16, 16), np.uint8)
    label[4:12, 4:12] = 3
    Image.fromarray(label).save(tmp_path / "organ.png")
    shutil.copy(tmp_path / "images/p0.png", tmp_path / "again.png")
    table = tmp_path / "cases.csv"
    names = ["images/p0.png", "images/p1.png", "organ.png", "again.png"]
    table.write_text("\n".join(["subject,image", *(f"{name[-5]},{name}" for name in names)]) + "\n")
    listing = listed_arrays(table, 2)
    assert sorted(Path(case.images["image"]).name for case in listing) == ["again.png", "p1.png"]
    assert listing.reasons == {"label map by its values": 1, "same content as another file": 1}


def test_a_file_of_its_own_skips_nothing_beside_it(tmp_path):
    write_pictures(tmp_path)
    assert listed_arrays(tmp_path, 2).reasons == PASSED_OVER
    assert listed_arrays(tmp_path / "images/p0.png", 2).reasons == {}
