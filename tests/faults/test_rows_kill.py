"""A server killed while it writes rows of slates: whole batches stay, the torn end is left out and counted."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.events.test_slates import T, rows
from tests.waiting import until

from shortlist.events.slates import Writer, read

WRITE = """
import sys
from pathlib import Path
from shortlist.events.slates import Writer
from tests.events.test_slates import T, rows

writer = Writer(Path(sys.argv[1]))
for n in range(10**6):
    writer.append(rows(f"{n:07d}", n=50), T)
"""


@pytest.mark.parametrize("wait_s", [0.0, 0.03, 0.1])
def test_what_a_kill_leaves_is_whole(tmp_path: Path, wait_s: float) -> None:
    writing = subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path)], cwd=Path(__file__).parents[2])
    try:
        assert until(
            lambda: (
                writing.poll() is not None or any(file.stat().st_size > 100_000 for file in tmp_path.glob("*.arrow"))
            )
        )
        assert writing.poll() is None
        time.sleep(wait_s)
    finally:
        writing.send_signal(signal.SIGKILL)
        writing.wait()
    found = read(tmp_path)
    requests = found.rows["request_id"].unique().sort().to_list()
    assert len(found.rows) == 50 * len(requests)
    assert requests == [f"{n:07d}" for n in range(len(requests))]
    assert found.torn <= 1
    Writer(tmp_path).append(rows("next"), T)  # the next process has a file of its own
    assert len(read(tmp_path).rows) == len(found.rows) + 3
