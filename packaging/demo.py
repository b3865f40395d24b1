"""What does kopsfs do? Shown on `memfs://demo`, step by step, with real commands on a real mount.

`make demo` runs this. memfs:// lives inside one process, so the daemon is started by this file, too
(`--serve`): the same `mount` as the command's, with one thread beside it that plays *another machine* and
writes to the bucket directly, as kops on a colleague's laptop would write to S3.
Every step is checked; the demo ends with exit 0 and no mount left, or says which step failed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

KOPSFS = [sys.executable, "-m", "kopsfs"]
CLUSTER = "demo.example.com"
GROUP = f"{CLUSTER}/instancegroup/nodes-eu-central-1a"


def serve(directory: Path) -> int:
    """Be the daemon, and the other machine: a line `{"put": key, "text": …}` or `{"get": key}` is answered by one."""
    from kopsfs import config, log
    from kopsfs.cli.mount import mount
    from kopsfs.store.driver import ANY, Key
    from kopsfs.store.memory import bucket

    def other_machine() -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if "put" in request:
                bucket("demo").put(Key(request["put"]), request["text"].encode(), ANY)
                answer: dict[str, Any] = {"done": True}
            else:
                answer = {"text": bucket("demo").look("get", Key(request["get"]))[1].decode()}
            print(json.dumps(answer), flush=True)

    threading.Thread(target=other_machine, daemon=True).start()
    flags = {
        "state": "memfs://demo",
        "mountpoint": str(directory / "state"),
        "state_dir": str(directory / "kept"),
        "cache_dir": str(directory / "cache"),
        "foreground": True,
        "log_level": "error",
    }
    log.set_up("error")
    return mount(config.load(flags))


class Demo:
    """The steps."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mountpoint = directory / "state"
        self.number = 0
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.daemon: subprocess.Popen[str] | None = None

    def say(self, title: str) -> None:
        """Head a step."""
        self.number += 1
        text = f"{self.number}. {title}"
        print(f"\n\033[1m{text}\033[0m" if self.colour else f"\n{text}", flush=True)

    def run(self, command: str, *, status: int = 0) -> str:
        """Run a shell command in the mount, show it and what it prints; it has to end with `status`."""
        print(f"   $ {command}", flush=True)
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.mountpoint,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        for line in done.stdout.splitlines():
            print(f"   {line}")
        check(done.returncode == status, f"`{command}` ended with {done.returncode}, not {status}")
        return done.stdout

    def other_machine(self, **request: str) -> dict[str, Any]:
        """Have the bucket written or read past the mount."""
        assert self.daemon is not None
        to_daemon, from_daemon = _pipes(self.daemon)
        to_daemon.write(json.dumps(request) + "\n")
        to_daemon.flush()
        answer: dict[str, Any] = json.loads(from_daemon.readline())
        return answer

    def start(self) -> None:
        """Mount, and wait until the root directory answers."""
        self.mountpoint.mkdir()
        self.daemon = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while subprocess.run([*KOPSFS, "status", str(self.mountpoint)], capture_output=True, check=False).returncode:
            check(self.daemon.poll() is None, "the daemon did not start")

    def stop(self) -> None:
        """Leave nothing mounted, whatever happened."""
        if self.daemon is not None:
            if self.daemon.poll() is None:
                subprocess.run([*KOPSFS, "umount", "--lazy", str(self.mountpoint)], capture_output=True, check=False)
                try:
                    self.daemon.wait(60)
                except subprocess.TimeoutExpired:
                    self.daemon.kill()
                    self.daemon.wait()
            for pipe in _pipes(self.daemon):
                pipe.close()

    def show(self) -> None:
        """Everything."""
        self.say("Mount a state store (here one in memory; yours is s3://bucket, gs://bucket, file:///dir …)")
        print("   $ kopsfs mount memfs://demo state", flush=True)
        self.start()
        self.run("findmnt -no SOURCE,FSTYPE . 2>/dev/null || grep ' fuse.kopsfs ' /proc/mounts | cut -d' ' -f1,3")

        self.say("It is a directory: one LIST told sizes and times of everything")
        self.run(f"ls -l {CLUSTER}")
        self.run("find . -type f | wc -l")

        self.say("Files are read as they lie in the store; secrets are 0600")
        self.run(f"grep -E 'machineType|Size' {GROUP}")
        self.run(f"stat -c '%a %n' {CLUSTER}/config {CLUSTER}/secrets/admin")

        self.say("An edit with sed: a temporary file and a rename here, one conditional PUT there")
        self.run(f"sed -i 's/maxSize: 2/maxSize: 5/' {GROUP}")
        self.run("kopsfs flush .")
        stored = self.other_machine(get=GROUP)["text"]
        check("maxSize: 5" in stored, "the store does not have the edit")
        print("   the store has: " + next(line.strip() for line in stored.splitlines() if "maxSize" in line))

        self.say("A race: your editor has the file open, somebody else's kops writes it, then you save")
        group = self.mountpoint / GROUP
        mine = group.read_text().replace("machineType: t3.medium", "machineType: m7i.large")
        print(f"   you:             open {GROUP.rpartition('/')[2]} and set machineType: m7i.large")
        self.other_machine(put=GROUP, text=stored.replace("minSize: 2", "minSize: 3"))
        print("   somebody else:   minSize: 3, straight into the store")
        group.write_text(mine)
        print("   you:             save")
        self.run("kopsfs flush .", status=1)
        check("minSize: 3" in self.other_machine(get=GROUP)["text"], "somebody else's edit was overwritten")
        self.run("kopsfs conflicts .", status=1)
        self.run(f"kopsfs conflicts . diff {shlex.quote(GROUP)}")
        print("   Nothing was overwritten and nothing is lost: the store has theirs, yours is kept.")

        self.say("Status says so, and exits 1 until you decide")
        self.run("kopsfs status .", status=1)

        self.say("Decide: keep theirs with your change on top")
        self.run(f"kopsfs conflicts . take theirs {shlex.quote(GROUP)}")
        self.run(f"sed -i 's/t3.medium/m7i.large/' {GROUP} && kopsfs flush . && kopsfs conflicts .")
        final = self.other_machine(get=GROUP)["text"]
        check("minSize: 3" in final and "m7i.large" in final, "the store does not have both edits")
        self.run(f"grep -E 'machineType|Size' {GROUP}")

        self.say("It knows what the files mean: kops's own findings, and where each value comes from, offline")
        self.run(f"kopsfs validate {CLUSTER} && echo clean")
        self.run(f"sed -i 's/nonMasqueradeCIDR: 100.64.0.0/nonMasqueradeCIDR: 100.64.0/' {CLUSTER}/config")
        self.run(f"kopsfs validate {CLUSTER}", status=1)
        self.run(f"sed -i 's/nonMasqueradeCIDR: 100.64.0/nonMasqueradeCIDR: 100.64.0.0/' {CLUSTER}/config")
        self.run(f"kopsfs explain {CLUSTER} spec.kubeAPIServer.etcdServers | head -4")

        self.say("Unmount: everything is uploaded first")
        os.chdir("/")
        print("   $ kopsfs umount state", flush=True)
        done = subprocess.run([*KOPSFS, "umount", str(self.mountpoint)], check=False)
        check(done.returncode == 0, "umount left something over")
        assert self.daemon is not None
        check(self.daemon.wait(60) == 0, "the daemon ended with an error")
        check(str(self.mountpoint) not in Path("/proc/self/mounts").read_text(), "the mount is still there")
        print("   nothing is mounted, nothing is left over")


def _pipes(daemon: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    return daemon.stdin, daemon.stdout


def check(holds: bool, otherwise: str) -> None:  # noqa: FBT001 — reads as a sentence
    """End the demo with an error where something is not as shown."""
    if not holds:
        raise SystemExit(f"demo: {otherwise}")


def main() -> int:
    """Run the demo, or with `--serve DIRECTORY` its daemon."""
    if sys.argv[1:2] == ["--serve"]:
        return serve(Path(sys.argv[2]))
    directory = Path(tempfile.mkdtemp(prefix="kopsfs-demo-"))
    demo = Demo(directory)
    try:
        demo.show()
    finally:
        demo.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
