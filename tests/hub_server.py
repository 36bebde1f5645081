"""A small Hub on loopback: what its client speaks to for making a repository, filling and reading it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "loopbackSecret" * 2
READ_ONLY = "hf_" + "onlyForReading" * 2


@dataclass
class Repo:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1] if self.commits else {}

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


class Hub:
    """State and what to do wrong: ``fail`` maps a kind of request to the statuses of its next answers."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.fail: dict[str, list[int]] = {}
        self.seen: Counter[str] = Counter()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(raw))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def fails(self, kind: str) -> bool:
            hub.seen[kind] += 1
            statuses = hub.fail.get(kind, [])
            if not statuses:
                return False
            status = statuses.pop(0)
            if status == 0:  # the line is cut
                self.close_connection = True
                self.connection.close()
            else:
                self.answer(status, {"error": "as the test wants it"})
            return True

        def token(self) -> str:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

        def may_write(self) -> bool:
            if self.token() == TOKEN:
                return True
            self.answer(403 if self.token() == READ_ONLY else 401, {"error": "Invalid credentials"})
            return False

        def do_POST(self) -> None:
            data = self.body()
            if not self.may_write():
                return
            if self.path == "/api/repos/create":
                self.create(json.loads(data))
            elif self.path.endswith("/info/lfs/objects/batch"):
                self.batch(json.loads(data))
            elif self.path == "/api/validate-yaml":  # the model card's head
                self.answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(data)["files"]
                found = [
                    {"path": f["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"} for f in files
                ]  # fmt: skip
                self.answer(200, {"files": found})
            elif "/commit/" in self.path:
                self.commit(data)
            else:
                self.answer(404)

        def create(self, asked: dict[str, Any]) -> None:
            if self.fails("create"):
                return
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            url = f"{hub.url}/{name}"
            if name in hub.repos:
                self.answer(409, {"error": "You already created this model repo", "url": url})
                return
            hub.repos[name] = Repo(bool(asked.get("private") or asked.get("visibility") == "private"))
            hub.repos[name].commits.append({})
            self.answer(200, {"url": url})

        def batch(self, asked: dict[str, Any]) -> None:
            if self.fails("batch"):
                return
            objects = []
            for item in asked["objects"]:
                known = item["oid"] in hub.objects
                upload = {"upload": {"href": f"{hub.url}/store/{item['oid']}", "header": {}}}
                objects.append({**item, "authenticated": True, **({} if known else {"actions": upload})})
            self.answer(200, {"transfer": "basic", "objects": objects})

        def do_PUT(self) -> None:
            data = self.body()
            if self.fails("store"):
                return
            oid = self.path.rsplit("/", 1)[1]
            assert hashlib.sha256(data).hexdigest() == oid
            hub.objects[oid] = data
            self.answer(200)

        def commit(self, data: bytes) -> None:
            if self.fails("commit"):
                return
            name = re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path)[1]
            repo = hub.repos[name]
            files = dict(repo.files)
            for line in map(json.loads, data.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
            repo.commits.append(files)
            url = f"{hub.url}/{name}/commit/{repo.sha}"
            self.answer(200, {"success": True, "commitOid": repo.sha, "commitUrl": url})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = re.match(r"/(?:api/models/)?([^/]+/[^/]+)(?:/|$)", path)
            repo = hub.repos.get(found[1]) if found else None
            if repo is None or (repo.private and self.token() not in (TOKEN, READ_ONLY)):
                status = 404 if self.token() else 401
                self.answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            elif path.startswith("/api/models/") and "/tree/" in path:
                self.answer(200, [_entry(k, v) for k, v in sorted(repo.files.items())])
            elif path.startswith("/api/models/"):
                siblings = [{"rfilename": n} for n in sorted(repo.files)]
                about = {"id": found[1], "sha": repo.sha, "private": repo.private, "siblings": siblings}
                self.answer(200, {**about, "tags": [], "downloads": 0, "likes": 0})
            else:
                self.file(repo, path.split("/", 5)[5])

        def file(self, repo: Repo, name: str) -> None:
            if name not in repo.files:
                self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
                return
            data = repo.files[name]
            about = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repo.sha}
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            if part:
                first, last = int(part[1]), min(int(part[2]), len(data) - 1)
                about["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                data = data[first : last + 1]
            if self.command == "GET":
                hub.seen[f"bytes of {name}"] += len(data)
            self.answer(206 if part else 200, data, about)

    return Handler


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
