"""A model that is not asked the same thing twice, however many ask at once."""

import asyncio
import hashlib
import json
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent.errors import ReplyCacheError
from agent.types import Reply, Request, Usage, VisionModel
from prompts.answer import is_answer
from prompts.types import ImagePart, Prompt, TextPart
from retrieval.erasing.traces import ASKED, IMAGE, KIND, REPLIES_SIZE_LIMIT, REPLY
from retrieval.support.cachedir import TROUBLE, cache_folder, open_store
from retrieval.support.parsing import sealed, unsealed

GEMINI_SERVER: Final = "GOOGLE_GEMINI_BASE_URL"  # google-genai's own variable: another server than Google's
_GEMINI: Final = ("gemini:", "generativeai:")  # how the names of models begin that it goes for
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Key:
    """What makes a request itself: each part by name, so that two keys can be compared, and a digest of all."""

    parts: dict[str, str]
    digest: str


def key_of(model: str, request: Request) -> Key:
    """Return a request's key: model, server, generation settings, template, texts, every picture in order, replicate.

    The server is part of it where it is not the maker's own: what a stand-in on this machine said is never taken for
    Google's answer. Time limits and concurrency are no part of it: they cannot change an answer.
    """
    server = os.environ.get(GEMINI_SERVER, "").rstrip("/") if model.startswith(_GEMINI) else ""
    generation = asdict(request.generation)
    pieces = request.prompt.parts
    images = [sha256(part.encoded) for part in pieces if isinstance(part, ImagePart)]
    texts = [part.text for part in pieces if isinstance(part, TextPart)]
    order = "".join("i" if isinstance(part, ImagePart) else "t" for part in pieces)
    parts = {
        "model": model,
        **({"server": server} if server else {}),
        **{f"generation {name}": json.dumps(value) for name, value in generation.items()},
        "template": request.prompt.template_digest,
        "query picture": images[-1] if images else "",
        "neighbour pictures": _digest(sorted(images[:-1])),
        "order of pictures": _digest(images[:-1]),
        "texts": _digest(texts),
        "order of parts": _digest([order]),
        "candidates": _digest([f"{code} {label}" for code, label in request.prompt.candidates.items()]),
        "replicate": str(request.replicate),
    }
    return Key(parts, _digest([str(_FORMAT), json.dumps(parts, sort_keys=True)]))


def sha256(encoded: bytes) -> str:
    """Return the digest by which a picture is known."""
    return hashlib.sha256(encoded).hexdigest()


def _digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


_CLAIM: Final = "claim:"  # how the names of further entries begin
_REMEMBERED: Final = 200_000  # digests of pictures known to be there, of 64 characters


@dataclass(frozen=True, slots=True)
class Entry:
    """A reply that is kept, with the parts of its key."""

    parts: dict[str, str]
    reply: Reply
    stored_at: float  # seconds since 1970


class ReplyStore:
    """Replies, safe for many threads and processes.

    Raises:
        ReplyCacheError: by each method, where the folder cannot be used.
    """

    def __init__(self, folder: str | Path | None = None, *, size_limit: int = REPLIES_SIZE_LIMIT) -> None:
        """Open or make a store.

        Args:
            folder: where it lies; None takes the user's cache, which all memories and runs share.
            size_limit: bytes, beyond which the oldest entries go.
        """
        self._folder = Path(folder) if folder else cache_folder(KIND)
        self._known: set[str] = set()  # digests of pictures that are there
        with self._named():
            self._store = open_store(self._folder, size_limit=size_limit)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say what is the matter with the folder, and what to do."""
        try:
            yield
        except TROUBLE as error:
            self._known.clear()  # nothing of a change that failed was kept
            raise ReplyCacheError(
                f"replies cannot be kept: {self._folder} cannot be used ({error}); mend it, `vmem cache clear replies`,"
                " or go without by --no-cache"
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Make a change whole or not at all."""
        with self._named(), self._store.transact():
            yield

    def get(self, key: Key) -> Reply | None:
        """Return the reply to a request; None where there is none."""
        with self._named():
            entry = _entry(self._store.get(REPLY + key.digest))
        return None if entry is None or entry.parts != key.parts else entry.reply

    def put(self, key: Key, request: Request, reply: Reply) -> None:
        """Keep a reply and what it answers, all of it or nothing."""
        with self._changing():
            record = self._asked(key, request) | _answered(reply)
            self._store.set(REPLY + key.digest, sealed(record))
            self._store.delete(_CLAIM + key.digest)

    def keep_request(self, key: Key, request: Request) -> None:
        """Keep a request whose reply will come later, to another process perhaps."""
        with self._changing():
            self._store.set(ASKED + key.digest, sealed(self._asked(key, request)))

    def complete(self, digest: str, reply: Reply) -> bool | None:
        """Keep the reply to a request that was kept before, by its key's digest.

        Returns:
            False where the reply is unusable, None where the request is no longer there: neither is kept.
        """
        with self._changing():
            found = self._store.get(ASKED + digest)
            if found is None:
                return True if self._store.get(REPLY + digest) is not None else None
            record = unsealed(found)
            if record is None:
                return None
            usable = is_answer(reply.text, Prompt("", (), record["candidates"]))
            if usable:
                self._store.set(REPLY + digest, sealed(record | _answered(reply)))
                self._store.delete(ASKED + digest)
            return usable

    def _asked(self, key: Key, request: Request) -> dict[str, Any]:
        """Keep a request's pictures, each once, and return what its entry says of it."""
        parts: list[dict[str, Any]] = []
        for part in request.prompt.parts:
            if isinstance(part, TextPart):
                parts.append({"text": part.text})
                continue
            digest = sha256(part.encoded)
            parts.append({"image": digest} | ({"drawn": part.drawn} if part.drawn else {}))
            if digest not in self._known:
                self._store.add(IMAGE + digest, part.encoded)
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known.add(digest)
        candidates = {code: str(label) for code, label in request.prompt.candidates.items()}
        return {"key": key.parts, "parts": parts, "candidates": candidates}

    def claim(self, key: Key, *, seconds: float) -> bool:
        """Try to become the one who asks; False while another process does, or where the reply is there.

        A claim ends with `put`, with `give_up`, with its time, or with the process that made it.
        """
        with self._changing():
            holder = self._store.get(_CLAIM + key.digest)
            if (holder is not None and _is_alive(holder)) or self.get(key) is not None:
                return False  # the reply may have come since somebody looked
            self._store.set(_CLAIM + key.digest, f"{socket.gethostname()} {os.getpid()}".encode(), expire=seconds)
        return True

    def give_up(self, key: Key) -> None:
        """End a claim without a reply."""
        with self._named():
            self._store.delete(_CLAIM + key.digest)

    def entries(self) -> Iterator[Entry]:
        """Yield what is kept, in no particular order."""
        with self._named():
            found = (_entry(self._store.get(name)) for name in self._store.iterkeys() if name.startswith(REPLY))
            yield from (entry for entry in found if entry is not None)

    def nearest(self, key: Key) -> tuple[Entry, list[str]] | None:
        """Return the entry that differs in the fewest parts of the key, and their names; None where there is none.

        Of entries that differ in as many, one with the same query picture goes first, then the newest.
        """

        def differing(entry: Entry) -> list[str]:
            return [name for name in key.parts | entry.parts if entry.parts.get(name) != key.parts.get(name)]

        def distance(pair: tuple[Entry, list[str]]) -> tuple[int, bool, float]:
            return len(pair[1]), "query picture" in pair[1], -pair[0].stored_at

        return min(((entry, differing(entry)) for entry in self.entries()), key=distance, default=None)

    def counts(self) -> tuple[int, int]:
        """Return how many replies and how many pictures are kept."""
        with self._named():
            names = list(self._store.iterkeys())
        return sum(name.startswith(REPLY) for name in names), sum(name.startswith(IMAGE) for name in names)


def _entry(found: object) -> Entry | None:
    """Return what a record says; None where there is none, or one that another program wrote or damaged."""
    if not isinstance(found, bytes):
        return None
    try:
        record = unsealed(found) or {}
        reply = dict(record["reply"])
        return Entry(record["key"], Reply(**(reply | {"usage": Usage(**reply["usage"])})), record["stored_at"])
    except (ValueError, KeyError, TypeError):
        return None


def _answered(reply: Reply) -> dict[str, Any]:
    return {"reply": asdict(reply) | {"from_cache": True}, "stored_at": time.time()}


def _is_alive(holder: bytes) -> bool:
    host, _, process = holder.decode(errors="replace").partition(" ")
    if host != socket.gethostname():
        return True  # who can tell? its time will end
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        return True  # it is another user's
    return True


_CLAIM_SECONDS: Final = 3600.0  # longer than a call waits and takes; a process that died gives its claims back at once
_LOOK_AGAIN_SECONDS: Final = 0.1


class Cached:
    """A model whose usable replies are kept; failures, blocked and unusable replies are not.

    Equal requests that are made at once, by threads or processes, make one call, and all get its reply; where that call
    fails, they fail with it or ask themselves.
    """

    def __init__(self, model: VisionModel, store: ReplyStore) -> None:
        self._model = model
        self._store = store
        self._running: dict[str, asyncio.Task[Reply]] = {}  # by the key's digest

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request, from the store if it is there.

        Raises:
            ModelError: there is none.
            ReplyCacheError: the store cannot be used.
        """
        key = key_of(self.name, request)
        kept = self._store.get(key)
        if kept is not None:
            return kept
        running = self._running.get(key.digest)
        if running is not None:
            return replace(await asyncio.shield(running), from_cache=True)  # another one pays for it
        task = self._running[key.digest] = asyncio.ensure_future(self._ask(key, request))

        def end(ended: asyncio.Task[Reply]) -> None:
            self._running.pop(key.digest, None)
            if not ended.cancelled():
                ended.exception()  # seen: where all who waited were cancelled, asyncio would print it

        task.add_done_callback(end)
        return await asyncio.shield(task)  # one of several who wait may be cancelled

    async def _ask(self, key: Key, request: Request) -> Reply:
        while not self._store.claim(key, seconds=_CLAIM_SECONDS):
            kept = self._store.get(key)
            if kept is not None:
                return kept
            await asyncio.sleep(_LOOK_AGAIN_SECONDS * (0.5 + random.random()))
        try:
            reply = await self._model.generate(request)
            if is_answer(reply.text, request.prompt):
                self._store.put(key, request, reply)
            else:
                self._store.give_up(key)
        except BaseException:
            self._store.give_up(key)
            raise
        return reply
