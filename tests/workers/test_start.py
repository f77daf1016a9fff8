"""How `locum serve` with several workers starts: what is loaded where, and how a wrong configuration ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.test_workers import CONFIG, eventually

pytestmark = pytest.mark.system

LIBRARY = '''
import os
import time
from pathlib import Path


class Row:
    def astype(self, kind):
        return self

    def tobytes(self):
        return bytes(4)


class SentenceTransformer:
    """Stands for a library that takes seconds and gigabytes; notes which process has loaded a model."""

    max_seq_length = None

    def __init__(self, folder, **options):
        loaded = Path(os.environ["LOADED_BY"])
        (loaded / str(os.getpid())).touch()
        if (loaded.parent / "one_dies").exists():
            try:
                (loaded.parent / "one_lives").mkdir()
            except FileExistsError:
                time.sleep(5)  # the other one serves by now
                os._exit(3)

    def tokenizer(self, texts, **options):
        return {"input_ids": [[1] for _ in texts]}

    def encode(self, texts, **options):
        return [Row() for _ in texts]
'''
NOBODY = "http://127.0.0.1:9/v1"


def start(folder: Path, more: str) -> subprocess.Popen[bytes]:
    """`locum serve` with two workers, where the library is installed and one model is."""
    for name in ("loaded", "library", "model"):
        (folder / name).mkdir()
    (folder / "locum.toml").write_text(CONFIG.format(url=NOBODY, folder=folder) + more)
    (folder / "library" / "sentence_transformers.py").write_text(LIBRARY)
    (folder / "library" / "torch.py").write_text("def set_num_threads(count):\n    pass\n")
    (folder / "model" / "modules.json").write_text("[]")
    paths = os.pathsep.join((str(folder / "library"), str(Path(__file__).parents[2])))
    with (folder / "serve.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(folder / "locum.toml")],
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, "LOADED_BY": str(folder / "loaded")},
        )


def test_parent_loads_no_model_that_its_workers_load(tmp_path: Path) -> None:
    process = start(tmp_path, f'[embeddings]\nmodel = "{tmp_path}/model"\n')
    log = tmp_path / "serve.log"
    eventually(lambda: "listens on" in log.read_text() or process.poll() is not None)
    loaded = {int(path.name) for path in (tmp_path / "loaded").iterdir()}
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, log.read_text()
    assert len(loaded) == 2
    assert process.pid not in loaded


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ('[[routing.policies]]\ntype = "no_such_policy"\n', "routing.policies"),
        ('[embeddings]\nmodel = "no/such/folder"\n', "embeddings.model"),
    ],
    ids=["policy", "model"],
)
def test_start_ends_with_wrong_input_and_the_key_once_when_the_workers_cannot_use_the_configuration(
    tmp_path: Path, more: str, key: str
) -> None:
    process = start(tmp_path, more)
    assert process.wait(120) == 2
    said = (tmp_path / "serve.log").read_text()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert key in errors[0]
    assert "Traceback" not in said


def test_start_ends_in_order_when_one_worker_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "one_dies").touch()
    process = start(tmp_path, f'[embeddings]\nmodel = "{tmp_path}/model"\n')
    assert process.wait(120) == 1
    said = (tmp_path / "serve.log").read_text()
    assert "a worker did not start (exit code 3)" in said
    assert "Traceback" not in said
    assert "cannot be used" not in said  # the shared memory is there until nobody uses it
    for path in (tmp_path / "loaded").iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)
