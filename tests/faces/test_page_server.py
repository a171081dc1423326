"""The command's page with hostile clients, over HTTP on a port of this machine."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from demo_runs import free_port
from ntensor.faces.page.folder import MOST_BYTES, PREFIX
from ntensor.faces.page.guard import CALLS, FILE, MOST_CALLED, MOST_UPLOADED, UPLOAD

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ntensor[faces,demo]'")

BOUNDARY = "xxxxboundaryxxxx"


class Page:
    """The command's process."""

    def __init__(self, run, place):
        self.port, self.place = free_port(), place
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ntensor.faces.demo", str(run), "--port", str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"TMPDIR": str(place), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert "Ctrl-C ends it" in self.process.stdout.readline()

    @property
    def files(self):
        (folder,) = self.place.glob(f"{PREFIX}*")
        return folder / "files"

    def size(self):
        return sum(path.stat().st_size for path in self.files.rglob("*") if path.is_file())

    def ask(self, method, path, body=None, headers=None, host=None):
        """Status, headers and text of an answer."""
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(asked):
            asked.putrequest(method, path, skip_host=True)
            asked.putheader("Host", host or f"127.0.0.1:{self.port}")
            if body is not None:
                asked.putheader("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                asked.putheader(name, value)
            asked.endheaders(body)
            answer = asked.getresponse()
            return answer.status, answer.headers, answer.read().decode(errors="replace")

    def call(self, function, data=(), session="visitor", event=None, path=CALLS[1]):
        body = {"fn_index": function, "data": list(data), "session_hash": session}
        body = json.dumps(body | {"event_data": event}).encode()
        return self.ask("POST", path, body, {"Content-Type": "application/json"})

    def queued(self, *arguments, session="visitor", **options):
        """The messages that end a call of a function that waits in the queue."""
        status, _, text = self.call(*arguments, session=session, path=CALLS[0], **options)
        assert status == 200, text
        status, _, text = self.ask("GET", f"/gradio_api/queue/data?session_hash={session}")
        assert status == 200
        messages = [json.loads(line[6:]) for line in text.split("\n\n") if line]
        return [message for message in messages if message["msg"] == "process_completed"]

    def upload(self, content, name="face.png", **options):
        body = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"'
        body = f"{body}\r\nContent-Type: image/png\r\n\r\n".encode() + content
        body += f"\r\n--{BOUNDARY}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.ask("POST", UPLOAD, body, headers | options.pop("headers", {}), **options)

    def end(self, how):
        self.process.send_signal(how)
        rest, _ = self.process.communicate(timeout=120)
        return self.process.returncode, rest


@pytest.fixture(scope="module")
def page(demo_run, tmp_path_factory):
    found = Page(demo_run, tmp_path_factory.mktemp("place"))
    try:
        yield found
        status, rest = found.end(signal.SIGTERM)
        # No traceback of anything that the tests before did.
        assert (status, rest) == (0, "ended\n")
        assert list(found.place.iterdir()) == []
    finally:
        found.process.kill()
        found.process.wait()


@pytest.fixture(scope="module")
def functions(page):
    """Function numbers by their names."""
    config = json.loads(page.ask("GET", "/config")[2])
    names = {}
    for dependency in config["dependencies"]:
        names.setdefault(dependency["api_name"], dependency["id"])
    return names


def refused(answer, status):
    found, headers, text = answer
    assert found == status, text
    assert json.loads(text)["detail"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    return json.loads(text)["detail"]


def test_the_page_is_served_under_its_own_names(page):
    for host in ("127.0.0.1", "localhost", "[::1]"):
        status, headers, text = page.ask("GET", "/", host=f"{host}:{page.port}")
        assert status == 200 and "<html" in text
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
    for path in ("/", "/config", "/theme.css", UPLOAD, f"{FILE}/etc/passwd"):
        for host in ("evil.com", f"evil.com:{page.port}", "127.0.0.1:1", "127.0.0.1"):
            refused(page.ask("GET", path, host=host), 421)


def test_other_pages_cannot_ask(page):
    for headers in (
        {"Origin": "http://evil.com"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{page.port + 1}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        refused(page.ask("GET", "/", headers=headers), 403)
        refused(page.upload(b"x", headers=headers), 403)
        refused(page.ask("POST", CALLS[0], b"{}", headers), 403)
    refused(page.ask("OPTIONS", UPLOAD), 404)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    refused(page.ask("GET", "/gradio_api/queue/join", headers=upgrade), 404)


def test_files_of_the_page_alone(page):
    picture = next(page.files.rglob("*.png"))
    assert page.ask("GET", f"{FILE}{picture}")[0] == 200
    (page.files / "link").symlink_to("/etc/passwd")
    inside = ("link", "../lock", "%2e%2e/lock", "")
    outside = ("/etc/passwd", "http://127.0.0.1:1/x", "file:///etc/passwd")
    for path in (*(f"{page.files}/{name}" for name in inside), *outside):
        refused(page.ask("GET", f"{FILE}{path}"), 404)
    (page.files / "link").unlink()
    others = ("/gradio_api/info", "/gradio_api/proxy=https://a.hf.space", "/login", "/monitoring")
    for path in (*others, "/static/../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd"):
        refused(page.ask("GET", path), 404)


def test_bodies_have_a_limit(page):
    for path, most in ((UPLOAD, MOST_UPLOADED + MOST_CALLED), (CALLS[0], MOST_CALLED)):
        refused(page.ask("POST", path, headers={"Content-Length": most + 1}), 413)
    with socket.create_connection(("127.0.0.1", page.port), timeout=120) as raw:
        head = f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        # It is ended while the body still arrives.
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                raw.sendall(chunk)
            pytest.fail("two hundred megabytes were taken")
    assert page.size() < MOST_BYTES / 2


def test_uploads_have_one_limit_together(page):
    for number in range(6):
        status, _, text = page.upload(bytes([number]) * 19_000_000)
        assert status == 200 and Path(json.loads(text)[0]).is_relative_to(page.files)
        assert page.size() <= MOST_BYTES


def test_names_of_uploads_lead_nowhere(page):
    for name in ("../../../evil.png", "/etc/evil.png", "..", "a/b\0c.png", "x" * 300 + ".png"):
        status, _, text = page.upload(b"x", name)
        if status == 200:
            assert Path(json.loads(text)[0]).resolve().is_relative_to(page.files)
        else:
            assert 400 <= status < 500, text
    assert all(path.is_relative_to(page.files) for path in page.place.rglob("*.png"))


def test_edits_before_the_start_are_explained(page, functions):
    status, _, text = page.call(functions["edit"], [0, 0, 0, 0], session="never")
    assert status == 500 and "reload the page" in json.loads(text)["error"]
    for name, event in (("choose", {"index": 1}), ("show_shape", None)):
        (ended,) = page.queued(functions[name], [0, 0, 0, 0], session="never", event=event)
        assert not ended["success"] and "reload the page" in ended["output"]["error"]


def test_odd_calls_are_explained(page, functions):
    (ended,) = page.queued(functions["start"], session="odd")
    assert ended["success"]
    for value in ("1", None, float("nan"), -1, 1e9, [], {}):
        refused(page.call(functions["edit"], [value, 0, 0, 0], session="odd"), 422)
    for index in (-1, 10**20, "3", None, float("nan")):
        odd = page.call(functions["choose"], [0] * 4, "odd", {"index": index}, CALLS[0])
        refused(odd, 422)
    refused(page.call(functions["choose"], [0] * 4, "odd", None, CALLS[0]), 422)
    for function in (-1, 999, None, "edit"):
        refused(page.call(function), 422)
    for body in (b"", b"[" * 60_000, b"\xff", b"[]"):
        refused(page.ask("POST", CALLS[1], body), 422)
    file = {"path": "/etc/passwd"}
    refused(page.call(functions["upload"], [file, 0, 0, 0, 0], path=CALLS[0]), 422)
    assert page.call(functions["edit"], [0.5] * 4, session="odd")[0] == 200
    # A function that waits in the queue cannot be called past it.
    assert page.call(functions["choose"], [0] * 4, "odd", {"index": 1}, CALLS[1])[0] == 404


def test_an_upload_is_removed_once_it_was_read(page, functions):
    page.queued(functions["start"], session="upload")
    path = Path(json.loads(page.upload(b"no picture", "<b>x.png")[2])[0])
    data = [{"path": str(path)}, 0, 0, 0, 0]
    (ended,) = page.queued(functions["upload"], data, session="upload")
    assert "not a picture" in ended["output"]["error"] and "<b>" not in ended["output"]["error"]
    assert not path.exists()
    refused(page.call(functions["upload"], data, path=CALLS[0]), 422)


def test_many_clients_at_once(page, functions):
    found = []

    def visit(name):
        page.queued(functions["start"], session=name)
        found.append(page.call(functions["edit"], [0.1] * 4, session=name)[0])

    threads = [threading.Thread(target=visit, args=(f"many{k}",)) for k in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The first of them have made room for the last.
    assert len(found) == 20 and set(found) <= {200, 500} and found.count(200) >= 1


@pytest.mark.parametrize(("how", "said"), [(signal.SIGINT, "ended\n"), (signal.SIGHUP, "")])
def test_open_pages_do_not_hold_up_the_end(demo_run, tmp_path, how, said):
    """Of Ctrl-C, and of a terminal that is closed, where nobody is left to be told."""
    found = Page(demo_run, tmp_path)
    with socket.create_connection(("127.0.0.1", found.port), timeout=120) as raw:
        path = "/gradio_api/heartbeat/open"
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{found.port}\r\n\r\n".encode())
        assert b"200" in raw.recv(100)
        assert found.end(how) == (0, said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_after_any_end(demo_run, tmp_path, how):
    found = Page(demo_run, tmp_path)
    assert found.upload(b"x" * 1000)[0] == 200
    status, _ = found.end(how)
    if how == signal.SIGKILL:
        assert list(tmp_path.iterdir()) != []
        status, _ = Page(demo_run, tmp_path).end(signal.SIGTERM)
    assert status == 0
    assert list(tmp_path.iterdir()) == []
