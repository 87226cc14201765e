"""Deploys that go wrong, each while requests run: none of them fails, and each half-done deploy is mended by running it again."""

import os
import random
import shutil
import signal
import subprocess
import time
import unittest

from .support import Load, installation, wait_for

# How many of the sabotages below, from the first on; then again from the first.
SABOTAGES = int(os.environ.get("VELUM_TEST_SABOTAGES", "4"))
random.seed(int(os.environ.get("VELUM_TEST_SEED", "5")))

# Where a run is killed: at the line that announces the step, and up to a fifth of a second later.
STEPS = ["switch from", "wait until", "drain", "smoke test", "start", "worker", "stop", "migration", "preflight"]


class Sabotage:
    """Each method is one: it breaks something, sees the deploy fail, and mends the cause. `release` is what is deployed, and what a
    second run brings into service. It returns whether the first run may have switched already."""

    def __init__(self, case, house, load):
        self.case, self.house, self.load = case, house, load
        self.kills = 0

    def fails(self, release, cause):
        result = self.house.deploy_sh("deploy", release)
        self.case.assertEqual(result.returncode, 1, result.out)
        self.case.assertRegex(result.out, cause)
        self.case.assertIn("next:", result.out)

    def killed_mid_switch(self, release):
        """kill -9 of the run itself, at another step each time; what it has started lives on without it."""
        step = STEPS[self.kills % len(STEPS)]
        self.kills += 1
        with subprocess.Popen(self.house.command("deploy", release), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            for line in run.stdout:
                if line.startswith(f"==> {step}"):
                    time.sleep(random.uniform(0, 0.2))
                    break
            run.kill()
            self.case.assertEqual(run.wait(), -signal.SIGKILL, f"it was over before it was killed at {step}")
        print(f"killed at \"{step}\"", end=" ")
        return True

    def never_ready(self, release):
        self.house.release(release, '[ "$1" != serve ] || exec sleep 1000')
        self.house._configuration(READY_TIMEOUT_S=3)
        self.fails(release, "was not ready after 3 s")
        self.house._configuration()

    def keyholder_away(self, release):
        # Without it nobody is verified or erased, deploy or no deploy; people are enrolled, and so the load goes on.
        self.load.pause_keyholder()
        self.house.servers["keyholder"].stop(signal.SIGKILL)
        self.house._configuration(READY_TIMEOUT_S=5)
        self.fails(release, "was not ready")
        self.house._configuration()
        self.house.start_keyholder()
        active = self.house.active()
        wait_for("the keyholder is found again", lambda: self.house.status()[active]["condition"] == "ready")
        self.load.hold.unlink()

    def full_disk(self, release):
        if not self.house.small_disks:
            self.house._configuration(DISK_FREE_MIN_MB=10**8)
            self.fails(release, "MB are free")
            self.house._configuration()
            return
        # Nothing can be written any more: no state, no pid file, no line of a log.
        for disk in self.house.small_disks:
            subprocess.run(["dd", "if=/dev/zero", f"of={disk}/filled", "bs=64k"], stderr=subprocess.DEVNULL, check=False)
        self.fails(release, "cannot write")
        time.sleep(2)
        for disk in self.house.small_disks:
            (disk / "filled").unlink()

    def failing_migration(self, release):
        self.house.release(release, '[ "$1 $2" != "migrate up" ] || { echo "velum: no" >&2; exit 1; }')
        self.fails(release, "the migration failed")

    def broken_nginx_file(self, release):
        file = self.house.scripts / "nginx/servers.conf"
        right = file.read_text()
        file.write_text(right.replace("listen", "lissen"))
        self.fails(release, "nginx would not start")
        file.write_text(right)

    def ends_at_start(self, release):
        self.house.release(release, '[ "$1" != serve ] || { echo "velum: no" >&2; exit 1; }')
        self.fails(release, "did not start|ended before it was ready")

    def ends_after_the_switch(self, release):
        # As long as it takes to be ready, to pass the smoke test and to be switched to; then it is gone, by itself.
        self.house.release(release, f"""[ "$1" != serve ] || {{
            (until [ "$(readlink {self.house.home}/run/active.sock)" = "$(basename "$VELUM_LISTEN_SOCKET")" ]; do sleep 0.005; done
             kill -9 $$) & }}""")
        result = self.house.deploy_sh("deploy", release)
        self.case.assertEqual(result.returncode, 1, result.out)
        self.case.assertIn("serves again", result.out)

    def incompatible_migration(self, release):
        self.house.release(release, '[ "$1 $2" != "migrate check" ] || { echo "main: NOT beside the running program"; exit 1; }')
        self.fails(release, "cannot migrate the databases beside what runs")

    def failing_smoke_test(self, release):
        self.house.release(release)
        # Another photo in the place of the one it should recognise. The link count: the file is every release's.
        photo = self.house.home / "releases" / release / "samples/grace_hopper.jpg"
        photo.unlink()
        shutil.copy(photo.with_name("eileen_collins.png"), photo)
        self.fails(release, "smoke test failed")

    def refused_settings(self, release):
        self.house._configuration(VELUM_HTTP_WORKERS="many")
        self.fails(release, "refuses its settings")
        self.house._configuration()

    # What the issue names comes first.
    ORDER = [killed_mid_switch, never_ready, keyholder_away, full_disk, killed_mid_switch, failing_migration, killed_mid_switch,
             broken_nginx_file, killed_mid_switch, ends_at_start, killed_mid_switch, incompatible_migration, killed_mid_switch,
             failing_smoke_test, killed_mid_switch, refused_settings, killed_mid_switch]


def setUpModule():
    house = installation()
    house.release("first")
    house.succeeds("deploy", "first")


class Sabotaged(unittest.TestCase):
    def test_no_request_fails_and_running_again_mends(self):
        house = installation()
        load = Load(house)
        try:
            sabotage = Sabotage(self, house, load)
            for number in range(SABOTAGES):
                self.one(house, sabotage, load, number)
        finally:
            counts = load.end()
            print(f"    {counts['Http1']['requests']} requests over HTTP/1.1, {counts['Http2']['requests']} over HTTP/2, "
                  f"{len(counts['failures'])} failed", flush=True)
        self.assertEqual(counts["failures"], [])

    def one(self, house, sabotage, load, number):
        method = sabotage.ORDER[number % len(sabotage.ORDER)]
        print(f"\n    {number + 1}. {method.__name__}: ", end="", flush=True)
        before = house.status()
        release = house.release(f"sabotaged-{number % 2}")
        may_have_switched = method(sabotage, release)
        after = house.status()
        if not may_have_switched:
            idle = "blue" if before["active"] == "green" else "green"
            self.assertEqual((after["release"], after["active"]), (before["release"], before["active"]))
            self.assertEqual(after[idle]["condition"], "stopped")
        self.assertEqual(after[after["active"]]["condition"], "ready")
        self.assertEqual(load.failures(), [])
        house.release(release)
        begun = time.monotonic()
        # A release whose files were replaced is started anew; after a kill the very same command is run again.
        house.succeeds("deploy", release)
        status = house.status()
        self.assertEqual((status["healthy"], status["release"], status["worker_release"]), (True, release, release))
        idle = "blue" if status["active"] == "green" else "green"
        self.assertEqual(status[idle]["condition"], "stopped")
        self.assertEqual(load.failures(), [])
        print(f"mended in {time.monotonic() - begun:.1f} s", end="", flush=True)

    def test_a_colour_that_ends_right_after_the_switch_gives_way_to_the_old_one(self):
        """Without load: requests in the moment between are lost, and no deploy could prevent that."""
        house = installation()
        before = house.status()
        Sabotage(self, house, None).ends_after_the_switch(house.release("short-lived"))
        after = house.status()
        self.assertEqual((after["release"], after["active"], after["healthy"]), (before["release"], before["active"], True))
        self.assertEqual(house.asks(), 200)


if __name__ == "__main__":
    unittest.main()
