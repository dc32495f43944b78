"""Settings of both stages under a name: found once, on a held-out set, and used from then on.

A preset is a small TOML file in the user's configuration folder, made to be read and edited. It says how to ask and
never whom: the model stays the caller's choice, and no key is in it.
"""

import dataclasses
import math
import os
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from agent.errors import PresetError
from agent.types import GenerationConfig
from prompts.template import DEFAULT as DEFAULT_PROMPT
from prompts.template import Template, load_template, template_names
from retrieval.errors import InvalidArgument, VisualMemoryError
from retrieval.storage.places import writing
from retrieval.support.outside import parse_toml
from retrieval.types import Votes
from retrieval.version import check_neighbors
from retrieval.view import DEFAULT_NEIGHBORS
from retrieval.voting import DEFAULT_METHOD, check_method

_CONDITION: Final = re.compile(r"(margin|share)\s*<\s*([\d.]+)|(entropy)\s*>\s*([\d.]+)")


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on the vote under which the model is asked.

    ``margin`` is the winner's share of the vote less the second's, ``share`` the winner's, ``entropy`` that of all
    shares in nats. A vote with a single label has margin and share 1 and entropy 0.
    """

    measure: str  # always, margin, share or entropy
    threshold: float = 0.0

    def asks(self, votes: Votes) -> bool:
        """Tell whether the vote is open enough to ask the model."""
        if self.measure == "always":
            return True
        value = measure_vote(votes, self.measure)
        return value > self.threshold if self.measure == "entropy" else value < self.threshold

    def __str__(self) -> str:
        sign = ">" if self.measure == "entropy" else "<"
        return self.measure if self.measure == "always" else f"{self.measure}{sign}{self.threshold:g}"


ALWAYS: Final = Gate("always")


def parse_gate(text: str) -> Gate:
    """Return the gate that a text such as ``always``, ``margin<0.3``, ``share<0.8`` or ``entropy>0.5`` describes.

    Raises:
        InvalidArgument: it describes none.
    """
    if text.strip() == "always":
        return ALWAYS
    parsed = _CONDITION.fullmatch(text.strip())
    try:
        if parsed is None:
            raise ValueError
        return Gate(parsed[1] or parsed[3], float(parsed[2] or parsed[4]))
    except ValueError as error:
        raise InvalidArgument(
            f"--when {text!r}: always, margin<NUMBER, share<NUMBER or entropy>NUMBER expected, such as 'margin<0.3'"
        ) from error


def measure_vote(votes: Votes, measure: str) -> float:
    """Return the ``margin``, ``share`` or ``entropy`` of a vote."""
    shares = votes.shares
    if measure == "share":
        return shares[0]
    if measure == "margin":
        return shares[0] - (shares[1] if len(shares) > 1 else 0.0)
    return -sum(share * math.log(share) for share in shares if share > 0)


VARIABLE: Final = "VMEM_PRESETS"
_NAME: Final = re.compile(r"\w[\w.-]{0,99}")
_SUFFIX: Final = ".toml"
_SERVICE: Final = "service"  # TOML has no null: a temperature that is left to the service
_HEADING: Final = "# Settings of `vmem classify --preset` and `vmem eval run --preset`; the model is named there.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How both stages work; what the options mean is said at `agent.classify.classify_with_rerank`.

    Its defaults are those of every command and function that takes these options.
    """

    name: str
    prompt: str = DEFAULT_PROMPT
    neighbors: int = DEFAULT_NEIGHBORS
    voting: str = DEFAULT_METHOD
    when: str = "always"
    fusion_weight: float | None = None
    shuffles: int = 0
    seed: int = 0
    generation: GenerationConfig = GenerationConfig()
    model: str = ""  # that it was found with: a note, which nothing reads
    about: str = ""  # where it came from: run, date, accuracy, cost
    template_digest: str = ""  # of the prompt's text as it was; empty: not checked

    def overridden(self, **options: Any) -> "Preset":  # noqa: ANN401 - fields of this class
        """Return the preset with other values for fields; None keeps the preset's own."""
        given = {name: value for name, value in options.items() if value is not None}
        if "prompt" in given:
            given["template_digest"] = ""
        return dataclasses.replace(self, **given)

    def template(self) -> Template:
        """Return the prompt.

        Raises:
            UnknownPrompt: there is no such template.
            PresetError: its text is another one than that the preset was saved with.
        """
        template = load_template(self.prompt)
        if self.template_digest and template.digest != self.template_digest:
            raise PresetError(
                f"the preset {self.name} was saved with another text of {self.prompt} than it has now: pass the prompt"
                " beside the preset to use the new text, or save the preset anew"
            )
        return template


DEFAULTS: Final = Preset(name="defaults")


def settle(preset: Preset | str | Path | None, **options: Any) -> Preset:  # noqa: ANN401 - fields of Preset
    """Return the options that count: those given, else the preset's, else the defaults.

    Args:
        preset: one, its name or its file's path; None for none.
        options: fields of `Preset`; None: not given.

    Raises:
        PresetError: there is no such preset, or it is damaged.
    """
    if preset is None:
        base = DEFAULTS
    else:
        base = preset if isinstance(preset, Preset) else load_preset(preset)
    return base.overridden(**options)


def presets_folder() -> Path:
    """Return the folder of the user's presets: ``VMEM_PRESETS``, or one where the system keeps configuration."""
    from platformdirs import user_config_path

    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else user_config_path("visual-memory-agent") / "presets"


def preset_names() -> list[str]:
    """Return the names of the user's presets."""
    folder = presets_folder()
    return sorted(path.stem for path in folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.stem))


def load_preset(name_or_path: str | Path) -> Preset:
    """Return a preset by its name, or by the path of its file, which ends in ``.toml``.

    Raises:
        PresetError: there is none, or it is damaged.
    """
    asked = str(name_or_path)
    path = Path(asked) if asked.endswith(_SUFFIX) else presets_folder() / (_expect_name(asked) + _SUFFIX)
    try:
        with path.open("rb") as stream:
            parsed = parse_toml(stream.read())
    except OSError as error:
        known = ", ".join(preset_names()) or "none yet: `vmem prompt tune --save NAME` makes one"
        raise PresetError(
            f"no preset {asked!r} ({error.strerror}): the path of a .toml file or one of your own expected ({known})"
        ) from error
    except ValueError as error:  # no TOML, no UTF-8
        raise _damaged(path, error) from error
    try:
        return _checked(Preset(**(_converted(parsed) | {"name": path.stem})))
    except (TypeError, ValueError, VisualMemoryError) as error:
        raise _damaged(path, error) from error


def save_preset(preset: Preset, *, replace: bool = False) -> Path:
    """Write a preset among the user's own, with the digest of its prompt's text, and return its file.

    A template of one's own is noted by its whole path, so that the preset works from any folder.

    Args:
        preset: what to save.
        replace: whether it may take the place of one with the same name.

    Raises:
        PresetError: there is one with that name already, or the name is none.
        UnknownPrompt: its prompt is not there.
        StorageError: the disk refuses.
    """
    import tomli_w

    path = presets_folder() / (_expect_name(preset.name) + _SUFFIX)
    template = load_template(preset.prompt)
    released = preset.prompt.partition("@")[0] in template_names()
    prompt = preset.prompt if released else str(Path(preset.prompt).resolve())
    table = _table(dataclasses.replace(preset, prompt=prompt, template_digest=template.digest))
    fresh = path.with_name(f".{uuid.uuid4().hex}.new")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_text(_HEADING + tomli_w.dumps(table), encoding="utf-8")
            if replace:
                fresh.replace(path)
            else:
                os.link(fresh, path)  # whole or not at all, and never over another one
        except FileExistsError as error:
            raise PresetError(
                f"there is a preset {preset.name} already ({path}): choose another name, or replace it (--replace)"
            ) from error
        finally:
            fresh.unlink(missing_ok=True)
    return path


def expect_free(name: str, *, replace: bool) -> None:
    """Raise unless a preset may be saved under a name: to be asked before hours of work.

    Raises:
        PresetError: see `save_preset`.
    """
    if _expect_name(name) in preset_names() and not replace:
        raise PresetError(f"there is a preset {name} already: choose another name, or replace it (--replace)")


def _expect_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise PresetError(f"no preset can be called {name!r}: letters, digits, '-', '_' and '.' expected, 100 at most")
    return name


def _damaged(path: Path, error: Exception) -> PresetError:
    return PresetError(f"{path} holds no preset ({error}): mend it, or save it anew by `vmem prompt tune --replace`")


def _table(preset: Preset) -> dict[str, Any]:
    """Return what a preset's file holds, without what is left out or left to the service."""
    table = {name: value for name, value in asdict(preset).items() if name != "name" and value is not None}
    generation = {name: value for name, value in asdict(preset.generation).items() if value is not None}
    return table | {"generation": {"temperature": _SERVICE} | generation}


def _converted(table: dict[str, Any]) -> dict[str, Any]:
    generation = table.get("generation", {})
    if not isinstance(generation, dict):
        raise ValueError("generation is no table")
    if generation.get("temperature") == _SERVICE:
        generation = generation | {"temperature": None}
    _expect_kinds(generation, GenerationConfig)
    whole = table | {"generation": GenerationConfig(**generation)}
    _expect_kinds(whole, Preset)
    return whole


def _expect_kinds(table: dict[str, Any], of: type[Preset | GenerationConfig]) -> None:
    """Raise ValueError where a setting is not known, or of another kind than its field."""
    hints = get_type_hints(of)
    for name, value in table.items():
        if name not in hints:
            raise ValueError(f"no setting is called {name}")
        allowed = get_args(hints[name]) or (hints[name],)
        if isinstance(value, int) and float in allowed and not isinstance(value, bool):
            continue
        if type(value) not in allowed:
            raise ValueError(f"{name} = {value!r}")


def _checked(preset: Preset) -> Preset:
    check_method(preset.voting)
    check_neighbors(preset.neighbors)
    parse_gate(preset.when)
    return preset
