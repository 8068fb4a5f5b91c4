"""A small Hub on this machine: the few routes that huggingface_hub calls, and a note of each call.

Files that end in .safetensors or .onnx travel by Git LFS, to another host name, as on the Hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".onnx", ".wasm")
IGNORED = ("/api/agent-harnesses",)  # which huggingface_hub asks now and then, for itself
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # branches and tags

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """The hash of a new commit of exactly these files."""
        parent = self.names.get(branch, "")
        listing = repr([parent, sorted((name, hash_of(data)) for name, data in files.items())])
        found = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[found] = dict(files)
        self.names[branch] = found
        return found

    def at(self, revision: str) -> str | None:
        return self.names.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.names[revision]]


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    host: str
    token: str | None


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refused(status: int, code: str = "", message: str = "") -> Answer:
    return status, {"X-Error-Code": code, "X-Error-Message": message}, b""


def of_json(data: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(data).encode()


class FakeHub:
    """Repositories, users by their token, and all calls so far."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.users = {"hf_ann": "ann", "hf_ben": "ben"}
        self.calls: list[Call] = []
        self.large: dict[str, bytes] = {}
        self.kept_apart = LARGE  # the ends of names of files that travel by LFS
        self.status: int | None = None  # what every question is answered with, if it is set
        self.silent_at: str | None = None  # the path of a question that gets no answer
        self.endpoint = ""

    def add(self, name: str, files: dict[str, bytes], **settings: bool) -> Repository:
        self.repositories[name] = Repository(**settings)
        self.repositories[name].commit(files)
        return self.repositories[name]

    def paths(self, method: str) -> list[str]:
        return [call.path for call in self.calls if call.method == method]

    def answer(self, call: Call, body: bytes) -> Answer:
        if self.status is not None:
            return refused(self.status, message="the Hub is being mended")
        if call.token is not None and call.token not in self.users and "/large/" not in call.path:
            return refused(401, message="Invalid credentials in Authorization header")
        for (method, pattern), route in ROUTES.items():
            found = re.fullmatch(pattern, call.path)
            if found and method == call.method:
                return route(self, call, [unquote(part) for part in found.groups()], body)
        return refused(404, message=f"no route {call.method} {call.path}")

    def seen(self, call: Call, name: str) -> Repository | Answer:
        """The repository, if the caller may see it."""
        found = self.repositories.get(name)
        user = self.users.get(call.token or "")
        if found is None or (found.private and user != name.split("/")[0]):
            return refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if found.gated and user != name.split("/")[0]:
            return refused(403, "GatedRepo", "Access to this model is restricted")
        return found


# Routes: each takes the call, the parts of its path and its body.


def resolve(hub: FakeHub, call: Call, parts: list[str], _: bytes) -> Answer:
    name, revision, path = parts
    found = hub.seen(call, name)
    if not isinstance(found, Repository):
        return found
    commit = found.at(revision)
    if commit is None:
        return refused(404, "RevisionNotFound", "Invalid rev id")
    if path not in found.commits[commit]:
        status, headers, body = refused(404, "EntryNotFound", "Entry not found")
        return status, headers | {"X-Repo-Commit": commit}, body
    data = found.commits[commit][path]
    return 200, {"X-Repo-Commit": commit, "ETag": f'"{hash_of(data)}"'}, data


def info(hub: FakeHub, call: Call, parts: list[str], _: bytes) -> Answer:
    found = hub.seen(call, parts[0])
    if not isinstance(found, Repository):
        return found
    return of_json({"id": parts[0], "private": found.private, "sha": found.names.get("main")})


def whoami(hub: FakeHub, call: Call, _: list[str], __: bytes) -> Answer:
    user = hub.users.get(call.token or "")
    return of_json({"name": user, "type": "user"}) if user else refused(401)


def tree(hub: FakeHub, call: Call, parts: list[str], _: bytes) -> Answer:
    found = hub.seen(call, parts[0])
    if not isinstance(found, Repository):
        return found
    files = found.commits[found.names[parts[1]]]
    return of_json(
        [{"type": "file", "path": p, "size": len(d), "oid": hash_of(d)} for p, d in files.items()]
    )


def create(hub: FakeHub, call: Call, _: list[str], body: bytes) -> Answer:
    asked = json.loads(body)
    owner, name = asked["organization"], asked["name"]
    if hub.users.get(call.token or "") != owner:
        return refused(403, message=f"You don't have the rights to create a model under {owner}")
    is_new = f"{owner}/{name}" not in hub.repositories
    if is_new:
        # How huggingface_hub asks depends on its version.
        private = asked.get("private") or asked.get("visibility") == "private"
        hub.add(f"{owner}/{name}", {}, private=bool(private))
    status, headers, content = of_json({"url": f"{hub.endpoint}/{owner}/{name}"})
    return (status if is_new else 409), headers, content


def branch(hub: FakeHub, call: Call, parts: list[str], _: bytes) -> Answer:
    found = hub.repositories[parts[0]]
    if parts[1] in found.names:
        return refused(409, message="Reference already exists")
    found.names[parts[1]] = found.names["main"]
    return of_json({})


def validate(hub: FakeHub, call: Call, _: list[str], body: bytes) -> Answer:
    content = json.loads(body)["content"]
    is_right = content.startswith("---\n") and "\nlicense: mit\n" in content
    errors = [] if is_right else [{"message": "license must be one of mit"}]
    status, headers, data = of_json({"errors": errors})
    return (status if is_right else 400), headers, data


def preupload(hub: FakeHub, call: Call, parts: list[str], body: bytes) -> Answer:
    if hub.users.get(call.token or "") != parts[0].split("/")[0]:
        return refused(403, message="you are not allowed to write")
    modes = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(hub.kept_apart) else "regular",
            "shouldIgnore": False,
        }
        for file in json.loads(body)["files"]
    ]
    return of_json({"files": modes})


def batch(hub: FakeHub, call: Call, parts: list[str], body: bytes) -> Answer:
    elsewhere = hub.endpoint.replace("127.0.0.1", "localhost")
    objects = [
        {**one, "actions": {"upload": {"href": f"{elsewhere}/large/{one['oid']}"}}}
        for one in json.loads(body)["objects"]
    ]
    return of_json({"transfer": "basic", "objects": objects})


def upload(hub: FakeHub, call: Call, parts: list[str], body: bytes) -> Answer:
    assert hash_of(body) == parts[0]
    hub.large[parts[0]] = body
    return of_json({})


def commit(hub: FakeHub, call: Call, parts: list[str], body: bytes) -> Answer:
    found = hub.repositories[parts[0]]
    files = dict(found.files(parts[1]))
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.large[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    oid = found.commit(files, parts[1])
    url = f"{hub.endpoint}/{parts[0]}/commit/{oid}"
    return of_json({"commitUrl": url, "commitOid": oid})


Route = Callable[[FakeHub, Call, list[str], bytes], Answer]
NAME = "([^/]+/[^/]+)"
ROUTES: dict[tuple[str, str], Route] = {
    ("HEAD", f"/{NAME}/resolve/([^/]+)/(.+)"): resolve,
    ("GET", f"/{NAME}/resolve/([^/]+)/(.+)"): resolve,
    ("GET", f"/api/models/{NAME}"): info,
    ("GET", f"/api/models/{NAME}/revision/([^/]+)"): info,
    ("GET", f"/api/models/{NAME}/tree/([^/]+)"): tree,
    ("GET", "/api/whoami-v2"): whoami,
    ("POST", "/api/repos/create"): create,
    ("POST", f"/api/models/{NAME}/branch/([^/]+)"): branch,
    ("POST", "/api/validate-yaml"): validate,
    ("POST", f"/api/models/{NAME}/preupload/([^/]+)"): preupload,
    ("POST", f"/{NAME}.git/info/lfs/objects/batch"): batch,
    ("PUT", "/large/([0-9a-f]+)"): upload,
    ("POST", f"/api/models/{NAME}/commit/([^/]+)"): commit,
}


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A Hub that answers until the end of the block."""
    hub = FakeHub()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = self.headers.get("Authorization")
            token = None if given is None else given.removeprefix("Bearer ")
            host = (self.headers.get("Host") or "").partition(":")[0]
            call = Call(self.command, urlsplit(self.path).path, host, token)
            if call.path in IGNORED:
                self.send_error(404)
                return
            hub.calls.append(call)
            if call.path == hub.silent_at:
                over.wait()
                return
            status, headers, data = hub.answer(call, body)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = _handle

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
