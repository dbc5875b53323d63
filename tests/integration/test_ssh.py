# SPDX-License-Identifier: GPL-3.0-or-later
"""Real sshds on loopback: commands, host keys, keys, jump hosts, lost machines."""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rbee.adapters import ssh_config
from rbee.adapters.http import connection_over
from rbee.adapters.local_shell import LocalShell
from rbee.adapters.ssh import SshShell
from rbee.adapters.ssh_open import HostKeyRefused, LoginRefused
from rbee.core.errors import RbeeError, Unreachable
from rbee.core.spec import Ssh
from rbee.fleet.facts import observe
from rbee.fleet.ports import Part, Shell
from tests.support.ports import free_port
from tests.support.sshd import Sshd, make_key


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    made = Sshd.make(tmp_path / "ssh")
    yield made
    made.stop()


@pytest.fixture
def shells(sshd: Sshd) -> Iterator[list[Shell]]:
    made: list[Shell] = []
    yield made
    for shell in made:
        shell.close()


def reach(sshd: Sshd, shells: list[Shell], host: str, **more: str) -> SshShell:
    shell = SshShell(host, Ssh(host=host, **more), ssh_config.load([sshd.config]))  # type: ignore[arg-type]
    shells.append(shell)
    return shell


def test_words_arrive_as_they_were_given(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    shell = reach(sshd, shells, "one")
    words = ["a b", "", "it's", "$HOME", "*", "back`tick`", 'quo"te', "semi;colon", "ünï"]
    for machine in (shell, LocalShell()):
        done = machine.run([sys.executable, "-c", "import sys;sys.stdout.write('|'.join(sys.argv[1:]))", *words])
        assert done.rc == 0 and done.out.decode() == "|".join(words), done


def test_input_output_status_and_environment(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    data = bytes(range(256)) * 20_000
    for machine in (reach(sshd, shells, "one"), LocalShell()):
        assert machine.run(["cat"], input=data).out == data
        done = machine.run(["sh", "-c", 'echo "$SAID" >&2; exit 7'], env={"SAID": "two words"})
        assert (done.rc, done.out, done.err) == (7, b"", b"two words\n")
        assert machine.run(["no-such-program-here"]).rc == 127
        # A command that does not read its input is no error of ours.
        assert machine.run(["true"], input=data).rc == 0


def test_a_child_left_behind_holds_nothing_up(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    for machine in (reach(sshd, shells, "one"), LocalShell()):
        done = machine.run(["sh", "-c", "sleep 30 & echo $!"], timeout=20)
        machine.run(["kill", done.out.decode().strip()])
        assert done.rc == 0


def test_a_command_that_takes_too_long_is_told(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    for machine in (reach(sshd, shells, "one"), LocalShell()):
        with pytest.raises(RbeeError) as e:
            machine.run(["sleep", "30"], timeout=0.3)
        assert e.value.code == "timeout"
        assert machine.run(["true"]).ok


def test_files_are_streamed_from_their_offsets(sshd: Sshd, shells: list[Shell], tmp_path: Path) -> None:
    sshd.start("one")
    (tmp_path / "a").write_bytes(b"a" * 300_000)
    (tmp_path / "b").write_bytes(b"0123456789")
    parts = [Part(path=tmp_path / "a", size=300_000), Part(path=tmp_path / "b", size=10, offset=4)]
    told: list[tuple[int, int]] = []
    for machine in (reach(sshd, shells, "one"), LocalShell()):
        done = machine.send(["cat"], preamble=b"head\n", parts=parts, on_progress=lambda d, t: told.append((d, t)))
        assert done.out == b"head\n" + b"a" * 300_000 + b"456789"
    assert told.count((300_010, 300_010)) == 2


def test_many_commands_at_once_on_one_connection(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    shell = reach(sshd, shells, "one")
    with ThreadPoolExecutor(5) as pool:
        outs = list(pool.map(lambda n: shell.run(["sh", "-c", f"echo $SSH_CONNECTION {n}"]).out.split(), range(10)))
    assert [int(o[-1]) for o in outs] == list(range(10))
    assert len({o[1] for o in outs}) == 1, "one TCP connection, so one client port"


def test_the_probe_sees_the_machine_in_one_round_trip(sshd: Sshd, shells: list[Shell], tmp_path: Path) -> None:
    sshd.start("one", environment={"XDG_CONFIG_HOME": str(tmp_path / "config")})
    shell = reach(sshd, shells, "one")
    facts = observe(shell).facts
    assert facts.roots.config == str(tmp_path / "config" / "rbee")
    assert facts.client_address == "127.0.0.1" and facts.server_address == "127.0.0.1"
    assert facts.python is not None and facts.python.version >= (3, 10, 0)
    none = observe(shell, python="/no/such/python").facts
    assert none.python is None and none.os == facts.os and none.arch == facts.arch
    assert shell.peer_address == "127.0.0.1"


def test_an_unknown_host_key_is_refused_with_its_fingerprint(sshd: Sshd, shells: list[Shell]) -> None:
    port = sshd.start("one", trust=False)
    with pytest.raises(HostKeyRefused) as e:
        reach(sshd, shells, "one").run(["true"])
    assert e.value.code == "host_key_unknown"
    assert re.search(r"ssh-ed25519 SHA256:[A-Za-z0-9+/]{43}", e.value.message)
    assert f"ssh-keyscan -p {port} 127.0.0.1" in e.value.mend and str(sshd.known_hosts) in e.value.mend
    assert sshd.known_hosts.read_text().count("\n") == 1, "nothing is trusted by itself"


def test_a_changed_host_key_names_file_and_line(sshd: Sshd, shells: list[Shell]) -> None:
    port = sshd.start("one", trust=False)
    sshd.trust(port, make_key(sshd.home / "other"))
    with pytest.raises(HostKeyRefused) as e:
        reach(sshd, shells, "one").run(["true"])
    assert e.value.code == "host_key_changed" and f"{sshd.known_hosts}:2" in e.value.message
    assert f"ssh-keygen -R '[127.0.0.1]:{port}'" in e.value.mend


def test_a_revoked_host_key_is_refused_although_it_is_listed(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    line = sshd.known_hosts.read_text().splitlines()[1]
    with sshd.known_hosts.open("a") as f:
        f.write(f"@revoked {line}\n")
    with pytest.raises(HostKeyRefused) as e:
        reach(sshd, shells, "one").run(["true"])
    assert e.value.code == "host_key_revoked" and f"{sshd.known_hosts}:3" in e.value.message


def test_a_refused_key_names_the_user_and_the_keys(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    other = make_key(sshd.home / "stranger")
    sshd.config.write_text(sshd.config.read_text().replace(str(sshd.key), str(other)))
    with pytest.raises(LoginRefused) as e:
        reach(sshd, shells, "one", user="nobody-here").run(["true"])
    assert "'nobody-here'" in e.value.message and str(other) in e.value.message
    assert "ssh-copy-id" in e.value.mend


def test_a_jump_host_of_rbee_yaml_and_of_the_ssh_config(sshd: Sshd, shells: list[Shell]) -> None:
    gate = sshd.start("gate")
    sshd.start("inside")
    sshd.start("inside2", jump="gate")
    for shell in (reach(sshd, shells, "inside", jump="gate"), reach(sshd, shells, "inside2")):
        assert shell.run(["echo", "hello"]).out == b"hello\n"
    log = (sshd.home / "inside2" / "log").read_text()
    assert "Accepted publickey" in log
    assert (sshd.home / "gate" / "log").read_text().count("Accepted publickey") == 2
    assert gate


def test_an_untrusted_jump_host_is_refused_by_its_own_name(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("gate", trust=False)
    sshd.start("inside", jump="gate")
    with pytest.raises(HostKeyRefused, match="The host key of gate "):
        reach(sshd, shells, "inside").run(["true"])


def test_what_cannot_be_reached_is_unreachable(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("gate")
    port = free_port()
    with sshd.config.open("a") as f:
        f.write(f"Host down\n  HostName 127.0.0.1\n  Port {port}\nHost lost\n  HostName no-such-host.invalid\n")
        f.write(f"Host behind\n  HostName 127.0.0.1\n  Port {port}\n  ProxyJump gate\n")
        f.write("Host circle\n  ProxyJump circle\n")
    for name, why in (("down", "refused"), ("lost", "no such host"), ("behind", "gate")):
        with pytest.raises(Unreachable, match=why):
            reach(sshd, shells, name).run(["true"])
    with pytest.raises(RbeeError, match="circle"):
        reach(sshd, shells, "circle").run(["true"])


def test_a_silent_machine_is_unreachable_within_its_timeout(sshd: Sshd, shells: list[Shell]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with sshd.config.open("a") as f:
            f.write(f"Host mute\n  HostName 127.0.0.1\n  Port {silent.getsockname()[1]}\n  ConnectTimeout 1\n")
        with pytest.raises(Unreachable, match="mute"):
            reach(sshd, shells, "mute").run(["true"])


def test_a_lost_connection_is_told_and_the_next_command_connects_again(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    shell = reach(sshd, shells, "one")
    with pytest.raises(Unreachable):
        # The parent of the command's shell is the sshd of this connection.
        shell.run(["sh", "-c", "kill -9 $PPID; sleep 5"], timeout=20)
    assert shell.run(["echo", "again"]).out == b"again\n"


def test_a_machine_that_froze_is_told_within_the_commands_time(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    shell = reach(sshd, shells, "one")
    server = int(shell.run(["sh", "-c", "echo $PPID"]).out)
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(RbeeError) as e:
            shell.run(["true"], timeout=1)
        assert e.value.code in ("timeout", "unreachable") and "one" in e.value.message
    finally:
        os.kill(server, signal.SIGCONT)
    assert shell.run(["true"]).ok


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"x" * 200_000
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_http_over_the_connection(sshd: Sshd, shells: list[Shell]) -> None:
    sshd.start("one")
    sshd.start("mute", more="AllowTcpForwarding no")
    with http.server.HTTPServer(("127.0.0.1", 0), _Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for shell in (reach(sshd, shells, "one"), reach(sshd, shells, "mute"), LocalShell()):
            connection = connection_over(shell, "127.0.0.1", server.server_port, timeout=10)
            connection.request("GET", "/")
            answer = connection.getresponse()
            connection.close()
            assert answer.status == 200 and len(answer.read()) == 200_000
            with pytest.raises(Unreachable):
                shell.connect("127.0.0.1", free_port())
        server.shutdown()


def test_includes_are_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("User included\nHost b\n  Port 2222\n")
    (tmp_path / "config").write_text(f"Host a\n  Include {tmp_path}/mo*\n  Port 23\nHost *\n  User rest\n")
    config = ssh_config.load([tmp_path / "config"]).base_ssh_config
    assert config.lookup("a")["user"] == "included" and config.lookup("a")["port"] == "23"
    assert config.lookup("b")["user"] == "rest"
