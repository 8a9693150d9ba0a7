"""The unit from this repository under a real systemd: what it allows, what it forbids, and that no job is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from system.gates import DRAW
from system.hanging import hanging_open
from system.instance import wait_until
from system.machine import REPOSITORY, Machine, booted
from system.sandbox_probe import OPEN_FOLDERS

PROBE = Path(__file__).with_name("sandbox_probe.py")
CPU_ONLY = REPOSITORY / "etc" / "systemd" / "cpu-only.conf"

CONFIG = """
[watch]
settle_seconds = 0.1
rescan_seconds = 1
[post.provenance]
enabled = false
[presets.news]
priority = 1
[workers]
cpu = 2
cancel_seconds = 2
"""
"""With no `[paths]`: they are the service's own."""

HELD = f"""
import time
from pathlib import Path
from atenea import hookimpl
{DRAW}
@hookimpl
def render(job, wav, ctx):
    with (ctx.workdir / "attempts").open("a") as file:
        file.write("x")
    with open("/var/lib/atenea/calls", "a") as file:
        file.write(job.name + "\\n")
    while not Path("/var/lib/atenea/plugins/go-on").exists():
        ctx.progress(0.5, "held")
        time.sleep(0.01)
    ctx.report["attempts"] = (ctx.workdir / "attempts").stat().st_size
    return draw(job, wav, ctx)
"""

STUBBORN = """
import time
from atenea import hookimpl

@hookimpl
def render(job, wav, ctx):
    ctx.progress(0.25, "deaf")
    while True:
        time.sleep(1)
"""

KEYED = """
import hashlib, os
from atenea import Finding, hookimpl
needs = {"network"}

@hookimpl
def post(job, ctx):
    ctx.report["key"] = hashlib.sha256(os.environ["OPENAI_API_KEY"].encode()).hexdigest()

@hookimpl
def diagnose(ctx):
    return [Finding("key", "ok", hashlib.sha256(os.environ["OPENAI_API_KEY"].encode()).hexdigest())]
"""

UNTIL_HELD = [("intake", "done"), ("tts", "done"), ("audio", "done")]
AFTER_IT = [("render", "done"), ("mux", "done"), ("publish", "done")]
CUT_SHORT = [("render", "cut short")]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine")) as machine:
        machine.run("mkdir", "-p", "/etc/atenea")
        machine.write("/etc/atenea/atenea.toml", CONFIG)
        plugins = {"held": HELD, "stubborn": STUBBORN, "keyed": KEYED, "probe": PROBE.read_text()}
        for name, code in plugins.items():
            machine.plugin(name, code)
        yield machine


@pytest.fixture
def service(machine: Machine) -> Machine:
    """The service runs."""
    if machine.show("ActiveState") != {"ActiveState": "active"}:
        machine.started()
    return machine


# The unit


def test_the_unit_has_no_mistakes(machine: Machine) -> None:
    assert machine.run("systemd-analyze", "verify", "/etc/systemd/system/atenea.service") == ""


@pytest.mark.parametrize(("addition", "most"), [("", 1.6), (CPU_ONLY.read_text(), 1.0)], ids=["gpu", "cpu-only"])
def test_it_is_exposed_no_more_than_it_must_be(machine: Machine, addition: str, most: float) -> None:
    machine.write("/root/alone.service", (REPOSITORY / "atenea.service").read_text() + addition)
    analysis = machine.run("systemd-analyze", "security", "--offline=true", "--no-pager", "/root/alone.service")
    found = re.search(r"Overall exposure level for alone.service: ([\d.]+)", analysis)
    assert found
    assert float(found[1]) <= most, analysis


def test_sysusers_makes_a_user_who_cannot_log_in(machine: Machine) -> None:
    name, _, _, _, about, home, shell = machine.run("getent", "passwd", "atenea").strip().split(":")
    assert (name, about, home) == ("atenea", "atenea daemon", "/var/lib/atenea")
    assert shell.endswith("/nologin")
    assert machine.run("id", "-nG", "atenea").split() == ["atenea", "video"]


def test_it_starts_at_boot_after_what_it_needs(machine: Machine) -> None:
    machine.run("systemctl", "stop", "atenea")
    machine.run("systemctl", "enable", "atenea")
    machine.run("systemctl", "start", "multi-user.target")  # as the boot does
    shown = machine.show("ActiveState", "UnitFileState", "Wants", "After", "RequiresMountsFor")
    assert (shown["ActiveState"], shown["UnitFileState"]) == ("active", "enabled")
    wanted = {"network-online.target", "modprobe@nvidia_uvm.service"}
    assert wanted <= set(shown["Wants"].split())
    assert {"sysinit.target", "remote-fs.target", *wanted} <= set(shown["After"].split())
    assert {"/var/lib/atenea", "/var/cache/atenea"} <= set(shown["RequiresMountsFor"].split())


def devices(machine: Machine) -> set[str]:
    """What the service may open besides the likes of /dev/null; the clock is the doing of ProtectClock=."""
    assert machine.show("DevicePolicy") == {"DevicePolicy": "closed"}
    allowed = machine.run("systemctl", "show", "--property=DeviceAllow", "--value", "atenea").splitlines()
    return set(filter(None, allowed)) - {"char-rtc r"}


def test_of_all_devices_it_is_given_those_of_gpus(machine: Machine) -> None:
    assert devices(machine) == {"char-nvidia* rwm"}


# Its folders


def test_a_text_from_a_member_of_the_group_becomes_a_video(service: Machine) -> None:
    service.drop("hello.txt", "Hello from a service.")
    video = service.output("hello.mp4")
    assert service.run("stat", "--format=%U %G %a", video).split() == ["atenea", "atenea", "640"]
    service.run_as("ana", "cp", video, "/home/ana/")
    service.run_as("ana", "rm", video)
    assert service.names("inbox") == ["news"]
    shown = service.show("StatusText", "MainPID")
    assert service.run("ps", "-o", "user=", "-p", shown["MainPID"]).strip() == "atenea"
    assert service.names("state") != []

    job = service.job("hello")["id"]
    [entry] = wait_until(lambda: service.log("job finished", f"ATENEA_JOB={job}"), "the journal")
    assert entry["MESSAGE"] == f"job finished job={job} name=hello state=done files=['hello.json', 'hello.mp4']"
    fields = ("PRIORITY", "SYSLOG_IDENTIFIER", "ATENEA_JOB", "ATENEA_NAME", "ATENEA_STATE", "_SYSTEMD_UNIT")
    assert [entry[name] for name in fields] == ["6", "atenea", job, "hello", "done", "atenea.service"]
    started = service.log("stage started", f"ATENEA_JOB={job}")
    stages = [(entry["ATENEA_STAGE"], entry["ATENEA_PLUGIN"]) for entry in started]
    assert stages == [("tts", "espeak"), ("audio", "wav"), ("render", "preview"), ("mux", "")]


def test_a_stranger_sees_nothing_of_it(service: Machine) -> None:
    service.add_user("eve")
    for folder in ("inbox", "outbox", "state"):
        assert "Permission denied" in service.run(
            "runuser", "-u", "eve", "ls", f"/var/lib/atenea/{folder}", check=False
        )


def test_a_strict_umask_keeps_nothing_from_the_daemon(service: Machine) -> None:
    service.run_as("ana", "sh", "-c", "umask 077; mkdir inbox/folder")
    service.drop("folder/job.toml", 'text_file = "words.txt"\n', umask="077")
    service.drop("folder/words.txt", "Hello.", umask="077")
    service.output("folder.mp4")
    assert service.names("inbox") == ["news"]


def test_a_file_that_only_its_owner_may_read_is_answered(service: Machine) -> None:
    service.run_as("ana", "sh", "-c", "umask 077; echo Hello. > ~/private.txt; cp -p ~/private.txt inbox/")
    answer = service.run_as("ana", "cat", service.output("private.error.txt"))
    sentence = "private.txt: may not be read by atenea; run chmod g+r on it, and drop the job again"
    assert answer.splitlines()[0] == sentence
    assert service.names("inbox") == ["news"]


def test_a_preset_folder_is_for_the_group_too(service: Machine) -> None:
    service.drop("news/today.txt", "Good evening.")
    service.output("today.mp4")
    assert service.job("today")["preset"] == "news"


def test_an_upload_of_another_user_is_waited_for(service: Machine) -> None:
    slow = "exec 3>inbox/slow.txt; echo Hello. >&3; until test -e /home/ana/go-on; do sleep 0.05; done; echo More. >&3"
    service.run_as("ana", "sh", "-c", f"({slow}) >/dev/null 2>&1 &")
    wait_until(lambda: service.log("somebody still has the file open for writing"), "the daemon to see the writer")
    assert "slow.mp4" not in service.names("outbox")
    service.run_as("ana", "touch", "/home/ana/go-on")
    service.output("slow.mp4")
    wait_until(lambda: service.job("slow")["state"] == "done", "the job to be done")


def test_a_folder_that_somebody_submits_leaves_nothing_behind(service: Machine) -> None:
    service.run_as("ana", "mkdir", "-p", "/home/ana/many/deep")
    service.run_as("ana", "tee", "/home/ana/many/deep/words.txt", given="Hello.")
    service.run_as("ana", "tee", "/home/ana/many/job.toml", given='text_file = "deep/words.txt"\n')
    service.run_as("ana", "/opt/atenea/venv/bin/atenea", "submit", "/home/ana/many")
    service.output("many.mp4")
    assert service.names("inbox") == ["news"]


# Stopped, killed, hung


def held(machine: Machine, name: str) -> str:
    """A job that renders until `let_go`; the daemon's process id."""
    machine.run("rm", "-f", "/var/lib/atenea/plugins/go-on")
    machine.drop(f"{name}.toml", 'text = "Wait."\nrender.plugin = "held"\n')
    wait_for_call(machine, name, 1)
    return machine.show("MainPID")["MainPID"]


def wait_for_call(machine: Machine, name: str, number: int) -> None:
    """Wait until the job's render is called for this time."""
    wait_until(lambda: machine.read("/var/lib/atenea/calls").split().count(name) == number, name)


def let_go(machine: Machine, name: str) -> dict[str, Any]:
    """The report of the job that goes on now."""
    machine.run("touch", "/var/lib/atenea/plugins/go-on")
    machine.output(f"{name}.mp4")
    report: dict[str, Any] = json.loads(machine.run("cat", machine.output(f"{name}.json")))
    return report


def attempts(machine: Machine, name: str) -> list[tuple[str, str]]:
    """What came of each attempt at a stage of the job, which has its video."""
    wait_until(lambda: machine.job(name)["state"] == "done", "the job to be done")
    return [(attempt["stage"], attempt["outcome"]) for attempt in machine.job(name)["attempts"]]


def render_report(report: dict[str, Any]) -> Any:
    return next(stage for stage in report["stages"] if stage["stage"] == "render")["report"]


def test_stopped_in_a_render_it_goes_on_at_the_next_start(service: Machine) -> None:
    held(service, "stopped")
    assert len(service.run("pgrep", "-u", "atenea").split()) > 2
    service.run("systemctl", "stop", "atenea")
    expected = {"ActiveState": "inactive", "SubState": "dead", "Result": "success", "ExecMainStatus": "0"}
    assert service.show(*expected) == expected
    assert service.run("pgrep", "-u", "atenea", check=False) == ""
    service.run("systemctl", "start", "atenea")
    wait_for_call(service, "stopped", 2)
    assert render_report(let_go(service, "stopped")) == {"attempts": 2}
    assert attempts(service, "stopped") == [*UNTIL_HELD, *CUT_SHORT, *AFTER_IT]


def test_a_stage_gets_its_time_to_stop_even_if_the_unit_has_less(machine: Machine) -> None:
    with machine.changed("[Service]\nTimeoutStopSec=1\nWatchdogSec=10\n"):
        machine.drop("deaf.toml", 'text = "Wait."\nrender.plugin = "stubborn"\n')
        machine.wait_for_status("deaf: render by stubborn 25%")
        machine.run("systemctl", "stop", "atenea")
        assert machine.show("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
        machine.run_as("atenea", "/opt/atenea/venv/bin/atenea", "cancel", "deaf")


def restarted(machine: Machine, before: str, name: str) -> None:
    """Wait until another daemon has the job."""
    wait_for_call(machine, name, 2)
    assert machine.show("MainPID")["MainPID"] not in {before, "0"}
    assert machine.run("ps", "-o", "pid=", "-p", before, check=False) == ""


def test_killed_it_is_started_again_and_goes_on(service: Machine) -> None:
    main = held(service, "killed")
    workers = set(service.run("pgrep", "-u", "atenea").split())
    service.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "atenea")
    restarted(service, main, "killed")
    assert workers & set(service.run("pgrep", "-u", "atenea").split()) == set()
    assert render_report(let_go(service, "killed")) == {"attempts": 2}
    assert attempts(service, "killed") == [*UNTIL_HELD, *CUT_SHORT, *AFTER_IT]


def test_hung_it_is_ended_by_the_watchdog_and_goes_on(machine: Machine) -> None:
    assert machine.show("WatchdogUSec") == {"WatchdogUSec": "5min"}
    with machine.changed("[Service]\nWatchdogSec=4\n"):
        main = held(machine, "hung")
        with hanging_open(machine.folder("inbox")):  # all but the look into it goes on meanwhile
            wait_until(lambda: machine.show("MainPID")["MainPID"] != main, "the watchdog")
        restarted(machine, main, "hung")
        assert len(machine.log("atenea.service: Watchdog timeout")) == 1
        assert len(machine.log("Fatal Python error: Aborted")) == 1  # and where each of its threads was
        assert any("/inbox/scan.py" in entry["MESSAGE"] for entry in machine.log("  File "))
        assert render_report(let_go(machine, "hung")) == {"attempts": 2}
        assert attempts(machine, "hung") == [*UNTIL_HELD, *CUT_SHORT, *AFTER_IT]
        assert [name for name in machine.names("outbox") if name.startswith("hung")] == ["hung.json", "hung.mp4"]


# The configuration, the key


def test_a_reload_keeps_the_process_and_reads_the_configuration(service: Machine) -> None:
    before = service.show("MainPID")
    for config, message in [
        (f"{CONFIG}[tts]\nplugin = 'nobody'\n", "the configuration is not reloaded"),
        (CONFIG, "configuration reloaded"),
    ]:
        service.write("/etc/atenea/atenea.toml", config)
        service.run("systemctl", "reload", "atenea")
        wait_until(lambda message=message: len(service.log(message)) == 1, "the journal")
        wait_until(lambda: service.show("ActiveState") == {"ActiveState": "active"}, "the end of the reload")
        assert service.show("MainPID") == before


def test_a_mistake_in_the_configuration_is_no_reason_to_start_again(machine: Machine) -> None:
    machine.run("systemctl", "stop", "atenea")
    machine.write("/etc/atenea/atenea.toml", "[tts]\nplugin = 3\n")
    assert not machine.succeeds("systemctl", "start", "atenea")
    expected = {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}
    assert machine.show(*expected) == expected
    machine.write("/etc/atenea/atenea.toml", CONFIG)


def test_the_key_is_for_workers_and_for_nobody_else(machine: Machine) -> None:
    machine.write("/etc/atenea/openai_api_key", "sk-of-the-service\n")
    machine.run("chmod", "600", "/etc/atenea/openai_api_key")
    machine.started().drop("keyed.toml", 'text = "Hello."\npost.plugins = ["keyed"]\n')
    stages = json.loads(machine.run("cat", machine.output("keyed.json")))["stages"]
    assert stages[-1]["report"] == {"key": hashlib.sha256(b"sk-of-the-service").hexdigest()}
    assert "sk-of-the-service" not in machine.run("systemctl", "show", "atenea")
    environment = f"/proc/{machine.show('MainPID')['MainPID']}/environ"
    assert "sk-of-the-service" not in machine.run("cat", environment)


def test_the_doctor_is_given_the_key_as_documented(machine: Machine) -> None:
    machine.write("/etc/atenea/openai_api_key", "sk-of-the-service\n")
    machine.run("chmod", "600", "/etc/atenea/openai_api_key")
    machine.write("/etc/atenea/atenea.toml", CONFIG + '[post]\nplugins = ["keyed"]\n')
    said = machine.run("sh", "-c", _documented_doctor(), check=False)
    machine.write("/etc/atenea/atenea.toml", CONFIG)
    assert f"key: {hashlib.sha256(b'sk-of-the-service').hexdigest()}" in said
    assert "sk-of-the-service" not in said


def _documented_doctor() -> str:
    page = (REPOSITORY / "docs" / "setup.md").read_text()
    found = re.search(r"^sudo (systemd-run .*?)```", page, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


SIGNED = """certificate = "$CREDENTIALS_DIRECTORY/signer.pem"
private_key = "$CREDENTIALS_DIRECTORY/signer.pem"
"""


def test_videos_are_signed_with_a_credential(machine: Machine, tmp_path: Path) -> None:
    signer_module = pytest.importorskip("atenea.media.signer", reason="the extra provenance is not installed")
    signer_module.untrusted_signer(tmp_path)
    machine.write("/etc/atenea/signer.pem", (tmp_path / "test-certificate.pem").read_text())
    machine.run("chmod", "600", "/etc/atenea/signer.pem")
    machine.write("/etc/atenea/atenea.toml", CONFIG.replace("enabled = false\n", SIGNED))
    doctor = "/opt/atenea/venv/bin/atenea doctor --config /etc/atenea/atenea.toml --json"
    told = {
        finding["check"]: finding for finding in json.loads(machine.run("sh", "-c", doctor, check=False))["findings"]
    }
    unseen = told["provenance.certificate"]
    assert unseen["status"] == "note"
    said = machine.run("sh", "-c", unseen["cure"].removeprefix("sudo "), check=False)
    assert "ok       certificate: videos are signed by 'atenea test certificate, not trusted'" in said
    with machine.changed("[Service]\nLoadCredential=signer.pem:/etc/atenea/signer.pem\n"):
        machine.drop("signed.txt", "Hello.")
        video = machine.output("signed.mp4")
        command = ("/opt/atenea/venv/bin/atenea", "show", "--json", "--provenance", video)
        shown = json.loads(machine.run(*command, "--trust", "/etc/atenea/signer.pem"))
        assert (shown["state"], shown["made_by_ai"]) == ("trusted", True)
    machine.write("/etc/atenea/atenea.toml", CONFIG)


# What it forbids


def probed(machine: Machine, name: str) -> dict[str, int]:
    """What the operating system answers to a plugin that tries what it should not."""
    machine.drop(f"{name}.toml", 'text = "Hello."\npost.plugins = ["probe"]\n')
    report = json.loads(machine.run("cat", machine.output(f"{name}.json")))
    answers: dict[str, int] = report["stages"][-1]["report"]
    return answers


REFUSED = {
    "write /etc/open": errno.EROFS,
    "write /usr/open": errno.EROFS,
    "write /opt/open": errno.EROFS,
    "write /etc/atenea/open": errno.EROFS,
    "read /home": errno.EACCES,
    "look at process 1": errno.ENOENT,
    "open a device": errno.EPERM,
    "be traced": errno.EPERM,
    "mount": errno.EPERM,
    "load a module": errno.EPERM,
    "new user namespace": errno.EPERM,
    "raw socket": errno.EPERM,
    "packet socket": errno.EAFNOSUPPORT,
    "netlink socket": errno.EAFNOSUPPORT,
    "set the user id of a file": errno.EPERM,
    "real time": errno.EPERM,
    "other personality": errno.EPERM,
    "write its own folder": 0,
    "internet socket": 0,
    "memory that is written and run": 0,
}

ALLOWED_ELSEWHERE = set(REFUSED) - {"mount", "load a module", "raw socket", "packet socket", "real time"}
"""What any user may do outside of the unit: there, it is the unit that forbids it."""


@pytest.fixture(scope="module")
def probing(machine: Machine) -> Machine:
    """There is something to be found for whoever is not kept from it."""
    machine.run("mkdir", "-p", "-m", "1777", *OPEN_FOLDERS)
    machine.run("sh", "-c", "chmod 755 /home/ana && echo secret > /home/ana/note && chmod 644 /home/ana/note")
    machine.run("mknod", "-m", "666", "/dev/some-device", "c", "1", "11")
    return machine


def test_the_unit_forbids_what_no_plugin_needs(probing: Machine, service: Machine) -> None:
    home = errno.ENOENT if service.home_is_shown else errno.EACCES
    assert probed(service, "probe") == {**REFUSED, "read /home": home}
    outside = json.loads(service.run_as("atenea", "/opt/atenea/venv/bin/python", "/var/lib/atenea/plugins/probe.py"))
    assert {name for name, number in outside.items() if number == 0} >= ALLOWED_ELSEWHERE


def test_without_gpu_and_network_it_forbids_more(probing: Machine, machine: Machine) -> None:
    with machine.changed(CPU_ONLY.read_text()):
        assert devices(machine) == set()
        answers = probed(machine, "cpu-only")
    more = {"internet socket": errno.EAFNOSUPPORT, "raw socket": errno.EAFNOSUPPORT, "open a device": errno.ENOENT}
    home = errno.ENOENT if machine.home_is_shown else errno.EACCES
    assert answers == {**REFUSED, **more, "read /home": home, "memory that is written and run": errno.EPERM}
