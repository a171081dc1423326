"""Who may ask the page for what: the guard before a server that notes what reaches it."""

import asyncio
import json
import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntensor.faces.common.errors import PageError
from ntensor.faces.page import guard as guards
from ntensor.faces.page.calls import Calls
from ntensor.faces.page.folder import Folder
from ntensor.faces.page.guard import HEADERS, Guard, Hosts

PORT = 7860
OWN = f"127.0.0.1:{PORT}"
CALL = {"fn_index": 1, "session_hash": "abc", "data": [0.5, 1], "event_data": None}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Folder(most=1000) as found:
        yield found


@pytest.fixture
def calls(folder):
    functions = {0: [], 1: ["weight", "weight"], 2: ["upload", "weight"], 3: ["weight"]}
    return Calls(functions, {3}, folder)


class Client:
    """Asks a guard as a server does, and notes which bodies reach the application."""

    def __init__(self, calls, folder, **options):
        self.reached = []
        self.guard = Guard(self.application, Hosts(PORT), calls, folder, **options)
        self.folder = folder

    async def application(self, scope, receive, send):
        body = (await receive())["body"]
        self.reached.append(body)
        if scope["path"] == guards.UPLOAD:
            (self.folder.files / f"{len(self.reached)}.png").write_bytes(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"given"})

    async def asking(self, method="GET", path="/", headers=(), chunks=(b"",), last=None,
                     hosts=(OWN,)):  # fmt: skip
        """Status, headers and text; None where nothing is answered."""
        scope = {"type": "http", "method": method, "path": path}
        scope["headers"] = [*((b"host", host.encode()) for host in hosts), *headers]
        messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
        messages[-1]["more_body"] = last is not None
        sent = []
        self.taken = 0

        async def receive():
            if self.taken < len(messages):
                self.taken += 1
                return messages[self.taken - 1]
            return {"type": "http.disconnect"} if last == "gone" else await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        await self.guard(scope, receive, send)
        if not sent:
            return None
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode()

    def ask(self, *arguments, **options):
        return asyncio.run(self.asking(*arguments, **options))

    def refused(self, status, *arguments, **options):
        found, headers, text = self.ask(*arguments, **options)
        assert found == status and not self.reached, (found, text)
        assert json.loads(text)["detail"]
        return json.loads(text)["detail"], headers


@pytest.fixture
def client(calls, folder):
    return Client(calls, folder)


@pytest.mark.parametrize("host", [OWN, f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_own_names(host):
    assert host.lower() in Hosts(PORT)
    assert host.rpartition(":")[0].lower() in Hosts(80)


FOREIGN = ["evil.com", f"evil.com:{PORT}", "127.0.0.1", "127.0.0.1:1", f"{OWN}@evil.com", f"x{OWN}"]
FOREIGN += [f"evil.com#{OWN}", f"localhost.:{PORT}", f"127.0.0.1.evil.com:{PORT}", "", ":", "[::1]"]
FOREIGN += [f":{PORT}", f"192.168.0.5:{PORT}", f"{OWN}, evil.com", "[", f"[::1:{PORT}", f"{OWN}0"]


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_refused(client, host):
    client.refused(421, hosts=[host])


def test_one_name_is_wanted(client):
    client.refused(421, hosts=[])
    client.refused(400, hosts=[OWN, OWN])


def test_the_network_asks_by_address():
    hosts = Hosts(PORT, network=True)
    for host in (OWN, f"192.168.0.5:{PORT}", f"[fe80::1]:{PORT}"):
        assert host in hosts
    for host in (f"evil.com:{PORT}", "192.168.0.5", f"192.168.0.5.evil.com:{PORT}"):
        assert host not in hosts


ORIGINS = [
    "null",
    "http://evil.com",
    f"https://{OWN}",
    f"http://localhost:{PORT}",
    "http://127.0.0.1",
]


@pytest.mark.parametrize("origin", [*ORIGINS, f"http://{OWN}.evil.com", "", f"http://{OWN}/"])
def test_other_origins_are_refused(client, origin):
    for method, path in (("GET", "/"), ("POST", guards.UPLOAD), ("POST", guards.CALLS[0])):
        client.refused(403, method, path, headers=[(b"origin", origin.encode())])


@pytest.mark.parametrize("site", ["cross-site", "same-site", "x"])
def test_other_sites_are_refused(client, site):
    client.refused(403, headers=[(b"sec-fetch-site", site.encode())])


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_page_itself_is_served(client, site):
    headers = [(b"sec-fetch-site", site.encode()), (b"origin", f"http://{OWN}".encode())]
    status, found, text = client.ask(headers=headers)
    assert (status, text) == (200, "given")
    assert {name: found[name.encode()].decode() for name in HEADERS} == HEADERS
    assert "frame-ancestors 'none'" in HEADERS["content-security-policy"]
    assert found[b"cache-control"] == b"no-store"


def test_refusals_have_the_headers_too(client):
    _, headers = client.refused(404, path="/login")
    assert {name.encode() for name in HEADERS} <= set(headers)
    assert headers[b"connection"] == b"close"


def test_no_websocket(client):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(client.guard({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


OTHER_PATHS = [
    *(
        "/login",
        "/logout",
        "/monitoring",
        "/openapi.json",
        "/gradio_api/info",
        "/gradio_api/app_id",
    ),
    *("/gradio_api/proxy=https://x.hf.space/", "/gradio_api/stream/a/b/c/playlist.m3u8"),
    *("/gradio_api/file/etc/passwd", "/gradio_api/file=/etc/passwd", "/gradio_api/file="),
    *("/gradio_api/file=https://example.com/", "/gradio_api/file=../../etc/passwd"),
    *("/gradio_api/file=\0", "/gradio_api/file=" + "a" * 5000, "/gradio_api/heartbeat/../login"),
    *("/assets/../login", "/static/../../etc/passwd", "//etc/passwd", "/gradio_api/upload"),
    *("/gradio_api/queue/join", "/gradio_api/deep_link", "/\n", "/assets/x\n", ""),
]


@pytest.mark.parametrize("path", OTHER_PATHS)
def test_other_paths_are_refused(client, path):
    client.refused(404, path=path)


def test_other_methods_are_refused(client):
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "POST"):
        client.refused(404, method)
    client.refused(404, "PUT", guards.UPLOAD)
    for path in ("/gradio_api/cancel", "/gradio_api/run/other", "/gradio_api/vibe-edit"):
        client.refused(404, "POST", path)


def test_files_of_the_folder_alone(client, folder, tmp_path):
    (folder.files / "own.png").write_bytes(b"own")
    (tmp_path / "secret").write_text("secret")
    (folder.files / "link").symlink_to(tmp_path / "secret")
    (folder.files / "loop").symlink_to(folder.files / "loop")
    (folder.files / "up").symlink_to(tmp_path)
    own = folder.files / "own.png"
    for path in (folder.files / "link", folder.files / "loop", folder.files / "up" / "secret",
                 folder.files, folder.path / "lock", f"{folder.files}/../lock",
                 f"{own}\0"):  # fmt: skip
        client.refused(404, path=f"{guards.FILE}{path}")
    assert client.ask(path=f"{guards.FILE}{own}")[0] == 200


def test_large_bodies_are_refused_while_they_arrive(client, monkeypatch):
    monkeypatch.setattr(guards, "MOST_UPLOADED", 1000)
    monkeypatch.setattr(guards, "MOST_CALLED", 100)
    for path, limit in ((guards.UPLOAD, 1100), (guards.CALLS[0], 100)):
        declared = [(b"content-length", str(limit + 1).encode())]
        client.refused(413, "POST", path, headers=declared, chunks=[b"x"])
        assert client.taken == 0
        for headers in ([(b"content-length", b"1")], [(b"transfer-encoding", b"chunked")]):
            client.refused(413, "POST", path, headers=headers, chunks=[b"x" * 50] * 1000)
            assert client.taken == limit // 50 + 1
    client.refused(413, chunks=[b"x"])
    for length in (b"-1", b"1e3", b"x"):
        client.refused(400, "POST", guards.UPLOAD, headers=[(b"content-length", length)])


def test_bodies_that_never_end(calls, folder):
    client = Client(calls, folder, seconds=0.01)
    client.refused(408, "POST", guards.UPLOAD, last="late")
    assert client.ask("POST", guards.UPLOAD, last="gone") is None
    assert not client.reached


def test_uploads_at_the_same_time(client):
    async def several():
        slow = [
            asyncio.create_task(client.asking("POST", guards.UPLOAD, last="late"))
            for _ in range(guards.MOST_UPLOADS)
        ]
        await asyncio.sleep(0)
        found = await client.asking("POST", guards.UPLOAD)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return found[0], (await client.asking("POST", guards.UPLOAD))[0]

    assert asyncio.run(several()) == (503, 200)


def test_uploads_have_one_limit_together(client, folder):
    for number in range(10):
        assert client.ask("POST", guards.UPLOAD, chunks=[b"x" * 300])[0] == 200
        os.utime(folder.files / f"{number + 1}.png", (number, number))
        assert sum(path.stat().st_size for path in folder.files.iterdir()) <= folder.most
    assert sorted(path.name for path in folder.files.iterdir()) == ["10.png", "8.png", "9.png"]


def test_a_call_is_rebuilt(client, folder):
    body = json.dumps(CALL | {"batched": True, "oauth_token": "x", "trigger_id": 7}).encode()
    assert client.ask("POST", guards.CALLS[0], chunks=[body[:9], body[9:]])[0] == 200
    known = {"fn_index", "session_hash", "data", "event_data", "trigger_id"}
    assert set(json.loads(client.reached[0])) == known
    assert json.loads(client.reached[0])["data"] == [0.5, 1.0]


def test_uploads_and_choices_are_rebuilt(calls, folder):
    path = str(folder.files / "face.png")
    (folder.files / "face.png").write_bytes(b"")
    file = {"path": path, "url": "http://example.com", "size": 1, "orig_name": "../x"}
    found = calls.check(json.dumps(CALL | {"fn_index": 2, "data": [file, 0]}).encode())
    assert json.loads(found)["data"][0] == {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = {"index": 11, "value": {"image": {"path": "/etc/passwd"}}}
    chosen = CALL | {"fn_index": 3, "data": [1.5], "event_data": event}
    found = calls.check(json.dumps(chosen).encode())
    assert json.loads(found)["event_data"] == {"index": 11, "value": None}


def wrong_calls():
    for value in ("1", None, [1], {}, True, -0.01, 1.51, 1e308, float("nan"), float("inf")):
        yield CALL | {"data": [value, 0.5]}
    for index in (-1, 12, 10**30, "3", None, 1.5, float("nan"), [0, 1], True):
        yield CALL | {"fn_index": 3, "data": [1], "event_data": {"index": index}}
    for event in (None, "x", [], {}, 3):
        yield CALL | {"fn_index": 3, "data": [1], "event_data": event}
    for path in ("/etc/passwd", "", "\0", None, 3, "https://example.com/x.png", "x" * 5000):
        yield CALL | {"fn_index": 2, "data": [{"path": path}, 1]}
    for file in (None, "x", [], {}):
        yield CALL | {"fn_index": 2, "data": [file, 1]}
    for function in (-1, 4, 10**30, "1", None, 1.0, True):
        yield CALL | {"fn_index": function}
    for name in ("", None, 3, "../x", "A", "a" * 65, "a\n"):
        yield CALL | {"session_hash": name}
    for data in ([], [1], [1, 1, 1], None, {}, "xx"):
        yield CALL | {"data": data}
    yield from ([], None, 3, "x", {})


@pytest.mark.parametrize("call", list(wrong_calls()), ids=repr)
def test_wrong_calls_are_explained(client, call):
    detail, _ = client.refused(422, "POST", guards.CALLS[1], chunks=[json.dumps(call).encode()])
    assert "\n" not in detail and "Traceback" not in detail


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 60_000, b"nul", b'{"data":' * 6000])
def test_what_is_no_call(client, body):
    client.refused(422, "POST", guards.CALLS[0], chunks=[body])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries(dict.fromkeys(CALL, JSON)), st.sets(st.sampled_from(sorted(CALL))))
def test_random_calls_are_understood_or_refused(call, good):
    calls = Calls({1: ["weight", "weight"]}, set(), None)
    call |= {name: CALL[name] for name in good}
    try:
        found = json.loads(calls.check(json.dumps(call).encode()))
    except PageError:
        assert not good >= set(CALL) - {"event_data"}
    else:
        assert found["fn_index"] == 1 and all(0 <= x <= 1.5 for x in found["data"])
        assert found["event_data"] is None
