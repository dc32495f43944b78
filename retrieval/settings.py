"""What a memory is built with: stored in its table, so that it goes wherever the table goes."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Final

from retrieval.embedders.base import EmbedderIdentity
from retrieval.embedders.execution import Execution
from retrieval.errors import StorageError
from retrieval.outside import parse_json

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What a memory is built with, stored in the table itself."""

    embedder: EmbedderIdentity
    index: str  # the kind asked for
    thumbnail_pixels: int  # longest side
    built_from: str  # the folder of `vmem memory build`, so that a second run goes on; empty otherwise
    memory_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # tells this memory from every other
    executions: tuple[Execution, ...] = ()  # how its vectors were made, each way once

    def to_json(self) -> str:
        """Return the settings as JSON."""
        fields = {
            "format": FORMAT,
            "embedder": json.loads(self.embedder.to_json()),
            "index": self.index,
            "thumbnail_pixels": self.thumbnail_pixels,
            "built_from": self.built_from,
            "memory_id": self.memory_id,
            "executions": [execution.to_dict() for execution in self.executions],
        }
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Return the settings that `to_json` wrote."""
        fields = parse_json(text)
        if fields.pop("format") != FORMAT:
            raise StorageError("the memory was written by a newer version of this program: update it")
        fields["embedder"] = EmbedderIdentity.from_json(json.dumps(fields["embedder"]))
        fields["executions"] = tuple(Execution(**execution) for execution in fields.get("executions", ()))
        return cls(**fields)
