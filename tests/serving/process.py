"""Commands as a person runs them: in processes of their own."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["call", "command", "ran", "serve"]

CODE = "import sys; from shortlist.cli import main; sys.exit(main(sys.argv[1:]))"


def command(*words: str, **environment: str) -> subprocess.Popen[str]:
    keep = {name: value for name, value in os.environ.items() if name != "SHORTLIST_API_KEY"}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words],
        env={**keep, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ran(*words: str, **environment: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command that ends."""
    process = command(*words, **environment)
    out, talk = process.communicate(timeout=300)
    return process.returncode, out, talk


def serve(project: Path) -> tuple[subprocess.Popen[str], str]:
    """A server of a project that answers, and its URL."""
    process = command("serve", "--project", str(project), "--port", "0", "--json")
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.kill()
        raise AssertionError(process.communicate()[1])
    return process, json.loads(line)["url"]


def call(url: str, body: Any = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=120) as answer:
        return json.load(answer)
