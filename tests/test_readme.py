"""What the README and the model cards promise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / "README.md", *sorted(ROOT.glob("bundles/*/docs/README.md")), ROOT / "CONTRIBUTING.md"]
PAGES = sorted(ROOT.glob("docs/*.md"))
each_text = pytest.mark.parametrize("text", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))


def test_python_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", TEXTS[0].read_text(), flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["samples"].shape == (1000, 2)
    assert names["samples"].isfinite().all()
    assert names["nats"].isfinite().all()


@pytest.mark.parametrize("text", [*TEXTS, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_pictures_are_there(text):
    for target in re.findall(r"\]\(([^)#]+)\)", text.read_text()):
        assert target.startswith("https://") or (text.parent / target).exists(), target


@each_text
def test_commands_name_configurations_and_ids_that_exist(text):
    for line in text.read_text().splitlines():
        own = [text.parent.parent] if "bundles" in text.parts else [ROOT / "bundles/mri_unet3d"]
        # a line of the README may name another bundle
        for bundle in [path for path in (ROOT / "bundles").iterdir() if f"in {path.name}:" in line] or own:
            ids: set[str] = set()
            for file in bundle.glob("configs/*.json"):
                ids |= set(json.loads(file.read_text()))
            for config in re.findall(r"[\w./]*configs/\w+\.json", line):
                assert (bundle / config).exists() or (ROOT / config).exists(), config
            for run_id in re.findall(r"monai\.bundle run (\w+)", line):
                assert run_id in ids, run_id
            if "monai.bundle run" in line:
                assert {name.split("#")[0] for name in re.findall(r"--([\w#]+)", line)} <= ids | {"config_file"}
