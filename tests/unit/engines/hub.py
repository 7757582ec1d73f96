"""A Hugging Face hub on the loopback interface, of one repository, that can break off in mid-file."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny"
#: Above it a file has a SHA-256, below it a git object.
_LARGE = 10_000


class Hub:
    """Serves `files`; tells wrong hashes for those in `corrupt`.

    The first transfer of one in `broken` ends halfway, and with `closing` nothing is given out from then on.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.corrupt: set[str] = set()
        self.broken: set[str] = set()
        self.gated = self.closing = False
        #: Of every transfer: the file and the first byte that was asked for.
        self.transfers: list[tuple[str, int]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        path = urlparse(handler.path).path
        if self.gated:
            handler.send_response(403)
            handler.send_header("X-Error-Code", "GatedRepo")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._json(handler, [self._described(name) for name in self.files])
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [self._described(name) for name in self.files]
            self._json(handler, {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings})
        else:
            self._file(handler, path.rpartition("/")[2], body)

    def _described(self, name: str) -> dict[str, object]:
        content = self.files[name] + (b"!" if name in self.corrupt else b"")
        size = len(self.files[name])
        blob = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
        described: dict[str, object] = {"rfilename": name, "size": size, "blobId": blob}
        described |= {"type": "file", "path": name, "oid": blob}
        if size > _LARGE:
            sha256 = hashlib.sha256(content).hexdigest()
            described["lfs"] = {"sha256": sha256, "oid": sha256, "size": size, "pointerSize": 100}
        return described

    def _file(self, handler: BaseHTTPRequestHandler, name: str, body: bool) -> None:
        content = self.files[name]
        begin = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        handler.send_response(206 if begin else 200)
        handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Length", str(len(content) - begin))
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        if not body:
            return
        self.transfers.append((name, begin))
        end = len(content)
        if name in self.broken:
            self.broken.discard(name)
            self._await_others()
            self.gated = self.closing
            end = len(content) // 2
        handler.wfile.write(content[begin:end])
        if end < len(content):
            handler.connection.close()

    def _await_others(self) -> None:
        """Lets the configuration be asked for first, whichever of the client's threads is faster."""
        end = time.monotonic() + 10
        while "config.json" not in dict(self.transfers) and time.monotonic() < end:
            time.sleep(0.01)

    @staticmethod
    def _json(handler: BaseHTTPRequestHandler, content: object) -> None:
        encoded = json.dumps(content).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(encoded)))
        handler.end_headers()
        handler.wfile.write(encoded)
