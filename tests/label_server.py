"""A real MONAI Label server, and a real Orthanc, on loopback; and bundles with small networks for them to serve."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import requests
import torch
from monai.bundle import ConfigWorkflow

from monai_diffscore.memory import peak_memory_bytes

ROOT = Path(__file__).parent.parent
VENV = Path(os.environ.get("MONAI_DIFFSCORE_LABEL_VENV", ROOT / ".venv-label"))
PATIENCE = 180  # seconds that a server may take to start
#: small enough to train and to run in seconds
NETWORKS = {
    "unet": {"channels": [8] * 4, "attention_levels": [False] * 4, "num_res_blocks": [1] * 4, "num_head_channels": 8},
    "dit": {"hidden_size": 24, "depth": 2, "num_heads": 2},
    "hierarchical": {"channels": [8] * 4, "num_head_channels": 8},
}  # fmt: skip


def missing() -> str | None:
    """What a MONAI Label server needs and is not here."""
    if not (VENV / "label-requirements.txt").is_file():
        return f"no environment of MONAI Label at {VENV}: scripts/label --install-only makes it"
    return None


def orthanc() -> tuple[str, str] | None:
    """The program and its DICOMweb plugin, if they are here."""
    program = shutil.which("Orthanc") or next((p for p in ("/usr/sbin/Orthanc",) if Path(p).is_file()), None)
    plugins = sorted(Path("/usr").glob("lib/**/libOrthancDicomWeb.so*")) + sorted(
        Path("/usr").glob("share/orthanc/plugins/libOrthancDicomWeb.so*")
    )
    return (program, str(plugins[-1].resolve())) if program and plugins else None


def small_bundle(name: str, folder: Path, data: Path, **statistics: Any) -> Path:
    """A copy of a bundle with a small network in both configurations, trained for a few iterations on ``data``."""
    bundle = folder / name
    shutil.copytree(ROOT / "bundles" / name, bundle, ignore=shutil.ignore_patterns("output", "*.pt", "*.db"))
    kind = next((kind for kind in ("hierarchical", "dit") if kind in name), "unet")
    for file in ("train", "inference"):
        path = bundle / f"configs/{file}.json"
        content = json.loads(path.read_text())
        content["network_def"]["network"].update(NETWORKS[kind])
        content["autocast_dtype"] = None
        path.write_text(json.dumps(content, indent=4))
    workflow = ConfigWorkflow(
        [str(bundle / "configs/train.json"), str(ROOT / "configs/smoke.json")],
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        output_dir=str(folder / f"{name}_training"),
        ckpt_dir=str(bundle / "models"),
        dataset_dir=str(data),
        gallery_every=0,
        max_epochs=2,
    )
    workflow.initialize()
    workflow.run()
    facts = bundle / "models/data_statistics.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), **statistics}))
    assert torch.load(bundle / "models/model.pt", weights_only=True)
    return bundle


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A program that serves on loopback, ended with all that it started; a context."""

    def __init__(self, command: Sequence[str], log: Path, alive: str, **environment: str) -> None:
        self.log, self.alive = log, alive
        clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**clean, **environment}, start_new_session=True
            )
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if requests.get(self.alive, timeout=10).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"{self.alive} did not answer:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(20)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class LabelServer(Process):
    """``scripts/label`` (or MONAI Label's own command) on a free port, spoken to as a client does."""

    def __init__(self, command: Callable[[int], list[str]], log: Path, **environment: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false", "OMP_NUM_THREADS": "1", **environment}
        super().__init__(command(port), log, f"{self.url}/info/", **settings)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=300, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=600, **options)

    def put(self, path: str, **options: Any) -> requests.Response:
        return requests.put(self.url + path, timeout=300, **options)

    def infer(self, model: str, image: str = "", output: str = "json", file: Path | None = None, **params: Any):
        """The answer to an inference on an image of the datastore, or on a file that is sent along."""
        parts: dict[str, Any] = {"params": (None, json.dumps(params))}
        if file is not None:
            parts["file"] = (file.name, file.read_bytes())
        return self.post(f"/infer/{model}", params={"image": image, "output": output}, files=parts)

    def most_memory_mb(self) -> float:
        """The largest resident memory of the server so far."""
        return peak_memory_bytes(self.process.pid) / 2**20


def ours(studies: str, bundles: Sequence[Path], *options: str) -> Callable[[int], list[str]]:
    """The command that starts the app of this repository."""
    names = ",".join(map(str, bundles))
    return lambda port: [str(ROOT / "scripts/label"), "--studies", studies, "--bundles", names, "--port", str(port),
                         "--venv", str(VENV), *options]  # fmt: skip


def stock(studies: str, app: Path, bundles: Sequence[Path]) -> Callable[[int], list[str]]:
    """The command that starts MONAI Label's own app for bundles."""
    shutil.copytree(VENV / "monailabel/sample-apps/monaibundle", app)
    (app / "model").mkdir(exist_ok=True)
    for bundle in bundles:
        (app / "model" / bundle.name).symlink_to(bundle)
    names = ",".join(bundle.name for bundle in bundles)
    start = [str(VENV / "bin/python"), "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies]
    return lambda port: [*start, "--host", "127.0.0.1", "--port", str(port), "--conf", "models", names]


class Orthanc(Process):
    """Debian's Orthanc with DICOMweb, on loopback."""

    def __init__(self, folder: Path) -> None:
        program, plugin = orthanc() or ("", "")
        port = free_port()
        self.url, self.dicomweb = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/dicom-web"
        settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "Plugins": [plugin],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "Host": "127.0.0.1"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        super().__init__([program, str(folder / "orthanc.json")], folder / "orthanc.log", f"{self.url}/system")

    def store(self, series: Path) -> None:
        """Sends all files of a folder."""
        for file in sorted(series.iterdir()):
            requests.post(f"{self.url}/instances", data=file.read_bytes(), timeout=60).raise_for_status()
