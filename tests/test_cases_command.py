"""``cases``: what the command prints, writes, and takes back."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import case_folders
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image

from monai_diffscore.__main__ import main
from monai_diffscore.data import attach_participants, count_intake, intake_lines, list_volumes
from monai_diffscore.data.cases import list_cases
from monai_diffscore.errors import DataError, explain
from monai_diffscore.planning import trial
from monai_diffscore.planning.kinds import find_kind
from monai_diffscore.tasks import CaseEvaluator, Cases, CaseTable


def test_the_command_prints_layout_roles_masks_and_reasons(tmp_path, capsys):
    case_folders.bids(tmp_path)
    assert main(["cases", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert "layout bids; 2 subjects, 4 sessions, 12 images" in page
    assert "images: t1_acq-high (4), t1_acq-low (4), t2 (4)" in page
    assert "masks: lesion-mask (4)" in page
    assert "left out: 4 x func: time series" in page
    assert "choose: --image ROLE" in page


def test_the_command_reads_its_own_edited_table(tmp_path, capsys):
    root = tmp_path / "data"
    case_folders.brats(root)
    table = tmp_path / "cases.csv"
    assert main(["cases", str(root), "--write", str(table)]) == 0
    table.write_text(table.read_text().replace("BraTS20_Training_001,", "first,"))
    capsys.readouterr()
    assert main(["cases", str(table), "--image", "t1,flair"]) == 0
    assert "--image t1,flair: 2 images of 2 subjects" in capsys.readouterr().out
    assert list_cases(table).subjects == ["BraTS20_Training_002", "first"]


@pytest.mark.parametrize("name", ["cases.csv", "my cases.csv", "it's.csv"])
def test_a_printed_path_is_one_word_of_a_shell(name, tmp_path, capsys):
    case_folders.brats(tmp_path / "data")
    assert main(["cases", str(tmp_path / "data"), "--write", str(tmp_path / name)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("wrote "))
    assert shlex.split(line) == ["wrote", str(tmp_path / name)]


def test_held_out_subjects_and_leaks_are_printed_on_request(tmp_path, capsys):
    case_folders.folders_of_visits(tmp_path)
    assert main(["cases", str(tmp_path), "--validation-share", "0.5"]) == 0
    page = capsys.readouterr().out
    assert re.search(r"held out: Patient[12] \(2 of 4 images\)", page)
    assert "leaks: none" in page


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a_T1.nii.gz", "a_T2.nii.gz", "b_T1.nii.gz", "b_T2.nii.gz"], r"held out: [ab] \(2 of 4 images\)"),
        (["a_T1.nii.gz", "a_T2.nii.gz"], "held out: a slab of each image of a, the only subject"),
        ([], "held out: none"),
    ],
)
def test_the_split_is_printed_before_a_role_is_chosen(tmp_path, capsys, files, said):
    case_folders.images(tmp_path, *files)
    assert main(["cases", str(tmp_path), "--validation-share", "0.5"]) == 0
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (["--image", "pet"], "the roles t1"),
        (["--layout", "x"], "one of auto, nnunet"),
        (["--subject", "zz"], "match 'zz'"),
    ],
)
def test_a_missing_path_is_one_line_with_the_present_ones(tmp_path, capsys, flags, cause):
    case_folders.folders_of_visits(tmp_path)
    assert main(["cases", str(tmp_path), *flags]) == 1
    error = capsys.readouterr().err
    assert cause in error
    assert error.count("\n") == 1


def head(seed: int, scale: float = 400.0) -> np.ndarray:
    """An ellipsoid of texture on a background of 0, large enough for a plan."""
    axes = np.meshgrid(*[np.linspace(-1, 1, 20)] * 3, indexing="ij")
    noise = np.random.default_rng(seed).normal(0, 20, (20, 20, 20))
    return ((sum(axis**2 for axis in axes) < 0.8) * (scale + 100 * axes[0] + noise)).astype(np.float32)


@pytest.fixture
def two_contrasts(tmp_path):
    """An nnU-Net folder of five patients with two contrasts and labels."""
    root = tmp_path / "data"
    for number in range(5):
        for channel, scale in ((0, 400.0), (1, 900.0)):
            case_folders.save(root / f"imagesTr/p{number}_{channel:04d}.nii.gz", head(number, scale))
        case_folders.write_mask(root / f"labelsTr/p{number}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "T2"}}))
    return root


def test_a_plan_refuses_several_roles_and_prints_its_assumptions(two_contrasts, tmp_path, capsys):
    out = str(tmp_path / "bundle")
    assert main(["plan", str(two_contrasts), "--out", out, "--no-trial"]) == 1
    assert "the roles t1 (5), t2 (5)" in capsys.readouterr().err
    assert main(["plan", str(two_contrasts), "--out", out, "--no-trial", "--image", "t2"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert (
        "taken for kind volumes (--kind), layout nnunet (--layout), image t2 (--image), subjects by the layout "
        "(--subject), modality MR (--modality)"
    ) in page
    assert "5 of 5 subject(s), 1 channel(s)" in page


@pytest.mark.parametrize(("flags", "roles"), [
    (["--image", "t2"], {"t2": "0001"}),
    (["--image", "t1,t2"], {"t1": "0000", "t2": "0001"}),
    (["--condition", "contrast"], {"t1": "0000", "t2": "0001"}),
])  # fmt: skip
def test_the_card_of_a_plan_says_which_files_it_takes_by_layout_and_role(two_contrasts, tmp_path, flags, roles):
    case_folders.save(two_contrasts / f"imagesTr/p4_{min(roles.values())}.nii.gz", np.full((20, 20, 20), np.nan))
    out = tmp_path / "bundle"
    assert main(["plan", str(two_contrasts), "--out", str(out), "--no-trial", *flags]) == 0
    card = (out / "docs/README.md").read_text()
    assert "Layout: nnunet." in card
    whole = {role: 5 if flags[0] == "--condition" and role == "t2" else 4 for role in roles}
    for role, number in roles.items():
        last = whole[role] - 1
        row = f"| {role} | {whole[role]} | `imagesTr/p0_{number}.nii.gz` ... `imagesTr/p{last}_{number}.nii.gz` |"
        assert row in card
    assert "labelsTr" not in card
    listed = json.loads((out / "docs/plan.json").read_text())["details"]["files"]["roles"]
    assert {role: len(names) for role, names in listed.items()} == whole


@pytest.mark.parametrize(("image", "channels"), [("t2", 1), ("t1,t2", 2)])
def test_a_planned_training_lists_the_role_that_was_planned(two_contrasts, tmp_path, capsys, image, channels):
    table, out = tmp_path / "cases.csv", tmp_path / "bundle"
    assert main(["cases", str(two_contrasts), "--write", str(table)]) == 0
    assert main(["plan", "--cases", str(table), "--out", str(out), "--no-trial", "--image", image]) == 0
    parser = ConfigParser()
    parser.read_config(out / "configs/train.json")
    train, held_out = parser.get_parsed_content("cases")
    items = [*train, *held_out]
    assert len(items) == 5
    files = [item["image"] if channels == 2 else [item["image"]] for item in items]
    numbers = {tuple(path.rpartition("_")[2] for path in paths) for paths in files}
    assert numbers == ({("0000.nii.gz", "0001.nii.gz")} if channels == 2 else {("0001.nii.gz",)})
    assert {item["subject"] for item in train}.isdisjoint(item["subject"] for item in held_out)
    assert parser.get("image_channels") == channels
    intake = parser.get_parsed_content("intake")
    assert intake == {
        "training_subjects": 4, "training_cases": 4, "validation_subjects": 1, "validation_cases": 1,
        "subjects_on_both_sides": 0, "passed_over": {},
    }  # fmt: skip


def test_a_training_first_prints_the_counts_of_used_and_skipped_cases(two_contrasts, tmp_path, capsys):
    (two_contrasts / "readme.txt").write_text("x")
    out = tmp_path / "bundle"
    assert main(["plan", str(two_contrasts), "--out", str(out), "--no-trial", "--image", "t2"]) == 0
    capsys.readouterr()
    parser = ConfigParser()
    parser.read_config(out / "configs/train.json")
    reports = [text for text in parser.get("initialize") if "report_intake" in text]
    assert parser.get("initialize").index(reports[0]) < parser.get("initialize").index("@trainer")
    parser["reported"] = reports[0]
    parser.get_parsed_content("reported")
    assert capsys.readouterr().out == (
        f"data: 4 subject(s), 4 case(s) trained on; 1 subject(s), 1 case(s) held out ({two_contrasts})\n"
        f"held out: {parser.get_parsed_content('cases')[1][0]['subject']}\n"
        "passed over: 1 x no image by its ending\n"
    )
    facts = parser.get_parsed_content("tracking#facts")
    assert (facts["training_subjects"], facts["passed_over"]) == (4, {"no image by its ending": 1})
    assert parser.get_parsed_content("statistics")["validation_cases"] == 1


def test_calibrating_holds_out_who_the_training_held_out(two_contrasts, tmp_path):
    """A file that the plan left out is left out of the split of both, so that both shuffle the same subjects."""
    case_folders.save(two_contrasts / "imagesTr/a0_0001.nii.gz", np.full((20, 20, 20), np.nan, np.float32))
    out = tmp_path / "bundle"
    assert main(["plan", str(two_contrasts), "--out", str(out), "--no-trial", "--image", "t2"]) == 0
    held_out = {}
    for files, key in ((["train"], "cases"), (["inference", "cases", "anomaly"], "healthy_cases")):
        parser = ConfigParser()
        parser.read_config([str(out / f"configs/{name}.json") for name in files])
        requests = parser.get_parsed_content(key)
        held_out[key] = [item["image"] for item in (requests[1] if key == "cases" else requests)]
    assert held_out["cases"] == held_out["healthy_cases"]
    assert parser.get_parsed_content("intake")["validation_subjects"] == 1


def test_intake_counts_subjects_not_images_and_says_who_is_on_both_sides():
    train = [{"subject": name} for name in ("a", "a", "b")]
    intake = count_intake(train, [{"subject": "a", "slab": "validation"}], {"mask": 2})
    assert (intake["training_subjects"], intake["training_cases"], intake["subjects_on_both_sides"]) == (2, 3, 1)
    assert intake_lines(intake)[1:] == ["passed over: 2 x mask"]
    names = [{"subject": f"p{number:02d}"} for number in range(22)]
    assert intake_lines(intake, "", names)[1] == f"held out: {', '.join(f'p{n:02d}' for n in range(20))} and 2 more"
    assert "1 subject(s) on both sides" in intake_lines(intake)[0]
    rows = count_intake(np.zeros((7, 2)), np.zeros((0, 2)))
    assert intake_lines(rows, "t.csv") == ["data: 7 subject(s), 7 case(s) trained on (t.csv)"]


def test_pictures_beside_volumes_are_views_of_them_and_elsewhere_another_kind(tmp_path):
    case_folders.images(tmp_path, "sub-1/a.nii.gz", "sub-2/a.nii.gz")
    picture = Image.fromarray(np.zeros((4, 4), np.uint8))
    picture.save(tmp_path / "sub-1/a.png")
    assert find_kind(tmp_path) == "volumes"
    (tmp_path / "photos").mkdir()
    picture.save(tmp_path / "photos/b.png")
    with pytest.raises(DataError, match="several"):
        find_kind(tmp_path)


def test_a_folder_of_broken_links_is_refused_as_such(tmp_path):
    (tmp_path / "sub-1_T1w.nii.gz").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"1 x link to a missing file \(not fetched\?\)"):
        find_kind(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("P001/T1.nii.gz", "P001_T1"),
        ("P001/scan 1.NII", "scan 1"),
        ("study/P001/series:1.2.3", "P001"),
        ("a.nrrd/channel:1", "a"),
        ("P001/T1.mha", "P001_T1"),
    ],
)
def test_results_carry_the_name_of_their_subject(tmp_path, path, name):
    image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": f"/data/{path}"})
    assert CaseTable(tmp_path).case_name(image) == name


@pytest.mark.parametrize(
    ("cases", "names"),
    [
        ({"P1/visit1/T1.nii.gz": "P1", "P1/visit2/T1.nii.gz": "P1"}, ["P1_visit1_T1", "P1_visit2_T1"]),
        ({"P1/image.nii.gz": "P1", "P2/image.nii.gz": "P2"}, ["P1_image", "P2_image"]),
        ({"a/P1/x.mha": "a/P1", "b/P1/x.mha": "b/P1"}, ["a_P1_x", "b_P1_x"]),
        ({"A/s1/t1": "id 7", "B/s1/t1": "id 8", "B/s1/t2": "id 8"}, ["A_t1", "B_t1", "t2"]),
        ({"P1/series:1.2": "id", "P1/series:1.3": "id"}, ["P1", "P1_2"]),
        ({"P1/series:1.2": "id", "P1/series:1.3": "id", "P1_2.nii": "x"}, ["P1", "P1_3", "P1_2"]),
        ({"sub-1/anat/sub-1_T1w.nii.gz": "sub-1", "c.nii/channel:0": "c"}, ["sub-1_T1w", "c"]),
        ({"Köln #3/P 1/scan.nii": "Köln #3/P 1", "Köln #3/P 2/scan.nii": "Köln #3/P 2"}, ["P 1_scan", "P 2_scan"]),
    ],
)  # fmt: skip
def test_results_are_traced_to_their_subject_by_names_that_differ(tmp_path, cases, names):
    """Visits, equal names below subjects, groups, series and channels; a PatientID comes into no name."""
    table = CaseTable(tmp_path)
    Cases([{"image": f"/data/{path}", "subject": subject} for path, subject in cases.items()], dict, table)
    images = [MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": f"/data/{path}"}) for path in cases]
    assert [table.case_name(image) for image in images] == names
    assert [table.identify(image)["file"] for image in images] == [f"/data/{path}" for path in cases]
    unlisted = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": f"/elsewhere/{names[0]}.nii.gz"})
    assert table.case_name(unlisted) not in names


@pytest.mark.parametrize(
    ("code", "result", "cause", "remedy"),
    [
        (-9, {"error": "", "out_of_memory": False}, "the system killed it", "--memory-gb"),
        (1, {"error": "CUDA out of memory.", "out_of_memory": True}, "CUDA out of memory.", "--memory-gb"),
        (1, {"error": "a.nii.gz: expected", "out_of_memory": False}, "a.nii.gz: expected", "Correct the cause"),
        (139, {"error": "Segmentation fault", "out_of_memory": False}, "Segmentation fault", "Correct the cause"),
    ],
)
def test_a_failed_trial_advises_less_memory_only_where_memory_ran_out(tmp_path, code, result, cause, remedy):
    with pytest.raises(DataError) as failure:
        trial.trial_of(tmp_path, code, result)
    assert cause in str(failure.value)
    assert remedy in str(failure.value)


@pytest.mark.parametrize(("name", "lowest", "message"), [
    ("a", -300, "modality MR (--modality); {}% of the values are negative, as in CT: --modality CT"),
    ("a", -160, "modality MR (--modality); {}% of the values are negative, as in CT: --modality CT"),
    ("ct", -300, "modality CT (--modality)"),
    ("case_CT", -160, "modality CT (--modality)"),
    ("a", -1000, "modality CT (--modality)"),
    ("a", 0, "modality MR (--modality) cases 3"),
])  # fmt: skip
def test_a_plan_says_which_modality_it_takes_and_how_ct_without_air_becomes_ct(tmp_path, capsys, name, lowest, message):
    """CT cut to a window looks like MR: the role tells it, else a share of negative values hints at the flag."""
    for number in range(3):
        values = head(number, 100.0) - 1000 * (head(number) == 0)
        case_folders.save(tmp_path / f"data/p{number}/{name}.nii.gz", values.clip(lowest, None))
    assert main(["plan", str(tmp_path / "data"), "--out", str(tmp_path / "bundle"), "--no-trial"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    share = round(100 * float((values < 0).mean()))
    assert message.format(share) in page


# ---- contrast as a condition ----


def test_contrasts_of_one_subject_are_told_apart_and_stay_on_one_side(two_contrasts, tmp_path, capsys):
    """One model of T1 and T2: each image has the number of its own contrast, in training and in tasks on cases."""
    out = tmp_path / "bundle"
    command = ["plan", str(two_contrasts), "--out", str(out), "--no-trial", "--condition", "contrast"]
    assert main(command) == 0
    assert "condition contrast categories t1, t2 (from the cases;" in re.sub(" +", " ", capsys.readouterr().out)
    parser = ConfigParser()
    parser.read_config(out / "configs/train.json")
    train, held_out = parser.get_parsed_content("cases")
    assert [(len(train), len(held_out))] == [(8, 2)]
    assert {item["subject"] for item in train}.isdisjoint(item["subject"] for item in held_out)
    right = {"_0000.nii.gz": 0, "_0001.nii.gz": 1}
    assert all(item["contrast"] == right[item["image"][-12:]] for item in (*train, *held_out))
    assert parser.get_parsed_content("condition_keys") == ["contrast"]
    parser = ConfigParser()
    parser.read_config([str(out / f"configs/{name}.json") for name in ("inference", "cases", "anomaly")])
    for key in ("dataset#data", "calibrator#val_data_loader#dataset#data"):
        items = parser.get_parsed_content(key)
        assert {item["contrast"] for item in items} == {0, 1}
        assert all(item["contrast"] == right[item["image"][-12:]] for item in items)
    assert parser.get_parsed_content("calibrator#prepare_batch").condition_keys == ("seed", "contrast")


def test_a_task_says_first_what_it_works_on_and_records_it(two_contrasts, tmp_path, capsys):
    (two_contrasts / "readme.txt").write_text("x")
    out = tmp_path / "bundle"
    assert main(["plan", str(two_contrasts), "--out", str(out), "--no-trial", "--image", "t2"]) == 0
    parser = ConfigParser()
    parser.read_config([str(out / f"configs/{name}.json") for name in ("inference", "cases", "denoise")])
    taken = parser.get_parsed_content("taken")
    assert taken == {"task_subjects": 5, "task_cases": 5, "passed_over": {"no image by its ending": 1}}
    assert parser.get("track_cases#facts") == "@taken"
    assert (parser.get("evaluator#intake"), parser.get("evaluator#source")) == ("@taken", "@dataset_dir")
    capsys.readouterr()
    evaluator = CaseEvaluator(
        CaseTable(tmp_path), taken, two_contrasts,
        device=torch.device("cpu"), val_data_loader=[{"image": torch.zeros(1, 1, 2)}], network=torch.nn.Identity(),
    )  # fmt: skip
    evaluator.run()
    assert capsys.readouterr().out == (
        f"data: 5 subject(s), 5 case(s) to work on ({two_contrasts})\npassed over: 1 x no image by its ending\n"
    )


def planned_items(bundle: Path, *names: str, **changes) -> list[set[str]]:
    """The names of the files that a training or a task with a calibration takes."""
    parser = ConfigParser()
    parser.read_config([str(bundle / f"configs/{name}.json") for name in names])
    parser.update(changes)
    keys = ("listed",) if names == ("train",) else ("dataset#data", "calibrator#val_data_loader#dataset#data")
    return [{Path(item["image"]).name for item in parser.get_parsed_content(key)} for key in keys]


ANOMALY = ("inference", "cases", "anomaly")


def test_a_bad_file_is_left_out_of_training_task_and_calibration(tmp_path, monkeypatch):
    """Its name is an absolute path, so that a task on another folder takes all of that folder."""
    for folder in ("data", "other"):
        for number in range(4):
            case_folders.save(tmp_path / folder / f"p{number}.nii.gz", head(number + (folder == "other")))
    case_folders.save(tmp_path / "data/p3.nii.gz", np.full((20, 20, 20), np.nan, np.float32))
    out = tmp_path / "bundle"
    assert main(["plan", str(tmp_path / "data"), "--out", str(out), "--no-trial"]) == 0
    good = {f"p{number}.nii.gz" for number in range(3)}
    assert planned_items(out, "train") == [good]
    assert planned_items(out, *ANOMALY, validation_share=0.99) == [good, good]
    monkeypatch.chdir(tmp_path)
    assert planned_items(out, *ANOMALY, dataset_dir="data")[0] == good
    other = planned_items(out, *ANOMALY, dataset_dir="other", healthy_dir="other", validation_share=0.99)
    assert other == [good | {"p3.nii.gz"}] * 2
    own = planned_items(out, *ANOMALY, dataset_dir="other", left_out=["p0.nii.gz"])
    assert own[0] == {"p1.nii.gz", "p2.nii.gz", "p3.nii.gz"}
    with pytest.raises(RuntimeError) as failure:
        planned_items(out, *ANOMALY, dataset_dir="other", left_out=["p9.nii.gz"])
    assert "--left_out" in explain(failure.value)


def test_a_bad_file_of_a_table_is_left_out_by_name(tmp_path, capsys):
    """Also a channel of it, a file beside the table's folder, and a label map in the column of a role."""
    table, out = tmp_path / "data/cases.csv", tmp_path / "bundle"
    for number in range(4):
        case_folders.save(tmp_path / f"data/p{number}.nii.gz", head(number))
    case_folders.save(tmp_path / "data/p3.nii.gz", np.full((20, 20, 20), np.nan, np.float32))
    case_folders.write_mask(tmp_path / "data/p4.nii.gz")
    case_folders.save(tmp_path / "data/p5.nii.gz", np.stack([head(5), head(6)], -1))
    case_folders.save(tmp_path / "beside/p6.nii.gz", head(6) * np.inf)
    rows = [f"s{n},p{n}.nii.gz{'/channel:1' * (n == 5)}" for n in range(6)] + ["s6,../beside/p6.nii.gz"]
    table.write_text("\n".join(["subject,t1", *rows]) + "\n")
    command = ["plan", "--cases", str(table), "--out", str(out), "--no-trial", "--exclude", "p5.nii.gz"]
    assert main(command) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "left out: p3.nii.gz: expected finite intensities" in page
    assert f"left out: {tmp_path}/beside/p6.nii.gz: expected finite intensities" in page
    assert "left out: 1 x label map by its values" in page
    good = {f"p{number}.nii.gz" for number in range(3)}
    assert planned_items(out, "train") + planned_items(out, *ANOMALY, validation_share=0.99) == [good] * 3
    assert main([*command[:3], "--out", str(tmp_path / "x"), "--no-trial", "--exclude", "p9.nii.gz"]) == 1
    assert re.search(r"got no .*p9\.nii\.gz.*--exclude", capsys.readouterr().err)


def test_conditions_of_tasks_are_those_of_the_files_else_those_of_the_request(tmp_path):
    case_folders.flat_of_contrasts(tmp_path)
    fields = {"contrast": {"categories": ["t1", "t2"]}, "sex": {"categories": ["F", "M"]}}
    items = list_volumes(tmp_path, image="t1,t2", conditions=fields)
    assert [(i["contrast"], i["sex"]) for i in attach_participants(items, None, fields, {"sex": "M"})] == [
        (0, 1),
        (1, 1),
    ] * 2
    assert {i["sex"] for i in attach_participants(items, None, fields, {})} == {-1}
    with pytest.raises(DataError, match="that state the field"):
        attach_participants(items, None, fields)
    with pytest.raises(DataError, match=r"one of \['t1', 't2'\], or nothing, got 'adc'"):
        attach_participants(list_volumes(tmp_path, conditions=fields), None, fields, {})


def test_columns_of_a_table_of_cases_are_conditions_of_each_session(tmp_path):
    """A fact of the session, not of the subject: one subject has two values."""
    for number in range(4):
        case_folders.write_image(tmp_path / f"data/{number}.nii.gz", number, (20, 20, 20))
    table = tmp_path / "cases.csv"
    rows = [f"s{n // 2},{n % 2},data/{n}.nii.gz,{('low', 'high')[n % 2]},{n + 0.5}" for n in range(4)]
    table.write_text("\n".join(["subject,session,t1,dose,week", *rows]) + "\n")
    out = tmp_path / "bundle"
    assert main(["plan", "--cases", str(table), "--out", str(out), "--no-trial", "--condition", "dose"]) == 0
    parser = ConfigParser()
    parser.read_config(out / "configs/train.json")
    assert parser.get_parsed_content("fields") == {"dose": {"categories": ["high", "low"]}}
    doses = [(item["subject"], item["dose"]) for item in parser.get_parsed_content("listed")]
    assert doses == [("s0", 1), ("s0", 0), ("s1", 1), ("s1", 0)]
