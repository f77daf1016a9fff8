"""Run by TensorZero's own interpreter: starts its embedded gateway and tells at which port it listens.

`python tensorzero_embedded.py CONFIG PORT`: GET http://127.0.0.1:PORT/ answers `{"origin": ...}`.
"""

from __future__ import annotations

import importlib
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit


def main() -> None:
    config, port = sys.argv[1], int(sys.argv[2])
    openai = importlib.import_module("openai")
    tensorzero = importlib.import_module("tensorzero")
    client = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1")
    client = tensorzero.patch_openai_client(client, config_file=config, async_setup=False)
    base = urlsplit(str(client.base_url))
    origin = json.dumps({"origin": f"http://127.0.0.1:{base.port}", "path": base.path}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(origin)))
            self.end_headers()
            self.wfile.write(origin)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: it is asked twice."""

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
