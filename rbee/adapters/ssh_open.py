# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening an SSH connection: through its jump hosts, its host key checked, its failures told for people."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from fabric import Config, Connection
from paramiko.ssh_exception import NoValidConnectionsError

from rbee.adapters import known_hosts
from rbee.contracts import defaults
from rbee.core.errors import RbeeError, Unreachable
from rbee.core.spec import Ssh

KEEPALIVE = 15
#: A machine that acknowledges nothing for so long is gone, whatever we are waiting for (Linux tells; macOS's own
#: limits are longer).
DEAD_AFTER = 30.0
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


class HostKeyRefused(RbeeError):
    """The machine's host key is not the one that known_hosts has, or is in none."""

    code = "host_key"


class LoginRefused(RbeeError):
    """The machine took none of the keys."""

    code = "ssh_auth"


@dataclass(frozen=True, slots=True)
class _Policy(paramiko.MissingHostKeyPolicy):
    """Judges each host key itself; paramiko is given no known_hosts file, so that it always asks."""

    name: str
    token: str
    files: tuple[Path, ...]

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        judged = known_hosts.judge(known_hosts.lines_for(self.files, self.token), key.get_name(), key.get_base64())
        line, shown = judged.line, f"{key.get_name()} {known_hosts.fingerprint(key.asbytes())}"
        if judged.verdict == "known":
            return
        if line is None:
            raise HostKeyRefused(
                f"The host key of {self.name} ({self.token}) is not known: {shown}.",
                code="host_key_unknown",
                mend=f"Compare the fingerprint on that machine, then log in once with `ssh {self.name}`, or add the "
                f"line of `ssh-keyscan {_keyscan(self.token)}` to {self.files[0]}.",
            )
        if judged.verdict == "revoked":
            raise HostKeyRefused(
                f"The host key of {self.name} is revoked ({line.file}:{line.number}): {shown}.", code="host_key_revoked"
            )
        raise HostKeyRefused(
            f"The host key of {self.name} has CHANGED: it shows {shown}, which is not the one of "
            f"{line.file}:{line.number} ({line.key_type}). Somebody may be between you and that machine.",
            code="host_key_changed",
            mend=f"If the machine was set up anew: ssh-keygen -R '{self.token}' -f {line.file}, and log in once with "
            f"`ssh {self.name}`.",
        )


def _keyscan(token: str) -> str:
    host, _, port = token.removeprefix("[").partition("]:")
    return f"-p {port} {host}" if port else host


def connection(ssh: Ssh, config: Config, gateway: Any = None, seen: tuple[str, ...] = ()) -> Connection:
    """A connection that is ready to be opened by `open_connection`; its jump hosts are such connections too.

    Raises RbeeError `ssh_config` for jump hosts that cannot be.
    """
    user, jumps = ssh.user, ssh.jump
    found = config.base_ssh_config.lookup(ssh.host)
    if gateway is None and jumps is None:
        jumps = found.get("proxyjump", "none")
        if jumps == "none" and found.get("proxycommand", "none") != "none":
            gateway = found["proxycommand"]
    if gateway is None and jumps and jumps != "none":
        if ssh.host in seen:
            raise RbeeError(f"The jump hosts of {ssh.host} go round in a circle.", code="ssh_config")
        for hop in jumps.split(","):
            gateway = connection(parse_hop(hop), config, gateway, (*seen, ssh.host))
    made = Connection(
        ssh.host,
        user=user,
        port=ssh.port,
        config=config,
        gateway=gateway or False,
        connect_timeout=int(found.get("connecttimeout", defaults.SSH_CONNECT_TIMEOUT)),
        connect_kwargs={"compress": False},
    )
    own_key = [ssh.identity_file] if ssh.identity_file else []
    keys = [Path(name).expanduser() for name in [*own_key, *found.get("identityfile", [])]]
    only = found.get("identitiesonly", "no") == "yes"
    token = known_hosts.host_token(made.host, made.port)
    if "hostkeyalias" in found:
        token = known_hosts.host_token(found["hostkeyalias"], 22)
    files = (
        *_files(found.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")),
        *_files(found.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")),
    )
    made.client.set_missing_host_key_policy(_Policy(ssh.host, token, files))
    made.connect_kwargs = {
        "key_filename": [str(key) for key in keys if key.is_file()],
        "allow_agent": found.get("identityagent") != "none",
        "look_for_keys": not only and not own_key,
        "banner_timeout": made.connect_timeout,
        "auth_timeout": made.connect_timeout,
        "channel_timeout": made.connect_timeout,
        "transport_factory": _transports([line.key_type for line in known_hosts.lines_for(files, token)]),
    }
    return made


def parse_hop(hop: str) -> Ssh:
    """`[user@]host[:port]`, with brackets around an IPv6 address that has a port."""
    user, _, place = hop.strip().removeprefix("ssh://").rpartition("@")
    host, port = place, ""
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    elif place.count(":") == 1:
        host, _, port = place.partition(":")
    if not host or (port and not port.isdigit()):
        raise RbeeError(f"{hop!r} is no jump host.", code="ssh_config", mend="Write it as [user@]host[:port].")
    return Ssh(host=host, user=user or None, port=int(port) if port else None)


def _files(written: str | list[str]) -> list[Path]:
    words = written.split() if isinstance(written, str) else written
    return [Path(word).expanduser() for word in words if word != "none"]


def _transports(known: list[str]) -> Any:
    """Transports that prefer AES-GCM (the fast ciphers) and the kinds of host key that known_hosts has."""
    names = [n for kind in known for n in (("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,))]

    def make(sock: Any, **more: Any) -> paramiko.Transport:
        transport = paramiko.Transport(sock, **more)
        options = transport.get_security_options()
        options.ciphers = [c for c in _CIPHERS if c in options.ciphers] + [
            c for c in options.ciphers if c not in _CIPHERS
        ]
        options.key_types = [k for k in dict.fromkeys(names) if k in options.key_types] + [
            k for k in options.key_types if k not in names
        ]
        return transport

    return make


def open_connection(made: Connection) -> None:
    """Open it and, first, its jump hosts. Blocks for at most its timeouts.

    Raises Unreachable (no such name, refused, no answer), HostKeyRefused, LoginRefused; each names the machine
    that it is about, which may be a jump host.
    """
    if isinstance(made.gateway, Connection):
        open_connection(made.gateway)
    if made.is_connected:
        return
    where = f"{made.original_host} ({made.host}:{made.port})"
    via = f" from {made.gateway.original_host}" if isinstance(made.gateway, Connection) else ""
    try:
        made.open()
    except RbeeError:
        raise
    except paramiko.PasswordRequiredException as e:
        raise LoginRefused(
            f"{where}: a key is locked by a passphrase ({e}).", mend="Add it to your agent: ssh-add FILE"
        ) from None
    except (paramiko.AuthenticationException, paramiko.ssh_exception.BadAuthenticationType) as e:
        raise _login_refused(made, where, str(e)) from None
    except socket.gaierror as e:
        raise Unreachable(f"{where}: no such host ({e.strerror or e}).") from None
    except NoValidConnectionsError as e:
        why = next(iter(e.errors.values()), e)
        raise Unreachable(f"{where} cannot be reached: {getattr(why, 'strerror', None) or why}.") from None
    except TimeoutError:
        raise Unreachable(f"{where} does not answer within {made.connect_timeout} s.") from None
    except paramiko.ChannelException as e:
        raise Unreachable(f"{where} cannot be reached{via}: {e.text}.") from None
    except paramiko.SSHException as e:
        if "No authentication methods" in str(e) or "private key" in str(e):
            raise _login_refused(made, where, str(e)) from None
        raise Unreachable(f"{where}: {e}.") from None
    except (OSError, EOFError) as e:
        raise Unreachable(f"{where} cannot be reached{via}: {getattr(e, 'strerror', None) or e or 'closed'}.") from None
    finally:
        if not made.is_connected:
            with contextlib.suppress(Exception):
                made.client.close()
    made.transport.set_keepalive(KEEPALIVE)
    _notice_death(made.transport.sock)


def _notice_death(sock: Any) -> None:
    if isinstance(sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_AFTER * 1000))


def _login_refused(made: Connection, where: str, why: str) -> LoginRefused:
    tried = list(made.connect_kwargs["key_filename"])
    if made.connect_kwargs["look_for_keys"]:
        tried += [str(p) for p in sorted(Path.home().joinpath(".ssh").glob("id_*")) if p.suffix != ".pub"]
    if made.connect_kwargs["allow_agent"]:
        with contextlib.suppress(Exception):
            tried += [f"{key.comment or key.get_name()} (agent)" for key in paramiko.Agent().get_keys()]
    keys = ", ".join(dict.fromkeys(tried)) or "none: there is no key file and no agent"
    return LoginRefused(
        f"{where} refuses to let {made.user!r} in ({why.rstrip('.')}). Keys tried: {keys}.",
        mend=f"Try `ssh {made.user}@{made.original_host}`; `ssh-copy-id` puts your key there; `user:` and "
        "`identity_file:` in rbee.yaml choose others.",
    )
