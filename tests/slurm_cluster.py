"""A Slurm of one node for tests, all of it in one folder: munged, slurmctld and slurmd on loopback, no system service.

Two partitions: jobs of "high" preempt those of "low", which are requeued. A requeued job starts again after some 6
seconds (credentials expire after 5; Slurm's default is 120). Needs the Debian packages slurmctld, slurmd, slurm-client
and munge, and root.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
SEARCH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    missing_programs = [
        name for name in (*DAEMONS, "sbatch", "srun", "scontrol") if shutil.which(name, path=SEARCH) is None
    ]
    if missing_programs:
        return f"needs {', '.join(missing_programs)}: apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "the daemons of Slurm need root"
    return None


class SlurmCluster:
    """Starts when entered, and stops its jobs and its own daemons when left.

    Args:
        folder: state, logs and sockets; its path must be short (a Unix socket's is at most 107 characters).
        grace_seconds: between SIGTERM and SIGKILL of a job that is preempted.
    """

    def __init__(self, folder: Path, grace_seconds: int = 40) -> None:
        if len(str(folder)) > 80:
            raise ValueError(f"{folder} is too long for the path of a socket.")
        self.folder, self.grace_seconds = folder, grace_seconds
        self.environment = {**os.environ, "PATH": SEARCH, "SLURM_CONF": str(folder / "slurm.conf")}
        for name in [name for name in self.environment if name.startswith(("SLURM_", "SBATCH_"))]:
            if name != "SLURM_CONF":
                del self.environment[name]

    def __enter__(self) -> SlurmCluster:
        for name in ("munge", "ctld", "slurmd", "log", "run"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(self.configuration())
        run, conf = self.folder / "run", str(self.folder / "slurm.conf")
        munge = [f"--key-file={key}", f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid"]
        munge += [f"--log-file={self.folder}/log/munged.log", f"--seed-file={self.folder}/munge/seed"]
        try:
            self.command("munged", "--force", "--num-threads=2", *munge)
            self.command("slurmctld", "-f", conf)
            self.command("slurmd", "-f", conf, "-N", socket.gethostname().split(".")[0])
            self.wait_for(lambda: self.command("sinfo", "-h", "-o", "%T").split()[:1] == ["idle"], "an idle node", 30)
        except BaseException:
            for log in (self.folder / "log").glob("*.log"):
                print(log.name, log.read_text()[-1000:], sep="\n")
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        jobs = subprocess.run(
            ["squeue", "-h", "-o", "%A"], env=self.environment, capture_output=True, text=True, timeout=20, check=False
        ).stdout.split()
        for job in jobs:
            subprocess.run(["scancel", job], env=self.environment, timeout=20, check=False)
        deadline = time.monotonic() + 15
        while jobs and time.monotonic() < deadline and self.command("squeue", "-h", "-o", "%A").strip():
            time.sleep(0.2)
        for name in reversed(DAEMONS):
            file = self.folder / f"run/{name}.pid"
            if file.is_file():
                self.end(int(file.read_text()), name)

    def end(self, pid: int, name: str) -> None:
        """Ends a daemon of ours, known by its pid and its name."""
        for number in (15, 9):
            for _ in range(50):
                if not _runs(pid, name):
                    return
                if _ == 0:
                    os.kill(pid, number)
                time.sleep(0.1)

    def configuration(self) -> str:
        host, state = socket.gethostname().split(".")[0], self.folder
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            ports = first.getsockname()[1], second.getsockname()[1]
        cores = max(4, os.cpu_count() or 1)
        return f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/run/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/slurmd
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmdPidFile={state}/run/slurmd.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=10
MinJobAge=600
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} CoresPerSocket={cores} RealMemory=1024 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime={self.grace_seconds}
PartitionName=high Nodes={host} MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""

    @property
    def cores(self) -> int:
        return max(4, os.cpu_count() or 1)

    def command(self, *words: str, **more: str) -> str:
        """Output of a command of Slurm."""
        done = subprocess.run(
            words, env=self.environment | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}")
        return done.stdout

    def submit(self, *words: str, cwd: Path, **environment: str) -> int:
        """Number of the job that ``sbatch`` made."""
        done = subprocess.run(
            ["sbatch", "--parsable", *words], cwd=cwd, env=self.environment | environment, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split(";")[0])

    def job(self, number: int | str) -> dict[str, str]:
        """What Slurm says of a job: JobState, Restarts, ExitCode, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.command("scontrol", "show", "job", str(number))))

    def wait_for(self, condition, what: str, seconds: float = 400) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
            time.sleep(0.2)

    def wait_for_end(self, number: int | str, seconds: float = 600) -> dict[str, str]:
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait_for(lambda: self.job(number)["JobState"] in ended, f"end of job {number}", seconds)
        return self.job(number)


def _runs(pid: int, name: str) -> bool:
    """Whether the process lives and is the program of that name (a number may have gone to another)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return f"Name:\t{name}\n" in status and "State:\tZ" not in status
