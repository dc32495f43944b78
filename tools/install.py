"""Install this project and what it depends on into a virtual environment: ``install.py VENV [EXTRA …]``.

uv does it where it can be had, since it takes a fifth of pip's time: the uv on the PATH, or one that pip puts into the
environment first. uv does not read pip's settings (a mirror, a folder of wheels), so they are handed over to it. Where
uv cannot be had, or fails, pip installs the same.
"""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

# uv's option for each of pip's settings; each of them may hold several values.
_OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
_VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
_LATER_WINS = ("global", "user", "site", "install", ":env:")  # sections of pip's settings


def main(folder: str, extras: list[str]) -> None:
    """Make the environment where there is none yet, and install into it."""
    if not (3, 11) <= sys.version_info < (3, 14):
        sys.exit(f"Python 3.11, 3.12 or 3.13 is needed, and this is {sys.version.split()[0]}: make PYTHON=python3.13")
    python = Path(folder) / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    what = ["--constraint", "constraints.txt", "--editable", f".[{','.join(extras)}]" if extras else "."]
    pip = [str(python), "-m", "pip", "install"]
    uv = shutil.which("uv")
    if uv is None and subprocess.run([*pip, "--quiet", "--constraint", "constraints.txt", "uv"]).returncode == 0:
        uv = str(python.with_name("uv"))
    if uv is not None:
        options, variables = _pip_settings(python)
        # Of all indexes the best version, as pip chooses: the default is the first index that has the package.
        command = [uv, "pip", "install", "--python", str(python), "--index-strategy", "unsafe-best-match", *options]
        if subprocess.run([*command, *what], env=variables | os.environ).returncode == 0:
            return
        print("uv could not install it; now pip tries the same.", file=sys.stderr, flush=True)
    subprocess.run([*pip, *what], check=True)


def _pip_settings(python: Path) -> tuple[list[str], dict[str, str]]:
    """Return pip's settings as options and as environment variables of uv."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings = {}
    for section in _LATER_WINS:
        for line in listed.splitlines():  # global.index-url='https://…'
            if line.startswith(f"{section}.") and "=" in line:
                name, value = line.removeprefix(f"{section}.").split("=", 1)
                settings[name] = str(ast.literal_eval(value))
    options = [
        word
        for name, option in _OPTIONS.items()
        for value in settings.get(name, "").split()
        for word in (option, value)
    ]
    return options, {variable: settings[name] for name, variable in _VARIABLES.items() if name in settings}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
