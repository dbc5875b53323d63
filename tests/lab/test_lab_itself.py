# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab is what it says it is: separate hosts, real faults, and nothing left of it afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import paramiko
import pytest

from . import Lab, LabError, lifetime, net, registry
from .cgroups import Cgroup
from .shell import run

ROOT = Path(__file__).parents[2]
QUICK = ("-o", "ConnectTimeout=2")


def traces(lab: Lab) -> list[str]:
    """All that still speaks of this lab: processes, mounts, links, namespaces, control groups, files."""
    prefix, directory = lab.record.prefix, str(lab.record.directory)
    found = [f"process {process.outer}" for host in lab.hosts.values() for process in host.processes()]
    found += [f"process {pid}" for pid in net.pids(prefix)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if f"{directory}/" in line or f"{prefix}-" in line or line.endswith(directory)]
    found += [str(path) for top in (net.LINKS, net.SPACES) for path in top.glob(f"{prefix}*")]
    groups = (group for host in lab.hosts.values() for group in Cgroup(host.netns).directories.values())
    found += [str(group) for group in groups if group.exists()]
    found += [str(path) for path in (lab.record.directory, registry.REGISTRY / f"{lab.id}.json") if path.exists()]
    return found


def reachable(lab: Lab, name: str) -> bool:
    return run("ssh", "-F", lab.ssh_config, *QUICK, name, "true", check=False).returncode == 0


def test_every_host_takes_the_systems_ssh(lab: Lab) -> None:
    for name in lab.hosts:
        said = lab.ssh(name, "hostname; id -un; python3 -c 'print(6 * 7)'; sudo -n true 2>/dev/null || echo no sudo")
        assert said.stdout.split("\n")[:4] == [name, "bee", "42", "no sudo"]


def test_paramiko_knows_the_hosts_by_the_same_files(lab: Lab) -> None:
    config = paramiko.SSHConfig.from_path(str(lab.ssh_config))
    for name, host in lab.hosts.items():
        entry = config.lookup(name)
        assert entry["hostname"] == host.ip
        with paramiko.SSHClient() as client:
            client.load_host_keys(entry["userknownhostsfile"])
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            client.connect(host.ip, username=entry["user"], key_filename=entry["identityfile"], allow_agent=False,
                           look_for_keys=False)  # fmt: skip
            _, stdout, _ = client.exec_command("hostname")
            assert stdout.read().decode().strip() == name
            with client.open_sftp() as sftp:
                assert ".ssh" in sftp.listdir(".")


def test_each_host_has_its_own_namespaces_and_first_process(lab: Lab) -> None:
    kinds = ("net", "mnt", "pid", "uts", "ipc")
    script = f"hostname; for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done; cat /proc/1/comm"
    seen = [host.exec(["sh", "-c", script]).stdout.split() for host in lab.hosts.values()]
    assert [one[0] for one in seen] == list(lab.hosts)
    assert all(one[-1] == "sh" for one in seen)
    for number, kind in enumerate(kinds, 1):
        assert len({one[number] for one in seen} | {str(Path(f"/proc/self/ns/{kind}").readlink())}) == len(seen) + 1


def test_what_one_host_writes_no_other_sees(lab: Lab) -> None:
    lab.hosts["h1"].write_file("notes/a file", "mine\n")
    assert lab.hosts["h1"].read_file("notes/a file") == "mine\n"
    assert lab.ssh("h1", "stat -c %U 'notes/a file'").stdout.strip() == "bee"
    assert not lab.hosts["h2"].exists("notes/a file")


def test_hosts_reach_each_other_and_the_controller_and_nothing_else(lab: Lab) -> None:
    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"hello {self.client_address[0]}".encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((lab.controller_ip, 0), Hello) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{lab.controller_ip}:{server.server_port}/"
        fetch = f"import urllib.request as u; print(u.urlopen('{url}', timeout=10).read().decode())"
        said = {name: host.exec(["python3", "-c", fetch]).stdout.strip() for name, host in lab.hosts.items()}
        server.shutdown()
    assert said == {name: f"hello {host.ip}" for name, host in lab.hosts.items()}
    banner = "import socket; print(socket.create_connection(('h2', 22), 10).recv(4).decode())"
    assert lab.hosts["h1"].exec(["python3", "-c", banner]).stdout.strip() == "SSH-"
    routes = json.loads(lab.hosts["h1"].exec(["ip", "-j", "route"]).stdout)
    assert [route["dst"] for route in routes] == [f"{lab.record.subnet}.0/24"]


def test_a_process_is_found_and_killed_by_the_hosts_own_number(lab: Lab) -> None:
    host = lab.hosts["h1"]
    pid = int(lab.ssh("h1", "setsid -f sleep 54321 </dev/null >/dev/null 2>&1; pgrep -f 'sleep [5]4321'").stdout)
    assert host.pids("sleep 54321") == (pid,)
    assert next(process.uid for process in host.processes() if process.pid == pid) == 1000
    host.kill(pid, signal.SIGKILL)
    host.exec(["sh", "-c", f"while kill -0 {pid} 2>/dev/null; do sleep 0.01; done"], timeout=10)
    assert host.pids("sleep 54321") == ()
    with pytest.raises(ProcessLookupError):
        host.kill(pid)


def test_a_partitioned_host_is_silent_and_comes_back_with_its_processes(lab: Lab) -> None:
    before = lab.hosts["h2"].pids()
    lab.partition("h2")
    try:
        assert [name for name in lab.hosts if reachable(lab, name)] == ["h1", "h3"]
        assert lab.hosts["h2"].exec(["hostname"]).stdout.strip() == "h2"
    finally:
        lab.heal()
    assert reachable(lab, "h2")
    assert set(before) <= set(lab.hosts["h2"].pids())


def test_a_frozen_host_takes_connections_and_says_nothing(lab: Lab) -> None:
    try:
        lab.freeze("h3")
    except LabError as reason:
        pytest.skip(str(reason))
    try:
        with socket.create_connection((lab.hosts["h3"].ip, 22), timeout=5):
            assert not reachable(lab, "h3")
    finally:
        lab.heal()
    assert reachable(lab, "h3")


def test_a_killed_host_is_silent_and_boots_with_its_disk(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    host = lab.hosts["h1"]
    host.write_file("kept", "kept\n")
    host.exec(["touch", "/tmp/lost"])
    lab.kill("h1")
    assert host.init is None
    assert host.processes() == ()
    assert not reachable(lab, "h1")
    lab.boot()
    assert lab.ssh("h1", "cat kept; ls /tmp").stdout == "kept\n"
    lab.reimage("h1")
    assert lab.ssh("h1", "ls").stdout == ""


def test_a_new_host_key_is_refused_until_trusted(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    lab.rekey("h1")
    refused = lab.ssh("h1", "true")
    assert refused.returncode != 0
    assert "HOST IDENTIFICATION HAS CHANGED" in refused.stdout
    lab.trust()
    assert lab.ssh("h1", "true").returncode == 0


def test_a_full_home_refuses_the_users_bytes_until_emptied(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, {"h1": "home=16"})

    def write(name: str) -> str:
        return lab.ssh("h1", f"head -c 65536 /dev/zero 2>&1 >{name} && sync {name} && echo written").stdout.strip()

    lab.fill("h1")
    assert write("one").endswith("No space left on device")
    lab.fill("h1", leave=1 << 20)
    assert write("two") == "written"
    lab.fill("h1")
    assert write("three").endswith("No space left on device")
    lab.unfill("h1")
    assert write("four") == "written"


def test_traits_take_away_what_they_say(make_lab: Callable[..., Lab]) -> None:
    traits = {"h2": "nopython,nosftp", "h3": "nogomp,noforward,mem=64", "h4": "via:h1"}
    lab = make_lab(4, traits)
    assert "not found" in lab.ssh("h2", "python3 -V").stdout
    assert run("scp", "-F", lab.ssh_config, __file__, "h2:x", check=False).returncode != 0
    assert run("scp", "-F", lab.ssh_config, __file__, "h3:x", check=False).returncode == 0
    gomp = "python3 -c 'import ctypes; ctypes.CDLL(\"libgomp.so.1\")'"
    assert lab.ssh("h1", gomp).returncode == 0
    assert "libgomp.so.1: cannot open" in lab.ssh("h3", gomp).stdout
    through = run("ssh", "-F", lab.ssh_config, "-W", "127.0.0.1:22", "h3", check=False)
    assert "administratively prohibited" in through.stdout
    assert lab.ssh("h3", "python3 -c 'bytearray(200 << 20)'").returncode != 0
    assert lab.ssh("h1", "python3 -c 'bytearray(200 << 20)'").returncode == 0
    assert lab.ssh("h4", "hostname").stdout.strip() == "h4"
    direct = run("ssh", "-F", lab.ssh_config, *QUICK, "-o", "ProxyJump=none", "h4", "true", check=False)
    assert direct.returncode != 0


def test_bad_arguments_say_what_is_wrong() -> None:
    for count, traits, words in (
        (1, {"h2": "nopython"}, "no such host: h2"),
        (1, {"h1": "nopyton"}, "unknown trait 'nopyton'"),
        (1, {"h1": "home=big"}, "write it as home=MiB"),
        (2, {"h1": "via:h1"}, "via:h1 must name another host"),
        (0, {}, "1 to 100 hosts"),
    ):
        with pytest.raises(LabError, match=words):
            Lab.up(count, traits)


def test_two_labs_live_side_by_side_and_down_leaves_nothing(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    other = make_lab(2, {"h1": "home=16,mem=128", "h2": "via:h1"})
    assert other.controller_ip != lab.controller_ip
    assert other.ssh("h2", "hostname").stdout.strip() == "h2"
    other.partition("h1")
    assert reachable(lab, "h1")
    assert len(traces(other)) > 10
    other.down()
    assert traces(other) == []
    other.down()
    assert reachable(lab, "h1")


# A run started in the background by a shell inherits "ignore interrupts"; this one is to be interrupted.
KILLED = """
import signal, sys
from tests.lab import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)
lab = Lab.up(2, {"h1": "home=16"})
print(lab.id, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT])
def test_what_a_dead_run_left_is_collected(lab: Lab, sig: signal.Signals) -> None:
    """SIGKILL leaves a lab to the next start; an interrupt takes it down on the way out."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        left = Lab.find(child.stdout.readline().strip())
        assert reachable(left, "h2")
        child.send_signal(sig)
        child.wait(timeout=30)
    if sig == signal.SIGKILL:
        lifetime.collect()
    assert traces(left) == []
    assert reachable(lab, "h1")


def test_the_command_line_makes_and_removes_a_lab(lab: Lab) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return run("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.lab", "--lab", f"cli{os.getpid()}", *words)

    command("up", "1", "--trait", "h1=nogomp")
    by_hand = Lab.find(f"cli{os.getpid()}")
    try:
        assert f"lab {by_hand.id}: " in command("status").stdout
        assert command("ssh-config").stdout.strip() == str(by_hand.ssh_config)
        assert command("exec", "h1", "--user", "root", "--", "id", "-un").stdout.strip() == "root"
        command("reboot", "h1")
        assert reachable(by_hand, "h1")
    finally:
        command("down")
    assert traces(by_hand) == []
