"""No secret is written, whatever a run writes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from processes import ROOT

from monai_diffscore.credentials import conceal, conceal_all, reveal
from monai_diffscore.handlers.delivery import _first_line


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("http://user:s3cret@host:5000/a", "http://host:5000/a"),
        ("postgresql://me:p@ss:w0rd@db/mlflow and more", "postgresql://db/mlflow and more"),
        ("https://token-alone@host", "https://host"),
        ("sqlite:////data/my runs/mlruns.db", "sqlite:////data/my runs/mlruns.db"),
        ("write to me@host.org", "write to me@host.org"),
        ("['http://a:b@x', 'mysql+pymysql://c:d@y']", "['http://x', 'mysql+pymysql://y']"),
        ("['http://a:b@x','mysql://c:d@y']", "['http://x','mysql://y']"),
        ("postgresql://me:p/w@db/mlflow", "postgresql://db/mlflow"),
        ("mysql://me:12/3@db/mlflow", "mysql://db/mlflow"),
        ("http://user:pa/ss@host:5000 is down", "http://host:5000 is down"),
        ("HTTPS://user:it's\"p@host", "HTTPS://host"),
        ("http://u:p#x?y%40z@host", "http://host"),
        ("postgresql://me:pw@/mlflow", "postgresql:///mlflow"),
        (
            "postgresql://db/mlflow?user=me&password=pw&sslmode=on",
            "postgresql://db/mlflow?user=me&password=***&sslmode=on",
        ),
        ("https://host/?access_token=abc", "https://host/?access_token=***"),
        ("http://host:5000/team@home", "http://host:5000/team@home"),
        ("http://[::1]:5000/team@home", "http://[::1]:5000/team@home"),
        ("file:///data/me@home/mlruns", "file:///data/me@home/mlruns"),
        ("http://host: refused. Write to me@host.org", "http://host: refused. Write to me@host.org"),
    ],
)
def test_uris_lose_user_and_password(text, written):
    assert conceal(text) == written


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABRICKS_PASSWORD", "HF_API_KEY"]
)
def test_values_of_the_environments_secrets_are_concealed(name, monkeypatch):
    monkeypatch.setenv(name, "abc-123-def")
    assert conceal_all({"a": ["x abc-123-def y", 3], "b": None}) == {"a": ["x *** y", 3], "b": None}


def test_concealed_credentials_come_back_from_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:p@host:1")
    assert reveal("http://host:1") == "http://u:p@host:1"
    assert reveal("http://other:1") == "http://other:1"


@pytest.mark.parametrize("length", range(180, 210, 3))
def test_a_long_error_of_the_tracker_is_cut_outside_of_a_password(length):
    line = _first_line(ValueError(f"{'x' * (length - 20)} http://user:s3cr3t-0@host is down"))
    assert "s3c" not in line
    assert len(line) <= 200


@pytest.mark.parametrize("way", ["environment", "flag", "token", "database"])
def test_nothing_that_a_training_writes_holds_the_secret(way, tmp_path):
    """Records, checkpoints, weights, logs with every flag, tracebacks and the terminal, with a server that refuses."""
    uri = "http://127.0.0.1:9" if way == "token" else "http://user:s3cr3t-0@127.0.0.1:9"
    if way == "database":
        uri = "postgresql://user:p/'s3cr3t-0@127.0.0.1:9/mlflow"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if way == "token":
        environment["MLFLOW_TRACKING_TOKEN"] = "s3cr3t-0"
    flags = []
    if way in ("flag", "database"):
        flags = ["--tracking_uri", uri]
    else:
        environment["MLFLOW_TRACKING_URI"] = uri
    if way == "database":
        environment["MONAI_DIFFSCORE_TRACEBACK"] = "1"
        flags += ["--logging_file", "configs/logging.conf"]
    flags += ["--training_rows", "80", "--batch_size", "8", "--max_epochs", "1", "--gallery_every", "0"]
    flags += ["--output_dir", str(tmp_path / "out"), "--ckpt_dir", str(tmp_path / "models")]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training"]
    done = subprocess.run(
        [*command, "--config_file", "configs/train.json", *flags], cwd=ROOT / "bundles/toy2d_mlp", env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "s3cr3t-0" not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 4
    assert [path for path in written if b"s3cr3t-0" in path.read_bytes()] == []
