"""What the README and the model cards promise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score

from monai_diffscore.__main__ import main

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / "README.md", *sorted(ROOT.glob("bundles/*/docs/README.md")), ROOT / "CONTRIBUTING.md"]
PAGES = sorted(ROOT.glob("docs/*.md"))
each_text = pytest.mark.parametrize("text", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))


def test_python_of_the_readme_draws_what_a_classifier_hardly_tells_from_its_data():
    (code,) = re.findall(r"```python\n(.*?)```", TEXTS[0].read_text(), flags=re.DOTALL)
    names: dict = {}
    torch.manual_seed(0)
    exec(code, names)
    assert names["samples"].shape == (1000, 2)
    both = np.concatenate([names["samples"], names["rows"][:1000]])
    auc = cross_val_score(HistGradientBoostingClassifier(), both, np.repeat([0, 1], 1000), cv=5, scoring="roc_auc")
    assert auc.mean() < 0.6  # 0.71 for a weight and a network that disagree with the data's standard deviation
    assert names["nats"].isfinite().all()


@pytest.mark.parametrize("text", [*TEXTS, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_pictures_are_there(text):
    for target in re.findall(r"\]\(([^)#]+)\)", text.read_text()):
        assert target.startswith("https://") or (text.parent / target).exists(), target


def check_command(line: str, bundles: list[Path]) -> None:
    for bundle in bundles:
        ids: set[str] = set()
        for file in bundle.glob("configs/*.json"):
            ids |= set(json.loads(file.read_text()))
        for config in re.findall(r"[\w./]*configs/\w+\.json", line):
            assert (bundle / config).exists() or (ROOT / config).exists(), config
            if (ROOT / config).exists():
                ids |= set(json.loads((ROOT / config).read_text()))
        for run_id in re.findall(r"monai\.bundle run (\w+)", line):
            assert run_id in ids, run_id
        if "monai.bundle run" in line:
            assert {
                name.split("#")[0] for name in re.findall(r" --([\w#]+)", line.partition("monai.bundle")[2])
            } <= ids | {"config_file"}


@each_text
def test_commands_name_configurations_and_ids_that_exist(text):
    for line in text.read_text().splitlines():
        own = [text.parent.parent] if "bundles" in text.parts else [ROOT / "bundles/mri_unet3d"]
        # a line of the README may name another bundle
        check_command(line, [path for path in (ROOT / "bundles").iterdir() if f"in {path.name}:" in line] or own)


@pytest.mark.parametrize("page", [p for p in PAGES if "BENCHMARKS" not in p.name], ids=lambda p: p.name)
def test_commands_of_the_pages_name_configurations_and_ids_that_exist(page):
    """Those in the text too, which no test runs. A page is about the bundle that it last named, else mri_unet3d."""
    bundles = {path.name: path for path in (ROOT / "bundles").iterdir()}
    bundle = bundles["mri_unet3d"]
    for line in page.read_text().splitlines():
        named = re.findall(r"`(?:cd bundles/)?(\w+)`|cd bundles/(\w+)", line)
        bundle = next((bundles[name] for pair in named for name in pair if name in bundles), bundle)
        check_command(line, [bundle])


def test_the_readme_leads_to_every_page_and_every_bundle():
    readme = TEXTS[0].read_text()
    assert [page.name for page in PAGES if page.name != "index.md" and f"docs/{page.name}" not in readme] == []
    assert [path.name for path in (ROOT / "bundles").iterdir() if f"`{path.name}`" not in readme] == []
    index = (ROOT / "docs/index.md").read_text().splitlines()
    assert [page.stem for page in PAGES if page.name != "index.md" and page.stem not in index] == []


@pytest.mark.parametrize("text", [*TEXTS, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_of_the_package_and_their_flags_exist(text, capsys):
    """``python -m monai_diffscore COMMAND --flag``: argparse knows each."""
    for command, rest in re.findall(r"python -m monai_diffscore ([a-z]\w*)([^`\n#&]*)", text.read_text()):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        output = capsys.readouterr().out
        for flag in re.findall(r"(?<!\S)\[?(--[\w-]+)", rest):
            assert re.search(rf"{flag}\b(?!-)", output), f"{command} {flag}"
