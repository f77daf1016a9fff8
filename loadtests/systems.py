"""What the benchmark runs side by side: the fake backend, nginx as a plain proxy, and Locum, each a real process."""

from __future__ import annotations

import getpass
import grp
import os
import shutil
import socket
import sys
from pathlib import Path

from loadtests.children import Child, ChildError

MODEL = "auto"
"""Locum routes it; the fake backend serves a model of that name, so that all systems get the same bytes."""
WINDOW_TOKENS = 8_192
READY_TIMEOUT_S = 30.0

_NGINX_CONF = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
{user}
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  client_max_body_size 32m;
  client_body_buffer_size 256k;
  upstream backend {{
    server 127.0.0.1:{upstream_port};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""

_LOCUM_TOML = """\
[server]
port = {port}
workers = {workers}

[student]
base_url = "http://127.0.0.1:{upstream_port}/v1"
model = "student"
context_window_tokens = {window_tokens}
price_usd_per_1m_input_tokens = 0.02
price_usd_per_1m_output_tokens = 0.04

[teacher]
base_url = "http://127.0.0.1:{upstream_port}/v1"
model = "teacher"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
distillation = "allowed"

[log]
dir = "{folder}/traffic"
capture = "full"

[auth]
keys_env = "LOCUM_API_KEYS"

[limits]
requests_per_minute = 1e9
tokens_per_minute = 1e12
budget_usd_per_day = 1e9
max_concurrent_requests = 10_000
"""
API_KEY = "bench-0123456789abcdef"
LOCUM_HEADERS = {"authorization": f"Bearer {API_KEY}"}


def missing_tools() -> list[str]:
    """Debian packages to install before the benchmark can run."""
    found = {tool: shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin") for tool in ("nginx", "wrk")}
    return [tool for tool, path in found.items() if path is None]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fake_backend(port: int, *, cores: set[int], folder: Path) -> Child:
    command = [sys.executable, "-m", "loadtests.fake_backend", "--port", str(port)]
    for model in (MODEL, "student", "teacher"):
        command += ["--model", model]
    command += ["--window-tokens", str(WINDOW_TOKENS)]
    return Child(
        "fake backend",
        command,
        cores=cores,
        ready_url=f"http://127.0.0.1:{port}/health",
        log=folder / "fake.log",
        ready_timeout_s=READY_TIMEOUT_S,
    )


def nginx(port: int, upstream_port: int, *, cores: set[int], folder: Path) -> Child:
    """One worker, kept-alive upstream connections, no buffering: what a streaming proxy needs and no more."""
    own = folder / "nginx"
    own.mkdir()
    user = f"user {getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name};" if os.geteuid() == 0 else ""
    config = own / "nginx.conf"
    config.write_text(_NGINX_CONF.format(folder=own, port=port, upstream_port=upstream_port, user=user))
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin") or "nginx"
    return Child(
        "nginx",
        [program, "-p", str(own), "-c", str(config), "-e", str(own / "error.log")],
        cores=cores,
        ready_url=f"http://127.0.0.1:{port}/health",
        log=folder / "nginx.log",
        ready_timeout_s=READY_TIMEOUT_S,
    )


def locum(port: int, upstream_port: int, *, cores: set[int], folder: Path, workers: int = 1) -> Child:
    """The gateway with its three default policies, API keys, limits, a budget, metrics and decision records.

    Raises:
        ChildError: the `locum` command is not installed beside this Python.
    """
    program = Path(sys.executable).with_name("locum")
    if not program.exists():
        raise ChildError(f"there is no {program}: install the project into this environment (make install)")
    config = folder / "locum.toml"
    config.write_text(
        _LOCUM_TOML.format(
            folder=folder, port=port, upstream_port=upstream_port, window_tokens=WINDOW_TOKENS, workers=workers
        )
    )
    return Child(
        "locum",
        ["env", f"LOCUM_API_KEYS=bench={API_KEY}", str(program), "serve", "-c", str(config), "--log-level", "warning"],
        cores=cores,
        ready_url=f"http://127.0.0.1:{port}/readyz",
        log=folder / "locum.log",
        ready_timeout_s=READY_TIMEOUT_S,
    )
