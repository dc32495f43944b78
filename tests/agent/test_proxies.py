"""Services behind a proxy: SOCKS on loopback carries the requests, and one that cannot be used is a sentence."""

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest

from tests.agent.conftest import KEY
from tests.gemini_server import GeminiServer

NOWHERE = "service.invalid"  # by its name, only the proxy can reach the service
MODELS = ("gemini-3.5-flash-lite", "generativeai:gemini-3.5-flash-lite", f"openai:qwen3-vl@http://{NOWHERE}/v1")


class Socks(ThreadingTCPServer):
    """A SOCKS5 proxy (RFC 1928) that connects to one address, whatever it is asked for, and notes what that was."""

    daemon_threads = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Carrier)
        self.target, self.asked = target, set[str]()


class _Carrier(BaseRequestHandler):
    server: Socks

    def handle(self) -> None:
        with self.request.makefile("rb") as coming, suppress(OSError):
            coming.read(coming.read(2)[1])
            self.request.sendall(b"\x05\x00")  # no authentication
            assert coming.read(4) == b"\x05\x01\x00\x03"  # connect to a name
            self.server.asked.add(coming.read(coming.read(1)[0]).decode())
            coming.read(2)
            with socket.create_connection(self.server.target) as service:
                self.request.sendall(b"\x05\x00\x00\x01" + struct.pack("!IH", 0, 0))
                threading.Thread(target=_carry, args=(service, self.request), daemon=True).start()
                while block := coming.read1():
                    service.sendall(block)


def _carry(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while block := one.recv(2**16):
            other.sendall(block)


@pytest.fixture
def proxy(server: GeminiServer) -> Iterator[Socks]:
    host, port = server.url.removeprefix("http://").split(":")
    with Socks((host, int(port))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def run(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    free = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    free |= {"GOOGLE_GEMINI_BASE_URL": f"http://{NOWHERE}", "GEMINI_API_KEY": KEY, "OPENAI_API_KEY": KEY}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=free | environment, capture_output=True, text=True, check=False)


VMEM = "from eval.cli.vmem import main; main()"
WITHOUT = "import sys; sys.modules['socksio'] = None; " + VMEM


@pytest.mark.parametrize("model", MODELS)
def test_a_socks_proxy_carries_the_requests(proxy: Socks, built: Path, pictures: Path, model: str) -> None:
    address = f"socks5h://127.0.0.1:{proxy.server_address[1]}"
    command = ("classify", "--memory", built, pictures / "red" / "1.png", "--k", 5, "--no-cache", "--model", model)
    asked = run(VMEM, *command, "--json", ALL_PROXY=address)
    assert '"source": "rerank"' in asked.stdout, asked.stdout + asked.stderr
    assert proxy.asked == {NOWHERE}


@pytest.mark.parametrize("model", MODELS)
def test_a_socks_proxy_without_its_packages_is_one_sentence(built: Path, pictures: Path, model: str) -> None:
    command = ("classify", "--memory", built, pictures / "red" / "1.png", "--no-cache", "--model", model)
    refused = run(WITHOUT, *command, all_proxy="socks5://me:hush@127.0.0.1:9")
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.startswith("Error: all_proxy names a SOCKS proxy") and refused.stderr.count("\n") == 1
    assert "pip install 'visual-memory-agent[socks]', or unset it" in refused.stderr and "hush" not in refused.stderr


def test_weights_behind_a_proxy_that_cannot_be_used_name_it(tmp_path: Path, pictures: Path) -> None:
    refused = run(
        WITHOUT,
        *("memory", "build", tmp_path / "memory", pictures, "--embedder", "dinov2-vitb14"),
        **{"HTTPS_PROXY": "socks5://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": f"http://{NOWHERE}"},
    )
    assert refused.returncode == 2 and refused.stderr.startswith("Error: HTTPS_PROXY names a SOCKS proxy")


def test_the_doctor_names_a_proxy_that_cannot_be_used() -> None:
    assert "HTTP_PROXY names a SOCKS proxy" in run(WITHOUT, "doctor", HTTP_PROXY="socks5://h:1", COLUMNS="240").stdout
    assert "proxy" not in run(VMEM, "doctor", HTTP_PROXY="http://h:1", COLUMNS="240").stdout


def test_an_address_that_no_client_takes_is_refused_without_its_password() -> None:
    program = """
import os, sys
from retrieval.errors import InvalidArgument
from retrieval.support.outside import check_proxies
for address in sys.argv[1:]:
    os.environ["https_proxy"] = address
    try:
        check_proxies()
        print("taken")
    except InvalidArgument as error:
        print(error)
"""
    bad = ["socks4://h:1", "foo://me:hush@h:1", "http://[::1", "http://h:port", "http://", "me:hush"]
    told = run(program, *bad, "h:1", "http://h:1", "https://me:x@h", "socks5h://h:1").stdout.splitlines()
    assert set(told[: len(bad)]) == {
        "https_proxy names no proxy that can be used: http://HOST:PORT or socks5://HOST:PORT expected; mend or unset it"
    }
    assert told[len(bad) :] == ["taken"] * 4
