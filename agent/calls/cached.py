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
from retrieval.support.jsonlines import sealed, unsealed

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
        ReplyCacheError: the folder cannot be used.
    """

    def __init__(self, folder: str | Path | None = None, *, size_limit: int = REPLIES_SIZE_LIMIT) -> None:
        """Open or make a store.

        Args:
            folder: where it lies; None takes the user's cache, which all memories and runs share.
            size_limit: bytes, beyond which the oldest entries go.
        """
        self._folder = Path(folder) if folder else cache_folder(KIND)
        self._known: set[str] = set()
        try:
            self._store = open_store(self._folder, size_limit=size_limit)
        except TROUBLE as error:
            raise self._trouble(error) from error

    def get(self, key: Key) -> Reply | None:
        """Return the reply to a request; None where there is none.

        Raises:
            ReplyCacheError: the store cannot be read.
        """
        try:
            found = self._store.get(REPLY + key.digest)
        except TROUBLE as error:
            raise self._trouble(error) from error
        entry = _entry(found)
        return None if entry is None or entry.parts != key.parts else entry.reply

    def put(self, key: Key, request: Request, reply: Reply) -> None:
        """Keep a reply and what it answers, all of it or nothing.

        Raises:
            ReplyCacheError: the store cannot be written.
        """
        digests = _digests(request)
        with self._change():
            self._keep_pictures(digests)
            self._store.set(REPLY + key.digest, sealed(_asked(key, request, digests) | _answered(reply)))
            self._store.delete(_CLAIM + key.digest)

    def keep_request(self, key: Key, request: Request) -> None:
        """Keep a request whose reply will come later, to another process perhaps.

        Raises:
            ReplyCacheError: the store cannot be written.
        """
        digests = _digests(request)
        with self._change():
            self._keep_pictures(digests)
            self._store.set(ASKED + key.digest, sealed(_asked(key, request, digests)))

    def complete(self, digest: str, reply: Reply) -> bool | None:
        """Keep the reply to a request that was kept before, by its key's digest.

        Returns:
            False where the reply is unusable, None where the request is no longer there: neither is kept.

        Raises:
            ReplyCacheError: the store cannot be used.
        """
        with self._change():
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

    def _keep_pictures(self, digests: dict[ImagePart, str]) -> None:
        pictures = {digest: part.encoded for part, digest in digests.items()}
        for digest in pictures.keys() - self._known:
            self._store.add(IMAGE + digest, pictures[digest])
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        self._known |= pictures.keys()

    @contextmanager
    def _change(self) -> Iterator[None]:
        try:
            with self._store.transact():
                yield
        except TROUBLE as error:
            self._known.clear()  # nothing of this change was kept
            raise self._trouble(error) from error

    def claim(self, key: Key, *, seconds: float) -> bool:
        """Try to become the one who asks; False while another process does, or where the reply is there.

        A claim ends with `put`, with `give_up`, with its time, or with the process that made it.

        Raises:
            ReplyCacheError: the store cannot be used.
        """
        try:
            with self._store.transact():
                holder = self._store.get(_CLAIM + key.digest)
                if (holder is not None and _is_alive(holder)) or self.get(key) is not None:
                    return False  # the reply may have come since somebody looked
                self._store.set(_CLAIM + key.digest, f"{socket.gethostname()} {os.getpid()}".encode(), expire=seconds)
        except TROUBLE as error:
            raise self._trouble(error) from error
        return True

    def give_up(self, key: Key) -> None:
        """End a claim without a reply.

        Raises:
            ReplyCacheError: the store cannot be used.
        """
        try:
            self._store.delete(_CLAIM + key.digest)
        except TROUBLE as error:
            raise self._trouble(error) from error

    def entries(self) -> Iterator[Entry]:
        """Yield what is kept, in no particular order.

        Raises:
            ReplyCacheError: the store cannot be read.
        """
        try:
            for name in self._store.iterkeys():
                if name.startswith(REPLY):
                    entry = _entry(self._store.get(name))
                    if entry is not None:
                        yield entry
        except TROUBLE as error:
            raise self._trouble(error) from error

    def nearest(self, key: Key) -> tuple[Entry, list[str]] | None:
        """Return the entry that differs in the fewest parts of the key, and their names; None where there is none.

        Of entries that differ in as many, one with the same query picture goes first, then the newest.
        """

        def distance(entry: Entry) -> tuple[int, bool, float]:
            differing = _differing(entry, key)
            return len(differing), "query picture" in differing, -entry.stored_at

        best = min(self.entries(), key=distance, default=None)
        return None if best is None else (best, _differing(best, key))

    def counts(self) -> tuple[int, int]:
        """Return how many replies and how many pictures are kept.

        Raises:
            ReplyCacheError: the store cannot be read.
        """
        try:
            names = list(self._store.iterkeys())
        except TROUBLE as error:
            raise self._trouble(error) from error
        return sum(name.startswith(REPLY) for name in names), sum(name.startswith(IMAGE) for name in names)

    def _trouble(self, error: Exception) -> ReplyCacheError:
        return ReplyCacheError(
            f"replies cannot be kept: {self._folder} cannot be used ({error}); mend it, `vmem cache clear replies`, or"
            " go without by --no-cache"
        )


def _entry(found: object) -> Entry | None:
    """Return what a record says; None where there is none, or one that another program wrote or damaged."""
    if not isinstance(found, bytes):
        return None
    try:
        record = unsealed(found) or {}
        kept = dict(record["reply"])
        return Entry(record["key"], Reply(**(kept | {"usage": Usage(**kept["usage"])})), record["stored_at"])
    except (ValueError, KeyError, TypeError):
        return None


def _digests(request: Request) -> dict[ImagePart, str]:
    return {part: sha256(part.encoded) for part in request.prompt.parts if isinstance(part, ImagePart)}


def _asked(key: Key, request: Request, digests: dict[ImagePart, str]) -> dict[str, Any]:
    return {
        "key": key.parts,
        "parts": [
            {"text": part.text}
            if isinstance(part, TextPart)
            else {"image": digests[part]} | ({"drawn": part.drawn} if part.drawn else {})
            for part in request.prompt.parts
        ],
        "candidates": {code: str(label) for code, label in request.prompt.candidates.items()},
    }


def _answered(reply: Reply) -> dict[str, Any]:
    return {"reply": asdict(reply) | {"from_cache": True}, "stored_at": time.time()}


def _differing(entry: Entry, key: Key) -> list[str]:
    names = {**key.parts, **entry.parts}
    return [name for name in names if entry.parts.get(name) != key.parts.get(name)]


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
        task.add_done_callback(lambda ended: self._end(key, ended))
        return await asyncio.shield(task)  # one of several who wait may be cancelled

    def _end(self, key: Key, task: asyncio.Task[Reply]) -> None:
        self._running.pop(key.digest, None)
        if not task.cancelled():
            task.exception()  # seen: where all who waited were cancelled, asyncio would print it

    async def _ask(self, key: Key, request: Request) -> Reply:
        while not self._store.claim(key, seconds=_CLAIM_SECONDS):
            kept = self._store.get(key)
            if kept is not None:
                return kept
            await asyncio.sleep(_LOOK_AGAIN_SECONDS * (0.5 + random.random()))
        try:
            reply = await self._model.generate(request)
            if not is_answer(reply.text, request.prompt):
                self._store.give_up(key)
                return reply
            self._store.put(key, request, reply)
        except BaseException:
            self._store.give_up(key)
            raise
        return reply
