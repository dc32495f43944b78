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

from retrieval import VisualMemory
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
    root = Path(__file__).parents[2]
    return subprocess.run(command, env=free | environment, cwd=root, capture_output=True, text=True, check=False)


VMEM = "from eval.cli.vmem import main; main()"
WITHOUT = "import sys; sys.modules['socksio'] = None; "
CLASSIFY = """
import sys
from agent import TransportConfig, classify_with_rerank, load_model
from retrieval import VisualMemory
from tests.agent.queries import Colours

memory = VisualMemory.open(sys.argv[1], embedder=Colours())
for name in sys.argv[3:]:
    model = load_model(name, cache=False, transport=TransportConfig(attempts=1))
    print(name, classify_with_rerank(sys.argv[2], memory, model=model, k=5).source)
"""
EACH = """
from eval.cli.vmem import main

command, models = sys.argv[:-3], sys.argv[-3:]
for model in models:
    sys.argv = [*command, model]
    try:
        main()
    except SystemExit as ended:
        print("ended with", ended.code)
"""


def test_a_socks_proxy_carries_the_requests(
    proxy: Socks, server: GeminiServer, memory: VisualMemory, pictures: Path
) -> None:
    address = f"socks5h://127.0.0.1:{proxy.server_address[1]}"
    asked = run(CLASSIFY, memory.path, pictures / "red" / "1.png", *MODELS, ALL_PROXY=address)
    assert asked.stdout.splitlines() == [f"{model} rerank" for model in MODELS], asked.stdout + asked.stderr
    assert proxy.asked == {NOWHERE} and len(server.generate_calls()) == len(MODELS)


def test_a_socks_proxy_without_its_packages_is_one_sentence(memory: VisualMemory, pictures: Path) -> None:
    command = ("classify", "--memory", memory.path, pictures / "red" / "1.png", "--no-cache", "--model", *MODELS)
    refused = run(WITHOUT + EACH, *command, all_proxy="socks5://me:hush@127.0.0.1:9")
    assert refused.stdout.splitlines() == ["ended with 2"] * len(MODELS)
    sentences = refused.stderr.splitlines()
    assert len(sentences) == len(MODELS) and "hush" not in refused.stderr
    assert all(one.startswith("Error: all_proxy names a SOCKS proxy") for one in sentences)
    assert all("pip install 'visual-memory-agent[socks]', or unset it" in one for one in sentences)


def test_weights_behind_a_proxy_that_cannot_be_used_name_it(tmp_path: Path, pictures: Path) -> None:
    refused = run(
        WITHOUT + VMEM,
        *("memory", "build", tmp_path / "memory", pictures, "--embedder", "dinov2-vitb14"),
        **{"HTTPS_PROXY": "socks5://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": f"http://{NOWHERE}"},
    )
    assert refused.returncode == 2 and refused.stderr.startswith("Error: HTTPS_PROXY names a SOCKS proxy")


def test_the_doctor_names_a_proxy_that_cannot_be_used() -> None:
    program = """
import os
from agent.cli.classify_cli import doctor
doctor()
print("then")
os.environ["HTTP_PROXY"] = "http://h:1"
doctor()
"""
    bad, good = run(WITHOUT + program, HTTP_PROXY="socks5://h:1", COLUMNS="240").stdout.split("then\n")
    assert "HTTP_PROXY names a SOCKS proxy" in bad and good and "proxy" not in good


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
