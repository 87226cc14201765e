"""Backups for real: three PostgreSQL clusters, the program, age, pgBackRest, an S3 server. Nothing is pretended but the clock, where a
test says so.

What is searched for: a person enrolled by the program itself, whose reference, photo and caller's address must not be readable in
anything that a backup holds once all its keys are used.
"""

import base64
import glob
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
import zlib
from pathlib import Path

from .client import Api, Door, Http1, Unexpected
from .support import INNER_NAME, IS_ROOT, ROOT, VELUM, Installation, Server, as_user, check, free_port, is_locked, wait_for

BIN = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
SERVICES = {"main": "postgres", "keystore": "keystore", "ledger": "ledger"}
URLS = {"main": "database", "keystore": "keystore", "ledger": "ledger"}
MARK = secrets.token_hex(8)
NOW = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
RECIPIENTS = ("configuration", "secrets", "keyholder", "passes")


class Cluster:
    """One PostgreSQL, below $VELUM_HOME/data, as the images make it."""

    def __init__(self, home, name, port, log, preload=None):
        self.name, self.port, self.log = name, port, Path(log)
        self.log.parent.mkdir(exist_ok=True)
        self.data = Path(home) / "data" / SERVICES[name]
        self.data.mkdir(parents=True, exist_ok=True)
        self.owner = check("id", "-u", "postgres").strip() if IS_ROOT else str(os.getuid())
        self.become = as_user(self.owner)
        # Behind the change of user: what moves the clock keeps a semaphore that belongs to one.
        self.become += ["env", *(f"{name}={value}" for name, value in preload.items())] if preload else []
        self.sockets = self.log.parent
        if IS_ROOT:
            check("chown", self.owner, self.data, self.sockets)
        self.data.chmod(0o700)
        self.settings = {}
        self.make()

    def make(self):
        check(*self.become, BIN / "initdb", "--pgdata", self.data, "--username", "postgres", "--auth-local", "trust", "--auth-host",
              "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--data-checksums", "--no-sync", cwd="/")

    def start(self, **more):
        self.settings = more
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": self.sockets, "port": self.port, "fsync": "off",
            "archive_mode": "on", "archive_timeout": "60", "max_connections": 60, "shared_buffers": "32MB", **more,
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        check(*self.become, BIN / "pg_ctl", "--pgdata", self.data, "--silent", "--wait", "--log", self.log, "--options", options, "start",
              cwd="/")

    def stop(self):
        subprocess.run([*self.become, BIN / "pg_ctl", "--pgdata", self.data, "--silent", "--mode", "immediate", "stop"], cwd="/",
                       capture_output=True, check=False)

    def sql(self, *commands, database="postgres", host=None, port=None):
        words = [word for command in commands for word in ("--command", command)]
        return check("psql", "-XqAt", "--host", host or self.sockets, "--port", port or self.port, "--username", "postgres", "--dbname", database,
                     "--set", "ON_ERROR_STOP=1", *words, cwd="/").strip()


class House(Installation):
    """The installation of the other modules, with three clusters in place of one, and the secrets of backups."""

    def _postgres(self):
        for part in ("data/postgres", "data/keystore", "data/ledger", "backups"):
            self._in_memory(self.home / part)
        self.clusters = {}
        for name, service in SERVICES.items():
            folder = self.folder / f"pg-{name}"
            folder.mkdir()
            cluster = self.clusters[name] = Cluster(self.home, name, free_port(), folder / "log")
            self.certificate(folder, "server.crt", "server.key", ["localhost"], cluster.owner)
            cluster.start(ssl="on", ssl_cert_file=folder / "server.crt", ssl_key_file=folder / "server.key")
            owner, app = secrets.token_hex(16), secrets.token_hex(16)
            cluster.sql(f"CREATE ROLE velum_owner LOGIN PASSWORD '{owner}'", f"CREATE ROLE velum LOGIN PASSWORD '{app}'",
                        f"CREATE DATABASE {name} OWNER velum_owner")
            cluster.sql("ALTER DEFAULT PRIVILEGES FOR ROLE velum_owner IN SCHEMA public GRANT ALL ON TABLES TO velum",
                        "ALTER DEFAULT PRIVILEGES FOR ROLE velum_owner IN SCHEMA public GRANT ALL ON SEQUENCES TO velum",
                        "GRANT CREATE ON SCHEMA public TO velum_owner, velum", database=name)
            address = f"localhost:{cluster.port}/{name}?sslmode=verify-full&sslrootcert={self.tls}/ca.pem"
            self.secret(f"app/{URLS[name]}_url", f"postgres://velum:{app}@{address}")
            self.secret(f"migrate/{URLS[name]}_url", f"postgres://velum_owner:{owner}@{address}")
        self._backup_secrets()

    def _in_memory(self, folder):
        """Each file is waited for until it is on the disk, and there are thousands: here the disk is memory."""
        folder.mkdir(parents=True, exist_ok=True)
        if IS_ROOT:
            check("mount", "-t", "tmpfs", "-o", "size=600m,mode=755", "tmpfs", folder)
            self.small_disks.append(folder)

    def _backup_secrets(self):
        folder = self.home / "secrets/backup"
        self.safe = self.folder / "safe"  # stands for the medium that no host sees
        self.safe.mkdir(mode=0o700)
        (folder / "recipients").mkdir(parents=True)
        folder.chmod(0o711)
        (self.home / "secrets").chmod(0o711)
        for name in SERVICES:
            (folder / f"{name}.pass").write_text(secrets.token_urlsafe(48) + "\n")
            (folder / f"{name}.pass").chmod(0o600)
        for name in RECIPIENTS:
            check("age-keygen", "-o", self.safe / name)
            (folder / f"recipients/{name}.txt").write_text(check("age-keygen", "-y", self.safe / name))

    def _redis(self):
        super()._redis()
        # One more, where the backup looks for it, with the files of production.
        folder = self.home / "data/redis"
        folder.mkdir()
        self.servers["kept redis"] = Server("Redis", ["redis-server", "--port", "0", "--unixsocket", self.folder / "redis.sock", "--dir", folder,
                                                      "--appendonly", "yes"], self.folder / "kept-redis.log")
        wait_for("Redis", (self.folder / "redis.sock").exists)
        check("redis-cli", "-s", self.folder / "redis.sock", "SET", "velum:counter", MARK)

    def close(self):
        for cluster in getattr(self, "clusters", {}).values():
            cluster.stop()
        super().close()

    def conf(self, **settings):
        self._configuration(**{"BACKUP_BEFORE_DEPLOY": "yes", "VELUM_KEYSTORE_BACKUP_DAYS": 7, **settings})

    def fails(self, *arguments, **options):
        """What it says when it does not do it."""
        result = self.deploy_sh(*arguments, **options)
        if result.returncode == 0:
            raise AssertionError(f"deploy.sh {' '.join(arguments)} did not fail:\n{result.out}")
        return result.out

    def pgbackrest(self, cluster, *arguments):
        return check(*self.clusters[cluster].become, "pgbackrest", f"--config={self.home}/secrets/backup/{cluster}/pgbackrest.conf",
                     f"--stanza={cluster}", "--log-level-console=off", "--log-level-stderr=error", *arguments, cwd="/")

    def labels(self, cluster):
        return [backup["label"] for stanza in json.loads(self.pgbackrest(cluster, "info", "--output=json")) for backup in stanza["backup"]]

    def opened(self, cluster, folder):
        """Everything that the backups of a cluster hold, with its cipher pass: each backup restored, each segment of the log."""
        folder = Path(folder)
        for label in self.labels(cluster):
            place = folder / cluster / label
            place.mkdir(parents=True)
            check("chown", "-R", self.clusters[cluster].owner, folder / cluster)
            self.pgbackrest(cluster, f"--pg1-path={place}", f"--set={label}", "--type=immediate", "--archive-mode=off", "restore")
        listed = self.pgbackrest(cluster, "repo-ls", "--recurse", f"archive/{cluster}")
        segments = sorted(set(re.findall(r"/([0-9A-F]{24})-", listed)))
        for segment in segments:
            self.pgbackrest(cluster, "archive-get", segment, folder / cluster / segment)
        return len(segments)

    def program_settings(self):
        """For commands of the operator: what serves has."""
        app = self.home / "secrets/app"
        return {
            "VELUM_MODE": "production", "VELUM_SECRETS_DIR": app, "VELUM_FHE_DIR": app / "fhe", "VELUM_ISSUER": "https://velum.test",
            "VELUM_KEYHOLDER": f"https://localhost:{self.ports['keyholder']}", "VELUM_KEYHOLDER_CA_FILE": app / "ca.pem",
            "VELUM_KEYHOLDER_CLIENT_CERTIFICATE_FILE": app / "keyholder_client/certificate.pem",
            "VELUM_KEYHOLDER_CLIENT_KEY_FILE": app / "keyholder_client/key.pem", "VELUM_MODELS_DIR": self.program / "models",
            "VELUM_ONNXRUNTIME": next((self.program / "runtime").iterdir()),
            **{f"VELUM_{name.upper()}_URL_FILE": app / f"{name}_url" for name in URLS.values()},
        }

    def api(self):
        api = Api(Http1(Door(self.tls / "ca.pem", INNER_NAME, path=str(self.home / "run/active.sock"))), *self.client)
        api.sign_in()
        unittest.addModuleCleanup(api.connection.close)
        return api

    def lines(self, **wanted):
        """Of the record of backups."""
        lines = [json.loads(line) for line in (self.home / "state/backups.log").read_text().splitlines()]
        return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]




def found(needles, *folders):
    """Which needles stand in which files, byte by byte."""
    hits = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                text = path.read_bytes()
                for name, needle in needles.items():
                    if needle in text:
                        hits.setdefault(name, []).append(str(path.relative_to(folder)))
    return hits


class FromElsewhere(Door):
    """A caller with an address that is found again, if anybody wrote it down."""

    ADDRESS = "127.83.64.91"

    def connect(self, protocols):
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=40, source_address=(self.ADDRESS, 0))
        return self.context.wrap_socket(plain, server_hostname=self.name)


HOUSE = None
PHOTO = (ROOT / "samples/grace_hopper.jpg").read_bytes()


def setUpModule():
    global HOUSE
    for program in ("pgbackrest", "age", "jq", "sqlite3", "faketime"):
        if not shutil.which(program):
            raise unittest.SkipTest(f"{program} is missing: apt-get install pgbackrest age jq sqlite3 faketime")
    if not IS_ROOT:
        raise unittest.SkipTest("servers of several users: needs root")
    HOUSE = House()
    HOUSE.conf()
    HOUSE.first = HOUSE.succeeds("deploy", HOUSE.release("1.0.0"))
    HOUSE.client = HOUSE.new_client()
    # What may be readable on purpose: the name of a tenant.
    HOUSE.velum("clients", "create", "--tenant", f"plain-{MARK}", "--json", **HOUSE.program_settings())
    door = FromElsewhere(HOUSE.tls / "ca.pem", INNER_NAME, port=HOUSE.ports["blue"])
    api = Api(Http1(door), *HOUSE.client)
    api.sign_in()
    HOUSE.person = api.new_subject(f"person-{MARK}")
    api.consent(HOUSE.person)
    api.enrol(HOUSE.person, PHOTO)
    api.verify(HOUSE.person, PHOTO)
    api.connection.close()
    HOUSE.velum("officers", "add", "--tenant", f"plain-{MARK}", f"officer-{MARK}@example.org", "--json", **HOUSE.program_settings())


def tearDownModule():
    if HOUSE:
        HOUSE.close()


class Backups(unittest.TestCase):
    """In the order of their numbers: each leaves what the next one needs."""

    def test_1_a_run_backs_everything_up_and_compares_it(self):
        self.assertIn("main: full backup to local", HOUSE.first)
        began = int(time.time())
        HOUSE.succeeds("backup")
        for cluster in SERVICES:
            verified = HOUSE.lines(part=cluster, act="verify")[-1]
            self.assertEqual("passed", verified["result"])
            self.assertEqual(HOUSE.labels(cluster)[-1], verified["label"])
            self.assertEqual([], os.listdir(HOUSE.home / f"backups/{cluster}/scratch") if
                             (HOUSE.home / f"backups/{cluster}/scratch").exists() else [])
        self.assertGreater(HOUSE.lines(part="main", act="verify")[0]["rows"], 10)
        for part in ("redis", *RECIPIENTS):
            self.assertEqual(1, len(HOUSE.lines(part=part, act="backup", result="passed")))
        metrics = (HOUSE.home / "state/metrics/velum_backup.prom").read_text()
        for part in (*SERVICES, "redis", *RECIPIENTS):
            moment = re.search(rf'velum_backup_last_success_timestamp_seconds{{what="{part}",repository="local"}} (\d+)', metrics)
            self.assertTrue(began <= int(moment[1]) <= time.time(), (began, moment[0]))
        self.assertRegex(metrics, r'velum_backup_last_verified_timestamp_seconds{what="main",repository="local"} \d+')
        self.assertRegex(metrics, r'velum_backup_oldest_timestamp_seconds{what="keystore",repository="local"} \d+')
        self.assertIn('velum_backup_keep_seconds{what="keystore"} 604800', metrics)
        listed = HOUSE.succeeds("backup", "list")
        self.assertRegex(listed, r"keystore +local +\d{8}-\d{6}F +full")
        self.assertRegex(listed, r"secrets +local +secrets-\d{8}T\d{6}Z.tar.gz.age")

    def test_2_a_backup_holds_no_readable_name_address_or_face(self):
        needles = {
            "reference": f"person-{MARK}".encode(), "officer": f"officer-{MARK}".encode(), "address": FromElsewhere.ADDRESS.encode(),
            **{f"photo at {at}": PHOTO[at:at + 24] for at in (0, 5000, 20000, 40000)},
        }
        control = {"tenant": f"plain-{MARK}".encode()}
        with tempfile.TemporaryDirectory(dir=HOUSE.home / "backups") as folder:
            os.chmod(folder, 0o755)
            segments = {cluster: HOUSE.opened(cluster, folder) for cluster in SERVICES}
            self.assertTrue(all(segments.values()), segments)
            for archive in (HOUSE.home / "backups/archives").glob("*.age"):
                part = archive.name.split("-")[0]
                identity = HOUSE.safe / ("configuration" if part == "redis" else part)
                (Path(folder) / part).mkdir()
                check("sh", "-c", f"age --decrypt -i {identity} {archive} | tar --extract --gzip -C {folder}/{part}")
            self.assertEqual({}, found(needles, folder))
            stacks = {path.name for path in (Path(folder) / "configuration").glob("docker-compose.*.yml")}
            self.assertEqual({path.name for path in ROOT.glob("docker-compose.*.yml")}, stacks)
            # Redis starts on its copy, with what it held.
            again = Server("Redis", ["redis-server", "--port", "0", "--unixsocket", f"{folder}/sock", "--dir", f"{folder}/redis/redis",
                                     "--appendonly", "yes"], f"{folder}/redis.log")
            wait_for("Redis on its copy", Path(f"{folder}/sock").exists)
            self.assertEqual(MARK, check("redis-cli", "-s", f"{folder}/sock", "GET", "velum:counter").strip())
            again.stop()
            # The same search finds what is readable on purpose: in data files, and in the log.
            hits = found(control, folder)["tenant"]
            self.assertTrue(any(hit.startswith("main/") and "/base/" in hit for hit in hits), hits)
            self.assertTrue(any(re.fullmatch(r"main/[0-9A-F]{24}", hit) for hit in hits), hits)
            # Keys and databases are in nobody's archive together, and no secret is among the settings.
            pepper = (HOUSE.home / "secrets/app/client_secret_pepper.key").read_bytes().strip()
            self.assertEqual(["secrets/app/client_secret_pepper.key"], found({"": pepper}, folder)[""])
            secret = (HOUSE.home / "secrets/keyholder/fhe/secret.key").read_bytes()[1000:1100]
            self.assertEqual(["keyholder/keyholder/fhe/secret.key"], found({"": secret}, folder)[""])
            # The control that is readable in the photo's own file: windows of it are found where it is.
            self.assertEqual(4, len(found({name: needle for name, needle in needles.items() if "photo" in name}, ROOT / "samples")))
        # Without the keys nothing can be read at all.
        self.assertEqual({}, found({**needles, **control}, HOUSE.home / "backups"))
        # A template is sealed: it does not compress, as a vector of numbers would.
        sealed = base64.b64decode(HOUSE.clusters["main"].sql("SELECT encode(template, 'base64') FROM enrolments LIMIT 1", database="main"))
        self.assertGreater(len(zlib.compress(sealed, 9)), 0.99 * len(sealed))

    def test_3_a_moment_comes_back_without_what_was_after_it(self):
        api = HOUSE.api()
        api.new_subject(f"before-{MARK}")
        before = int(HOUSE.clusters["main"].sql("SELECT count(*) FROM subjects", database="main"))
        time.sleep(0.1)
        moment = HOUSE.clusters["main"].sql(NOW)
        time.sleep(0.1)
        api.new_subject(f"after-{MARK}")
        out = HOUSE.succeeds("restore", "--to", moment, "main")
        self.assertRegex(out, rf"public.subjects: {before}\n")
        out = HOUSE.succeeds("restore", "--to", "latest", "main")
        self.assertRegex(out, rf"public.subjects: {before + 1}\n")
        print("timed drill:", re.search(r"==> drill: (.*);", out)[1], file=sys.stderr)
        # The record is one that an evidence pack takes.
        drill = HOUSE.home / "state/restore-drill.json"
        self.assertEqual("passed", json.loads(drill.read_text())["result"])
        packs = HOUSE.folder / "packs"
        packs.mkdir(mode=0o777)
        packs.chmod(0o777)
        HOUSE.velum("evidence", "--out", packs, "--restore-drill", drill, **HOUSE.program_settings())
        (pack,) = packs.glob("evidence-*/restore-drill.json")
        self.assertEqual("passed", json.loads(pack.read_text())["recorded"]["result"])
        for wrong, cause in (("2026-13-01T00:00:00Z", "is no moment"), ("yesterday", "is no moment"), ("2099-01-01T00:00:00Z", "is yet to come"),
                             ("2020-01-01T00:00:00Z", "there is no backup of main in local from before")):
            self.assertIn(cause, HOUSE.fails("restore", "--to", wrong, "main"))

    def test_4_a_difference_is_noticed(self):
        ledger = HOUSE.clusters["ledger"]
        # What is not in the log does not come back.
        ledger.sql("CREATE UNLOGGED TABLE fleeting (n int)", "INSERT INTO fleeting VALUES (1)", database="ledger")
        try:
            out = HOUSE.fails("backup", "verify", "ledger")
            self.assertIn("the restored ledger differs from its source", out)
            self.assertIn("public.fleeting", out)
            self.assertEqual("failed", HOUSE.lines(part="ledger")[-1]["result"])
            self.assertEqual("failed", json.loads((HOUSE.home / "state/restore-drill.json").read_text())["result"])
        finally:
            ledger.sql("DROP TABLE fleeting", database="ledger")
        HOUSE.succeeds("backup", "verify", "ledger")

    def test_4b_a_deploy_goes_on_beside_a_backup(self):
        def held(file, become=()):
            """As a backup that is at work holds it."""
            holder = Server("a backup", [*become, "flock", "--no-fork", file, "sleep", "1000"], HOUSE.folder / "held.log", cwd="/")
            self.addCleanup(holder.stop)
            return holder

        self.addCleanup(HOUSE.conf)
        own = HOUSE.home / "state/backup.lock"
        others = {HOUSE.home / f"backups/{name}/lock/{name}-backup.lock": cluster.become for name, cluster in HOUSE.clusters.items()}
        locks = [held(own), *(held(file, become) for file, become in others.items())]
        wait_for("every lock", lambda: all(is_locked(file) for file in (own, *others)))
        with self.assertRaisesRegex(AssertionError, "unable to acquire lock"):
            HOUSE.pgbackrest("main", "stanza-create")
        said = HOUSE.succeeds("deploy", "1.0.0", "--again")
        self.assertIn("the point is named", said)
        self.assertNotIn("waiting for its end", said)
        # Other settings wait until nobody goes by those that are there.
        for lock in locks[1:]:
            lock.stop()
        HOUSE.conf(BACKUP_MAIN_DAYS=36)
        with subprocess.Popen(HOUSE.command("deploy", "1.0.0", "--again"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            waited = next((line for line in run.stdout if "waiting for its end" in line), None)
            time.sleep(1)
            running = run.poll() is None
            locks[0].stop()
            rest = run.stdout.read()
        self.assertTrue(waited and running and run.returncode == 0, rest)
        self.assertIn("the point is named", rest)
        # Nobody who was started holds the lock.
        check("flock", "--nonblock", own, "true")

    def test_5_what_goes_wrong_has_a_name(self):
        home = HOUSE.home
        labels = HOUSE.labels("ledger")

        def broken(cause, *arguments):
            out = HOUSE.fails(*map(str, arguments))
            self.assertIn(cause, out)
            self.assertIn("next:", out)
            return out

        with self.subTest("another cipher pass"):
            file = home / "secrets/backup/ledger.pass"
            right = file.read_text()
            file.write_text(secrets.token_urlsafe(48))
            try:
                broken("the cipher pass of ledger does not open its repository", "backup", "run", "ledger")
            finally:
                file.write_text(right)
        with self.subTest("repository away"):
            HOUSE.succeeds("backup", "list", "ledger")
            (home / "backups/ledger/repository").rename(home / "backups/ledger/away")
            try:
                broken("the repository of ledger is away", "backup", "run", "ledger")
            finally:
                shutil.rmtree(home / "backups/ledger/repository", ignore_errors=True)
                (home / "backups/ledger/away").rename(home / "backups/ledger/repository")
        with self.subTest("disk full"):
            filler = home / "backups/filler"
            free = shutil.disk_usage(home / "backups").free
            with open(filler, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - 200_000)
            try:
                broken("the disk with the backups of ledger is full", "backup", "run", "--full", "ledger")
            except AssertionError:
                filler.unlink()
                raise
            before = sorted(os.listdir(home / "backups/archives"))
            with open(filler, "ab", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass  # to the last byte
            broken("nothing half-written counts as a backup", "backup", "run", "secrets")
            filler.unlink()
            self.assertEqual(before, sorted(os.listdir(home / "backups/archives")))
        self.assertEqual(labels, HOUSE.labels("ledger"))
        with self.subTest("gap in the log"):
            HOUSE.clusters["ledger"].sql("CREATE TABLE gap (n int)", database="ledger")
            segment = HOUSE.clusters["ledger"].sql("SELECT pg_walfile_name(pg_current_wal_lsn())", "SELECT pg_switch_wal()").split()[0]
            repository = home / "backups/ledger/repository"
            wait_for("segment in the repository", lambda: list(repository.rglob(f"{segment}-*.zst")))
            for file in repository.rglob(f"{segment}-*"):
                file.unlink()
            broken("the archive of ledger ends behind segment", "backup", "verify", "ledger")
            broken("has a gap behind", "restore", "--to", "latest", "ledger")
            HOUSE.clusters["ledger"].sql("DROP TABLE gap", database="ledger")
            # A backup that begins behind the gap is whole, and the gap is told of.
            self.assertIn("segments of the write-ahead log are missing", HOUSE.succeeds("backup", "run", "--full", "ledger"))
        with self.subTest("keys"):
            HOUSE.succeeds("backup", "run", "secrets")
            broken("there is no identity", "backup", "verify", "--identity", "/nowhere", "secrets")
            broken("does not open", "backup", "verify", "--identity", HOUSE.safe / "keyholder", "secrets")
            self.assertIn("files; done", HOUSE.succeeds("backup", "verify", "--identity", str(HOUSE.safe / "secrets"), "secrets"))
            recipient = home / "secrets/backup/recipients/secrets.txt"
            right = recipient.read_text()
            recipient.write_text((home / "secrets/backup/recipients/keyholder.txt").read_text())
            broken("have a recipient in common", "backup", "run", "secrets")
            recipient.write_text((HOUSE.safe / "secrets").read_text())
            broken("a private key of age lies in", "backup", "run", "secrets")
            recipient.unlink()
            broken("there is no recipient for secrets", "backup", "run", "secrets")
            recipient.write_text(right)
            HOUSE.succeeds("backup", "keys")
        with self.subTest("archives that are too old"):
            archives = home / "backups/archives"
            (archives / "redis-20200101T000000Z.tar.gz.age").touch()
            (archives / "secrets-20200101T000000Z.tar.gz.age").touch()
            HOUSE.succeeds("backup", "run", "redis")
            self.assertEqual([], list(archives.glob("redis-2020*")))
            self.assertEqual(1, len(list(archives.glob("secrets-2020*"))))
        with self.subTest("a line of the record that was torn"):
            log = home / "state/backups.log"
            whole = log.read_text()
            torn = '{"at":"2026-11-22T03:10:00Z","part":"led'
            log.write_text(whole + torn)
            self.assertEqual(json.loads(whole.splitlines()[-1]), HOUSE.status()["last_backup"])
            HOUSE.succeeds("backup", "verify", "ledger")
            self.assertEqual(1, log.read_text().splitlines().count(torn))
            log.write_text(log.read_text().replace(torn + "\n", ""))
            self.assertEqual("verify", HOUSE.lines(part="ledger")[-1]["act"])
            self.assertIn('what="ledger"', (home / "state/metrics/velum_backup.prom").read_text())
        with self.subTest("promises"):
            HOUSE.conf(BACKUP_LEDGER_DAYS=100)
            broken("a year longer", "backup", "run", "ledger")
            HOUSE.conf(VELUM_KEYSTORE_BACKUP_DAYS=1)
            broken("cannot be kept by a daily run", "backup", "run", "ledger")
            HOUSE.conf()

    def test_6_a_restore_in_place_does_not_bring_back_who_was_erased(self):
        api = HOUSE.api()
        erased = api.new_subject(f"erased-{MARK}")
        api.consent(erased)
        api.enrol(erased, PHOTO)
        time.sleep(0.1)
        moment = HOUSE.clusters["main"].sql(NOW)
        time.sleep(0.1)
        api.erase(erased)
        later = api.new_subject(f"later-{MARK}")
        subjects = HOUSE.clusters["main"].sql("SELECT count(*) FROM subjects", database="main")
        time.sleep(0.1)
        left = HOUSE.clusters["main"].sql(NOW)
        self.assertIn("not confirmed", HOUSE.fails("restore", "--to", moment, "--into", "live", input="yes\n"))
        self.assertTrue(HOUSE.api().verify(HOUSE.person, PHOTO))
        self.assertIn("would", HOUSE.succeeds("--dry-run", "restore", "--to", moment, "--into", "live"))
        self.assertEqual(subjects, HOUSE.clusters["main"].sql("SELECT count(*) FROM subjects", database="main"))

        # A program that does not replay: nothing is started, and what is there is not ready to serve.
        HOUSE.release("1.0.0", faults='[ "$1 $2" != "erasures replay" ] || exit 1')
        HOUSE.fails("restore", "--to", moment, "--into", "live", input="main\n")
        HOUSE.release("1.0.0")
        self.assertEqual("1", HOUSE.clusters["main"].sql(f"SELECT count(*) FROM subjects WHERE id = '{erased}'", database="main"))
        self.assertFalse(HOUSE.status()["healthy"])
        HOUSE.conf(READY_TIMEOUT_S=5)
        self.assertIn("not ready", HOUSE.fails("deploy", "1.0.0"))
        HOUSE.conf()

        # Run again, it ends as it should.
        began = time.monotonic()
        out = HOUSE.succeeds("restore", "--to", moment, "--into", "live", input="main\n")
        print(f"restore in place: {time.monotonic() - began:.1f} s", file=sys.stderr)
        self.assertRegex(out, r"1 persons? erased again")
        wait_for("the colour", lambda: HOUSE.status()["healthy"])
        api = HOUSE.api()
        for gone in (erased, later):
            with self.assertRaisesRegex(Unexpected, "404"):
                api.call(200, "GET", f"/v1/subjects/{gone}")
        self.assertTrue(api.verify(HOUSE.person, PHOTO))
        self.assertEqual("0", HOUSE.clusters["main"].sql(f"SELECT count(*) FROM subjects WHERE id = '{erased}'", database="main"))
        self.assertEqual("t", HOUSE.clusters["keystore"].sql(
            f"SELECT wrapped IS NULL AND destroyed_at IS NOT NULL FROM data_keys WHERE subject_id = '{erased}'", database="keystore"))
        # What was replaced can still be looked at, on the timeline that was left.
        self.assertRegex(HOUSE.succeeds("restore", "--to", left, "main"), rf"public.subjects: {subjects}\n")
        # Backups go on, on what is there now.
        HOUSE.succeeds("backup", "run", "main")

    def test_7_a_lost_host_comes_back_from_its_backups(self):
        """New and empty clusters, no settings of pgBackRest, nothing that served: what is there is the repository, the archives, the safe,
        and a release."""
        api = HOUSE.api()
        erased = api.new_subject(f"erased-too-{MARK}")
        time.sleep(0.1)
        moment = HOUSE.clusters["main"].sql(NOW)
        time.sleep(0.1)
        api.erase(erased)
        HOUSE.succeeds("backup", "run", "passes", "secrets")
        newest = {part: sorted((HOUSE.home / "backups/archives").glob(f"{part}-*"))[-1] for part in ("passes", "secrets")}
        for process in HOUSE.left_over():
            os.kill(process, signal.SIGKILL)
        for file in [*(HOUSE.home / "run").iterdir(), *(HOUSE.home / "state").glob("*.release"), *(HOUSE.home / "state").glob("*.pid"),
                     HOUSE.home / "state/served"]:
            file.unlink()
        for name, cluster in HOUSE.clusters.items():
            check(*cluster.become, BIN / "pg_ctl", "--pgdata", cluster.data, "--silent", "--mode", "fast", "stop", cwd="/")
            check("sh", "-c", f"rm -rf {cluster.data}/* {HOUSE.home}/secrets/backup/{name}/pgbackrest.conf {HOUSE.home}/secrets/backup/{name}.pass")
            cluster.make()
            cluster.start(**cluster.settings)
        kept = HOUSE.folder / "kept"
        (HOUSE.home / "secrets/app").rename(kept)
        for part, archive in newest.items():
            check("sh", "-c", f"age --decrypt -i {HOUSE.safe / part} {archive} | tar --extract --gzip -C {HOUSE.home}/secrets")
        shutil.copy(kept / "fhe/evaluation.key", HOUSE.home / "secrets/app/fhe")  # in no archive: the keyholder gives it
        HOUSE.give(VELUM, HOUSE.home / "secrets/app/fhe")
        began = time.monotonic()
        out = HOUSE.succeeds("restore", "--to", moment, "--into", "live", "main", "keystore", "ledger", input="main keystore ledger\n")
        print(f"lost host: {time.monotonic() - began:.1f} s", file=sys.stderr)
        self.assertIn("does not answer", out)
        # Whoever was erased stays erased, by the program of a release that serves nobody yet.
        self.assertIn("release 1.0.0 is taken", out)
        self.assertRegex(out, r"1 persons? erased again")
        self.assertIn("Now: deploy.sh deploy 1.0.0", out)
        HOUSE.succeeds("velum", "erasures", "replay")
        HOUSE.succeeds("deploy", "1.0.0")
        wait_for("the colour", lambda: HOUSE.status()["healthy"])
        self.assertTrue(HOUSE.api().verify(HOUSE.person, PHOTO))
        HOUSE.succeeds("backup", "run", "ledger")


class Clock(unittest.TestCase):
    """A key store and its backups through a week, with the clock of everything that runs moved by hand."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="velum-clock-"))
        cls.folder.chmod(0o755)
        cls.home = cls.folder / "srv"
        cls.home.mkdir()
        check("mount", "-t", "tmpfs", "-o", "size=600m,mode=755", "tmpfs", cls.home)
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.addClassCleanup(check, "umount", cls.home)
        check("chown", "postgres", cls.home)
        cls.moved = cls.folder / "moved"
        cls.environment = {
            "LD_PRELOAD": glob.glob("/usr/lib/*/faketime/libfaketime.so.1")[0], "FAKETIME_TIMESTAMP_FILE": str(cls.moved),
            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        cls.day(0)
        (cls.folder / "pg").mkdir()
        cls.keystore = Cluster(cls.home, "keystore", free_port(), cls.folder / "pg/log", cls.environment)
        cls.addClassCleanup(cls.keystore.stop)
        (cls.home / "secrets/backup").mkdir(parents=True)
        (cls.home / "secrets/backup/keystore.pass").write_text(secrets.token_urlsafe(48))
        (cls.home / "secrets/backup/keystore.pass").chmod(0o600)
        (cls.home / "deploy.conf").write_text(
            "DRIVER=process\nVELUM_KEYSTORE_BACKUP_DAYS=4\nVELUM_ISSUER=https://velum.test\nBACKUP_MAIN_DAYS=2\nBACKUP_FULL_EVERY_DAYS=1\n")
        # All of it belongs to one user, who runs deploy.sh too.
        check("chown", "-R", "postgres", cls.home)
        cls.keystore.start()
        cls.keystore.sql("CREATE DATABASE keystore")
        for migration in sorted((ROOT / "migrations/keystore/postgres").iterdir()):
            check("psql", "-XqAt", "-h", cls.keystore.sockets, "-p", cls.keystore.port, "-U", "postgres", "-d", "keystore", "-f",
                  migration / "up.sql")

    @classmethod
    def day(cls, number):
        cls.moved.write_text(f"{number * 86400:+.0f}\n")

    def backup(self, number):
        return self.deploy_sh(number, "backup", "run", "keystore")

    def deploy_sh(self, number, *arguments):
        self.day(number)
        result = subprocess.run([*self.keystore.become, ROOT / "deploy.sh", "--home", self.home, *arguments], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, timeout=200)
        if os.environ.get("VELUM_TEST_SHOW"):
            print(f"day {number} -> {result.returncode}\n{result.stdout}", file=sys.stderr, flush=True)
        return result.returncode, result.stdout

    def house(self):
        """Of the other class: what opens backups."""
        house = House.__new__(House)
        house.home, house.clusters = self.home, {"keystore": self.keystore}
        return house

    def kept(self):
        return self.house().labels("keystore")

    def holds(self, needle):
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            os.chmod(folder, 0o755)
            self.house().opened("keystore", folder)
            return found({"key": needle}, folder).get("key", [])

    def test_no_backup_of_a_destroyed_key_outlives_the_promise(self):
        key = secrets.token_bytes(48)
        sql = lambda *commands: self.keystore.sql(*commands, database="keystore")  # pylint: disable=unnecessary-lambda-assignment
        sql("INSERT INTO data_keys (subject_id, tenant_id, kek_id, wrapped, created_at) "
            f"SELECT 'sub_' || n, 'ten_1', 'kek_1', CASE n WHEN 7 THEN '\\x{key.hex()}'::bytea ELSE sha256(n::text::bytea) END, 0 "
            "FROM generate_series(1, 20) n")
        status, out = self.backup(0)
        self.assertEqual(0, status, out)
        self.day(0.5)
        sql("UPDATE data_keys SET wrapped = NULL, kek_id = NULL, destroyed_at = 1 WHERE subject_id = 'sub_7'", "CHECKPOINT")
        # The control: the backup from before the erasure holds the key, and so does the live key store's own file.
        self.assertTrue(self.holds(key))
        self.assertTrue(found({"key": key}, self.keystore.data / "base"))

        status, out = self.backup(1)
        self.assertEqual(0, status, out)
        self.assertEqual({}, found({"key": key}, self.keystore.data / "base"))
        self.assertEqual(2, len(self.kept()))
        status, out = self.backup(2)
        self.assertEqual(0, status, out)
        # Erased on day 0.5 with four days to go; what holds the key is gone on day 2: backups, and the log before them.
        self.assertEqual(2, len(self.kept()))
        self.assertEqual([], self.holds(key))

        # No backup can be made from here on: a table that cannot be written anew.
        sql("CREATE FUNCTION same(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'",
            "CREATE INDEX broken ON data_keys (same(created_at))", "UPDATE data_keys SET created_at = 1 WHERE subject_id = 'sub_9'",
            "CREATE OR REPLACE FUNCTION same(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RAISE ''broken''; END'")
        status, out = self.backup(4)
        self.assertEqual(1, status, out)
        self.assertIn("no new backup was made; what is too old goes all the same", out)
        self.assertEqual(1, len(self.kept()))
        # Too old, but with a dead key store it may be the only copy.
        self.keystore.stop()
        status, out = self.backup(5)
        self.assertEqual(1, status, out)
        self.assertIn("it may be the only copy", out)
        self.assertEqual(1, len(self.kept()))
        # The key store lives: certificates are kept.
        self.keystore.start()
        status, out = self.backup(5.1)
        self.assertEqual(1, status, out)
        self.assertIn("no backup of the key store is left in local", out)
        self.assertEqual([], self.kept())
        # Mended, it begins anew.
        sql("DROP INDEX broken")
        status, out = self.backup(5.2)
        self.assertEqual(0, status, out)
        self.assertEqual(1, len(self.kept()))
        # Told to keep none, it keeps nothing, and nothing comes after.
        conf = self.home / "deploy.conf"
        conf.write_text(conf.read_text().replace("BACKUP_DAYS=4", "BACKUP_DAYS=0"))
        status, out = self.backup(5.3)
        self.assertEqual(0, status, out)
        sql("SELECT pg_switch_wal()")
        self.assertEqual([], [path for path in (self.home / "backups/keystore/repository").rglob("*") if path.is_file()])

    def test_every_moment_of_the_days_promised_comes_back_and_no_older_backup_stays(self):
        main = Cluster(self.home, "main", free_port(), self.folder / "pg-main/log", self.environment)
        self.addCleanup(main.stop)
        check("sh", "-c", f"head -c 40 /dev/urandom | base64 -w 0 >{self.home}/secrets/backup/main.pass")
        check("chown", "-R", "postgres", self.home / "secrets", main.data.parent)
        self.day(0)
        main.start()
        main.sql("CREATE TABLE days (day numeric)", "INSERT INTO days VALUES (0)")
        for day in (0, 1):
            status, out = self.deploy_sh(day, "backup", "run", "main")
            self.assertEqual(0, status, out)
        self.day(1.5)
        main.sql("INSERT INTO days VALUES (1.5)")
        moment = main.sql("SELECT to_char(clock_timestamp() + interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI:SSOF')")
        self.day(2)
        main.sql("INSERT INTO days VALUES (2)")
        status, out = self.deploy_sh(3.2, "backup", "run", "main")
        self.assertEqual(0, status, out)
        # The one of day 0 is gone; the one of day 1, more than two days old, begins the two days.
        house = self.house()
        house.clusters["main"] = main
        self.assertEqual(2, len(house.labels("main")))
        status, out = self.deploy_sh(3.3, "restore", "--to", moment, "main")
        self.assertEqual(0, status, out)
        self.assertIn("public.days: 2\n", out)


class Storage(unittest.TestCase):
    """S3 over TLS. The storage itself (moto) would believe any signature; what stands before it computes each one anew."""

    BUCKET = "velum-test"

    def test_backups_go_to_a_storage_that_checks_signatures(self):
        check(ROOT / "scripts/s3-server.sh")
        port, front = free_port(), free_port()
        key, secret = secrets.token_hex(10), secrets.token_hex(20)
        storage = Server("S3", [ROOT / "scripts/s3-server.sh", port], HOUSE.folder / "s3.log", port)
        self.addCleanup(storage.stop)
        HOUSE.certificate(HOUSE.folder / "s3", "server.pem", "server.key", ["localhost"], os.getuid())
        door = lambda: Server(  # pylint: disable=unnecessary-lambda-assignment
            "its door", [sys.executable, "-m", "tests.deploy.s3", front, HOUSE.folder / "s3/server.pem", HOUSE.folder / "s3/server.key", port],
            HOUSE.folder / "s3-door.log", front, cwd=ROOT, env={**os.environ, "S3_KEY": key, "S3_KEY_SECRET": secret})
        guard = door()
        self.addCleanup(lambda: guard.stop())  # pylint: disable=unnecessary-lambda

        def direct(method, path, body=b""):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data=body or None, method=method,
                                             headers={"Content-Type": "application/xml"})
            with urllib.request.urlopen(request) as answer:
                return answer.read().decode(errors="replace")

        direct("PUT", self.BUCKET)
        for name, text in (("s3_key", key), ("s3_key_secret", secret)):
            (HOUSE.home / "secrets/backup" / name).write_text(text)
            (HOUSE.home / "secrets/backup" / name).chmod(0o600)
        s3 = {
            "BACKUP_S3_ENDPOINT": f"https://localhost:{front}", "BACKUP_S3_REGION": "eu-central-1", "BACKUP_S3_BUCKET": self.BUCKET,
            "BACKUP_S3_CA_FILE": HOUSE.tls / "ca.pem",
        }
        HOUSE.conf(BACKUP_LOCAL="no", **s3)
        HOUSE.succeeds("backup", "run", "ledger", "secrets")
        names = re.findall("<Key>([^<]*)</Key>", direct("GET", f"{self.BUCKET}?list-type=2"))
        self.assertTrue(any(re.fullmatch(r"velum/archives/secrets-.*\.tar\.gz\.age", name) for name in names), names)
        self.assertTrue(any(name.startswith("velum/ledger/backup/ledger/") for name in names), names)
        self.assertTrue(any(name.startswith("velum/ledger/archive/ledger/") for name in names), names)
        self.assertEqual("s3", HOUSE.lines(part="ledger", act="verify")[-1]["repository"])
        self.assertIn("files; done", HOUSE.succeeds("backup", "verify", "--identity", str(HOUSE.safe / "secrets"), "secrets"))
        self.assertRegex(HOUSE.succeeds("backup", "list", "ledger", "secrets"), r"ledger +s3 +\d{8}-\d{6}F")
        self.assertIn("public.ledger_entries", HOUSE.succeeds("restore", "--to", "latest", "--repo", "s3", "ledger"))

        # Another secret is refused: signatures count.
        (HOUSE.home / "secrets/backup/s3_key_secret").write_text(secrets.token_hex(20))
        self.assertIn("the S3 storage refuses the credentials", HOUSE.fails("backup", "run", "ledger"))
        self.assertIn("SignatureDoesNotMatch", HOUSE.fails("backup", "run", "secrets"))
        (HOUSE.home / "secrets/backup/s3_key_secret").write_text(secret)
        # A bucket that keeps old versions does not get the key store.
        direct("PUT", f"{self.BUCKET}?versioning", b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
        self.assertIn("keeps old versions", HOUSE.fails("backup", "run", "keystore"))
        guard.stop()
        self.assertIn("is away", HOUSE.fails("backup", "run", "ledger"))
        HOUSE.conf()


if __name__ == "__main__":
    unittest.main()
