"""A model hub over the folders of a folder, as far as fetching goes.

FOLDER/OWNER/NAME/COMMIT/FILE are the files of a repository at a commit, and FOLDER/OWNER/NAME/main holds the newest
commit. A file `private` or `gated` beside it has the repository so for all but the token `good`; `licence` is the
licence of its card. Files of weights are kept at another host, as on the hub.

Prints its address, then serves until its standard input ends. A line there makes requests fail: `cut N` has the
next N bodies of weights end half-way, `status S N` the next N requests be answered by S, `damaged N` has the next N
bodies be of other bytes, `norange N` of the next N the range be passed over. `/log` lists the requests so far:
method, path, range and who asks.
"""

import hashlib
import http.server
import json
import pathlib
import sys
import threading

folder = pathlib.Path(sys.argv[1])
lock = threading.Lock()
log = []
faults = {"cut": 0, "status": 0, "damaged": 0, "norange": 0}
status = 500
LARGE = (".safetensors", ".bin", ".pth")


def fails_by(fault):
    with lock:
        faults[fault] -= 1
        return faults[fault] >= 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def do_HEAD(self):
        self.respond(False)

    def do_GET(self):
        if self.path == "/log":
            with lock:
                return self.answer(200, "\n".join(log).encode())
        self.respond(True)

    def respond(self, has_body):
        with lock:
            log.append(f"{self.command} {self.path} {self.headers.get('Range')} {self.token()}")
        if fails_by("status"):
            return self.answer(status, b"not now")
        parts = self.path.split("?")[0].strip("/").replace("%2F", "/").split("/")
        if parts[0] == "kept":
            if self.token():
                return self.answer(400, b"two ways to sign in")
            return self.send_file(folder.joinpath(*parts[1:]), {}, has_body)
        if parts[:2] == ["api", "models"]:
            return self.describe(parts[2:4], "/".join(parts[5:]))
        if len(parts) < 5:
            return self.answer(404)
        return self.resolve(parts[:2], parts[3], parts[4])

    def refuse(self, repository, for_files):
        """The answer to who may not see `repository`; nothing where it may be seen."""
        place = folder.joinpath(*repository)
        if self.token() == "expired":
            return 401, ""
        if not (place / "main").is_file() or (place / "private").exists() and self.token() != "good":
            return 404 if self.token() else 401, "RepoNotFound"
        if for_files and (place / "gated").exists() and self.token() != "good":
            return 403 if self.token() else 401, "GatedRepo"

    def commit(self, repository, revision):
        place = folder.joinpath(*repository)
        if revision == "main":
            return (place / "main").read_text().strip()
        return revision if revision and (place / revision).is_dir() else None

    def describe(self, repository, revision):
        refused = self.refuse(repository, False)
        if refused:
            return self.answer(refused[0], b"", {"X-Error-Code": refused[1]} if refused[1] else {})
        commit = self.commit(repository, revision)
        if commit is None:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        place = folder.joinpath(*repository)
        names = sorted(path.name for path in (place / commit).iterdir())
        found = {"id": "/".join(repository), "sha": commit, "siblings": [{"rfilename": name} for name in names]}
        if (place / "licence").exists():
            found["cardData"] = {"license": "other", "license_name": (place / "licence").read_text()}
        self.answer(200, json.dumps(found).encode())

    def resolve(self, repository, revision, name):
        refused = self.refuse(repository, True)
        if refused:
            return self.answer(refused[0], b"", {"X-Error-Code": refused[1]} if refused[1] else {})
        commit = self.commit(repository, revision)
        path = folder.joinpath(*repository, commit or "none", name)
        if not path.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        headers = {"X-Repo-Commit": commit}
        if name.endswith(LARGE):
            host = f"http://localhost:{self.server.server_address[1]}"
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(data))
            headers["Location"] = f"{host}/kept/{'/'.join(repository)}/{commit}/{name}"
            return self.answer(302, b"", headers)
        tag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        headers["ETag"] = f'"{tag}"'
        self.send_file(path, headers, self.command == "GET")

    def send_file(self, path, headers, has_body):
        data = path.read_bytes()
        size, start, code = len(data), 0, 200
        asked = self.headers.get("Range")
        if asked and not (has_body and fails_by("norange")):
            start, code = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"}
        body = data[start:]
        if has_body and fails_by("damaged"):
            body = bytes(byte ^ 1 for byte in body)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if not has_body:
            return
        if self.path.startswith("/kept") and fails_by("cut"):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)

    def answer(self, code, body=b"", headers={}):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main():
    global status
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    for line in sys.stdin:
        fault, *numbers = line.split()
        with lock:
            faults[fault] = int(numbers[-1])
            if fault == "status":
                status = int(numbers[0])
        print("done", flush=True)


main()
