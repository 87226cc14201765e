"""What can be said of the containers without an engine: the stack as Compose resolves it, and the scripts inside of the images."""

import http.server
import json
import os
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("docker-compose.prod.yml",)


def resolved(*files, **settings):
    named = [word for file in files or OURS for word in ("--file", ROOT / file)]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "VELUM_HOME": "/srv/velum", **settings}
    result = subprocess.run(["docker", "compose", *named, "--profile", "*", "config", "--format", "json"], env=environment, text=True,
                            capture_output=True, check=False, cwd=ROOT)
    if result.returncode:
        raise AssertionError(result.stderr)
    return json.loads(result.stdout)


class Stack(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            answer = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
        except FileNotFoundError:
            answer = 1
        if answer:
            raise unittest.SkipTest("skipped: there is no docker compose (version 2) here")
        cls.found = resolved()
        cls.services = cls.found["services"]

    def on(self, network):
        return {name for name, service in self.services.items() if network in (service.get("networks") or {})}

    def test_the_door_meets_nobody_but_its_exporter(self):
        met = {name for network in self.services["nginx"]["networks"] for name in self.on(network)}
        self.assertEqual(met, {"nginx", "exporter_nginx"})
        # And what Prometheus asks is out of reach of what is published.
        self.assertEqual(self.on("frontend"), {"nginx"})
        self.assertEqual(self.on("operators"), {"grafana", "fluent_bit", "kibana"})

    def test_who_has_a_way_out(self):
        out = {name for name, network in self.found["networks"].items() if not network.get("internal")}
        self.assertEqual(out, {"frontend", "outside", "operators"})
        self.assertEqual({name for network in out for name in self.on(network)},
                         {"nginx", "worker", "alertmanager", "blackbox", "grafana", "fluent_bit", "kibana"})

    def test_what_is_published_and_where(self):
        def published(services):
            return {name: {port["host_ip"] for port in service["ports"]} for name, service in services.items() if service.get("ports")}

        here = {"127.0.0.1"}
        # Over IPv6 every caller would have the address of the bridge.
        self.assertEqual(published(self.services), {"nginx": {"0.0.0.0"}, "grafana": here, "fluent_bit": here, "kibana": here})
        self.assertEqual(published(resolved(VELUM_PUBLISH_ADDRESS="192.0.2.1")["services"])["nginx"], {"192.0.2.1"})

    def test_each_service_says_whether_it_is_well(self):
        silent = {name for name, service in self.services.items() if not service.get("healthcheck")}
        # One-shot; and an image that holds its one program, which cannot ask itself.
        self.assertEqual(silent, {"migrate", "keyholder_migrate", "tools", "elasticsearch_setup", "fluent_bit"})

    def test_a_keyholder_of_its_own_is_published_and_has_no_way_out(self):
        found = resolved(*OURS, "docker-compose.keyholder.yml", VELUM_KEYHOLDER_PUBLISH="192.0.2.1:8444")
        keyholder, network = found["services"]["keyholder"], found["networks"]["keyholder"]
        self.assertEqual([(port["host_ip"], port["published"], port["target"]) for port in keyholder["ports"]], [("192.0.2.1", "8444", 8444)])
        self.assertEqual(set(keyholder["networks"]), {"keyholder"})
        self.assertFalse(network.get("internal"))
        self.assertEqual(network["driver_opts"], {"com.docker.network.bridge.enable_ip_masquerade": "false"})


class Scripts(unittest.TestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory(prefix="velum-images-")
        self.addCleanup(held.cleanup)
        self.folder = Path(held.name)

    def test_no_password_of_a_database_is_an_argument(self):
        """Every process of the host may read arguments. psql is one that tells of its own, and does what it is asked by backquotes."""
        secrets, programs = self.folder / "secrets", self.folder / "bin"
        for each in (secrets, programs):
            each.mkdir()
        for name in ("server.crt", "server.key", "ca.pem"):
            (secrets / name).write_text("-\n")
        passwords = {role: f"password-of-{role}" for role in ("velum", "velum_owner", "velum_metrics")}
        for role, password in passwords.items():
            (secrets / f"{role}.password").write_text(password + "\n")
        told = self.folder / "told"
        scripts = {
            "initdb": 'mkdir -p "$2"; touch "$2/PG_VERSION"', "pg_ctl": ":", "postgres": ":",
            # Its arguments, and what `\\set password` with a command in backquotes comes to.
            "psql": rf"""printf 'arguments: %s\n' "$*" >>{told}
                while IFS= read -r line; do
                    [[ $line == '\set password `'*'`' ]] || continue
                    command=${{line#*\`}}
                    printf 'password: %s\n' "$(bash -c "${{command%\`}}")" >>{told}
                done""",
        }
        for name, script in scripts.items():
            (programs / name).write_text(f"#!/bin/bash\n{script}\n")
            (programs / name).chmod(0o755)
        (self.folder / "data").mkdir()
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "CLUSTER": "main", "SECRETS": str(secrets), "PGDATA": str(self.folder / "data/15")}
        result = subprocess.run([ROOT / "images/postgres/entrypoint.sh"], env=environment, text=True, capture_output=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        lines = told.read_text().splitlines()
        arguments = "\n".join(line for line in lines if line.startswith("arguments: "))
        self.assertIn("role=velum_owner", arguments)
        self.assertEqual([role for role, password in passwords.items() if password in arguments], [])
        self.assertEqual({line.removeprefix("password: ") for line in lines if line.startswith("password: ")}, set(passwords.values()))

    def test_a_healthcheck_wants_200(self):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # pylint: disable=invalid-name
                self.send_response(200 if self.path == "/-/healthy" else 503)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = lambda port, path: subprocess.run([ROOT / "images/monitoring/answers.sh", str(port), path],  # noqa: E731
                                                  capture_output=True, check=False).returncode
        self.assertEqual(asked(server.server_port, "/-/healthy"), 0)
        self.assertNotEqual(asked(server.server_port, "/"), 0)
        self.assertNotEqual(asked(1, "/-/healthy"), 0)


if __name__ == "__main__":
    unittest.main()
