"""The monitoring: rules that fire and stay silent, and every name in them and in the dashboard there in a real scrape.

The second half runs the program with Redis, a worker, PostgreSQL, nginx, all exporters, Prometheus and Alertmanager with the files of
monitoring/ (addresses and waiting times apart), sends faces through, and sees an alarm arrive.
"""

import base64
import http.client
import http.server
import json
import os
import re
import shutil
import sqlite3
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request
from pathlib import Path

from .support import IS_ROOT, ROOT, Server, as_user, check, free_port, wait_for

MONITORING = ROOT / "monitoring"
ALERTS = (MONITORING / "alerts.yml").read_text()
DASHBOARD = json.loads((MONITORING / "dashboards/velum.json").read_text())

# What series may be told apart by. None of these names a person, a tenant or the address of a client.
LABELS = {
    "alertname", "alertstate", "certificate", "check", "database", "dependency", "instance", "job", "kind", "le", "limit", "method",
    "mode", "mountpoint", "outcome", "quantile", "repository", "request", "route", "severity", "source", "stage", "state", "status",
    "version", "what",
}

KEYWORDS = {
    "abs", "absent", "and", "avg", "by", "changes", "count", "for", "group_left", "histogram_quantile", "increase", "ignoring",
    "label_replace", "max", "min", "on", "or", "predict_linear", "rate", "scalar", "sum", "time", "topk", "unless", "vector",
    "without",
}


def expressions():
    """Of alerts, then of the dashboard."""
    for expression in re.findall(r"(?ms)^        expr: (.*?)\n        (?:for|labels):", ALERTS):
        yield re.sub(r"^>-\s*", "", re.sub(r"\s+", " ", expression))
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])


def metrics_of(expression):
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset \w+", " ", bare)
    bare = re.sub(r"\b(?:by|on|ignoring|without|group_left)\s*\([^)]*\)", " ", bare)
    return {word for word in re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*", bare) if word not in KEYWORDS}


class Rules(unittest.TestCase):
    def test_each_is_tested_both_ways_and_has_its_section(self):
        names = re.findall(r"- alert: (\w+)", ALERTS)
        self.assertGreater(len(names), 40)
        self.assertEqual(len(names), len(set(names)))
        tests = (MONITORING / "alerts_test.yml").read_text()
        silent = set(re.findall(r"\{ alertname: (\w+), eval_time: \w+, exp_alerts: \[\] \}", tests))
        firing = set(re.findall(r"- alertname: (\w+)\n        eval_time: \w+\n        exp_alerts:\n          - exp_labels:", tests))
        self.assertEqual(firing, set(names))
        self.assertEqual(silent, set(names) - {"VelumHeartbeat"}, "VelumHeartbeat is always firing")
        sections = re.findall(r"(?m)^## (Velum\w+)$", (ROOT / "docs/runbook.md").read_text())
        self.assertEqual(sorted(sections), sorted(names))
        anchors = re.findall(r"runbook_url: docs/runbook.md#(\w+)", ALERTS)
        self.assertEqual(anchors, [name.lower() for name in names])

    def test_a_message_that_is_wrong_is_noticed(self):
        """alerts_test.yml itself is run by scripts/lint-deploy.sh. Here every summary is another: every rule's test must fail."""
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(MONITORING / "alerts_test.yml", folder)
            turned = re.sub(r"(summary: [\"']?)", r"\1Not ", ALERTS)
            (Path(folder) / "alerts.yml").write_text(turned)
            said = subprocess.run(["promtool", "test", "rules", f"{folder}/alerts_test.yml"], capture_output=True, text=True, check=False)
        failed = set(re.findall(r"alertname: (\w+), time:", said.stdout + said.stderr))
        self.assertEqual(failed, set(re.findall(r"- alert: (\w+)", ALERTS)))

    def test_nothing_is_told_apart_by_person_tenant_or_address(self):
        for expression in expressions():
            labels = set()
            for group in re.findall(r"\b(?:by|on|ignoring|without|group_left)\s*\(([^)]*)\)", expression):
                labels |= {label.strip() for label in group.split(",") if label.strip()}
            for group in re.findall(r"\{([^}]*)\}", re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)):
                labels |= set(re.findall(r"(\w+)\s*[=!]", group))
            self.assertLessEqual(labels - {"fstype"}, LABELS, expression)
        told = set(re.findall(r"\$labels\.(\w+)", ALERTS))
        told |= {name for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
                 for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])}
        self.assertLessEqual(told, LABELS)


class Inbox(http.server.BaseHTTPRequestHandler):
    """Where Alertmanager delivers."""

    received = []

    def do_POST(self):  # pylint: disable=invalid-name
        self.received.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Watched:
    """An embedded installation with everything that watches it."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="velum-watched-"))
        self.folder.chmod(0o755)
        self.servers, self.ports = {}, {}
        # One thread for each connection: Go opens some that it never speaks on, and those must not hold the others up.
        self.inbox = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inbox)
        threading.Thread(target=self.inbox.serve_forever, daemon=True).start()
        self.redis()
        self.velum()
        self.postgres()
        self.nginx()
        self.textfiles()
        self.exporters()
        self.prometheus()

    def start(self, name, command, port, **options):
        self.ports[name] = port
        self.servers[name] = Server(name, command, self.folder / f"{name}.log", port, **options)

    def redis(self):
        port = free_port()
        self.start("redis", ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", self.folder], port)

    def velum(self):
        binary = os.environ.get("VELUM_TEST_BINARY", ROOT / "target/release/velum")
        runtime = Path(os.environ.get("VELUM_TEST_RUNTIME", ROOT / "runtime"))
        models = Path(os.environ.get("VELUM_TEST_MODELS", ROOT / "models"))
        self.api = free_port()
        environment = {
            "PATH": "/usr/bin:/bin", "VELUM_DATA_DIR": self.folder / "data", "VELUM_LISTEN": f"127.0.0.1:{self.api}",
            "VELUM_MODELS_DIR": models, "VELUM_ONNXRUNTIME": next(runtime.glob("libonnxruntime.so.*")), "VELUM_COMPUTE_WORKERS": 1,
            "VELUM_REDIS_URL": f"redis://127.0.0.1:{self.ports['redis']}", "VELUM_WORKER": "separate",
        }
        # A keyholder of its own: the app of an embedded installation has one inside.
        for name, command in [("app", "serve"), ("worker", "worker"), ("keyholder", "keyholder")]:
            port = free_port()
            settings = {**environment, "VELUM_METRICS_LISTEN": f"127.0.0.1:{port}"}
            if name == "keyholder":
                settings |= {"VELUM_DATA_DIR": self.folder / "keyholder", "VELUM_KEYHOLDER_LISTEN": f"127.0.0.1:{free_port()}"}
            self.start(name, [binary, command], port, env={key: str(value) for key, value in settings.items()}, cwd=self.folder)
        self.client = json.loads((self.folder / "data/dev_client.json").read_text())
        self.context = ssl.create_default_context(cafile=self.folder / "data/tls/ca.pem")

    def call(self, method, path, body=None, **headers):
        """From an address that stands out."""
        connection = http.client.HTTPSConnection("localhost", self.api, context=self.context, source_address=("127.9.8.7", 0), timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text else None

    def traffic(self):
        """A person is enrolled and verified; somebody guesses, somebody is lost. What is known of all of them is given back."""
        wrong = base64.b64encode(f"{self.client['client_id']}:wrong".encode()).decode()
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        assert self.call("POST", "/oauth/token", "grant_type=client_credentials", Authorization=f"Basic {wrong}", **form)[0] == 401
        right = base64.b64encode(f"{self.client['client_id']}:{self.client['client_secret']}".encode()).decode()
        _, granted = self.call("POST", "/oauth/token", "grant_type=client_credentials", Authorization=f"Basic {right}", **form)
        bearer = {"Authorization": f"Bearer {granted['access_token']}"}
        as_json = {**bearer, "Content_Type": "application/json"}
        _, subject = self.call("POST", "/v1/subjects", json.dumps({"external_ref": "agnes-canary"}), **as_json)
        path = f"/v1/subjects/{subject['id']}"
        self.call("POST", f"{path}/consents", json.dumps({"purpose": "face_verification", "notice_version": "1"}), **as_json)
        photo = (ROOT / "samples/eileen_collins.png").read_bytes()
        assert self.call("POST", f"{path}/enrolments", photo, Content_Type="image/png", **bearer)[0] == 201
        for _ in range(20):  # decisions are told in batches of 20
            assert self.call("POST", f"{path}/verifications", photo, Content_Type="image/png", **bearer)[0] == 201
        assert self.call("GET", "/v1/subjects/sub_canary/nowhere", **bearer)[0] == 404
        with sqlite3.connect(self.folder / "data/velum.db", timeout=30) as database:
            database.execute("UPDATE jobs SET due_at = 0 WHERE kind = 'retention'")
        # Twice where it was due by itself meanwhile.
        done = r'velum_job_runs_total\{kind="retention",outcome="done"\} [1-9]'
        wait_for("the daily job", lambda: re.search(done, self.scrape("worker")))
        return ["agnes-canary", "sub_canary", subject["id"], self.client["tenant_id"], self.client["client_id"], "127.9.8.7"]

    def postgres(self):
        port, folder = free_port(), self.folder / "postgres"
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        folder.mkdir()
        owner = check("id", "-u", "postgres").strip() if IS_ROOT else os.getuid()
        if IS_ROOT:
            os.chown(folder, int(owner), int(owner))
        become = as_user(owner)
        check(*become, binaries / "initdb", "-D", folder / "data", "-U", "velum_metrics", "--auth", "trust", "--no-sync", cwd=folder)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off", "-p", port]
        self.start("postgres", [*become, binaries / "postgres", "-D", folder / "data", *options], port, cwd=folder)

    def nginx(self):
        port, folder = free_port(), self.folder / "nginx"
        folder.mkdir()
        if IS_ROOT:
            check("chown", "nobody", folder)
        (folder / "conf").write_text(f"""daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
scgi_temp_path {folder}; server {{ listen 127.0.0.1:{port}; location = /status {{ stub_status; }} }} }}""")
        self.start("nginx", ["/usr/sbin/nginx", "-c", folder / "conf", "-e", folder / "log"], port)

    def textfiles(self):
        """What backup and doctor leave for the node exporter, written by themselves."""
        home = self.folder / "home"
        (home / "state").mkdir(parents=True)
        (home / "deploy.conf").write_text("DRIVER=process\nVELUM_ISSUER=https://velum.test\n")
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        acts = ({"act": "backup", "bytes": 4711}, {"act": "verify", "seconds": 3}, {"act": "expire", "oldest": int(time.time()) - 60})
        (home / "state/backups.log").write_text("".join(
            json.dumps({"at": moment, "part": part, "result": "passed", "repository": "local", **act}) + "\n"
            for part in ("main", "keystore", "ledger") for act in acts
        ))
        script = f"here={ROOT}; . {ROOT}/deploy/common.sh; set_home {home}; read_conf; . {ROOT}/deploy/backup.sh; metrics"
        check("bash", "-euo", "pipefail", "-c", script)
        check(ROOT / "deploy.sh", "--home", home, "doctor", "--metrics", "processor", "swap", "colours")
        self.texts = home / "state/metrics"

    def exporters(self):
        def exporter(name, program, *options, flag="--web.listen-address", **more):
            port = free_port()
            self.start(name, [f"prometheus-{program}-exporter", f"{flag}=127.0.0.1:{port}", *options], port, **more)

        exporter("exporter_postgres", "postgres", env={
            "PATH": os.environ["PATH"], "DATA_SOURCE_NAME": f"postgresql://velum_metrics@127.0.0.1:{self.ports['postgres']}/postgres?sslmode=disable",
        })
        exporter("exporter_redis", "redis", f"-redis.addr=redis://127.0.0.1:{self.ports['redis']}", flag="-web.listen-address")
        exporter("exporter_nginx", "nginx", f"-nginx.scrape-uri=http://127.0.0.1:{self.ports['nginx']}/status", flag="-web.listen-address")
        exporter("exporter_host", "node", f"--collector.textfile.directory={self.texts}")
        prober = self.folder / "blackbox.yml"
        trust = f"      tls_config: {{ ca_file: {self.folder}/data/tls/ca.pem }}\n"
        prober.write_text((MONITORING / "blackbox.yml").read_text() + trust)
        exporter("blackbox", "blackbox", f"--config.file={prober}")

    def prometheus(self):
        """The files of monitoring/, with addresses of this machine, and with less patience."""
        folder = self.folder / "monitoring"
        shutil.copytree(MONITORING, folder)
        ports = {name: free_port() for name in ("prometheus", "alertmanager")}
        names = {
            "app_blue:9464": self.ports["app"], "app_green:9464": free_port(), "worker:9464": self.ports["worker"],
            "blackbox:9115": self.ports["blackbox"], "exporter_redis:9121": self.ports["exporter_redis"],
            **{f"exporter_{name}:9187": self.ports["exporter_postgres"] for name in ("postgres", "keystore", "ledger")},
            "exporter_nginx:9113": self.ports["exporter_nginx"], "exporter_host:9100": self.ports["exporter_host"],
            "localhost:9090": ports["prometheus"], "alertmanager:9093": ports["alertmanager"],
            "keyholder:9464": self.ports["keyholder"],
        }
        targets = (folder / "targets.yml").read_text()
        self.targets = len(re.findall("(?m)^- targets", targets))
        assert set(re.findall(r'targets: \["([^"]+)"\]', targets)) == set(names), "targets.yml has other targets than these tests know"
        for name, port in names.items():
            targets = targets.replace(f'"{name}"', f'"127.0.0.1:{port}"')
        (folder / "targets.yml").write_text(targets.replace("https://velum.example/", f"https://localhost:{self.api}/"))
        (folder / "alertmanagers.yml").write_text(f'- targets: ["127.0.0.1:{ports["alertmanager"]}"]\n')
        config = (folder / "prometheus.yml").read_text()
        (folder / "prometheus.yml").write_text(re.sub(r"(interval|timeout): 1[05]s", r"\1: 2s", config))
        (folder / "alerts.yml").write_text(re.sub(r"(?m)^( +for:) 1m$", r"\1 4s", ALERTS))
        mail = (folder / "alertmanager.yml").read_text().replace("group_wait: 30s", "group_wait: 1s").replace("group_interval: 5m", "group_interval: 2s")
        mail = re.sub(r"email_configs: \[\{ to: ([\w-]+)@velum.example", rf"webhook_configs: [{{ url: 'http://127.0.0.1:{self.inbox.server_port}/\1'", mail)
        (folder / "alertmanager.yml").write_text(mail)
        self.start("alertmanager", ["prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={self.folder}/am",
                                    f"--web.listen-address=127.0.0.1:{ports['alertmanager']}", "--cluster.listen-address="], ports["alertmanager"])
        self.start("prometheus", ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/tsdb",
                                  f"--web.listen-address=127.0.0.1:{ports['prometheus']}"], ports["prometheus"], cwd=self.folder)

    def ask(self, path, **query):
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def scrape(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/metrics", timeout=30) as answer:
            return answer.read().decode()

    def close(self):
        for server in reversed(self.servers.values()):
            server.stop()
        self.inbox.shutdown()
        self.inbox.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)


class RealScrape(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.watched = watched = Watched()
        cls.addClassCleanup(watched.close)
        cls.canaries = watched.traffic()
        # Rates need two scrapes of what has just happened.
        for metric in ("velum_verifications_total", "velum_job_runs_total", "pg_stat_activity_count", "probe_success"):
            query = f"min(count_over_time({metric}[1m])) >= 3"
            wait_for(f"scrapes of {metric}", lambda query=query: watched.ask("query", query=query)["result"])

    def test_1_every_target_is_scraped(self):
        def down():
            return [target["labels"]["instance"] for target in self.watched.ask("targets")["activeTargets"] if target["health"] != "up"]

        # A busy machine is late for once, and is asked again after two seconds.
        wait_for("every target but one", lambda: down() == ["green"])
        self.assertEqual(len(self.watched.ask("targets")["activeTargets"]), self.watched.targets)

    def test_2_every_name_is_there(self):
        names = set(self.watched.ask("label/__name__/values"))
        # Prometheus makes ALERTS itself.
        asked = set().union(*(metrics_of(expression) for expression in expressions())) - {"ALERTS"}
        of_the_program = {name for name in asked if re.match("(velum|process)_(?!backup_|doctor_)", name)}
        self.assertEqual(asked - of_the_program - names, set())

        def untold():
            rows = self.watched.ask("query", query='{job=~"app|worker|keyholder"}')["result"]
            return of_the_program - {row["metric"]["__name__"] for row in rows}

        wait_for("everything that the program tells of", lambda: not untold())

    def test_3_every_expression_can_be_evaluated(self):
        for expression in expressions():
            with self.subTest(expression):
                self.watched.ask("query", query=expression)
        groups = self.watched.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        self.assertEqual(len(rules), len(re.findall("- alert:", ALERTS)))
        wait_for("an evaluation of each", lambda: all(rule["health"] == "ok" for group in self.watched.ask("rules")["groups"] for rule in group["rules"]))

    def test_4_panels_of_what_happened_show_it(self):
        for title in ("Requests by status", "Verification, whole request", "Each stage, 95 %", "Verifications", "Enrolments", "Compute pool",
                      "Queue", "What the app reaches", "PostgreSQL, connections", "Redis, memory", "nginx, connections", "Disk left",
                      "Age of the last good backup", "Certificates end in", "deploy.sh doctor", "Public door", "Colours that answer"):
            panel = next(panel for panel in DASHBOARD["panels"] if panel["title"] == title)
            wait_for(title, lambda panel=panel: any(self.watched.ask("query", query=target["expr"])["result"] for target in panel["targets"]))

    def test_5_nobody_is_named(self):
        for name in ("app", "worker", "exporter_postgres", "exporter_redis", "exporter_nginx", "exporter_host"):
            text = self.watched.scrape(name)
            for canary in self.canaries:
                self.assertNotIn(canary, text, name)
        labels = {label for row in self.watched.ask("query", query='{job=~"app|worker|door"}')["result"] for label in row["metric"]}
        # The prober tells what the public certificate says of itself.
        self.assertLessEqual(labels - {"__name__", "phase", "fingerprint_sha256", "issuer", "subject", "subjectalternative"}, LABELS)

    def test_6_a_real_outage_reaches_whoever_is_on_call(self):
        firing = {alert["labels"]["alertname"] for alert in self.watched.ask("alerts")["alerts"] if alert["state"] == "firing"}
        self.assertNotIn("VelumDown", firing)
        # What came while the app was starting is not this alarm.
        before = len(Inbox.received)
        self.watched.servers["app"].stop()
        def arrived():
            return [message for path, message in Inbox.received[before:]
                    if path == "/on-call" and message["groupLabels"]["alertname"] == "VelumDown" and message["status"] == "firing"]
        try:
            wait_for("the alarm", arrived, 90)
        except AssertionError:
            up = self.watched.ask("query", query='up{job="app"}')["result"]
            self.fail(f"no alarm: {up}, {self.watched.ask('alerts')['alerts']}, arrived: {Inbox.received[before:]}")
        alert = arrived()[0]["alerts"][0]
        self.assertEqual(alert["labels"]["severity"], "critical")
        self.assertEqual(alert["annotations"]["summary"], "Neither colour of the app answers")
        self.assertTrue(any(path == "/operators" for path, _ in Inbox.received) or not firing - {"VelumHeartbeat"})


if __name__ == "__main__":
    unittest.main()
