"""deploy.sh on a real installation: nothing is lost, runs are safe to repeat, and what is there is read from the facts."""

import json
import os
import re
import signal
import statistics
import subprocess
import time
import unittest
from pathlib import Path

from .support import BUSY, IS_ROOT, ROOT, VELUM, Load, Server, busyness, check, installation

DEPLOYS = int(os.environ.get("VELUM_TEST_DEPLOYS", "3"))
ROLLBACKS = int(os.environ.get("VELUM_TEST_ROLLBACKS", "2"))


def setUpModule():
    house = installation()
    house.release("first")
    house.release("second")
    house.succeeds("deploy", "first")


def seconds(pattern, text):
    found = re.search(pattern + r"[^\n]*?(\d+\.\d+) s", text, re.DOTALL)
    return float(found.group(1)) if found else None


class Figures:
    def __init__(self):
        self.values = {}

    def add(self, name, value):
        if value is not None:
            self.values.setdefault(name, []).append(value)

    def show(self):
        for name, values in self.values.items():
            print(f"    {name}: median {statistics.median(values):.3f} s, longest {max(values):.3f} s, of {len(values)}", flush=True)

    def median(self, name):
        return statistics.median(self.values[name])


def show_load(counts):
    for kind in ("Http1", "Http2"):
        found = counts[kind]
        print(f"    {kind}: {found['requests']} requests, {found['enrolments']} enrolments, {found['verifications']} verifications, "
              f"slowest answer {found['slowest_s']} s", flush=True)
    print(f"    failed requests: {len(counts['failures'])}", flush=True)


class ZeroLoss(unittest.TestCase):
    def test_deploys_and_rollbacks_lose_no_request(self):
        house, figures = installation(), Figures()
        load, busy = Load(house), busyness()
        try:
            for number in range(DEPLOYS):
                release = house.release(f"release-{number % 3}")
                begun = time.monotonic()
                said = house.succeeds("deploy", release, "--again")
                figures.add("deploy", time.monotonic() - begun)
                figures.add("switch", seconds("switched in", said))
                figures.add("cold start to ready", seconds(r"start (?:blue|green)\b.*?done in", said)
                            + seconds(r"is ready\n.*?done in", said))
                self.assertEqual(house.status()["release"], release)
                self.assertEqual(load.failures(), [])
                busy = max(busy, busyness())
            for _ in range(ROLLBACKS):
                before = house.status()["previous_release"]
                if not before:
                    break
                said = house.succeeds("rollback")
                figures.add("switch", seconds("switched in", said))
                figures.add("rollback until the release before serves", seconds("back on .* after", said))
                self.assertEqual(house.status()["release"], before)
                self.assertEqual(load.failures(), [])
        finally:
            counts = load.end()
            print(f"\n    {DEPLOYS} deploys, {ROLLBACKS} rollbacks", flush=True)
            figures.show()
            show_load(counts)
        self.assertEqual(counts["failures"], [])
        # On a quiet machine these are ten times as many; none would prove nothing.
        self.assertGreater(counts["Http1"]["verifications"], 3 * DEPLOYS)
        self.assertGreater(counts["Http2"]["verifications"], DEPLOYS)
        if max(busy, busyness()) > BUSY:
            print("    too busy with others to hold the times against the figures", flush=True)
            return
        self.assertLess(figures.median("switch"), 0.1)
        self.assertLess(figures.median("cold start to ready"), 10)
        self.assertLess(figures.median("rollback until the release before serves"), 10)


class Repeated(unittest.TestCase):
    def test_a_release_that_serves_is_left_alone(self):
        house = installation()
        house.succeeds("deploy", "first")
        before = [house.pid(process) for process in (house.active(), "worker")]
        self.assertIn("serves already", house.succeeds("deploy", "first"))
        self.assertEqual(before, [house.pid(process) for process in (house.active(), "worker")])
        colour = house.active()
        house.succeeds("deploy", "first", "--again")
        self.assertNotEqual(colour, house.active())
        self.assertNotEqual(before[1], house.pid("worker"))

    def test_stores_alone_change_no_colour(self):
        house = installation()
        house.succeeds("deploy", "first")
        before = (house.active(), house.pid(house.active()), house.pid("worker"))
        self.assertIn("no colour was started or stopped", house.succeeds("deploy", "second", "--stores"))
        self.assertEqual((house.active(), house.pid(house.active()), house.pid("worker")), before)

    def test_a_keyholder_that_is_not_run_from_here_is_told_of_before_anything_changes(self):
        house = installation()
        house.succeeds("deploy", "first")
        colour = house.active()
        result = house.deploy_sh("deploy", "second", "--keyholder")
        self.assertEqual(result.returncode, 1, result.out)
        self.assertIn("no keyholder is run from here", result.out)
        self.assertNotIn("preflight", result.out)
        self.assertEqual((house.active(), house.status()["release"]), (colour, "first"))

    def test_rollback_goes_back_one_release_each_time(self):
        house = installation()
        for release in ("first", "second", "third"):
            house.release(release)
            house.succeeds("deploy", release)
        for release in ("second", "first"):
            self.assertEqual(house.status()["previous_release"], release)
            house.succeeds("rollback")
            self.assertEqual(house.status()["release"], release)

    def test_with_the_old_colour_kept_a_rollback_is_one_rename(self):
        house = installation()
        house.succeeds("deploy", "first")
        house._configuration(KEEP_OLD_RUNNING="yes")
        try:
            house.succeeds("deploy", "second")
            pid = house.pid("blue" if house.active() == "green" else "green")
            said = house.succeeds("rollback")
            self.assertEqual(house.pid(house.active()), pid)
            self.assertNotIn("==> start", said)
            # Most of it are the health checks before.
            self.assertLess(seconds("back on .* after", said), 10)
        finally:
            house._configuration()
            house.succeeds("deploy", "first", "--again")

    def test_a_dry_run_changes_nothing(self):
        house = installation()
        house.succeeds("deploy", "first")
        before = self.facts(house)
        for arguments in (["deploy", "second"], ["deploy", "first", "--again"], ["rollback", "second"], ["cleanup"], ["cleanup", "--data"],
                          ["smoke"]):
            said = house.succeeds("--dry-run", *arguments)
            self.assertEqual(before, self.facts(house), arguments)
            if arguments[0] in ("deploy", "rollback"):
                self.assertIn("would", said)
                self.assertIn("nothing was changed", said)

    def facts(self, house):
        found = {}
        for folder in ("run", "state", "releases", "data", "secrets"):
            for file in sorted((house.home / folder).rglob("*")):
                status = file.lstat()
                # The keyholder's journal is its own.
                if "journal.db" not in file.name:
                    found[str(file)] = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)
        return found


class OneAtATime(unittest.TestCase):
    def test_a_second_run_is_refused_and_told_who_is_at_work(self):
        house = installation()
        house.release("slow", '[ "$1" != serve ] || sleep 5')
        with subprocess.Popen(house.command("deploy", "slow"), stdout=subprocess.PIPE, text=True) as first:
            wait_until_said(first, "wait until")
            second = house.deploy_sh("deploy", "second")
            self.assertEqual(second.returncode, 1)
            self.assertIn(f'"deploy.sh deploy slow", process {first.pid}', second.out)
            self.assertIn("next:", second.out)
            first.stdout.read()
            self.assertEqual(first.wait(), 0)

    def test_a_killed_run_leaves_no_lock(self):
        house = installation()
        house.succeeds("deploy", "first")
        house.release("slow", '[ "$1" != serve ] || sleep 2')
        with subprocess.Popen(house.command("deploy", "slow"), stdout=subprocess.PIPE, text=True) as run:
            wait_until_said(run, "wait until")
            run.kill()
        self.assertEqual(house.status()["release"], "first")
        house.succeeds("deploy", "slow")
        self.assertEqual(house.status()["release"], "slow")
        house.succeeds("deploy", "first")

    def test_a_run_that_is_told_to_stop_takes_back_what_it_began(self):
        house = installation()
        house.succeeds("deploy", "first")
        house.release("slow", '[ "$1" != serve ] || sleep 60')
        with subprocess.Popen(house.command("deploy", "slow"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            wait_until_said(run, "wait until")
            time.sleep(0.3)
            run.terminate()
            said = run.stdout.read()
            self.assertEqual(run.wait(), 143)
        self.assertIn("broken off", said)
        status = house.status()
        idle = "blue" if status["active"] == "green" else "green"
        self.assertEqual((status["release"], status[idle]["condition"]), ("first", "stopped"))


def wait_until_said(run, words):
    for line in run.stdout:
        if words in line:
            return line
    raise AssertionError(f"it ended without saying {words}")


class AfterAReboot(unittest.TestCase):
    def test_stale_sockets_and_pid_files_of_others_are_seen_through(self):
        house = installation()
        house.succeeds("deploy", "first")
        for process in (house.active(), "worker"):
            os.kill(house.pid(process), signal.SIGKILL)
        innocent = Server("another process", ["sleep", "1000"], "/dev/null")
        try:
            # As a reboot leaves it: sockets without a server, pid files of another boot whose numbers are others' by now, and a
            # rename that did not come to its end.
            for process in ("blue", "green", "worker"):
                file = house.home / f"state/{process}.pid"
                started = file.read_text().split()[1].split("@")[0] if file.exists() else "1"
                file.write_text(f"{innocent.process.pid} {started}@00000000-0000-0000-0000-000000000000\n")
            (house.home / "run/.active.next").symlink_to("nowhere.sock")
            status = house.status()
            self.assertEqual((status["healthy"], status["blue"]["condition"], status["worker_release"]), (False, "stopped", ""))
            self.assertEqual(house.deploy_sh("status").returncode, 1)
            self.assertEqual(house.asks(), 502)
            house.succeeds("deploy", "first")
            self.assertEqual(house.asks(), 200)
            self.assertTrue(house.status()["healthy"])
            self.assertIsNone(innocent.process.poll())
        finally:
            innocent.stop()

    def test_a_pid_that_another_process_has_now_is_not_touched(self):
        house = installation()
        house.succeeds("deploy", "first")
        idle = "blue" if house.active() == "green" else "green"
        innocent = Server("another process", ["sleep", "1000"], "/dev/null")
        try:
            boot = house.home.joinpath(f"state/{house.active()}.pid").read_text().split("@")[1]
            (house.home / f"state/{idle}.pid").write_text(f"{innocent.process.pid} 12345@{boot}")
            house.succeeds("deploy", "second")
            self.assertIsNone(innocent.process.poll())
        finally:
            innocent.stop()


class Tidying(unittest.TestCase):
    def test_cleanup_leaves_what_serves_what_served_and_all_data(self):
        house = installation()
        for number in range(4):
            house.release(f"old-{number}")
        house.succeeds("deploy", "first")
        house.succeeds("deploy", "second")
        house._configuration(KEEP_RELEASES=2)
        # A keyholder stays on its release, whatever is deployed.
        keyholder = house.home / "state/keyholder.env"
        keyholder.write_text(f"VELUM_KEYHOLDER_LISTEN=127.0.0.1:1\nPROGRAM={house.home}/releases/old-1/bin/velum\n")
        try:
            house.succeeds("cleanup")
        finally:
            keyholder.unlink()
            house._configuration()
        self.assertEqual(sorted(house.status()["releases"]), ["first", "old-1", "second"])
        self.assertTrue((house.home / "data/keyholder/journal.db").exists())
        house.succeeds("rollback")

    def test_data_go_only_after_the_path_was_typed(self):
        house = installation()
        for typed in ("", "yes\n", f"{house.home}/\n"):
            result = house.deploy_sh("cleanup", "--data", input=typed)
            self.assertEqual(result.returncode, 1)
            self.assertIn("not confirmed", result.out)
            self.assertTrue((house.home / "data/keyholder/journal.db").exists())
        self.assertTrue(house.status()["healthy"])


class Told(unittest.TestCase):
    def refused(self, *arguments, cause, step):
        result = installation().deploy_sh(*arguments)
        self.assertEqual(result.returncode, 1, result.out)
        self.assertIn(cause, result.out)
        self.assertRegex(result.out, f"next: .*{step}")

    def test_every_refusal_says_a_cause_and_a_next_step(self):
        self.refused("deploy", cause="which release?", step="deploy RELEASE")
        self.refused("deploy", "nowhere", cause="there is no release nowhere", step="status")
        self.refused("deploy", "../first", cause="is no name of a release", step="1.4.0")
        self.refused("rollback", "nowhere", cause="not here any more", step="status")
        self.refused("deploi", cause="no command deploi", step="help")
        self.refused("logs", "nothing", cause="no service nothing", step="blue green worker|the services")
        self.refused("logs", "nginx", cause="nginx is not run by deploy.sh here", step="journalctl --unit velum-nginx")
        self.refused("logs", "postgres", cause="keeps its log elsewhere", step="/var/log/postgresql")
        self.refused("velum", "--release", "nowhere", "help", cause="there is no release nowhere here", step="status")
        self.refused("smoke", "red", cause="no colour red", step="blue or green")
        self.refused("status", "--xml", cause="does not know --xml", step="help")

    def test_settings_are_read_strictly(self):
        house = installation()
        file = house.home / "deploy.conf"
        right = file.read_text()
        wrong = {
            "DRIVR=process": "DRIVR is unknown",
            "DRIVER": "expected NAME=value",
            'DRIVER="process"': "stands in quotes",
            "DRIVER=kubernetes": 'DRIVER is "kubernetes"',
            "VELUM_DATABASE_URL=postgres://a:b@c/d": "VELUM_DATABASE_URL is a secret",
            "VELUM_LISTEN=0.0.0.0:1": "VELUM_LISTEN is set by deploy.sh",
            "DISK_FREE_MIN_MB=much": "expected a whole number",
            "DISK_FREE_MIN_MB=99999999": "are wanted",
            "KEEP_OLD_RUNNING=maybe": "expected yes or no",
            "VELUM_TYPO=1": "refuses its settings",
            "NGINX_CONF=/nonexistent": "nginx would not start",
            "NGINX_BALANCERS=10.0.0.0/99": "nginx would not start",
        }
        try:
            for line, cause in wrong.items():
                file.write_text(right + line + "\n")
                with self.subTest(line):
                    self.refused("deploy", "first", "--again", cause=cause, step="")
            file.write_text(right)
            file.chmod(0o666)
            self.refused("deploy", "first", cause="can be written by others", step="chmod")
        finally:
            file.chmod(0o644)
            file.write_text(right)

    def test_each_command_has_a_help(self):
        house = installation()
        overview = house.succeeds("help")
        for command in ("deploy", "status", "rollback", "cleanup", "smoke", "logs"):
            self.assertIn(f"\n  {command} ", overview)
            said = house.succeeds("help", command)
            self.assertTrue(said.startswith(f"usage: deploy.sh {command}"))
            self.assertEqual(said, house.succeeds(command, "--help"))
        self.assertEqual(house.deploy_sh().returncode, 2)

    def test_logs_show_the_lines_of_a_service_and_the_deploys(self):
        house = installation()
        house.succeeds("deploy", "first")
        self.assertIn("listening", house.succeeds("logs"))
        self.assertEqual(len(house.succeeds("logs", "worker", "--lines", "1").splitlines()), 1)
        self.assertIn('"release":"first"', house.succeeds("logs", "--deploys"))

    def test_velum_is_the_program_of_the_release_that_serves(self):
        house = installation()
        house.succeeds("deploy", "first")
        made = json.loads(house.succeeds("velum", "clients", "create", "--tenant", "operator", "--json"))
        self.assertIn(made["client_id"], house.succeeds("velum", "clients", "list", "--tenant", "operator"))
        # Its exit status, its own options; its user, who may write to the keys.
        self.assertEqual(house.deploy_sh("velum", "nonsense").returncode, 2)
        self.assertIn("Usage: velum clients create", house.succeeds("velum", "clients", "create", "--help"))
        self.assertIn("would run: velum clients list", house.succeeds("--dry-run", "velum", "clients", "list"))
        folder = house.home / "secrets/app"
        before = set((folder / "kek").iterdir())
        house.succeeds("velum", "keys", "generate", "--kind", "kek", "--out", str(folder))
        (key,) = set((folder / "kek").iterdir()) - before
        self.addCleanup(key.unlink)
        self.assertEqual(key.stat().st_uid, VELUM if IS_ROOT else os.getuid())
        self.assertTrue(house.succeeds("help", "velum").startswith("usage: deploy.sh velum"))
        self.refused("velum", cause="which command?", step="velum help")

    def test_velum_runs_where_nothing_serves(self):
        house = installation()
        house.succeeds("deploy", "first")
        link = house.home / "run/active.sock"
        colour = os.readlink(link)
        link.unlink()
        self.addCleanup(link.symlink_to, colour)
        said = house.succeeds("velum", "erasures", "status")
        self.assertIn("nothing serves yet: release first is taken", said)
        self.assertIn("release second", house.succeeds("--dry-run", "velum", "--release", "second", "erasures", "status"))

    def test_smoke_runs_on_what_serves(self):
        self.assertIn("smoke test on", installation().succeeds("smoke"))


class OfThisHost(unittest.TestCase):
    def test_processes_have_the_rights_of_their_user_and_no_more(self):
        house = installation()
        if os.geteuid():
            self.skipTest("only root can start processes of other users")
        house.succeeds("deploy", "first")
        for process in (house.active(), "worker"):
            lines = Path(f"/proc/{house.pid(process)}/status").read_text(encoding="utf-8").splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            self.assertEqual(status["Uid"].split()[0], "10001")
            self.assertEqual(status["Groups"].strip(), "10010")
            self.assertEqual(int(status["CapBnd"], 16), 0)
            self.assertEqual(status["NoNewPrivs"].strip(), "1")
        socket = (house.home / f"run/{house.active()}.sock").stat()
        self.assertEqual((socket.st_uid, socket.st_gid, oct(socket.st_mode & 0o777)), (10001, 10010, "0o660"))

    def test_units_see_a_checkout_wherever_it_lies(self):
        """Below /root, as the README leads to, or /home: hidden there, the timers would fail every night."""
        seen = 0
        for unit in sorted((ROOT / "deploy/systemd").glob("*.service")):
            lines = unit.read_text(encoding="utf-8").splitlines()
            values = {name: [line.split("=", 1)[1] for line in lines if line.startswith(f"{name}=")]
                      for name in ("ProtectHome", "BindReadOnlyPaths", "ReadWritePaths", "ExecStart")}
            (start,) = values["ExecStart"]
            if not start.startswith("/opt/velum/"):
                continue
            seen += 1
            if values["ProtectHome"] == ["tmpfs"]:
                self.assertTrue(any(start.startswith(f"{path}/") for path in values["BindReadOnlyPaths"]), unit.name)
            else:
                self.assertEqual((values["ProtectHome"], values["ReadWritePaths"]), (["read-only"], ["/srv/velum"]), unit.name)
        self.assertEqual(seen, 3)

    def test_units_are_well_formed(self):
        units = sorted((ROOT / "deploy/systemd").glob("*"))
        self.assertGreaterEqual(len(units), 4)
        try:
            check("systemd-analyze", "--version")
        except (FileNotFoundError, AssertionError):
            self.skipTest("no systemd-analyze here")
        # As deploy.sh installs them; of these lines only programs that are not on this machine may be complained of.
        result = subprocess.run(["systemd-analyze", "verify", "--man=no", *map(str, units)], capture_output=True, text=True, check=False)
        self.assertEqual([line for line in result.stderr.splitlines() if "deploy/systemd" in line and "not executable" not in line], [])


if __name__ == "__main__":
    unittest.main()
