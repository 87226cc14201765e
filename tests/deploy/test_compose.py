"""What DRIVER=compose asks of an engine, without one: secrets, settings, Compose's own resolution and the programs are real, and a
program on PATH answers in the place of `docker`. tests/deploy/test_stack.py has the engine.

Environment: VELUM_TEST_BINARY, a velum; without it target/release/velum.
"""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("VELUM_TEST_BINARY", ROOT / "target/release/velum"))
COMPOSE = "2.26.1"
RIGHT = "DRIVER=compose\nVELUM_ISSUER=https://velum.test\nDISK_FREE_MIN_MB=1\nBACKUP_BEFORE_DEPLOY=yes\nKEEP_RELEASES=1\n"
house = None

# `docker run` runs the program that the image holds, with the settings that it is given and nothing else.
DOCKER = """#!/bin/bash
printf '%s\\n' "$*" >>{folder}/calls
run() {{
    local environment=() image=""
    while [ -z "$image" ]; do
        case $1 in
            --env-file) mapfile -t environment <"$2" && shift ;;
            velum/*) image=$1 ;;
        esac
        shift
    done
    cd {root} || exit
    case $image in
        velum/app:*) exec env -i "${{environment[@]}}" {binary} "$@" ;;
        velum/nginx:*) exec env -i PATH="$PATH:/usr/sbin" "${{environment[@]}}" NGINX_FOLDER={folder}/nginx nginx/start.sh "$@" ;;
    esac
}}
case "$*" in
    "version"*) ;;
    "compose version"*) cat {folder}/compose ;;
    "compose "*" config "*) exec {docker} "$@" ;;
    "image inspect "*) ;;
    "image ls "*) cat {folder}/images ;;
    "image rm "*) ;;
    "inspect "*) printf 'velum/app:%s\\n' "${{!#}}" ;;
    "ps "*service=keyholder) printf 'one\\n' ;;
    "ps "*) ;;
    "run "*) shift && run "$@" ;;
    *) exit 1 ;;
esac
"""


class House:
    def __init__(self, docker):
        self.folder = Path(tempfile.mkdtemp(prefix="velum-compose-"))
        self.folder.chmod(0o755)
        self.home = self.folder / "srv"
        (self.home / "releases/one/bin").mkdir(parents=True)
        (self.home / "releases/one/bin/velum").symlink_to(BINARY)
        program = self.folder / "path/docker"
        program.parent.mkdir()
        program.write_text(DOCKER.format(folder=self.folder, root=ROOT, binary=BINARY, docker=docker))
        program.chmod(0o755)
        (self.folder / "images").touch()
        (self.folder / "compose").write_text(COMPOSE)
        # By the program itself, as on a bare host.
        self.conf("DRIVER=process\nVELUM_ISSUER=https://velum.test\n")
        self.succeeds("secrets", "init", "one")
        self.conf(RIGHT)

    def conf(self, text):
        (self.home / "deploy.conf").write_text(text)

    def deploy_sh(self, *words):
        (self.folder / "calls").write_text("")
        environment = {**os.environ, "PATH": f"{self.folder}/path:{os.environ['PATH']}"}
        result = subprocess.run([ROOT / "deploy.sh", "--home", self.home, *words], text=True, stdin=subprocess.DEVNULL, check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, env=environment)
        result.out, result.calls = result.stdout, (self.folder / "calls").read_text().splitlines()
        return result

    def succeeds(self, *words):
        result = self.deploy_sh(*words)
        if result.returncode:
            raise AssertionError(f"deploy.sh {' '.join(words)} ended with {result.returncode}:\n{result.out}")
        return result


def setUpModule():
    global house
    docker = shutil.which("docker")
    if not BINARY.exists():
        raise unittest.SkipTest(f"skipped: there is no {BINARY}; cargo build --release, or say VELUM_TEST_BINARY")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        raise unittest.SkipTest("skipped: there is no docker compose here (scripts/docker-engine.sh install)")
    house = House(docker)
    unittest.addModuleCleanup(shutil.rmtree, house.folder)


class FirstDeploy(unittest.TestCase):
    def setUp(self):
        self.addCleanup(house.conf, RIGHT)

    def refused(self, line, cause, said="next: "):
        house.conf(f"{RIGHT}{line}\n")
        result = house.deploy_sh("--dry-run", "deploy", "one")
        self.assertEqual(result.returncode, 1, result.out)
        self.assertIn(cause, result.out)
        self.assertIn(said, result.out)

    def test_a_dry_run_on_a_host_without_anything_starts_nothing(self):
        before = sorted(house.home.rglob("*"))
        result = house.succeeds("--dry-run", "deploy", "one")
        self.assertIn("would name a point in each database", result.out)
        self.assertIn("what is pending is not known", result.out)
        self.assertIn("nothing was changed", result.out)
        self.assertEqual([call for call in result.calls if call.startswith("compose") and " config " not in f"{call} " and "version" not in call], [])
        # What is tried is tried without a network.
        tried = [call for call in result.calls if call.startswith("run ")]
        self.assertEqual(len(tried), 2, tried)
        self.assertTrue(all(" --network none " in call and " --rm " in f" {call}" for call in tried), tried)
        self.assertEqual(sorted(house.home.rglob("*")), before)

    def test_what_is_checked_are_the_settings_of_now(self):
        self.refused("VELUM_TYPO=1", "release one refuses its settings", said="VELUM_TYPO")
        self.refused("NGINX_BALANCERS=10.0.0.0/99", "nginx would not start")
        self.refused("NGINX_RATE=many", "nginx would not start", said="NGINX_RATE")
        # And nothing that was written once.
        written = house.home / "state/velum.env"
        self.addCleanup(written.unlink)
        written.write_text("VELUM_TYPO=1\nNGINX_RATE=many\n")
        house.conf(RIGHT)
        house.succeeds("--dry-run", "deploy", "one")

    def test_compose_that_is_too_old(self):
        self.addCleanup((house.folder / "compose").write_text, COMPOSE)
        for version, cause in (("2.23.3", "Compose 2.24 or later is missing, this is 2.23.3"), ("", "Compose 2.24 or later is missing")):
            (house.folder / "compose").write_text(version)
            self.refused("", cause, said="next: scripts/docker-engine.sh install")


class Releases(unittest.TestCase):
    def test_cleanup_leaves_the_release_of_the_keyholder(self):
        self.addCleanup((house.folder / "images").write_text, "")
        served = house.home / "state/served"
        self.addCleanup(served.unlink)
        served.write_text("three\n")
        (house.folder / "images").write_text("three\ntwo\none\n")
        result = house.succeeds("cleanup")
        self.assertEqual([call for call in result.calls if call.startswith("image rm")], ["image rm velum/app:two"])
        self.assertIn("kept: one three", result.out)

    def test_where_nothing_serves_the_program_is_of_the_release_that_is_named_or_the_newest(self):
        self.addCleanup((house.folder / "images").write_text, "")
        self.assertIn("no release is here", house.deploy_sh("velum", "erasures", "replay").out)
        (house.folder / "images").write_text("two\none\n")
        self.assertIn("erasures replay (of release two)", house.succeeds("--dry-run", "velum", "erasures", "replay").out)
        self.assertIn("erasures replay (of release one)", house.succeeds("--dry-run", "velum", "--release", "one", "erasures", "replay").out)
        self.assertIn("there is no release three here", house.deploy_sh("velum", "--release", "three", "erasures", "replay").out)


class Units(unittest.TestCase):
    def test_that_no_backup_is_set_up_is_said(self):
        self.addCleanup(house.conf, RIGHT)
        script = 'here=$1 home=$2; . "$here/deploy/common.sh"; dry_run=yes; set_home "$2"; read_conf; install_units velum-backup velum-doctor'
        for line, timers in (("", 2), ("BACKUP_BEFORE_DEPLOY=no\n", 1)):
            house.conf(RIGHT + line)
            said = subprocess.run(["bash", "-c", script, "test", ROOT, house.home], text=True, capture_output=True, check=True).stdout
            self.assertEqual(said.count("systemctl enable --quiet --now"), timers, said)
            self.assertEqual(said.count("no backup every night is set up"), 2 - timers, said)


if __name__ == "__main__":
    unittest.main()
