# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads and questions through proxies, by TLS, and where servers send them."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from rbee.adapters.fetch import fetch
from rbee.adapters.fetch.tuning import Tuning
from rbee.adapters.network import proxy_for
from rbee.adapters.sources import SourceFile
from rbee.core.errors import InvalidRequest, RbeeError, Unreachable
from tests.support.files_server import FileServer, file_server, serving
from tests.support.proxy import proxying

DATA = os.urandom(1_500_000)
QUICK = Tuning(backoff=0.01)
FETCH = """
import asyncio, json, sys
from pathlib import Path
from rbee.adapters.fetch import fetch
from rbee.adapters.sources import SourceFile
from rbee.adapters.fetch.tuning import Tuning
from rbee.adapters.sources.ask import ask
from rbee.core.errors import RbeeError

url, target, sha256 = sys.argv[1:4]
file = SourceFile(filename="m", url=url, sha256=sha256 or None, headers={"Authorization": "Bearer tok-of-source"})
try:
    if target == "ask":
        told = {"status": asyncio.run(ask(url, file.headers)).status}
    else:
        told = {"size": asyncio.run(fetch(file, Path(target), None, lambda done, total: None)).size}
except RbeeError as e:
    told = {"code": e.code, "message": str(e)}
print(json.dumps(told))
"""


async def asked(url: str, target: Path | str, sha256: str = "", **env: str) -> dict[str, Any]:
    """A process of its own, as a hive with such an environment."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FETCH, url, str(target), sha256, env={**kept, **env}, stdout=subprocess.PIPE
    )
    told, _ = await child.communicate()
    found: dict[str, Any] = json.loads(told)
    return found


@asynccontextmanager
async def secure(server: FileServer, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """The same files by TLS at the name `models.test`: HOST:PORT, and the certificate to be believed."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days"]
    names = ["2", "-keyout", str(key), "-out", str(cert), "-subj", "/CN=models.test"]
    subprocess.run(
        [*made, *names, "-addext", "subjectAltName=DNS:models.test,IP:127.0.0.1"], check=True, capture_output=True
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    app = web.Application()
    app.router.add_get("/{name:.+}", server.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}", str(cert)
    finally:
        await runner.cleanup()


async def test_http_goes_by_the_proxy(tmp_path: Path) -> None:
    async with file_server(DATA) as server, proxying({"models.test": server.url[7:]}) as proxy:
        user = proxy.url.replace("http://", "http://me:s3cret@")
        told = await asked("http://models.test/model.gguf", tmp_path / "m", http_proxy=user)
        assert told == {"size": len(DATA)}
        assert (tmp_path / "m").read_bytes() == DATA
        assert await asked("http://models.test/model.gguf", "ask", http_proxy=user) == {"status": 200}
    assert proxy.lines == ["GET http://models.test/model.gguf HTTP/1.1"] * 2
    assert proxy.users == ["Basic bWU6czNjcmV0"] * 2


async def test_https_goes_through_a_tunnel_that_sees_no_token(tmp_path: Path) -> None:
    async with (
        file_server(DATA) as server,
        secure(server, tmp_path) as (where, cert),
        proxying({"models.test": where}) as proxy,
    ):
        more = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": cert}
        told = await asked("https://models.test/model.gguf", tmp_path / "m", **more)
    assert told == {"size": len(DATA)}
    assert proxy.lines == ["CONNECT models.test:443 HTTP/1.1"]
    assert server.seen[0]["Authorization"] == "Bearer tok-of-source"


async def test_not_to_this_machine_nor_where_no_proxy_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with file_server(DATA) as server, proxying({}) as proxy:
        told = await asked(f"{server.url}/model.gguf", tmp_path / "m", HTTP_PROXY=proxy.url, http_proxy=proxy.url)
    assert told == {"size": len(DATA)}
    assert proxy.lines == []
    monkeypatch.setenv("https_proxy", "proxy.test:3128")
    monkeypatch.setenv("no_proxy", "corp.test,10.1.2.3")
    assert proxy_for(URL("https://hub.test/x")) == URL("http://proxy.test:3128")
    for near in ("https://models.corp.test/x", "https://10.1.2.3/x", "https://localhost/x", "https://[::1]:1/x"):
        assert proxy_for(URL(near)) is None
    assert proxy_for(URL("http://hub.test/x")) is None


@pytest.mark.parametrize("said", ["socks5://proxy.test:1080", "https://proxy.test", "http://", "http://[x"])
def test_a_proxy_of_another_kind_is_told(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", said)
    with pytest.raises(InvalidRequest, match="HTTPS_PROXY"):
        proxy_for(URL("https://hub.test/x"))


async def test_a_proxy_that_refuses_is_told_at_once(tmp_path: Path) -> None:
    async with proxying({}, refuses=True) as proxy:
        told = await asked("https://models.test/model.gguf", tmp_path / "m", HTTPS_PROXY=proxy.url)
        assert told["code"] == "download_failed"
        assert "proxy" in told["message"]
        assert "407" in told["message"]
        assert len(proxy.lines) == 1
        told = await asked("https://models.test/x", "ask", HTTPS_PROXY=proxy.url)
        assert told["code"] == "bad_answer"


async def test_a_login_of_the_users_own_is_no_business_of_a_source(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine models.test login me password s3cret\n")
    (tmp_path / "netrc").chmod(0o600)
    async with file_server(DATA) as server, proxying({"models.test": server.url[7:]}) as proxy:
        more = {"http_proxy": proxy.url, "NETRC": str(tmp_path / "netrc")}
        assert await asked("http://models.test/model.gguf", tmp_path / "m", **more) == {"size": len(DATA)}
    assert server.seen[0]["Authorization"] == "Bearer tok-of-source"


async def test_https_never_becomes_http_unless_a_digest_tells(tmp_path: Path) -> None:
    async with (
        file_server(DATA) as plain,
        file_server(DATA, redirect_to=f"{plain.url}/model.gguf") as server,
        secure(server, tmp_path) as (where, cert),
    ):
        url, env = f"https://{where}/model.gguf", {"SSL_CERT_FILE": cert}
        for target in (tmp_path / "m", "ask"):
            told = await asked(url, target, **env)
            assert told["code"] == "insecure_redirect"
        assert plain.seen == []
        assert await asked(url, tmp_path / "m", plain.sha256, **env) == {"size": len(DATA)}
        assert "Authorization" not in plain.seen[0]


@pytest.mark.parametrize("where", ["/model.gguf", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://a..b/x"])
async def test_a_server_that_leads_nowhere_is_asked_once(tmp_path: Path, where: str) -> None:
    async with file_server(DATA) as server:
        server.redirect_to = where if "://" in where else f"{server.url}{where}"
        file = SourceFile(filename="m", url=f"{server.url}/model.gguf")
        with pytest.raises(RbeeError) as told:
            await fetch(file, tmp_path / "m", None, lambda done, total: None)
        assert told.value.code == "download_failed"
        assert len(server.seen) <= 11


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "127.0.0.1:99999"])
async def test_a_host_that_cannot_be_is_told_at_once(tmp_path: Path, host: str) -> None:
    for target in (tmp_path / "m", "ask"):
        told = await asked(f"http://{host}/model.gguf", target)
        assert told["code"] in ("download_failed", "bad_answer")
        assert "cannot be asked" in told["message"]


class Nodes(FileServer):
    """Each answer is another node's, that calls the same file otherwise; and it ends early."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.etag, self.drops = f'"node-{len(self.seen)}"', [400_000]
        return await FileServer.serve(self, request)


async def test_what_nodes_call_a_file_is_nothing_where_a_digest_tells(tmp_path: Path) -> None:
    target = tmp_path / "m"
    server, app = Nodes(DATA), web.Application()
    app.router.add_get("/{name:.+}", server.serve)
    async with serving(app) as server.url:
        file = SourceFile(filename="m", url=f"{server.url}/model.gguf", sha256=server.sha256)
        await fetch(file, target, None, lambda done, total: None, tuning=QUICK)
    assert target.read_bytes() == DATA
    assert server.starts == sorted(set(server.starts))


async def test_a_secret_of_the_address_is_in_no_note(tmp_path: Path) -> None:
    target = tmp_path / "m"
    async with file_server(DATA, drops=[600_000]) as server:
        url = f"{server.url}/model.gguf?sig=s3cretvalue"
        file = SourceFile(filename="m", url=url, headers={"Authorization": "Bearer s3crettoken"})
        with pytest.raises(Unreachable):
            await fetch(file, target, None, lambda done, total: None, 1, tuning=QUICK)
        note = target.with_name("m.part.json").read_text()
        assert "validator" in note
        assert "s3cret" not in note
        await fetch(file, target, None, lambda done, total: None, tuning=QUICK)
    assert server.starts[1] > 0


async def test_a_certificate_that_nobody_knows_is_told_at_once(tmp_path: Path) -> None:
    async with file_server(DATA) as server, secure(server, tmp_path) as (where, _):
        for target, code in ((tmp_path / "m", "download_failed"), ("ask", "bad_answer")):
            told = await asked(f"https://{where}/model.gguf", target)
            assert (told["code"], "certificate" in told["message"]) == (code, True)
    assert server.seen == []


async def test_what_comes_behind_the_file_is_left(tmp_path: Path) -> None:
    async with file_server(DATA, extra=1_000_000) as server:
        file = SourceFile(filename="m", url=f"{server.url}/model.gguf", size=len(DATA), sha256=server.sha256)
        await fetch(file, tmp_path / "m", None, lambda done, total: None)
        assert (tmp_path / "m").read_bytes() == DATA
        assert len(server.seen) == 1
        # Where nothing tells whether it is the file, it is not fetched again and again.
        with pytest.raises(Unreachable, match="more than"):
            await fetch(replace(file, sha256=None), tmp_path / "n", None, lambda done, total: None, tuning=QUICK)
        assert len(server.seen) == 3
