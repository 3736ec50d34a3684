"""The pages in a real browser: a server of its own, chromium, and the text a person would read."""

import html
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import uvicorn
from tests.serving.world import serving
from tests.waiting import until

from shortlist.dashboard.pages import pages
from shortlist.serving.http import application

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("world")
    with serving(folder) as (_, engine):
        app = application(engine, routes=pages(engine, folder / "var"))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(120)
            listener.close()


def dom(address: str, path: str, folder: Path) -> str:
    """The document after the browser has laid it out."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", "--dump-dom", address + path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout


def read(document: str) -> str:
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", document, flags=re.DOTALL)).split())


def test_request_page(address: str, tmp_path: Path) -> None:
    document = dom(address, "/request?user=ann&item=love0", tmp_path)
    text = read(document)
    assert "What ann sees" in text
    assert "1 War part 3" in text
    assert "because of War part 2" in text
    assert "No channel brought it." in text
    assert document.count('<li class="pick">') == 5


def test_hostile_ids_stay_text(address: str, tmp_path: Path) -> None:
    user = "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script>"
    document = dom(address, f"/request?user={quote(user)}", tmp_path)
    assert "<title>owned</title>" not in document
    assert '<img src="x"' not in document
    assert f"What {user} sees" in " ".join(html.unescape(document).split())


def test_overview_releases_and_docs(address: str, tmp_path: Path) -> None:
    assert "Latency by stage" in read(dom(address, "/", tmp_path))
    assert "serving" in read(dom(address, "/releases", tmp_path))
    assert "POST /v1/recommend" in read(dom(address, "/docs", tmp_path))
