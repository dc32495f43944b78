"""A local HTTP server that speaks Google's Generative Language REST protocol (v1beta) and OpenAI's chat completions.

Both of Google's SDKs and a plain HTTP client can be pointed at it. It checks requests as the real services do, notes
what it refused, produces every fault that a client must survive, and keeps files and batch jobs as a cloud would.
"""

import argparse
import binascii
import hashlib
import json
import math
import random
import re
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from tests.gemini_protocol import (
    ANSWER,
    CHAT,
    ENDED,
    ERRORS,
    FAULTS,
    ITEM_FAULTS,
    REQUEST_BYTES,
    TEXTS,
    Call,
    Json,
    Refused,
    Reply,
    Request,
    chat_reply,
    chat_tokens,
    count_tokens,
    expect,
    fault_error,
    fields,
    gemini_reply,
    read_chat,
    read_gemini,
    read_object,
    reply,
    string,
    timestamp,
)


class Storage(dict[str, bytes]):
    """What the cloud keeps: names and contents, on disk too where a folder is given."""

    def __init__(self, folder: Path | None) -> None:
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder else []
        super().__init__({path.relative_to(folder).as_posix(): path.read_bytes() for path in found if folder})
        self.folder = folder

    def __setitem__(self, name: str, content: bytes) -> None:
        super().__setitem__(name, content)
        if self.folder:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        if self.folder:
            (self.folder / name).unlink()

    def record(self, name: str) -> Json:
        """Return the JSON kept under a name; refuse a name that is not kept."""
        if name not in self:
            raise Refused(404, f"Requested entity was not found: {name}")
        return dict(json.loads(self[name]))

    def keep(self, name: str, record: Json) -> None:
        """Keep JSON under a name."""
        self[name] = json.dumps(record).encode()


class GeminiServer:
    """The server; a context manager. Everything that a test may set or read is a plain attribute.

    A request is checked before a fault is chosen, so invalid ones use up nothing of the script.
    """

    def __init__(
        self,
        answer: Callable[[Call], str] = lambda call: ANSWER,
        key: str = "test-key",
        *,
        models: set[str] | None = None,
        check_images: bool = True,
        model_version: str = "served-001",
        state_folder: Path | None = None,
        batch_seconds: float = 0.0,
        keep_bodies: bool = True,
    ) -> None:
        self.answer, self.key, self.models, self.check_images = answer, key, models, check_images
        self.model_version, self.batch_seconds, self.keep_bodies = model_version, batch_seconds, keep_bodies
        self.calls: list[Call] = []
        self.script: list[str] = []
        self.wrong: list[str] = []
        self.batch_job_fault: list[str] = []
        self.fault_for: Callable[[Call], str | None] = lambda call: None
        self.batch_item_fault: Callable[[str, Call], str | None] = lambda key, call: None
        self.latency_seconds, self.stall_seconds, self.drip_seconds = 0.0, 30.0, 0.1
        self.tokens_needed, self.retry_delay = math.inf, "0.05s"
        self.peak_in_flight = self._in_flight = 0
        self._lock, self._cloud_lock = threading.Lock(), threading.RLock()
        self._storage = Storage(state_folder)
        self._uploads: dict[str, tuple[Json, bytearray]] = {}
        self._listener = _Listener(("127.0.0.1", 0), _Handler)
        self._listener.owner = self
        self.port = int(self._listener.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown()
        self._listener.hang_up()
        self._listener.server_close()

    def generate_calls(self) -> list[Call]:
        """Return the calls that asked for an answer at once, refused ones included."""
        return [call for call in list(self.calls) if call.generates]

    @property
    def batch_jobs(self) -> list[str]:
        """The display names of all batch jobs, in the order of their creation."""
        return [job["displayName"] for job in self._jobs()]

    @property
    def batch_items(self) -> list[str]:
        """The keys of all batch items that a model answered, and that were paid for therefore."""
        return [key for job in self._jobs() for key in job["paid"]]

    @contextmanager
    def arrived(self, call: Call) -> Iterator[None]:
        """Note a call, and count it among those in flight until its reply is ready to be sent."""
        with self._lock:
            self._in_flight += call.generates
            call.in_flight = self._in_flight
            self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
            self.calls.append(call)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= call.generates
            if not self.keep_bodies:
                call.body, call.images = {}, []

    def respond(self, request: Request) -> Reply:
        """Return the reply to a request: every error is a reply too."""
        call = request.call
        openai = call.path == CHAT
        try:
            return self._route(request, openai)
        except Refused as error:
            if error.code == 400 and not call.fault and error.reason != "invalid_api_key":
                self.wrong.append(error.message)
            return error.reply(openai=openai, retry_delay=self.retry_delay)

    def _route(self, request: Request, openai: bool) -> Reply:
        if "upload_id" in request.query:
            return self._continue_upload(request)
        given = request.headers.get("x-goog-api-key") or request.query.get("key", "")
        if openai:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given != self.key:
            raise fault_error("bad-key", "", given, "", openai=openai)
        for method, pattern, respond in ROUTES:
            if method == request.call.method and (match := re.fullmatch(pattern, request.call.path)):
                request.call.body = read_object(request.raw)
                return respond(self, request, *match.groups())
        raise Refused(404, f"{request.call.method} {request.call.path} was not found on this server.")

    def _take(self, call: Call, model: str, found: list[str | bytes]) -> None:
        """Note what a call says, after checking its model."""
        call.model = model
        call.text = "\n".join(part for part in found if isinstance(part, str))
        call.images = [part for part in found if isinstance(part, bytes)]
        if self.models is not None and model not in self.models:
            raise fault_error("404", model, "", "")

    def _generate(self, request: Request, model: str = "") -> Reply:
        call, openai = request.call, not model
        expect(openai or len(request.raw) <= REQUEST_BYTES, f"Request payload size exceeds the limit: {REQUEST_BYTES}")
        found = (read_chat if openai else read_gemini)(call.body, self.check_images)
        self._take(call, model or string(call.body.get("model"), "model"), found)
        with self._lock:
            scripted = self.script.pop(0) if self.script else None
        fault = scripted or self.fault_for(call)
        call.fault = None if fault == "ok" else fault
        return reply(self._say(call, openai))

    def _say(self, call: Call, openai: bool) -> Json:
        """Return the answer to a valid call, or the error, that its fault asks for."""
        fault = call.fault or ""
        expect(not fault or fault in FAULTS, f"the test asked for an unknown fault: {fault}")
        if fault in ERRORS:
            raise fault_error(fault, call.model, self.key, self.retry_delay, openai=openai)
        text = TEXTS.get(fault) or self.answer(call)
        if fault == "max-tokens":
            config = fields(call.body.get("generationConfig") or call.body.get("generation_config") or {}, "config")
            limit = chat_tokens(call.body) if openai else config.get("maxOutputTokens")
            cut = (limit or 0) <= self.tokens_needed
            fault, text = ("max-tokens", text[: len(text) // 2]) if cut else ("", text)
        return (chat_reply if openai else gemini_reply)(call, fault, text, self.model_version)

    def _count(self, request: Request, model: str) -> Reply:
        body = fields(request.call.body, "request")
        whole = body.get("generateContentRequest") or {"contents": body.get("contents")}
        self._take(request.call, model, read_gemini(whole, self.check_images))
        return reply({"totalTokens": count_tokens(request.call)})

    def _start_upload(self, request: Request) -> Reply:
        header = request.headers.get
        asked = (header("X-Goog-Upload-Protocol"), header("X-Goog-Upload-Command"))
        expect(asked == ("resumable", "start"), f"only resumable uploads are understood, not {asked}")
        file = fields(request.call.body.get("file") or {}, "file")
        name = file.get("name") or f"files/{uuid.uuid4().hex[:12]}"
        expect(re.fullmatch(r"files/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name), f"file.name is not valid: {name}")
        if name in self._storage:
            raise Refused(409, f"File {name} already exists.")
        kind, upload = header("X-Goog-Upload-Header-Content-Type", ""), uuid.uuid4().hex
        record = {"name": name, "displayName": file.get("displayName"), "mimeType": kind, "source": "UPLOADED"}
        self._uploads[upload] = (record, bytearray())
        address = f"{self.url}/upload/v1beta/files?upload_id={upload}&upload_protocol=resumable"
        return reply({}, headers={"X-Goog-Upload-URL": address, "X-Goog-Upload-Status": "active"})

    def _continue_upload(self, request: Request) -> Reply:
        if request.query["upload_id"] not in self._uploads:
            raise Refused(404, "The upload was not found.")
        record, content = self._uploads[request.query["upload_id"]]
        expect(request.headers.get("X-Goog-Upload-Offset") == str(len(content)), "the upload's offset is wrong")
        content += request.raw
        if "finalize" not in request.headers.get("X-Goog-Upload-Command", ""):
            return reply({}, headers={"X-Goog-Upload-Status": "active"})
        self._keep_file(record, bytes(content))
        del self._uploads[request.query["upload_id"]]
        return reply({"file": self._file(record["name"])}, headers={"X-Goog-Upload-Status": "final"})

    def _keep_file(self, record: Json, content: bytes) -> None:
        digest = binascii.b2a_base64(hashlib.sha256(content).digest(), newline=False).decode()
        facts = {"sizeBytes": str(len(content)), "createTime": timestamp(time.time()), "sha256Hash": digest}
        self._storage[f"{record['name']}.content"] = content
        self._storage.keep(record["name"], record | facts)

    def _file(self, name: str) -> Json:
        uri = f"{self.url}/v1beta/{name}"
        record = self._storage.record(name) | {"uri": uri, "state": "ACTIVE"}
        return record | ({"downloadUri": f"{uri}:download?alt=media"} if record["source"] == "GENERATED" else {})

    def _get_file(self, request: Request, name: str) -> Reply:
        return reply(self._file(name))

    def _download(self, request: Request, name: str) -> Reply:
        expect(request.query.get("alt") == "media", "a download needs alt=media")
        expect(self._file(name)["source"] == "GENERATED", "Only generated files can be downloaded.")
        return Reply(self._storage[f"{name}.content"], kind="application/octet-stream")

    def _delete(self, request: Request, name: str) -> Reply:
        self._storage.record(name)
        for part in (name, f"{name}.content"):
            if part in self._storage:
                del self._storage[part]
        return reply({})

    def _create_batch(self, request: Request, model: str) -> Reply:
        batch = fields(request.call.body.get("batch"), "batch")
        source = fields(batch.get("inputConfig"), "batch.inputConfig")
        file = self._file(string(source.get("fileName"), "batch.inputConfig.fileName"))
        expect("jsonl" in file["mimeType"], f"{file['name']} must be JSONL, not {file['mimeType']}")
        self._take(request.call, model, [])
        job = {"name": f"batches/{uuid.uuid4().hex}", "model": f"models/{model}", "file": file["name"], "paid": []}
        job |= {"displayName": batch.get("displayName", ""), "state": "BATCH_STATE_PENDING", "created": time.time()}
        with self._cloud_lock:
            job["fault"] = self.batch_job_fault.pop(0) if self.batch_job_fault else None
            self._storage.keep(job["name"], job)
        return reply(operation(job))

    def _jobs(self) -> list[Json]:
        with self._cloud_lock:
            jobs = [self._storage.record(name) for name in self._storage if name.startswith("batches/")]
        return sorted(jobs, key=lambda job: job["created"])

    def _job(self, name: str) -> Json:
        """Return a job as it stands now; its items are answered when its time has come and somebody looks."""
        with self._cloud_lock:
            job = self._storage.record(name)
            if job["state"] not in ENDED:
                due = time.time() >= job["created"] + self.batch_seconds
                job["state"] = self._end_job(job) if due else "BATCH_STATE_RUNNING"
                self._storage.keep(name, job)
            return job

    def _end_job(self, job: Json) -> str:
        if job["fault"] in ("expired", "failed"):
            return f"BATCH_STATE_{job['fault'].upper()}"
        try:
            items = [read_object(line) for line in self._storage[f"{job['file']}.content"].splitlines()]
        except Refused as error:
            self.wrong.append(error.message)
            return "BATCH_STATE_FAILED"
        lines = [line for item in items if (line := self._answer_item(job, item))]
        random.Random(job["name"]).shuffle(lines)
        job["output"] = f"files/batch-{job['name'].removeprefix('batches/')}"
        record = {"name": job["output"], "mimeType": "jsonl", "source": "GENERATED"}
        self._keep_file(record, "".join(json.dumps(line) + "\n" for line in lines).encode())
        return "BATCH_STATE_SUCCEEDED"

    def _answer_item(self, job: Json, item: Json) -> Json | None:
        """Return a line of the output, None where it is to be missing; note the key where there is an answer."""
        key, call = item.get("key"), Call("BATCH", job["name"], body=item.get("request") or {})
        try:
            self._take(call, job["model"].removeprefix("models/"), read_gemini(call.body, self.check_images))
            fault = (self.batch_item_fault(str(key), call) or "").replace("_", "-")
            if fault == "missing":
                return None
            call.fault = ITEM_FAULTS.get(fault, fault) or None
            line = {"key": key, "response": self._say(call, openai=False)}
        except Refused as error:
            if not call.fault:
                self.wrong.append(error.message)
            return {"key": key, "error": {"code": error.code, "message": error.message}}
        job["paid"].append(key)
        return line

    def _get_batch(self, request: Request, name: str) -> Reply:
        return reply(operation(self._job(name)))

    def _list_batches(self, request: Request) -> Reply:
        names = [job["name"] for job in reversed(self._jobs())]
        start, size = int(request.query.get("pageToken") or 0), int(request.query.get("pageSize") or 50)
        page: Json = {"operations": [operation(self._job(name)) for name in names[start : start + size]]}
        return reply(page | ({"nextPageToken": str(start + size)} if start + size < len(names) else {}))

    def _cancel(self, request: Request, name: str) -> Reply:
        with self._cloud_lock:
            job = self._job(name)
            expect(job["state"] not in ENDED, f"{name} has ended already")
            self._storage.keep(name, job | {"state": "BATCH_STATE_CANCELLED"})
        return reply({})


ROUTES: list[tuple[str, str, Callable[..., Reply]]] = [
    ("POST", r"/v1beta/models/([^/:]+):generateContent", GeminiServer._generate),
    ("POST", CHAT, GeminiServer._generate),
    ("POST", r"/v1beta/models/([^/:]+):countTokens", GeminiServer._count),
    ("POST", r"/upload/v1beta/files", GeminiServer._start_upload),
    ("GET", r"/v1beta/(files/[^/:]+)", GeminiServer._get_file),
    ("GET", r"(?:/download)?/v1beta/(files/[^/:]+):download", GeminiServer._download),
    ("DELETE", r"/v1beta/((?:files|batches)/[^/:]+)", GeminiServer._delete),
    ("POST", r"/v1beta/models/([^/:]+):batchGenerateContent", GeminiServer._create_batch),
    ("GET", r"/v1beta/(batches/[^/:]+)", GeminiServer._get_batch),
    ("GET", r"/v1beta/batches", GeminiServer._list_batches),
    ("POST", r"/v1beta/(batches/[^/:]+):cancel", GeminiServer._cancel),
]


def operation(job: Json) -> Json:
    """Return a batch job as the long-running operation that the service shows."""
    metadata = {name: job[name] for name in ("name", "model", "displayName", "state")}
    metadata |= {"inputConfig": {"fileName": job["file"]}, "createTime": timestamp(job["created"])}
    if "output" in job:
        metadata["output"] = {"responsesFile": job["output"]}
    whole = {"name": job["name"], "metadata": metadata, "done": job["state"] in ENDED}
    if job["state"] == "BATCH_STATE_FAILED":
        whole["error"] = {"code": 13, "message": "The batch job failed."}
    return whole


class _Listener(ThreadingMixIn, TCPServer):
    """The listening socket, its threads, and the connections that are open."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 256
    owner: GeminiServer

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End every connection, which also ends its thread."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        # Clients that go away are what half of the faults are about.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer any request."""
        owner, address = self.server.owner, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        if len(raw) < length:  # the client went away
            self.close_connection = True
            return
        call = Call(self.command, address.path)
        with owner.arrived(call):
            answer = owner.respond(Request(call, raw, self.headers, dict(parse_qsl(address.query))))
            stalled = owner.stall_seconds if call.fault == "timeout" else 0.0
            self._wait(owner.latency_seconds * call.generates + stalled)
        self._send(answer, call.fault)

    do_POST = do_DELETE = do_GET

    def _wait(self, seconds: float) -> None:
        """Wait, but no longer than the client does."""
        if seconds <= 0:
            return
        self.connection.settimeout(seconds)
        with suppress(TimeoutError):
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError
        self.connection.settimeout(None)

    def _send(self, answer: Reply, fault: str | None) -> None:
        # The other faults leave the connection as good as it was, and clients do use it again.
        self.close_connection |= fault in ("reset", "truncated", "disconnect")
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())
        if fault in ("reset", "disconnect"):
            return
        if fault == "502-html":
            answer = Reply(b"<html><title>502 Bad Gateway</title></html>", 502, kind="text/html; charset=UTF-8")
        body = {"malformed": answer.payload[:-2], "nested": b"[" * 100_000}.get(fault or "", answer.payload)
        length = len(body) + (100 if fault == "truncated" else 0)
        headers = {"Content-Type": answer.kind, "Content-Length": str(length)} | answer.headers
        lines = [f"HTTP/1.1 {answer.code} {HTTPStatus(answer.code).phrase}", *map(": ".join, headers.items()), "", ""]
        head = "\r\n".join(lines).encode()
        if fault != "drip":
            self.connection.sendall(head + body)
            return
        self.connection.sendall(head)
        for place in range(len(body)):
            self.connection.sendall(body[place : place + 1])
            self._wait(self.server.owner.drip_seconds)


def main() -> None:
    """Serve until the process is ended, for a benchmark that wants the server in a process of its own."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--port-file", type=Path, help="where to write the port when the server listens")
    parser.add_argument("--key", default="test-key")
    parser.add_argument("--no-check-images", dest="check_images", action="store_false")
    options = parser.parse_args()
    with GeminiServer(key=options.key, check_images=options.check_images, keep_bodies=False) as server:
        server.latency_seconds = options.latency
        if options.port_file:
            # Renamed into place, so that whoever waits for the file never reads half a number.
            options.port_file.with_suffix(".part").write_text(str(server.port))
            options.port_file.with_suffix(".part").replace(options.port_file)
        print(server.url, flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
