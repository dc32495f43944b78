"""Who may talk to ``vmem serve``: plain HTTP and websockets at the real command."""

import contextlib
import http.client
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from eval.app.server import is_loopback
from tests.browser import Browser, needs_chromium
from tests.commands import vmem
from tests.serving import Served, serving

SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
TOKEN = "a-token_of-this-test-0123"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("local"), built) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(f"{TOKEN}\n")
    options = ("--host", "0.0.0.0", "--token-file", folder / "token", "--read-only")
    with serving(folder, built, *options) as running:
        yield running


def ask(served: Served, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
    port = int(served.home.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.text = answer.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return answer


def opens_socket(served: Served, **headers: str) -> bool:
    address = f"ws://127.0.0.1:{served.home.rpartition(':')[2]}{SOCKET}"
    origin = headers.pop("Origin", None)
    try:
        with connect(address, origin=origin, additional_headers=headers, proxy=None):  # type: ignore[arg-type]
            return True
    except InvalidStatus:
        return False


def test_a_page_says_that_nothing_may_come_from_elsewhere(local: Served) -> None:
    answer = ask(local, "/")
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy and "*" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost@evil.example"]
)
def test_another_name_for_this_machine_is_refused(local: Served, host: str) -> None:
    answer = ask(local, "/", Host=host)
    assert answer.status == 403 and "this machine's own names" in answer.text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_another_sites_page_is_refused(local: Served, origin: str) -> None:
    assert ask(local, "/upload", method="POST", body=b"x", Origin=origin).status == 403
    assert ask(local, "/", Origin=origin).status == 403
    assert not opens_socket(local, Origin=origin)


def test_ones_own_page_is_not(local: Served) -> None:
    assert ask(local, "/", Origin=f"http://{local.home}").status == 200
    assert opens_socket(local, Origin=f"http://{local.home}")


def test_an_upload_that_is_no_picture_or_too_large_is_refused_in_a_sentence(local: Served) -> None:
    answer = ask(local, "/upload", method="POST", body=b"no picture")
    assert answer.status == 422 and "is not a picture: JPEG, PNG" in answer.text
    assert ask(local, "/upload", method="POST", Content_Length=str(2**40)).status == 413


def test_an_upload_that_hides_its_size_is_broken_off_without_a_traceback(local: Served) -> None:
    connection = http.client.HTTPConnection(local.home, timeout=30)
    with contextlib.suppress(OSError):  # refused while it is still being sent
        connection.request("POST", "/upload", (bytes(2**20) for _ in range(40)), encode_chunked=True)
        assert connection.getresponse().status == 413
    connection.close()
    assert ask(local, "/").status == 200
    assert "Traceback" not in local.errors.read_text()


def test_a_picture_that_is_not_there_is_answered_without_an_error_that_browsers_log(local: Served) -> None:
    nothing = "/runs/picture?run=9&dataset=x&query=y"
    for path in ("/thumbnail/x/0", "/thumbnail/x/-1", "/uploaded/x", "/prompt/x/1", nothing):
        answer = ask(local, path)
        assert answer.status == 200 and answer.text.startswith("<svg"), path
    assert ask(local, "/uploaded/../../etc/passwd").status == 404


def test_elsewhere_everything_needs_the_token(guarded: Served) -> None:
    for path in ("/", "/serve.css", "/thumbnail/x/0", "/?token=wrong", "/?token=", SOCKET):
        assert ask(guarded, path).status == 401, path
    assert not opens_socket(guarded)
    assert not opens_socket(guarded, Cookie="vmem_token=x")


def test_the_token_is_given_once_and_then_a_cookie_serves(guarded: Served) -> None:
    assert guarded.url.endswith(f"/?token={TOKEN}")
    answer = ask(guarded, f"/?token={TOKEN}&item=red/1.png")
    assert (answer.status, answer.headers["Location"]) == (303, "/?item=red%2F1.png")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert ask(guarded, "/", Cookie=cookie.partition(";")[0]).status == 200
    assert opens_socket(guarded, Cookie=cookie.partition(";")[0])
    assert TOKEN not in guarded.errors.read_text()


def test_a_path_of_another_host_is_not_redirected_to(guarded: Served) -> None:
    answer = ask(guarded, f"//evil.example/x?token={TOKEN}")
    assert (answer.status, answer.headers["Location"]) == (303, "/evil.example/x")


@needs_chromium
def test_a_read_only_page_offers_no_edits(guarded: Served, quiet: Browser) -> None:
    url = guarded.url.replace("0.0.0.0", "127.0.0.1")
    quiet.open_url(url.replace("?", "?item=red/1.png&"), at=url.partition("?")[0] + "?item=red%2F1.png")
    quiet.wait_for("document.querySelectorAll('.pictures button').length > 0")
    quiet.click(".pictures button")
    quiet.wait_for("document.querySelector('.dialog') !== null")
    shown = quiet.evaluate("[...document.querySelectorAll('.dialog button')].map(node => node.innerText)")
    assert shown == ["Leave out of this question", "Close"]


@pytest.mark.parametrize("content", ["short", "x" * 20 + "?&"])
def test_a_token_that_is_none_is_refused(built: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    said = refusal(built, "--token-file", tmp_path / "token")
    assert "holds no token" in said and content not in said


def test_a_port_in_use_is_told_in_a_sentence(built: Path, local: Served) -> None:
    said = refusal(built, "--port", local.home.rpartition(":")[2])
    assert "cannot be listened on: Address already in use" in said and "Traceback" not in said


def refusal(*arguments: object) -> str:
    done = vmem("serve", *arguments)
    assert done.returncode == 2
    return done.stderr


def test_addresses_of_this_machine_alone_are_told_from_others() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "localhost.evil.example", "", "*")))


def test_uploads_are_decoded_one_at_a_time() -> None:
    script = """
        import io
        from concurrent.futures import ThreadPoolExecutor
        from PIL import Image
        from eval.app.context import ServeContext
        encoded, side = io.BytesIO(), 3_000
        Image.new("RGBA", (side, side), (9, 9, 9, 9)).save(encoded, "PNG", compress_level=1)
        context = ServeContext(memory=None, second=None)  # which an upload needs not
        size = lambda name: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
        open("/proc/self/clear_refs", "w").write("5")  # forget the highest mark so far
        before = size("VmRSS")
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(context.keep, [encoded.getvalue()] * 4))
        print((size("VmHWM") - before) * 1024 / side**2)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 18  # bytes a pixel: one takes 12
