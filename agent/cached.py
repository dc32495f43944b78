"""A model that is not asked the same thing twice, however many ask at once."""

import asyncio
import random
from dataclasses import replace
from typing import Final

from agent.models.base import VisionModel
from agent.reply_key import Key, key_of
from agent.reply_store import ReplyStore
from agent.types import Reply, Request
from prompts.answer import is_answer

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
