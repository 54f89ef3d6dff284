"""Each layout: which files are images of which case, what is a mask, what is left out, who is held out with whom."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from pathlib import Path

import case_folders
import pytest
from case_folders import write_study as study
from monai.bundle import ConfigParser

from monai_diffscore.data import list_volumes, split_by_subject
from monai_diffscore.data.cases import LAYOUTS, list_cases, read_table_of_cases, write_table_of_cases
from monai_diffscore.errors import DataError, explain

TABLE = "| a folder with | layout | images of its first case | masks | left out | held out |"
each_layout = pytest.mark.parametrize("layout", case_folders.LAYOUTS, ids=lambda write: write.__name__)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data set"
    folder.mkdir()
    return folder


def below(root: Path, path: str) -> str:
    return str(Path(path).relative_to(root))


@each_layout
def test_a_layout_is_read_file_by_file(root, layout):
    right = layout(root)
    cases = list_cases(root / right.start)
    assert cases.layout == right.layout
    assert {(c.subject, c.session): {r: below(root, p) for r, p in c.images.items()} for c in cases} == right.cases
    assert {(c.subject, c.session): sorted(c.masks) for c in cases if c.masks} == {
        key: sorted(names) for key, names in right.masks.items()
    }
    left_out = {
        reason: sorted(below(root, o.path) for o in cases.left_out if o.reason == reason) for reason in cases.reasons
    }
    assert left_out == {reason: sorted(paths) for reason, paths in right.left_out.items()}
    assert cases.class_names == right.class_names


@each_layout
def test_no_mask_is_ever_an_image(root, layout):
    cases = list_cases(root / layout(root).start)
    masks = {path for case in cases for path in case.masks.values()}
    assert masks.isdisjoint(path for case in cases for path in case.images.values())


@each_layout
def test_a_subject_is_on_one_side_in_every_layout(root, layout):
    """Of a single subject both sides have every image, in slabs of its own."""
    right = layout(root)
    train, held_out = split_by_subject(list_cases(root / right.start).images(conditions=["contrast"]), 0.4)
    sides = [{below(root, item["image"]) for item in part} for part in (train, held_out)]
    if len({subject for subject, _ in right.cases}) == 1:
        assert sides[0] == sides[1]
        assert [{item["slab"] for item in part} for part in (train, held_out)] == [{"train"}, {"validation"}]
        return
    assert sides[0]
    assert sides[1]
    assert sides[0].isdisjoint(sides[1])
    for subject in {subject for subject, _ in right.cases}:
        own = {path for (name, _), files in right.cases.items() if name == subject for path in files.values()}
        assert own <= sides[0] or own <= sides[1]


@each_layout
def test_several_roles_are_refused_until_one_is_chosen(root, layout):
    right = layout(root)
    cases = list_cases(root / right.start)
    roles = {role for files in right.cases.values() for role in files}
    if len(roles) > 1:
        with pytest.raises(DataError, match=r"--image ROLE") as refusal:
            cases.images()
        assert all(f"{role} ({cases.roles[role]})" in str(refusal.value) for role in roles)
    for role in roles:
        chosen = [below(root, item["image"]) for item in cases.images(role)]
        assert chosen == sorted(files[role] for files in right.cases.values() if role in files)


@each_layout
def test_the_written_table_reads_to_the_same_cases(root, layout, tmp_path):
    cases = list_cases(root / layout(root).start)
    for name in ("cases.csv", "cases.tsv"):
        write_table_of_cases(tmp_path / name, cases)
        table = list_cases(tmp_path / name)
        assert table.layout == "table"
        assert [(c.subject, c.session, c.images, c.masks) for c in table] == [
            (c.subject, c.session, c.images, c.masks) for c in cases
        ]


@each_layout
def test_a_training_takes_one_role_of_whole_subjects_and_nothing_else_unasked(root, layout):
    """The bundle itself lists: no mask, no other contrast, nothing left out. Several roles are a refusal."""
    right = layout(root)
    roles = {role for files in right.cases.values() for role in files}
    for choice in ["", *roles]:
        parser = ConfigParser()
        parser.read_config("bundles/mri_unet3d/configs/train.json")
        parser.update({"dataset_dir": str(root / right.start), "image": choice})
        if len(roles) > 1 and not choice:
            with pytest.raises(RuntimeError) as refusal:
                parser.get_parsed_content("cases")
            assert re.search(r"got the roles .*--image ROLE", explain(refusal.value))
            continue
        train, held_out = parser.get_parsed_content("cases")
        own = [files[choice or min(roles)] for files in right.cases.values() if (choice or min(roles)) in files]
        taken = [below(root, item["image"]) for item in (*train, *held_out)]
        if train[0].get("slab"):
            assert sorted(taken) == sorted(own * 2)
        else:
            assert sorted(taken) == sorted(own)
            assert {item["subject"] for item in train}.isdisjoint(item["subject"] for item in held_out)
        counts = {reason: len(paths) for reason, paths in right.left_out.items()}
        assert parser.get_parsed_content("intake")["passed_over"] == counts


# ---- the tables of the page ----


def page_rows(root: Path) -> list[str]:
    """The table of docs/IMAGING.md: what each folder is read to, and who a training holds out."""
    rows = []
    for layout in case_folders.LAYOUTS:
        folder = root / layout.__name__
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = list_cases(folder / layout(folder).start)
        first = next(iter(cases))
        images = "; ".join(f"{role}: `{below(folder, path)}`" for role, path in first.images.items())
        more = f" ({len(cases)} cases)" if len(cases) > 1 else ""
        left_out = "; ".join(f"{count} x {reason.partition(' (')[0]}" for reason, count in cases.reasons.items())
        held_out = split_by_subject(cases.images(conditions=["contrast"]), 0.2)[1]
        sides = ", ".join(sorted({item["subject"] for item in held_out}))
        cells = (layout.__doc__, f"`{cases.layout}`", images + more, ", ".join(cases.masks), left_out, sides)
        rows.append("| " + " | ".join(str(cell).removesuffix(".") for cell in cells) + " |")
    return rows


def test_the_page_says_of_each_folder_what_the_reading_gives(root):
    """Cell by cell. `python tests/test_cases_layouts.py` in the repository writes the rows anew."""
    page = (Path(__file__).parent.parent / "docs/IMAGING.md").read_text()
    table = page[page.index(TABLE) :].partition("\n\n")[0]
    assert table.splitlines()[2:] == page_rows(root)


def test_the_page_has_a_row_for_each_layout_and_each_has_a_folder_here():
    page = (Path(__file__).parent.parent / "docs/IMAGING.md").read_text()
    table = page[page.index("| layout | what is read") :].partition("\n\n")[0]
    rows = [row.split("|")[1].strip(" `") for row in table.splitlines()[2:]]
    assert sorted(rows) == sorted([*LAYOUTS, "a table"])
    names = {write.__name__.partition("_of_")[0].partition("_beside_")[0] for write in case_folders.LAYOUTS}
    assert {*LAYOUTS, "table", "decathlon"} - {"datalist"} <= names
    assert "monai_datalist" in names


@each_layout
def test_a_table_inside_the_folder_reads_to_the_same_cases(root, layout):
    cases = list_cases(root / layout(root).start)
    write_table_of_cases(root / "written.csv", cases)
    assert [(c.subject, c.images, c.masks) for c in list_cases(root / "written.csv")] == [
        (c.subject, c.images, c.masks) for c in cases
    ]


def test_a_table_beside_folders_of_series_names_them_as_paths(root):
    """A fact with the name of a folder stays a fact."""
    study(root, "", "PAT1", 1, {"p1": "t1"})
    study(root, "", "PAT2", 2, {"p22": "t1"})
    cases = list_cases(root)
    write_table_of_cases(root / "cases.csv", cases)
    lines = (root / "cases.csv").read_text().splitlines()
    assert lines[1:] == ["PAT1,,./p1", "PAT2,,./p22"]
    (root / "cases.csv").write_text("\n".join([f"{lines[0]},site", f"{lines[1]},p1", f"{lines[2]},p1"]) + "\n")
    again = list_cases(root / "cases.csv")
    assert [(c.subject, c.images) for c in again] == [(c.subject, c.images) for c in cases]
    assert [c.facts for c in again] == [{"site": "p1"}] * 2


def test_a_layout_is_chosen_by_name_and_an_unknown_one_names_them_all(root):
    case_folders.folders(root)
    assert {case.subject for case in list_cases(root, "flat")} == {"s1", "s2", "s3"}
    with pytest.raises(DataError, match=f"one of auto, {', '.join(LAYOUTS)}.*--layout"):
        list_cases(root, "voxelformat")


def test_channels_of_one_file_are_the_file_and_others_a_list(root):
    case_folders.decathlon(root)
    cases = list_cases(root)
    file = str(root / "imagesTr/b_1.nii.gz")
    assert cases.images("flair,t1")[0]["image"] == file
    assert cases.images("t1,flair")[0]["image"] == [f"{file}/channel:1", f"{file}/channel:0"]
    pooled = cases.images("flair,t1", conditions=["contrast"])
    assert [item["contrast"] for item in pooled] == ["flair", "t1", "flair", "t1"]


def test_bids_facts_come_from_participants_and_sessions(root):
    case_folders.bids(root)
    facts = {(case.subject, case.session): case.facts for case in list_cases(root)}
    assert facts["sub-02", "2"] == {"age": "32", "bmi": "21"}


def test_runs_are_cases_of_one_subject(root):
    case_folders.images(root, "sub-1/anat/sub-1_run-1_T1w.nii.gz", "sub-1/anat/sub-1_run-2_T1w.nii.gz")
    cases = list_cases(root)
    assert [(case.subject, case.facts["run"], list(case.images)) for case in cases] == [
        ("sub-1", "1", ["t1"]),
        ("sub-1", "2", ["t1"]),
    ]


def test_a_datalist_names_folds_masks_and_missing_files(root):
    case_folders.images(root, "i/a.nii.gz", "i/b.nii.gz")
    case_folders.write_mask(root / "l/a.nii.gz")
    entries = [{"image": "i/a.nii.gz", "label": "l/a.nii.gz", "fold": 0}, {"image": "i/b.nii.gz", "fold": 1}]
    (root / "list.json").write_text(json.dumps({"training": entries}))
    cases = list_cases(root / "list.json")
    assert [(c.subject, list(c.images), list(c.masks), c.facts["fold"]) for c in cases] == [
        ("a", ["image"], ["label"], "0"),
        ("b", ["image"], [], "1"),
    ]
    (root / "list.json").write_text(json.dumps({"training": [{"image": "i/c.nii.gz"}]}))
    with pytest.raises(DataError, match=r"training\[0\] names, got no .*c\.nii\.gz"):
        list_cases(root / "list.json")


def test_a_table_needs_subjects_images_and_existing_files(root):
    case_folders.images(root, "a.nii.gz")
    table = root / "cases.csv"
    table.write_text("subject,t1,age\np1,a.nii.gz,31\n")
    (case,) = read_table_of_cases(table)
    assert (case.subject, case.images, case.facts) == ("p1", {"t1": str(root / "a.nii.gz")}, {"age": "31"})
    for text, cause in (
        ("t1\na.nii.gz\n", "a column `subject`"),
        ("subject,age\np1,3\n", "a column of paths for each role"),
        ("subject,t1\n,a.nii.gz\n", "a name in the column subject, got none in line 2"),
        ("subject,t1\np1,b.nii.gz\n", "the file that line 2 names"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=cause):
            list_cases(table)


# ---- DICOM ----


def test_series_of_a_study_are_roles_by_the_contrast_of_their_description(root):
    for number in (1, 2):
        study(root, f"p{number}", f"PAT{number}", number, {"a": "t1_mprage_sag", "bb": "AX FLAIR fs"})
    cases = list_cases(root)
    assert cases.layout == "dicom"
    assert [(c.subject, {r: below(root, p) for r, p in c.images.items()}) for c in cases] == [
        ("PAT1", {"t1": "p1/a", "flair": "p1/bb"}),
        ("PAT2", {"t1": "p2/a", "flair": "p2/bb"}),
    ]


def test_one_placeholder_for_all_patients_is_refused_without_another_key(root):
    for number in (1, 2, 3):
        study(root, f"case{number}", "ANONYMOUS", number, {"a": ""})
    with pytest.raises(DataError, match=r"'ANONYMOUS' in 3 studies, in 3 folders.*--subject folder"):
        list_cases(root)
    for key in ("study", r"case\d"):
        assert len(list_cases(root, subject=key).subjects) == 3
    assert list_cases(root, subject="folder").subjects == ["case1/a", "case2/a", "case3/a"]
    study(root, "case4", "PAT4", 4, {"a": ""})
    with pytest.raises(DataError, match="ANONYMOUS"):
        list_cases(root)


def test_one_patient_id_for_all_studies_is_warned_of(root):
    for number in (1, 2):
        study(root, f"visit{number}", "PAT", number, {"a": ""})
    cases = list_cases(root)
    assert [(case.subject, case.session) for case in cases] == [("PAT", "1"), ("PAT", "2")]
    assert any("one PatientID" in note and "--subject folder" in note for note in cases.notes)


def test_a_series_is_left_out_or_chosen_by_its_path(root):
    study(root, "", "PAT1", 1, {"a": "t1", "bb": "t2"})
    for file in (root / "bb").iterdir():
        file.rename(root / "a" / f"b_{file.name}")
    (case,) = list_cases(root)
    assert below(root, case.images["t1"]) == "a/series:1.2.1.1"
    (rest,) = list_cases(root, left_out=["a/series:1.2.1.1"])
    assert list(rest.images) == ["t2"]
    (only,) = list_cases(f"{root}/a/series:1.2.1.2")
    assert list(only.images) == ["t2"]
    table = root / "cases.csv"
    table.write_text("subject,image\nPAT1,a/series:t2\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (item,) = list_volumes(table)
    assert item["image"] == str(root / "a/series:t2")


@pytest.mark.parametrize("place", ["", "export"])
def test_one_bad_series_of_a_flat_export_is_left_out_by_name(root, place):
    """All series of a patient in one folder, which is the root or lies below it."""
    study(root, place, "PAT1", 1, {"a": "t1", "bb": "t1", "ccc": "t1"})
    for series in ("a", "bb", "ccc"):
        for file in (root / place / series).iterdir():
            file.rename(root / place / f"{series}_{file.name}")
        (root / place / series).rmdir()
    names = [below(root, path) for case in list_cases(root) for path in case.images.values()]
    front = f"{place}/" if place else ""
    assert names == [f"{front}series:1.2.1.{number}" for number in (1, 2, 3)]
    left = [below(root, item["image"]) for item in list_volumes(root, left_out=[names[1]])]
    assert left == [names[0], names[2]]
    with pytest.raises(DataError, match=r"no .*series:9\.9.*the names"):
        list_cases(root, left_out=[f"{front}series:9.9"])


if __name__ == "__main__":
    file = Path("docs/IMAGING.md")
    front, head, rest = file.read_text().partition(TABLE)
    with tempfile.TemporaryDirectory() as folder:
        rows = "\n".join([head, "|---" * 6 + "|", *page_rows(Path(folder))])
    file.write_text(front + rows + "\n\n" + rest.partition("\n\n")[2])
