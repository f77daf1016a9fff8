"""A tiny stand-in for vLLM's API process, run as a real child: /health, /v1/models, and ways to go wrong.

    python fake_server.py PORT [BEHAVIOUR...]

Behaviours: `exit=CODE` at once; `silent` (listens never); `crash` (dies at POST /crash with a log line); `stubborn`
(ignores SIGTERM); `mute` (answers /v1/completions with 500); `engine` (has a child of its own, whose pid is in the
file that follows, as vLLM has its engine).
"""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    sick = False
    mute = False

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(503 if Handler.sick else 200, {})
        else:
            self._answer(200, {"object": "list", "data": [{"id": "student", "max_model_len": 2048}]})

    def do_POST(self) -> None:
        if self.path == "/crash":
            sys.stdout.write("ValueError: the engine has run out of luck\nEngine core initialization failed.\n")
            sys.stdout.flush()
            os._exit(1)
        if Handler.mute and self.path == "/v1/completions":
            self._answer(500, {"error": "no words"})
            return
        Handler.sick = self.path == "/sick"
        self._answer(200, {"environment": dict(os.environ), "affinity": sorted(os.sched_getaffinity(0))})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    port, behaviours = int(sys.argv[1]), sys.argv[2:]
    sys.stdout.write("loading weights\n")
    sys.stdout.flush()
    for behaviour in behaviours:
        if behaviour.startswith("exit="):
            sys.stderr.write("RuntimeError: no weights\n")
            sys.exit(int(behaviour.removeprefix("exit=")))
    if "stubborn" in behaviours:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if "engine" in behaviours:
        engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        target = Path(behaviours[behaviours.index("engine") + 1])
        target.with_suffix(".partial").write_text(str(engine.pid))
        target.with_suffix(".partial").rename(target)
    Handler.mute = "mute" in behaviours
    if "silent" in behaviours:
        time.sleep(600)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
