"""The parts of scripts/check_cuda, on the CPU: right networks pass, and each kind of fault fails."""

from __future__ import annotations

import ast
import math
import re
import subprocess
import sys
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from monai_diffscore.inspection import arithmetic

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts/check_cuda"


@pytest.fixture(scope="module")
def check_cuda():
    loader = SourceFileLoader("check_cuda", str(SCRIPT))
    module = module_from_spec(spec_from_loader("check_cuda", loader))
    sys.modules["check_cuda"] = module
    loader.exec_module(module)
    yield module
    del sys.modules["check_cuda"]


class Faulty(nn.Module):
    """A network whose output is 1 % too large where ``wrong(x)`` says so."""

    def __init__(self, network: nn.Module, wrong) -> None:
        super().__init__()
        self.network, self.wrong = network, wrong

    def forward(self, x, sigma, **condition):
        output = self.network(x, sigma, **condition)
        return 1.01 * output if self.wrong(x) else output


def test_every_network_passes_on_the_cpu(check_cuda, capsys):
    names = ["mlp", "unet2d", "single_cell", "counts_autoencoder"]
    assert check_cuda.check_networks(names, "cpu", width=1, edge=1, batch=4, compiled=False) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["network", "float32", "TF32", "bf16", "fp16"]
    assert [line.split()[0] for line in lines[1:]] == names
    assert all(line.split()[2] == "-" for line in lines[1:])  # there is no TF32 on a CPU
    assert set(check_cuda.STEPS) == set(arithmetic.PRECISIONS)


def test_errors_grow_with_the_unit_roundoff():
    """Errors of CPU arithmetic, in unit roundoffs: between a hundredth of one and the ceilings, in each precision."""
    checks = arithmetic.DeviceChecks(arithmetic.subject("dit2d", 1, 1, 4), "cpu")
    for name, (_, unit) in arithmetic.PRECISIONS.items():
        for error, ceiling in zip(checks.cpu_errors[name], arithmetic.CEILINGS, strict=True):
            assert 0.01 * unit < error < ceiling * unit


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        ("float32", lambda x: x.dtype == torch.float32),
        ("sample", lambda x: x.dtype == torch.float32),
        ("compile", lambda x: torch.compiler.is_compiling()),
    ],
)
def test_a_network_that_is_one_percent_off_fails(check_cuda, check, wrong):
    item = arithmetic.subject("mlp", 1, 1, 4)
    checks = arithmetic.DeviceChecks(item._replace(build=lambda again: Faulty(item.build(again), wrong)), "cpu")
    share = getattr(checks, check)() if check != "float32" else checks.precision("float32")
    assert share > 10
    assert check_cuda.Cell(share).failed
    right = arithmetic.DeviceChecks(item, "cpu")
    assert (getattr(right, check)() if check != "float32" else right.precision("float32")) <= 1


def test_wrong_gradients_of_one_small_parameter_fail():
    """The gradient of one bias is off by a tenth, in float32 alone: the whole gradient hardly notices."""
    item = arithmetic.subject("mlp", 1, 1, 4)

    class Hooked(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x, sigma, **condition):
            bias = next(p for p in self.network.parameters() if p.ndim == 1)
            if not bias._backward_hooks:
                bias.register_hook(lambda gradient: gradient * (1.1 if gradient.dtype == torch.float32 else 1.0))
            return self.network(x, sigma, **condition)

    checks = arithmetic.DeviceChecks(item._replace(build=lambda again: Hooked(item.build(again))), "cpu")
    assert checks.precision("float32") > 1


def test_checkpointing_that_changes_the_result_fails():
    item = arithmetic.subject("unet2d", 1, 1, 2)
    checks = arithmetic.DeviceChecks(
        item._replace(build=lambda again: Faulty(item.build(again), lambda x: again)), "cpu"
    )
    assert checks.precision("float32") <= 1
    assert checks.recompute() > 10


def test_gradients_that_overflow_in_every_scale_fail(check_cuda):
    """GradScaler lowers its scale; a loss that is infinite in fp16 stays so, and the cell says it."""
    item = arithmetic.subject("mlp", 1, 1, 4)

    class Overflow(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x, sigma, **condition):
            output = self.network(x, sigma, **condition)
            in_fp16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16
            return output * torch.finfo(torch.float32).max if in_fp16 else output

    network = Overflow(item.build(False))
    with pytest.raises(ArithmeticError, match="not finite"):
        arithmetic.step(item, network, "cpu", autocast=torch.float16)
    cell = check_cuda.guarded(partial(arithmetic.step, item, network, "cpu", autocast=torch.float16))
    assert cell.failed
    assert math.isnan(cell.share)
    assert "not finite" in cell.remark


def test_shares_of_the_tolerance(check_cuda):
    """Ten times the CPU's error, at least ten roundoffs, at most ten ceilings; NaN is above any tolerance."""
    unit = 2**-24
    assert arithmetic.share_of_tolerance([20 * unit], [4 * unit], unit) == pytest.approx(0.5)
    assert arithmetic.share_of_tolerance([20 * unit], [0.0], unit) == pytest.approx(2)
    assert arithmetic.share_of_tolerance([6400 * unit], [1.0], unit) == pytest.approx(10)
    assert check_cuda.Cell(arithmetic.share_of_tolerance([math.nan, 0.0], [unit, unit], unit)).failed


@pytest.mark.slow
def test_the_bundle_runs_from_its_commands(check_cuda, tmp_path):
    commands = check_cuda.bundle_commands("toy2d_mlp", tmp_path, None, on_cuda=False)
    assert list(commands) == ["training", "sampling"]
    cells = check_cuda.run_commands(commands)
    assert not any(cell.failed for cell in cells.values()), cells
    assert (tmp_path / "training/models/model.pt").is_file()
    assert list((tmp_path / "samples").iterdir())


def test_fp16_of_the_bundle_is_a_run_of_its_own_on_cuda(check_cuda, tmp_path):
    commands = check_cuda.bundle_commands("mri_unet3d", tmp_path, tmp_path, on_cuda=True)
    assert list(commands) == ["training", "training fp16", "sampling"]
    for command in commands.values():
        config_files = command[command.index("--config_file") + 1]
        assert all(Path(file).is_file() for file in ast.literal_eval(config_files))
    assert "precision_fp16.json" in str(commands["training fp16"])


def test_a_failed_command_is_reported_with_its_last_lines(check_cuda):
    cells = check_cuda.run_commands({"sampling": [sys.executable, "-c", "import sys; sys.exit('no weights')"]})
    assert cells["sampling"].failed
    assert "no weights" in cells["sampling"].remark


def test_volumes_of_the_bundle_are_whole(check_cuda, tmp_path):
    files = sorted(check_cuda.write_volumes(tmp_path / "volumes").iterdir())
    assert len(files) == 3
    arrays = [nib.load(file).get_fdata() for file in files]
    assert all(array.shape == (48, 48, 48) and np.isfinite(array).all() for array in arrays)
    assert np.abs(arrays[0] - arrays[1]).max() > 1


def test_help_needs_the_standard_library_alone():
    code = (
        "import runpy, sys; sys.argv = ['check_cuda', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end: print(end.code, *sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.startswith("usage: scripts/check_cuda")
    code, *modules = output.splitlines()[-1].split()
    assert code == "0"
    assert not {"torch", "monai", "numpy", "monai_diffscore"} & set(modules)


def test_an_unknown_network_is_refused_with_the_names(check_cuda, capsys):
    with pytest.raises(SystemExit) as end:
        check_cuda.main(["--only", "mlp", "unet4d"])
    assert end.value.code == 2
    assert re.search(r"--only unet4d: no such network; expected .*unet3d", capsys.readouterr().err)


def test_a_parameter_without_a_gradient_fails():
    checked = arithmetic.subject("mlp", 1, 1, 2)
    network = checked.build(False)
    network.unused = nn.Parameter(torch.zeros(3))
    with pytest.raises(ArithmeticError, match=r"shape \(3,\) has no gradient"):
        arithmetic.step(checked, network, "cpu")


SMALL = ["--width", "1", "--edge", "1", "--batch", "2", "--no-bundle", "--no-compile", "--only", "mlp"]


def test_the_command_prints_skipped_checks_and_ends_with_its_code(check_cuda, capsys):
    assert check_cuda.main([*SMALL, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "skipped" in text
    assert "everything is right" in text
    if not torch.cuda.is_available():
        assert check_cuda.main(SMALL) == 3
        assert "NO CUDA was checked" in capsys.readouterr().out


def test_a_failure_is_in_the_table_and_in_the_code(check_cuda, capsys, monkeypatch):
    item = arithmetic.subject("mlp", 1, 1, 2)
    faulty = item._replace(build=lambda again: Faulty(item.build(again), lambda x: x.dtype == torch.float32))
    monkeypatch.setattr(arithmetic, "subject", lambda *sizes: faulty)
    assert check_cuda.main([*SMALL, "--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert "mlp, float32: FAILED" in text
    assert "everything is right" not in text
