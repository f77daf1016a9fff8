"""The benchmark's arithmetic and its handling of child processes; its figures are no test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from loadtests import bench, systems
from loadtests.children import Child, ChildError, descendants
from loadtests.client import Target
from loadtests.comparison import Contender, print_comparison
from loadtests.faults.system import NotInstalled
from loadtests.goals import added_s, goals
from loadtests.measure import MeasurementError, Sample, System, check
from loadtests.peers import ProductionStack, all_peers
from loadtests.report import Median, Report, medians
from loadtests.scenarios import SCENARIOS, calls

from .conftest import Wait


def sample(system: str, scenario: str, rate: float, *, p99_s: float = 0.001, busy: float = 1.0) -> Sample:
    return Sample(
        system=system,
        scenario=scenario,
        requests=int(rate),
        failed=0,
        requests_per_s=rate,
        p50_s=0.0005,
        p90_s=0.0007,
        p99_s=p99_s,
        cpu_share=busy,
        cpu_s_per_request=busy / rate,
        rss_bytes=2**20,
    )


def test_median_is_taken_over_rounds_when_one_round_was_noisy() -> None:
    (row,) = medians([sample("nginx", "plain", rate) for rate in (100, 20_000, 30_000)])
    assert (row.requests_per_s, row.rounds, row.requests) == (20_000, 3, 50_100)


@pytest.mark.parametrize(("ours", "met"), [(1_900, True), (1_700, False)])
def test_plain_goal_is_judged_by_the_ratio_when_nginx_was_saturated(ours: int, met: bool) -> None:
    samples = [sample("nginx", "plain", 30_000), sample("locum", "plain", ours)]
    goal, _ = goals(medians(samples), samples)
    assert goal.met is met
    assert goal.value == pytest.approx(ours / 30_000)
    assert goal.note == ""


def test_plain_goal_is_missed_when_only_an_idle_nginx_lets_it_be_met() -> None:
    samples = [sample("nginx", "plain", 12_000, busy=0.4), sample("locum", "plain", 1_200)]
    goal, _ = goals(medians(samples), samples)
    assert goal.value == pytest.approx(0.1)
    assert not goal.met
    assert "40% busy" in goal.note


@pytest.mark.parametrize(("ours", "met"), [(1_200, True), (1_000, False)])
def test_stream_goal_is_judged_by_the_ratio_when_measured(ours: int, met: bool) -> None:
    samples = [sample("nginx", "stream", 2_000), sample("locum", "stream", ours)]
    goal, _ = goals(medians(samples), samples)
    assert goal.met is met


def test_added_latency_is_the_median_of_paired_rounds_when_one_is_noisy() -> None:
    direct = [sample("direct", "latency", 300, p99_s=value) for value in (0.001, 0.050, 0.001)]
    ours = [sample("locum", "latency", 300, p99_s=value) for value in (0.004, 0.054, 0.020)]
    assert added_s(direct + ours, "latency", "p99_s") == pytest.approx(0.004)
    goal, _ = goals(medians(direct + ours), direct + ours)
    assert goal.met


def test_no_goal_is_judged_when_a_system_was_left_out() -> None:
    samples = [sample("nginx", "plain", 30_000), sample("direct", "latency", 300)]
    assert goals(medians(samples), samples) == []


@pytest.mark.parametrize(("other", "rate", "met"), [("tensorzero", 1_000, True), ("litellm", 15, False)])
def test_plain_goal_is_judged_against_each_peer_when_it_was_measured(other: str, rate: int, met: bool) -> None:
    samples = [sample(other, "plain", rate), sample("locum", "plain", 701)]
    goal, memory = goals(medians(samples), samples)
    assert goal.met is met
    assert memory.met


def test_memory_goal_is_missed_when_a_worker_is_larger_than_its_bound() -> None:
    large = msgspec.structs.replace(sample("locum", "single", 100), rss_bytes=151 * 2**20)
    (goal,) = goals(medians([large]), [large])
    assert not goal.met


def test_comparison_names_why_a_peer_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    absent = Contender(name="litellm", version="1", about="proxy", not_installed="no index has it")
    samples = [sample("nginx", "plain", 1_000), sample("locum", "plain", 500), sample("locum", "stream", 50)]
    report = Report(
        environment={},
        rounds=1,
        seconds=1,
        foreign_cpu_share=0,
        medians=medians(samples),
        goals=[],
        contenders=[absent],
        mixed_routes={},
        samples=samples,
    )
    print_comparison(Console(width=160), report)
    printed = capsys.readouterr().out
    assert "litellm 1: not measured: no index has it" in printed
    assert "0.50" in next(line for line in printed.splitlines() if "nginx" in line)


def test_constant_rate_is_left_out_when_the_system_cannot_reach_it() -> None:
    target = Target.parse("http://127.0.0.1:9/v1")
    system = System("litellm", target, Child("x", [], cores=set(), ready_url="", log=Path("x"), ready_timeout_s=1))
    slow, fast = [sample("litellm", "plain", 30)], [sample("litellm", "plain", 400)]
    assert bench.is_too_slow(system, SCENARIOS["latency"], slow)
    assert not bench.is_too_slow(system, SCENARIOS["latency"], fast)
    assert not bench.is_too_slow(system, SCENARIOS["plain"], slow)


@pytest.mark.parametrize("source", [None, Path("nowhere")])
def test_production_stack_says_what_it_needs_when_there_is_no_checkout(source: Path | None, tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match=r"vllm_router|--production-stack"):
        ProductionStack(source).install(tmp_path)


def test_peers_have_locked_versions() -> None:
    peers = [peer for peer in all_peers(None) if not isinstance(peer, ProductionStack)]
    assert all(peer.version[0].isdigit() for peer in peers)


def test_check_fails_when_a_stream_is_cut(tmp_path: Path, core: set[int]) -> None:
    (call,) = calls("stream", systems.MODEL, count=1)
    cut = msgspec.structs.replace(call, body=call.body.replace(b"fake-tokens-50", b"fault-cut-3+tokens-50"))
    with (
        bench.running_systems(("direct",), (), tmp_path, core, core) as (direct,),
        pytest.raises(MeasurementError, match="direct: a stream request"),
    ):
        check(direct, calls("plain", systems.MODEL, count=1), [cut])


def test_full_core_rate_is_the_measured_one_when_cost_is_unknown() -> None:
    row = Median(
        system="nginx",
        scenario="plain",
        rounds=1,
        requests=1,
        failed=0,
        requests_per_s=7,
        p50_s=0,
        p99_s=0,
        cpu_share=0,
        cpu_s_per_request=0,
        rss_bytes=0,
    )
    assert row.full_core_requests_per_s == 7


@pytest.fixture
def core() -> set[int]:
    return {sorted(os.sched_getaffinity(0))[-1]}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_running(pid: int) -> bool:
    """A zombie waits only for its parent to look."""
    stat = Path(f"/proc/{pid}/stat")
    return is_alive(pid) and stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_fake_backend_child_is_pinned_and_ended_when_left(tmp_path: Path, core: set[int]) -> None:
    before = os.sched_getaffinity(0)
    with systems.fake_backend(systems.free_port(), cores=core, folder=tmp_path) as child:
        pid = child.pid
        assert os.sched_getaffinity(pid) == core
        assert child.rss_bytes() > 2**20
        assert child.cpu_s() > 0
        child.check_alive()
    assert not is_alive(pid)
    assert os.sched_getaffinity(0) == before


def test_descendants_are_ended_when_their_parent_ignores_them(tmp_path: Path, core: set[int], wait_for: Wait) -> None:
    script = (
        "import http.server, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()"
    )
    port = systems.free_port()
    child = Child(
        "parent",
        [sys.executable, "-c", script, str(port)],
        cores=core,
        ready_url=f"http://127.0.0.1:{port}/",
        log=tmp_path / "log",
        ready_timeout_s=20,
    )
    with child:
        (orphan,) = descendants(child.pid)
    wait_for(lambda: not is_running(orphan))
    assert not is_running(orphan)


def test_child_error_holds_the_log_when_the_command_dies(tmp_path: Path, core: set[int]) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    child = Child(
        "student", command, cores=core, ready_url="http://127.0.0.1:9/", log=tmp_path / "log", ready_timeout_s=20
    )
    with pytest.raises(ChildError, match=r"student ended with 1(.|\n)*no such model"), child:
        pass


def test_child_error_says_what_was_awaited_when_it_never_gets_ready(tmp_path: Path, core: set[int]) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = Child(
        "mute", command, cores=core, ready_url="http://127.0.0.1:9/x", log=tmp_path / "log", ready_timeout_s=0.2
    )
    with pytest.raises(ChildError, match=r"mute did not answer 200 at http://127.0.0.1:9/x"), child:
        pass


def test_bench_names_the_install_line_when_tools_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "missing_tools", lambda: ["nginx", "wrk"])
    done = CliRunner().invoke(bench.main, [])
    assert done.exit_code == 2
    assert "apt-get install -y nginx wrk" in done.output


def test_nginx_proxies_a_stream_when_installed(tmp_path: Path, core: set[int]) -> None:
    if "nginx" in systems.missing_tools():
        pytest.skip("nginx is not installed")
    plain, stream = (calls(name, systems.MODEL, count=8) for name in ("plain", "stream"))
    with bench.running_systems(("direct", "nginx"), (), tmp_path, core, core) as running:
        assert [system.name for system in running] == ["direct", "nginx"]
        for system in running:
            check(system, plain, stream)
