"""A small Kaggle on loopback, for the real client: it keeps state, and breaks in the ways that the real one does.

The client has no setting for its endpoint. Told that its environment is LOCALHOST it speaks plain HTTP to http://localhost, and through
a proxy that is reached on any port; with the HTTPS proxy set as well, nothing can leave the machine.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

USER, KEY = "someone", "0123456789abcdef-the-key"
DROP_BEFORE, DROP_AFTER = "the connection breaks before", "the connection breaks after"
CUT, ZIPPED, ZIPPED_CUT = "a file without its end", "a file compressed on its way", "a compressed file without its end"


@dataclass
class Kernel:
    requests: list[dict] = field(default_factory=list)  # of every version that was taken
    states: deque = field(default_factory=lambda: deque(["COMPLETE"]))  # what the next looks at its session find; the last stays
    log: str = ""
    failure: str = ""
    outputs: dict[int, Path] = field(default_factory=dict)  # by version, what each session that was kept has left
    failed: set[int] = field(default_factory=set)  # versions whose session did not end well: mounted by their number alone
    told: dict[int, tuple[str, str, str]] = field(default_factory=dict)  # by version, an ended session's state, reason and log


@dataclass
class Silence:
    """A slow answer."""

    seconds: float


class Server:
    """faults: by method, what happens to its next calls: a status code, an `error` to answer with, a broken connection, silence, or bytes
    to answer with.

    root: where pushed scripts are run, each in a folder shaped like a session; None: none is run. limits: by session number, seconds
    after which it is killed, and whether its output is kept. stale: sessions that are given the output before the newest.
    """

    def __init__(self, root: Path | None = None):
        self.root, self.limits, self.stale = root, {}, set()
        self.wordless: set[int] = set()  # sessions whose output is kept, and that are called failed without a reason
        self.cancelled: set[int] = set()  # likewise, and that are called cancelled
        self.kernels: dict[str, Kernel] = {}
        self.faults: dict[str, deque] = defaultdict(deque)
        self.calls: list[str] = []
        self.used = 3600  # seconds of the week's GPU time
        self.missing: set[str] = set()  # sources that no account sees
        self.knows_versions = True  # whether sessions before the newest are told of
        self.sessions = 0
        self.blobs: dict[str, tuple[str, bytes]] = {}  # by token: name and content
        self.datasets: dict[str, dict[str, bytes]] = {}  # the newest version's files
        self.submissions: list[dict] = []  # newest first
        self.allowed, self.score = 5, "0.50000"
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                server.answer(self, self.path.rpartition("/")[2], body)

            def do_GET(self):
                method = "download"
                server.calls.append(method)
                fault = server.faults[method].popleft() if server.faults[method] else None
                content = Path(unquote(self.path.partition("/files")[2])).read_bytes()
                self.send_response(fault if isinstance(fault, int) else 200)
                if fault in (ZIPPED, ZIPPED_CUT):
                    self.send_header("Content-Encoding", "gzip")
                    content = gzip.compress(content)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:-9] if fault in (CUT, ZIPPED_CUT) else content)

            def do_PUT(self):
                server.calls.append("upload")
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if server.faults["upload"]:
                    return reply(self, server.faults["upload"].popleft(), {})
                token = self.path.rpartition("/")[2]
                server.blobs[token] = (server.blobs[token][0], content)
                return reply(self, 200, {})

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        proxy = f"http://127.0.0.1:{self.http.server_port}"
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), proxy)
        return proxies | {
            "NO_PROXY": "",
            "no_proxy": "",
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": USER,
            "KAGGLE_KEY": KEY,
            "KAGGLE_CONFIG_DIR": "/nonexistent",
        }

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler, method, body):
        self.calls.append(method)
        fault = self.faults[method].popleft() if self.faults[method] else None
        if isinstance(fault, Silence):
            time.sleep(fault.seconds)
        if fault == DROP_BEFORE:
            return handler.connection.close()
        if isinstance(fault, int):
            return reply(handler, fault, {"code": fault, "message": f"fault {fault}"})
        if isinstance(fault, bytes):
            return reply(handler, 200, fault)
        if isinstance(fault, str) and fault != DROP_AFTER:
            return reply(handler, 200, {"error": fault})
        code, value = getattr(self, method, self.unknown)(body)
        if fault == DROP_AFTER:
            return handler.connection.close()
        return reply(handler, code, value)

    def unknown(self, body):
        return 404, {"code": 404, "message": "no such method"}

    def SaveKernel(self, body):
        kernel = self.kernels.setdefault(body["slug"], Kernel())
        kernel.requests.append(body)
        dropped = {
            f"invalid{kind}Sources": [
                source for source in body.get(f"{kind[0].lower()}{kind[1:]}DataSources", []) if source in self.missing
            ]
            for kind in ("Dataset", "Competition", "Kernel", "Model")
        }
        if self.root:
            kernel.states = deque(["RUNNING"])
            self.sessions += 1
            threading.Thread(target=self.run, args=(kernel, body, self.sessions, len(kernel.requests)), daemon=True).start()
        url = f"https://www.kaggle.com/code/{body['slug']}"
        return 200, {"ref": body["slug"], "url": url, "versionNumber": len(kernel.requests), **dropped}

    def mounted(self, source, number):
        """The output that a kernel source brings: of the version that it names, else of the newest that ended well. None: nothing."""
        owner, slug, *version = source.split("/")
        kernel = self.kernels[f"{owner}/{slug}"]
        if version:
            return kernel.outputs.get(int(version[0]))
        well = sorted(kernel.outputs.keys() - kernel.failed)[: -1 if number in self.stale else None]
        return kernel.outputs[well[-1]] if well else None

    def run(self, kernel, body, number, version):
        """A session: the script that was pushed, alone, with its sources mounted, killed at its limit."""
        place = self.root / str(number)
        (place / "working").mkdir(parents=True)
        (place / "input").mkdir()
        for source in set(body.get("kernelDataSources", [])) - self.missing:
            owner, slug, *_ = source.split("/")
            layout = f"notebooks/{owner}/{slug}" if number % 2 else slug
            if output := self.mounted(source, number):
                shutil.copytree(output, place / "input" / layout)
        for source in set(body.get("datasetDataSources", [])) - self.missing:
            layout = place / "input" / (f"datasets/{source}" if number % 2 else source.partition("/")[2])
            layout.mkdir(parents=True)
            for name, content in self.datasets[source].items():
                (layout / name).write_bytes(content)
        (place / "script.py").write_text(body["text"])
        ours = ("PYTHONPATH", "KIT_SESSION_STARTED")  # its kit is the bundle's
        clean = {name: value for name, value in os.environ.items() if name not in ours} | {"TMPDIR": str(place)}
        seconds, kept = self.limits.get(number, (None, True))
        with open(place / "log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, str(place / "script.py")],
                cwd=place / "working",
                env=clean | {"KIT_KAGGLE": str(place)},
                stdout=log,
                stderr=log,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
        if kept and code in (0, None):  # what is attached is a version that ran to its end or its limit
            kernel.outputs[version] = place / "working"
        if code != 0 or number in self.wordless | self.cancelled:
            kernel.failed.add(version)
        failure = "Your notebook exceeded the time limit" if code is None else "" if code == 0 else f"exit code {code}"
        ended = "CANCEL_ACKNOWLEDGED" if number in self.cancelled else "ERROR" if version in kernel.failed else "COMPLETE"
        kernel.told[version] = ended, failure, (place / "log").read_text()
        if version == len(kernel.requests):
            ended, kernel.failure, kernel.log = kernel.told[version]
            kernel.states = deque([ended])

    def labelled(self, kernel, body):
        """An earlier session's state, reason, log and version; None where the newest is asked for."""
        if not (label := body.get("versionLabel")):
            return None
        version = int(label.removeprefix("v")) if self.knows_versions and label.startswith("v") else 0
        if not 0 < version <= len(kernel.requests):
            return "NOT FOUND", "", "", 0
        return *kernel.told.get(version, ("RUNNING", "", "")), version

    def GetKernel(self, body):
        kernel = self.kernels.get(f"{body['userName']}/{body['kernelSlug']}")
        if kernel is None:
            return 404, {"code": 404, "message": "Notebook not found"}
        newest = kernel.requests[-1]
        taken = {
            f"{kind}DataSources": [f"{prefix}/{source}" for source in newest.get(f"{kind}DataSources", []) if source not in self.missing]
            for kind, prefix in (("dataset", "datasets"), ("competition", "c"), ("kernel", "code"), ("model", "models"))
        }
        return 200, {"metadata": {"currentVersionNumber": len(kernel.requests), **taken}, "blob": {"source": newest["text"]}}

    def GetKernelSessionStatus(self, body):
        kernel = self.kernels.get(f"{body['userName']}/{body['kernelSlug']}")
        if kernel is None:
            return 404, {"code": 404, "message": "Notebook not found"}
        if named := self.labelled(kernel, body):
            return (200, {"status": named[0], "failureMessage": named[1]}) if named[3] else (404, {"code": 404, "message": "Not found"})
        state = kernel.states.popleft() if len(kernel.states) > 1 else kernel.states[0]
        return 200, {"status": state, "failureMessage": kernel.failure}

    def ListKernelSessionOutput(self, body):
        """Two files a page; what a session has left, when it has ended."""
        kernel = self.kernels[f"{body['userName']}/{body['kernelSlug']}"]
        newest = (*kernel.states, "", kernel.log, len(kernel.requests))
        state, *_, log, version = self.labelled(kernel, body) or newest
        left = kernel.outputs.get(version) if state != "RUNNING" else None
        files = sorted(file for file in left.rglob("*") if file.is_file()) if left else []
        first = int(body.get("pageToken") or 0)
        listed = [
            {"fileName": str(file.relative_to(left)), "url": f"http://localhost/files{quote(str(file))}"}
            for file in files[first : first + 2]
        ]
        more = {"nextPageToken": str(first + 2)} if first + 2 < len(files) else {}
        return 200, {"files": listed, "log": log, **more}

    def StartBlobUpload(self, body):
        token = f"token-{len(self.blobs)}"
        self.blobs[token] = (body.get("name") or body.get("fileName"), b"")
        return 200, {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    StartSubmissionUpload = StartBlobUpload

    def GetDatasetStatus(self, body):
        if f"{body['ownerSlug']}/{body['datasetSlug']}" not in self.datasets:
            return 403, {"code": 403, "message": "Permission denied"}
        return 200, {"status": "READY"}

    def CreateDataset(self, body):
        assert body["isPrivate"]  # before it is there: an answer that is lost is asked for again, and finds it
        self.datasets[f"{body['ownerSlug']}/{body['slug']}"] = dict(self.blobs[file["token"]] for file in body["files"])
        return 200, {"status": "ok"}

    def CreateDatasetVersion(self, body):
        self.datasets[f"{body['ownerSlug']}/{body['datasetSlug']}"] = dict(self.blobs[file["token"]] for file in body["body"]["files"])
        return 200, {"status": "ok"}

    def GetSubmissionLimits(self, body):
        return 200, {"numToday": len(self.submissions), "numAllowedNow": self.allowed - len(self.submissions)}

    def CreateSubmission(self, body):
        ref = 100 + len(self.submissions)
        one = {"ref": ref, "description": body["submissionDescription"], "fileName": self.blobs[body["blobFileTokens"]][0]}
        self.submissions.insert(
            0, one | {"status": "PENDING", "date": "2026-11-21T03:00:00Z", "content": self.blobs[body["blobFileTokens"]][1]}
        )
        return 200, {"ref": ref, "message": "Successfully submitted"}

    def ListSubmissions(self, body):
        """One a page; what is asked for a second time is scored."""
        first = int(body.get("pageToken") or 0)
        shown = self.submissions[first : first + 1]
        answer = [{name: value for name, value in one.items() if name != "content"} for one in shown]
        for one in (one for one in shown if one["status"] == "PENDING"):
            scored = {"status": "COMPLETE", "publicScore": self.score} if self.score else {"status": "ERROR", "errorDescription": "bad ids"}
            one.update(scored)
        more = {"nextPageToken": str(first + 1)} if first + 1 < len(self.submissions) else {}
        return 200, {"submissions": answer, **more}

    def GenerateAccessToken(self, body):
        assert body["refreshToken"] == "the-refresh-token"
        return 200, {"token": "the-next-token", "expiresIn": 43_200}

    def GetAcceleratorQuotaStatistics(self, body):
        return 200, {"gpuQuota": {"timeUsed": f"{self.used}s", "totalTimeAllowed": "108000s"}}


def reply(handler, code, value):
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(code)
    handler.send_header("Content-Type", "text/html" if isinstance(value, bytes) else "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def loopback(monkeypatch, server):
    """For a fixture: the environment in which the client can reach this server and nothing else."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()
