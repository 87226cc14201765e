"""deploy.sh doctor: on a host where all is well it finds nothing, and it finds every fault that is planted and says the mend.

Faults are real: real certificates, files, file systems, servers and processes. Three facts cannot be had on a test machine, encrypted
disks, an old Docker engine and somebody who keeps the clock; there a program on PATH says what `lsblk`, `docker` and `chronyc` would
say, and nothing else is pretended.
"""

import datetime
import http.server
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
import unittest
from email.utils import formatdate
from pathlib import Path

from .support import IS_ROOT, PUBLIC_NAME, ROOT, Installation, Server, as_user, check, free_port, has_ended, is_locked, wait_for

DAY = 86400
house = None
world = None  # the settings of a host where all is well


class Clock(http.server.BaseHTTPRequestHandler):
    """A server whose clock is `ahead` seconds ahead of ours."""

    ahead = 0

    def do_HEAD(self):  # pylint: disable=invalid-name
        self.send_response_only(200)
        self.send_header("Date", formatdate(time.time() + self.ahead, usegmt=True))
        self.end_headers()

    def log_message(self, *_):
        pass


def moment(ago=0):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago))


def backups(ago=0, verified=0, keystore=0, without=(), failed=()):
    """state/backups.log as backup.sh writes it."""
    lines = []
    for part in ("main", "keystore", "ledger", "redis", "configuration", "secrets", "keyholder", "passes"):
        for result in ("failed",) if part in failed else ():
            lines.append({"at": moment(ago), "part": part, "act": "backup", "result": result, "cause": "the bucket is away"})
        if part in without:
            continue
        lines.append({"at": moment(ago), "part": part, "act": "backup", "result": "passed", "repository": "local", "bytes": 1})
        if verified is not None:
            lines.append({"at": moment(verified), "part": part, "act": "verify", "result": "passed", "repository": "local"})
        oldest = int(time.time() - keystore)
        lines.append({"at": moment(ago), "part": part, "act": "expire", "result": "passed", "repository": "local", "oldest": oldest})
    (house.home / "state/backups.log").write_text("".join(json.dumps(line) + "\n" for line in lines))


def drill(ago=0, result="passed"):
    (house.home / "state/restore-drill.json").write_text(json.dumps({"at": moment(ago), "result": result, "note": "rows differ"}))


def program(name, text):
    """A program that stands before the system's own of that name."""
    file = house.folder / "path" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


def encrypted_disks():
    program("lsblk", "echo crypt; echo part; echo disk")


def kept_clock():
    """Chrony in the form that programs read, of a host that has a source of time: a test machine may have nobody who keeps its clock."""
    program("chronyc", "echo C0A80001,192.168.0.1,3,1763800000.1,0.0001,0.0002,0.0003,-1.1,0.001,0.02,0.03,0.0004,64.5,Normal")


def certificate_of(name, authority, begins=-1, ends=60):
    """A certificate of an authority, with times of its own, and its key."""
    folder = house.folder / "made"
    folder.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    first, last = ((now + datetime.timedelta(days=days)).strftime("%Y%m%d%H%M%SZ") for days in (begins, ends))
    (folder / "index").write_text("")
    (folder / "serial").write_text("01\n")
    (folder / "ca.conf").write_text(
        f"[ca]\ndefault_ca = it\n[it]\ndatabase = {folder}/index\nserial = {folder}/serial\nnew_certs_dir = {folder}\n"
        "default_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n"
    )
    (folder / "extensions").write_text(f"subjectAltName=DNS:{name}\n")
    check("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
          "-keyout", folder / "key", "-out", folder / "request")
    check("openssl", "ca", "-batch", "-notext", "-config", folder / "ca.conf", "-cert", f"{authority}.pem", "-keyfile", f"{authority}.key",
          "-in", folder / "request", "-out", folder / "certificate", "-startdate", first, "-enddate", last, "-extfile", folder / "extensions")
    return (folder / "certificate").read_bytes(), (folder / "key").read_bytes()


def public_certificate(name=PUBLIC_NAME, **ends):
    """What nginx shows from now on: it reads the files for each handshake."""
    folder = house.home / "secrets/nginx/tls"
    for file, content in zip(("fullchain.pem", "privkey.pem"), certificate_of(name, house.tls / "ca", **ends)):
        (folder / file).write_bytes(content)
    return folder


def settings(**more):
    house._configuration(**{**world, **more})  # pylint: disable=protected-access


def setUpModule():  # pylint: disable=invalid-name
    global house, world
    house = Installation()
    clock = http.server.HTTPServer(("127.0.0.1", 0), Clock)
    threading.Thread(target=clock.serve_forever, daemon=True).start()
    unittest.addModuleCleanup(clock.shutdown)
    unittest.addModuleCleanup(house.close)
    world = {
        "NGINX_HTTPS_PORT": house.ports["public"],
        "CLOCK_URL": f"http://127.0.0.1:{clock.server_port}/",
        "SMOKE_BEFORE_SWITCH": "no",
    }
    encrypted_disks()
    public_certificate()
    kept_clock()
    settings()
    backups()
    drill()
    house.release("1.0.0")
    house.succeeds("deploy", "1.0.0")


class Doctor(unittest.TestCase):
    def doctor(self, *arguments):
        environment = {**os.environ, "PATH": f"{house.folder}/path:{os.environ['PATH']}:/usr/sbin:/sbin", "SSL_CERT_FILE": str(house.tls / "ca.pem")}
        result = house.deploy_sh("doctor", "--json", *arguments, env=environment)
        try:
            report = json.loads(result.out)
        except ValueError:
            self.fail(result.out)
        self.assertEqual(result.returncode, int(any(finding["severity"] == "fail" for finding in report["findings"])), result.out)
        return report["findings"]

    def finds(self, name, severity, finding, mend):
        """One check finds just that."""
        ill = [found for found in self.doctor(name) if found["severity"] != "ok"]
        self.assertEqual([(found["check"], found["severity"]) for found in ill], [(name, severity)], ill)
        self.assertIn(finding, ill[0]["finding"])
        self.assertIn(mend, ill[0]["mend"])

    def sound(self, *names):
        ill = [found for found in self.doctor(*names) if found["severity"] != "ok"]
        self.assertEqual(ill, [])

    def after(self, mend):
        """When the test ends, and then what was examined is sound again."""
        self.addCleanup(mend)


class HealthyHost(Doctor):
    def test_finds_nothing(self):
        # Where the program measures, Redis is met for the first time by the first look, and may be late then.
        wait_for("all that it depends on", lambda: all(found["severity"] == "ok" for found in self.doctor("dependencies")), 20)
        findings = self.doctor()
        # Of secrets there is a test below, with those that `secrets init` makes.
        ill = [found for found in findings if found["severity"] != "ok" and found["check"] != "secrets"]
        self.assertEqual(ill, [])
        looked = {found["check"] for found in findings}
        listed = house.succeeds("help", "doctor").split("The checks:")[1].split()
        self.assertEqual(looked, set(listed))

    def test_says_so_for_people_and_for_prometheus(self):
        text = house.succeeds("doctor", "processor", "jobs")
        self.assertRegex(text, r"(?m)^ok   processor         the processor")
        self.assertIn("0 to mend, 0 to look at", text)
        house.succeeds("doctor", "--metrics", "processor", "colours")
        told = (house.home / "state/metrics/velum_doctor.prom").read_text()
        self.assertIn('velum_doctor_finding{check="processor",severity="ok"} 1\n', told)
        self.assertRegex(told, r"(?m)^velum_doctor_last_run_timestamp_seconds \d+$")

    def test_waits_for_the_end_of_a_deploy_before_it_tells_prometheus(self):
        at_work = Server("a run", ["flock", house.home / "state/lock", "sleep", "3"], house.folder / "lock.log")
        self.after(at_work.stop)
        wait_for("its lock", lambda: is_locked(house.home / "state/lock"))
        house.succeeds("doctor", "--metrics", "processor")
        self.assertIsNotNone(at_work.process.poll(), "it had ended by then")

    def test_refuses_a_check_that_is_none(self):
        result = house.deploy_sh("doctor", "nonsense")
        self.assertEqual(result.returncode, 1)
        self.assertIn("there is no check nonsense", result.out)

    def test_a_check_that_cannot_look_is_a_finding(self):
        program("lscpu", "exit 3")
        self.after((house.folder / "path/lscpu").unlink)
        self.finds("processor", "fail", "lscpu does not answer", "apt-get install util-linux")


class Host(Doctor):
    def test_settings_with_an_unknown_name(self):
        with open(house.home / "deploy.conf", "a", encoding="utf-8") as file:
            file.write("BLEU_LISTEN=127.0.0.1:1\n")
        self.after(settings)
        self.finds("settings", "fail", "BLEU_LISTEN is unknown", "deploy.conf.example lists every setting")

    def test_settings_that_others_can_write(self):
        (house.home / "deploy.conf").chmod(0o666)
        self.after(lambda: (house.home / "deploy.conf").chmod(0o644))
        self.finds("settings", "fail", "can be written by others", "chmod go-w")

    def test_processor_without_avx2(self):
        program("lscpu", "echo 'Architecture: x86_64'; echo 'Flags: fpu sse4_2 avx fma'")
        self.after((house.folder / "path/lscpu").unlink)
        self.finds("processor", "fail", "no AVX2", "another machine")

    def test_clock_that_is_a_minute_off(self):
        Clock.ahead = 60
        self.after(lambda: setattr(Clock, "ahead", 0))
        self.finds("clock", "fail", "the clock is -", "chronyc makestep")
        Clock.ahead = -4
        self.finds("clock", "warn", "the clock is ", "chronyc makestep")

    def test_clock_that_nobody_keeps(self):
        program("chronyc", "echo 00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised")
        self.after(kept_clock)
        self.finds("clock", "warn", "chrony runs and has no source of time", "chronyc sources")
        program("chronyc", "exit 1")
        program("timedatectl", "echo no")
        self.after((house.folder / "path/timedatectl").unlink)
        self.finds("clock", "warn", "nothing keeps the clock right", "apt-get install chrony")
        program("timedatectl", "echo yes")
        self.sound("clock")

    @unittest.skipUnless(IS_ROOT, "mounts a file system")
    def test_disk_and_inodes_that_run_out(self):
        ledger = house.home / "data/ledger"
        ledger.mkdir()
        check("mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=100", "tmpfs", ledger)
        self.after(lambda: (check("umount", ledger), ledger.rmdir()))
        self.sound("disk", "inodes")
        (ledger / "rows").write_bytes(bytes(3600 * 1024))
        self.finds("disk", "warn", f"{ledger} has 1", "a larger disk")
        (ledger / "rows").write_bytes(bytes(4 * 1024 * 1024 - 8192))
        self.finds("disk", "fail", f"{ledger} has 0 %", "PostgreSQL stops when it is full")
        (ledger / "rows").unlink()
        for number in range(95):
            (ledger / str(number)).touch()
        self.finds("inodes", "fail", f"{ledger} has ", "find ")

    def test_disk_with_less_than_a_deploy_wants(self):
        settings(DISK_FREE_MIN_MB=10**9)
        self.after(settings)
        self.finds("disk", "fail", "a deploy wants 1000000000", "deploy.sh cleanup")

    def test_data_that_is_not_encrypted(self):
        # The disk of a test machine, as it is.
        (house.folder / "path/lsblk").unlink()
        self.after(encrypted_disks)
        ill = [found for found in self.doctor("encryption") if found["severity"] == "fail"]
        self.assertEqual(len(ill), 1, "one disk, one line")
        for folder in ("data", "data/keyholder", "secrets"):
            self.assertRegex(ill[0]["finding"], rf"is not encrypted, and holds .*{house.home / folder}\b")
        self.assertIn("LUKS", ill[0]["mend"])
        settings(DISK_ENCRYPTION="elsewhere")
        self.after(settings)
        self.sound("encryption")

    def test_swap_that_is_not_encrypted(self):
        program("swapon", "echo /dev/vdb2; echo /dev/zram0")
        program("lsblk", "echo part; echo disk")
        self.after((house.folder / "path/swapon").unlink)
        self.after(encrypted_disks)
        self.finds("swap", "fail", "the swap /dev/vdb2 is not encrypted", "crypttab")

    def test_process_that_dumps_its_memory(self):
        self.sound("memory_dumps")
        # Only the kernel's own may raise the limit of a process that has dropped its rights, so this is one more.
        name = house.home / "releases/1.0.0/bin/velum"
        process = Server("a process", ["prlimit", "--core=1000000", "bash", "-c", f"exec -a '{name} serve' sleep 60"], house.folder / "core.log")
        self.after(process.stop)
        wait_for("its name", lambda: b"serve" in Path(f"/proc/{process.process.pid}/cmdline").read_bytes()[:200])
        self.finds("memory_dumps", "fail", f"process {process.process.pid} ({name} serve", "LimitCORE=0")

    def docker(self, engine, compose):
        program("docker", f"""case "$*" in
            "version "*) echo {engine} ;;
            "compose version"*) {compose} ;;
            *) exit 1 ;;
        esac""")
        settings(DRIVER="compose")
        self.addCleanup((house.folder / "path/docker").unlink)
        self.addCleanup(settings)

    def test_docker_that_is_too_old(self):
        self.docker("19.03.8", "echo 2.29.7")
        self.finds("docker", "fail", "the Docker engine is 19.03.8", "apt-get install docker.io")

    def test_compose_of_version_1(self):
        self.docker("26.1.5", "exit 1")
        self.finds("docker", "fail", "docker compose (version 2) is missing", "scripts/docker-engine.sh install")

    def test_compose_that_is_too_old(self):
        self.docker("26.1.5", "echo v2.23.3")
        self.finds("docker", "fail", "docker compose is v2.23.3; 2.24 is the oldest", "scripts/docker-engine.sh install")


class SecretsAndCertificates(Doctor):
    @classmethod
    def setUpClass(cls):
        # `secrets init` lays out what a real host has; the installation of the tests has a layout of its own.
        cls.home = house.folder / "home"
        (cls.home / "releases").mkdir(parents=True)
        os.symlink(house.program, cls.home / "releases/1.0.0")
        example = "".join(f"{name}_ADDRESS=localhost:1\n" for name in ("POSTGRES", "KEYSTORE", "LEDGER", "REDIS"))
        known = (ROOT / "deploy/deploy.conf.example").read_text()
        example = example if "POSTGRES_ADDRESS" in known else ""
        (cls.home / "deploy.conf").write_text(f"DRIVER=process\nVELUM_ISSUER=https://localhost\n{example}")
        cls.made = subprocess.run([ROOT / "deploy.sh", "--home", cls.home, "secrets", "init", "1.0.0"], capture_output=True, text=True, check=False)

    def setUp(self):
        if self.made.returncode:
            self.fail(f"secrets init: {self.made.stdout}{self.made.stderr}")

    def found(self):
        result = subprocess.run([ROOT / "deploy.sh", "--home", self.home, "doctor", "--json", "secrets"], capture_output=True, text=True, check=False)
        return [found for found in json.loads(result.stdout)["findings"] if found["severity"] != "ok"]

    def plant(self, path, change, finding, mend):
        file = self.home / "secrets" / path
        before, status = file.read_bytes(), file.stat()
        self.assertEqual(self.found(), [])
        try:
            change(file)
            found = self.found()
        finally:
            file.write_bytes(before)
            file.chmod(status.st_mode & 0o777)
            os.chown(file, status.st_uid, status.st_gid)
        self.assertTrue(any(finding in one["finding"] and mend in one["mend"] for one in found), found)

    def test_secret_that_others_can_read(self):
        self.plant("app/database_url", lambda file: file.chmod(0o644), "app/database_url: can be read by others (mode 644)", "chmod go=")

    @unittest.skipUnless(IS_ROOT, "gives a file away")
    def test_secret_of_another_user(self):
        self.plant("keyholder/fhe/secret.key", lambda file: os.chown(file, 10001, 10001), "secret.key: belongs to user 10001", "chown 10002:10002")

    def test_password_that_can_be_guessed(self):
        self.plant("postgres/velum.password", lambda file: file.write_text("changeme-password-velum\n"), "can be guessed", "secrets init")

    def test_placeholder_in_place_of_a_key(self):
        self.plant("app/blind_index.key", lambda file: file.write_text("REPLACE_ME\n"), "is not 32 random bytes", "velum keys generate")

    def test_secret_that_is_empty(self):
        self.plant("app/redis_url", lambda file: file.write_text(""), "app/redis_url: is empty", "secrets init")

    def plant_certificate(self, path, key_path, signed, finding):
        """`signed` are certificate and key; the key, too, is another one until the finding was made."""
        certificate, key = signed
        other = self.home / "secrets" / key_path
        before = other.read_bytes()

        def change(file):
            file.write_bytes(certificate)
            other.write_bytes(key)

        try:
            self.plant(path, change, finding, "secrets init")
        finally:
            other.write_bytes(before)

    def test_certificate_of_the_keyholder_link_that_has_expired(self):
        signed = certificate_of("edge", self.home / "secrets/ca/edges", begins=-30, ends=-1)
        self.plant_certificate("app/keyholder_client/certificate.pem", "app/keyholder_client/key.pem", signed,
                               "keyholder_client/certificate.pem: has expired")

    def test_certificate_of_a_database_that_is_about_to_expire(self):
        signed = certificate_of("ledger", self.home / "secrets/ca/inner", begins=-30, ends=10)
        self.plant_certificate("ledger/server.crt", "ledger/server.key", signed, "ledger/server.crt: expires within 30 days")

    def public(self, name=PUBLIC_NAME, **ends):
        """Another one in place of the public certificate, until the test ends."""
        self.addCleanup(public_certificate)
        return public_certificate(name, **ends)

    def test_public_certificate_that_has_expired(self):
        self.public(begins=-90, ends=-1)
        self.finds("certificate", "fail", "has expired", "deploy.sh certs renew --now")
        self.finds("door", "fail", "callers are shown a certificate that has expired", "deploy.sh certs renew --now")

    def test_public_certificate_that_was_not_renewed(self):
        self.public(begins=-80, ends=9)
        self.finds("certificate", "warn", "should have been renewed", "deploy.sh certs renew")

    def test_public_certificate_for_another_name(self):
        self.public("velum.other")
        self.finds("certificate", "fail", f"for another name than {PUBLIC_NAME}", "VELUM_ISSUER")
        self.finds("door", "warn", "callers do not trust the certificate: ", "deploy.sh certs issue")

    def test_public_certificate_with_a_foreign_key(self):
        shutil.copy(house.home / "secrets/app/tls/key.pem", self.public() / "privkey.pem")
        self.finds("certificate", "fail", "does not belong to the public certificate", "put the right key there")

    def test_certificate_that_callers_do_not_trust(self):
        folder = house.folder / "foreign"
        folder.mkdir()
        check("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90", "-subj", "/CN=own",
              "-addext", f"subjectAltName=DNS:{PUBLIC_NAME}", "-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem")
        into = self.public()
        for name in ("privkey.pem", "fullchain.pem"):
            shutil.copy(folder / name, into / name)
        self.finds("door", "warn", "callers do not trust the certificate: self-signed", "deploy.sh certs issue")

    def test_door_that_another_program_keeps(self):
        class Other(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # pylint: disable=invalid-name
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(house.home / "secrets/app/tls/certificate.pem", house.home / "secrets/app/tls/key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.after(server.server_close)
        self.after(server.shutdown)
        settings(NGINX_HTTPS_PORT=server.server_port)
        self.after(settings)
        self.finds("door", "warn", "callers are shown another certificate than", "ss -ltnp")

    def test_door_that_is_closed(self):
        settings(NGINX_HTTPS_PORT=free_port())
        self.after(settings)
        self.finds("door", "fail", "nobody answers by TLS", "start nginx")


class TheInstallation(Doctor):
    def test_folder_of_the_sockets_that_nginx_cannot_enter(self):
        (house.home / "run").chmod(0o700)
        self.after(lambda: (house.home / "run").chmod(0o2770))
        self.finds("folders", "fail", "nginx cannot reach the sockets", "chmod 2770")

    def test_link_to_a_colour_that_does_not_run(self):
        active = house.active()
        link, other = house.home / "run/active.sock", {"blue": "green", "green": "blue"}[active]
        link.unlink()
        link.symlink_to(f"{other}.sock")

        def mend():
            link.unlink()
            link.symlink_to(f"{active}.sock")

        self.after(mend)
        self.finds("colours", "fail", f"active.sock leads to {other}, which does not run", "deploy.sh rollback")
        self.finds("door", "fail", "answers 502", "deploy.sh status")

    def test_link_to_nowhere(self):
        link, active = house.home / "run/active.sock", house.active()
        link.unlink()
        link.symlink_to("elsewhere.sock")
        self.after(lambda: (link.unlink(), link.symlink_to(f"{active}.sock")))
        self.finds("colours", "fail", "active.sock leads to elsewhere.sock", "then deploy again")
        self.finds("jobs", "fail", "active.sock leads to elsewhere.sock", "then deploy again")

    def test_deploy_that_was_broken_off(self):
        """A process of the idle colour, as a run leaves it that is killed before the switch."""
        idle = {"blue": "green", "green": "blue"}[house.active()]
        pid_file, release = house.home / f"state/{idle}.pid", house.home / f"state/{idle}.release"
        before = release.read_text() if release.exists() else None
        started = check("bash", "-c", f'here={ROOT}; . {ROOT}/deploy/common.sh; started_at {os.getpid()}')
        pid_file.write_text(f"{os.getpid()} {started}\n")
        release.write_text("1.0.0\n")

        def mend():
            pid_file.unlink()
            release.write_text(before) if before else release.unlink()

        self.after(mend)
        self.finds("colours", "warn", "both colours run", "run the same deploy again")

    def test_two_workers(self):
        self.sound("worker")
        worker = house.pid("worker")
        environment = dict(
            line.split("=", 1) for line in Path(f"/proc/{worker}/environ").read_text().split("\0") if "=" in line
        )
        second = Server("a second worker", [*as_user(10001, 10010), *Path(f"/proc/{worker}/cmdline").read_text().split("\0")[:-1]],
                        house.folder / "second.log", env={**environment, "VELUM_METRICS_LISTEN": f"127.0.0.1:{free_port()}"})
        self.after(second.stop)
        wait_for("the second worker", lambda: "waits for jobs" in (house.folder / "second.log").read_text())
        self.finds("worker", "warn", "2 workers run", "pgrep -af")

    def test_alerts_that_reach_nobody(self):
        self.sound("alerts")
        folder = house.scripts / "monitoring"
        shutil.copytree(ROOT / "monitoring", folder)
        self.after(lambda: shutil.rmtree(folder))
        settings(PROFILES="monitoring")
        self.after(settings)
        ill = {found["finding"] for found in self.doctor("alerts") if found["severity"] == "fail"}
        self.assertEqual(ill, {
            "monitoring/alertmanager.yml still has the examples: localhost:25 on-call@velum.example operators@velum.example velum@velum.example",
            "monitoring/targets.yml still has the examples: https://velum.example"})
        for file in ("alertmanager.yml", "targets.yml"):
            text = (folder / file).read_text()
            (folder / file).write_text(text.replace("velum.example", "velum.test").replace("localhost:25", "mail.velum.test:25"))
        self.sound("alerts")
        (folder / "targets.yml").unlink()
        self.finds("alerts", "fail", f"there is no {folder}/targets.yml", "bring the whole folder monitoring/")

    def test_worker_of_another_release(self):
        (house.home / "state/worker.release").write_text("0.9.0\n")
        self.after(lambda: (house.home / "state/worker.release").write_text("1.0.0\n"))
        self.finds("release", "fail", "1.0.0 serves, and the worker runs 0.9.0", "deploy.sh deploy 1.0.0")

    def test_no_worker(self):
        os.kill(house.pid("worker"), signal.SIGTERM)
        wait_for("its end", lambda: has_ended(house.pid("worker")))
        self.after(lambda: house.succeeds("deploy", "1.0.0"))
        self.finds("worker", "fail", "no worker runs", "deploy.sh deploy")

    def test_migration_that_is_pending(self):
        self.sound("migrations")
        removed = house.sql(house.folder / "postgres", "database",
                            "DELETE FROM __diesel_schema_migrations WHERE version = (SELECT max(version) FROM __diesel_schema_migrations) RETURNING version")
        version = removed.strip().splitlines()[0].strip()
        self.after(lambda: house.sql(house.folder / "postgres", "database", f"INSERT INTO __diesel_schema_migrations (version) VALUES ('{version}')"))
        self.finds("migrations", "fail", "a migration is pending: main: ", "deploy.sh deploy 1.0.0 --again")

    def test_keyholder_that_is_away(self):
        house.servers["keyholder"].stop()
        self.after(house.start_keyholder)
        self.finds("keyholder", "fail", "the app does not reach the keyholder", "start it where it lies")

    def test_redis_that_is_away(self):
        house.servers["redis"].stop()
        self.after(house._redis)  # pylint: disable=protected-access
        self.finds("dependencies", "warn", "does not reach Redis", "start it")

    def test_database_that_is_away(self):
        server = house.servers["postgres"]
        server.stop(signal.SIGINT)
        folder = house.folder / "postgres"

        def mend():
            house.servers["postgres"] = Server("PostgreSQL", server.process.args, folder / "log", house.ports["postgres"], cwd=folder)
            wait_for("the app", lambda: all(found["severity"] == "ok" for found in self.doctor("dependencies")))

        self.after(mend)
        ill = [found["finding"] for found in self.doctor("dependencies") if found["severity"] == "fail"]
        self.assertTrue(any("the main database" in finding for finding in ill) and any("the key store" in finding for finding in ill), ill)

    def sql(self, database, command):
        return house.sql(house.folder / "postgres", database, "SET velum.tenant = '*'", command)

    def test_job_that_was_given_up(self):
        self.sound("jobs")
        self.sql("database", "INSERT INTO jobs (id, kind, payload, due_at, attempts, created_at, dead_at) VALUES ('job_test', 'erasure', '{}', 0, 24, 0, 1)")
        self.after(lambda: self.sql("database", "DELETE FROM jobs WHERE id = 'job_test'"))
        self.finds("jobs", "fail", "1 jobs were given up", "velum jobs dead")

    def test_request_of_a_person_that_is_late(self):
        house.new_client()
        tenant = self.sql("database", "SELECT id FROM tenants LIMIT 1").strip().splitlines()[0].strip()
        columns = self.sql("database", "SELECT column_name || ' ' || data_type FROM information_schema.columns "
                                       "WHERE table_name = 'erasure_requests' AND is_nullable = 'NO' AND column_default IS NULL")
        values = {"id": "'era_test'", "tenant_id": f"'{tenant}'", "due_at": "1000000", "state": "'verified'"}
        names = [line.split()[0] for line in columns.splitlines() if line.strip()]
        kinds = dict(line.strip().split(" ", 1) for line in columns.splitlines() if line.strip())
        for name in names:
            if name not in values:
                values[name] = "0" if kinds[name] in ("bigint", "integer") else "false" if kinds[name] == "boolean" else "'x'"
        self.sql("database", f"INSERT INTO erasure_requests ({', '.join(values)}) VALUES ({', '.join(values.values())})")
        self.after(lambda: self.sql("database", "DELETE FROM erasure_requests WHERE id = 'era_test'"))
        self.finds("deadlines", "fail", "a request of a person (erasure) has been late", "the console names it")

    def test_ledger_that_is_behind(self):
        marks = self.sql("database", "SELECT table_name FROM information_schema.columns WHERE column_name = 'sequence' AND table_name LIKE '%ledger%'").split()
        self.assertTrue(marks)
        before = self.sql("database", f"SELECT sequence FROM {marks[0]}").strip()
        self.sql("database", f"UPDATE {marks[0]} SET sequence = 4711")
        self.after(lambda: self.sql("database", f"UPDATE {marks[0]} SET sequence = {before}"))
        self.finds("ledger", "fail", "databases and erasure ledger do not agree", "After a restore")


class Backups(Doctor):
    def setUp(self):
        self.addCleanup(backups)

    def test_never_made(self):
        (house.home / "state/backups.log").unlink()
        self.finds("backups", "fail", "there has never been a backup", "deploy.sh backup")

    def test_one_part_never_backed_up(self):
        backups(without=("ledger",), failed=("ledger",))
        self.finds("backups", "fail", "ledger was never backed up: the bucket is away", "deploy.sh backup run ledger")

    def test_line_of_the_record_that_was_torn(self):
        with open(house.home / "state/backups.log", "a", encoding="utf-8") as file:
            file.write('{"at":"2026-11-22T03:10:00Z","part":"ma')
        self.sound("backups", "keystore_backups")
        self.assertEqual(house.status()["last_backup"]["part"], "passes")

    def test_stale(self):
        backups(ago=27 * 3600)
        ill = [found for found in self.doctor("backups") if found["severity"] == "fail"]
        self.assertEqual(len(ill), 8, ill)
        self.assertIn("the last good backup of main is 27 hours old", ill[0]["finding"])

    def test_never_verified(self):
        backups(verified=None)
        ill = [found["finding"] for found in self.doctor("backups") if found["severity"] == "fail"]
        self.assertIn("no backup of main was ever restored on trial, so it is a hope", ill)

    def test_not_verified_for_long(self):
        backups(verified=9 * DAY)
        ill = [found for found in self.doctor("backups")]
        self.assertEqual({found["severity"] for found in ill}, {"warn"})
        self.assertIn("deploy.sh backup verify", ill[0]["mend"])

    def test_key_store_kept_longer_than_certificates_promise(self):
        backups(keystore=8 * DAY)
        self.finds("keystore_backups", "fail", "8 days old, and certificates of erasure promise 7", "deploy.sh backup run keystore")
        settings(VELUM_KEYSTORE_BACKUP_DAYS=10)
        self.after(settings)
        self.sound("keystore_backups")

    def test_drill_that_is_old_failed_or_missing(self):
        self.after(drill)
        drill(ago=101 * DAY)
        self.finds("restore_drill", "warn", "101 days ago", "deploy.sh restore --to latest")
        drill(result="failed")
        self.finds("restore_drill", "fail", "the last restore drill failed: rows differ", "deploy.sh restore")
        (house.home / "state/restore-drill.json").unlink()
        self.finds("restore_drill", "fail", "there was never a restore drill", "deploy.sh restore")


if __name__ == "__main__":
    unittest.main()
