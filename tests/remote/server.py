"""A small Kaggle on loopback, for the real client: it keeps state, and breaks in the ways that the real one does.

The client has no setting for its endpoint. Told that its environment is LOCALHOST it speaks plain HTTP to http://localhost, and through
a proxy that is reached on any port; with the HTTPS proxy set as well, nothing can leave the machine.
"""

import json
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, KEY = "someone", "0123456789abcdef-the-key"
DROP_BEFORE, DROP_AFTER = "the connection breaks before", "the connection breaks after"


@dataclass
class Kernel:
    requests: list[dict] = field(default_factory=list)  # of every version that was taken
    states: deque = field(default_factory=lambda: deque(["COMPLETE"]))  # what the next looks at its session find; the last stays
    log: str = ""
    failure: str = ""


class Server:
    """faults: by method, what happens to its next calls: a status code, an `error` to answer with, a broken connection."""

    def __init__(self):
        self.kernels: dict[str, Kernel] = {}
        self.faults: dict[str, deque] = defaultdict(deque)
        self.calls: list[str] = []
        self.missing: set[str] = set()  # sources that no account sees
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                server.answer(self, self.path.rpartition("/")[2], body)

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
        if fault == DROP_BEFORE:
            return handler.connection.close()
        if isinstance(fault, int):
            return reply(handler, fault, {"code": fault, "message": f"fault {fault}"})
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
        url = f"https://www.kaggle.com/code/{body['slug']}"
        return 200, {"ref": body["slug"], "url": url, "versionNumber": len(kernel.requests), **dropped}

    def GetKernel(self, body):
        kernel = self.kernels.get(f"{body['userName']}/{body['kernelSlug']}")
        if kernel is None:
            return 404, {"code": 404, "message": "Notebook not found"}
        return 200, {"metadata": {"currentVersionNumber": len(kernel.requests)}, "blob": {"source": kernel.requests[-1]["text"]}}

    def GetKernelSessionStatus(self, body):
        kernel = self.kernels[f"{body['userName']}/{body['kernelSlug']}"]
        state = kernel.states.popleft() if len(kernel.states) > 1 else kernel.states[0]
        return 200, {"status": state, "failureMessage": kernel.failure}

    def ListKernelSessionOutput(self, body):
        return 200, {"files": [], "log": self.kernels[f"{body['userName']}/{body['kernelSlug']}"].log}


def reply(handler, code, value):
    content = json.dumps(value).encode()
    handler.send_response(code)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
