"""Settings of both stages under a name: found once, on a held-out set, and used from then on.

A preset is a small TOML file in the user's configuration folder, made to be read and edited. It says how to ask and
never whom: the model stays the caller's choice, and no key is in it.
"""

import dataclasses
import os
import re
import uuid
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from agent.errors import PresetError
from agent.settings import GenerationConfig, Settings
from prompts.template import load_template, template_names
from retrieval.errors import VisualMemoryError
from retrieval.storage.places import writing
from retrieval.support.parsing import parse_toml

VARIABLE: Final = "VMEM_PRESETS"
_NAME: Final = re.compile(r"\w[\w.-]{0,99}")
_SUFFIX: Final = ".toml"
_SERVICE: Final = "service"  # TOML has no null: a temperature that is left to the service
_HEADING: Final = "# Settings of `vmem classify --preset` and `vmem eval run --preset`; the model is named there.\n"


def presets_folder() -> Path:
    """Return the folder of the user's presets: ``VMEM_PRESETS``, or one where the system keeps configuration."""
    from platformdirs import user_config_path

    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else user_config_path("visual-memory-agent") / "presets"


def preset_names() -> list[str]:
    """Return the names of the user's presets."""
    return sorted(path.stem for path in presets_folder().glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.stem))


def load_preset(name_or_path: str | Path) -> Settings:
    """Return a preset by its name, or by the path of its file, which ends in ``.toml``.

    Raises:
        PresetError: there is none, or it is damaged.
    """
    asked = str(name_or_path)
    path = Path(asked) if asked.endswith(_SUFFIX) else presets_folder() / (_expect_name(asked) + _SUFFIX)
    try:
        table = parse_toml(path.read_bytes())
        generation = table.get("generation", {})
        if not isinstance(generation, dict):
            raise ValueError("generation is no table")
        if generation.get("temperature") == _SERVICE:
            generation["temperature"] = None
        _expect_kinds(generation, GenerationConfig)
        table["generation"] = GenerationConfig(**generation)
        _expect_kinds(table, Settings)
        return Settings(**(table | {"name": path.stem})).checked()
    except OSError as error:
        known = ", ".join(preset_names()) or "none yet: `vmem prompt tune --save NAME` makes one"
        raise PresetError(
            f"no preset {asked!r} ({error.strerror}): the path of a .toml file or one of your own expected ({known})"
        ) from error
    except (TypeError, ValueError, VisualMemoryError) as error:  # no TOML, no UTF-8, no settings
        raise PresetError(
            f"{path} holds no preset ({error}): mend it, or save it anew by `vmem prompt tune --replace`"
        ) from error


def save_preset(preset: Settings, *, replace: bool = False) -> Path:
    """Write a preset among the user's own, with the digest of its prompt's text, and return its file.

    A template of one's own is noted by its whole path, so that the preset works from any folder.

    Args:
        preset: what to save, with a name.
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
    table = dataclasses.asdict(preset) | {"prompt": prompt, "template_digest": template.digest}
    del table["name"]
    table["generation"] = {"temperature": _SERVICE} | _without_none(table["generation"])
    fresh = path.with_name(f".{uuid.uuid4().hex}.new")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_text(_HEADING + tomli_w.dumps(_without_none(table)), encoding="utf-8")
            if replace:
                fresh.replace(path)
            else:
                os.link(fresh, path)  # whole or not at all, and never over another one
        except FileExistsError as error:
            raise _taken(preset.name) from error
        finally:
            fresh.unlink(missing_ok=True)
    return path


def expect_free(name: str, *, replace: bool) -> None:
    """Raise unless a preset may be saved under a name: to be asked before hours of work.

    Raises:
        PresetError: see `save_preset`.
    """
    if _expect_name(name) in preset_names() and not replace:
        raise _taken(name)


def _taken(name: str) -> PresetError:
    return PresetError(
        f"there is a preset {name} already ({presets_folder() / name}{_SUFFIX}): choose another name, or replace it"
        " (--replace)"
    )


def _expect_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise PresetError(f"no preset can be called {name!r}: letters, digits, '-', '_' and '.' expected, 100 at most")
    return name


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}


def _expect_kinds(table: dict[str, Any], of: type[Settings | GenerationConfig]) -> None:
    """Raise ValueError where a setting is not known, or of another kind than its field."""
    hints = get_type_hints(of) | ({"neighbors": int} if of is Settings else {})
    for name, value in table.items():
        if name not in hints:
            raise ValueError(f"no setting is called {name}")
        allowed = get_args(hints[name]) or (hints[name],)
        if isinstance(value, int) and float in allowed and not isinstance(value, bool):
            continue
        if type(value) not in allowed:
            raise ValueError(f"{name} = {value!r}")
