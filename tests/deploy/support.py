"""An installation with DRIVER=process in a temporary folder, everything real: three PostgreSQL databases over TLS, Redis over TLS
with an ACL, a keyholder behind mutual TLS, nginx, releases of the program itself, and deploy.sh.

Environment: VELUM_TEST_BINARY, VELUM_TEST_RUNTIME (folder), VELUM_TEST_MODELS (folder); scripts/deploy-test.sh sets them.
"""

import atexit
import fcntl
import glob
import hashlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .client import Door, Http1

ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
VELUM, KEYHOLDER, NGINX, EDGE = 10001, 10002, 10005, 10010
BUSY = 2  # beyond it no figure is held against a machine, see `busyness`
INNER_NAME, PUBLIC_NAME = "velum.internal", "velum.test"


def _numbers():
    """Below those that the kernel hands out, and below those that scripts/ and PostgreSQL's tests draw. Whoever holds the first port
    of a hundred has the others until it ends."""
    while True:
        for first in random.sample(range(10000, 20000, 100), 100):
            guard = socket.socket()
            try:
                guard.bind(("127.0.0.1", first))
            except OSError:
                guard.close()
                continue
            guard.detach()  # open as long as the process lives
            for number in range(first + 1, first + 100):
                with socket.socket() as probe:
                    try:
                        probe.bind(("", number))
                    except OSError:
                        continue
                yield number


numbers = _numbers()


def free_port():
    """One that nobody else is given: side by side with others and an hour later too."""
    return next(numbers)


def as_user(user, *groups):
    """The words before a command that is to run as somebody else. Who is not root is everybody."""
    if not IS_ROOT:
        return []
    group = [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", *group]


def check(*command, **options):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    if result.returncode:
        raise AssertionError(f"{command[0]} failed ({result.returncode}): {result.stdout}{result.stderr}")
    return result.stdout


def wait_for(what, condition, limit=60):
    """What `condition` gives as soon as it gives something."""
    end = time.monotonic() + limit
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.05)
    return found


def busyness():
    """How many want each processor, in the last minute or the last five. Figures are held to a machine that has none but the test."""
    return max(os.getloadavg()[:2]) / os.cpu_count()


def has_ended(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def is_locked(file):
    try:
        with open(file, "rb") as probe:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A process of the test's own, ended with it."""

    def __init__(self, name, command, log, port=None, **options):
        with open(log, "ab") as out:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **options
            )
        if port:
            wait_for(f"{name} on its port (see {log})", lambda: self.alive(name, log) and listens(port))

    def alive(self, name, log):
        if self.process.poll() is not None:
            raise AssertionError(f"{name} ended: {Path(log).read_text(errors='replace')[-2000:]}")
        return True

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Installation:
    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="velum-deploy-"))
        self.folder.chmod(0o755)
        atexit.register(self.close)
        self.home = self.folder / "srv"
        for part in ("secrets/app", "secrets/migrate", "secrets/keyholder", "run", "state", "data/keyholder", "releases"):
            (self.home / part).mkdir(parents=True)
        # State and logs on a file system of their own, small enough to be filled.
        self.small_disks = []
        if IS_ROOT:
            for part in ("state", "log"):
                (self.home / part).mkdir(exist_ok=True)
                check("mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs", self.home / part)
                self.small_disks.append(self.home / part)
        self.servers = {}
        self.names = ("public", "plain", "status", "postgres", "redis", "keyholder", "blue", "green", "blue_metrics", "green_metrics",
                      "worker_metrics")
        self.ports = {name: free_port() for name in self.names}
        self.issuer = f"https://{PUBLIC_NAME}:{self.ports['public']}"
        # deploy.sh is run from a copy, so that its files can be broken.
        self.scripts = self.folder / "scripts"
        self.scripts.mkdir()
        for file in (ROOT / "deploy.sh", *ROOT.glob("docker-compose.*.yml")):
            shutil.copy(file, self.scripts)
        for part in ("deploy", "nginx"):
            shutil.copytree(ROOT / part, self.scripts / part)
        self.program = self.folder / "program"
        self._program()
        self._certificates()
        self._keys()
        self._postgres()
        self._redis()
        self._keyholder()
        self._nginx()
        self._configuration()

    # -- what a release is made of -----------------------------------------------------------------------------------------
    def _program(self):
        binary = os.environ.get("VELUM_TEST_BINARY", ROOT / "target/release/velum")
        runtime = Path(os.environ.get("VELUM_TEST_RUNTIME", ROOT / "runtime"))
        models = Path(os.environ.get("VELUM_TEST_MODELS", ROOT / "models"))
        for part in ("bin", "runtime", "models", "samples"):
            (self.program / part).mkdir(parents=True)
        shutil.copy(binary, self.program / "bin/velum")
        for library in glob.glob(str(runtime / "libonnxruntime.so.*")):
            shutil.copy(library, self.program / "runtime")
        for file in [*models.glob("*.onnx"), models / "manifest.toml", models / "LICENSES.md"]:
            shutil.copy(file, self.program / "models")
        for file in (ROOT / "samples").iterdir():
            shutil.copy(file, self.program / "samples")

    def release(self, name, faults=""):
        """A release of the program. `faults` are lines of shell that stand before it, to break it."""
        folder = self.home / "releases" / name
        shutil.rmtree(folder, ignore_errors=True)
        check("cp", "-al", self.program, folder)
        if faults:
            program = folder / "bin/velum"
            program.rename(folder / "bin/velum.program")
            program.write_text(f"""#!/bin/sh\n{faults}\nexec {program}.program "$@"\n""")
            program.chmod(0o755)
        return name

    def velum(self, *arguments, user=VELUM, **settings):
        environment = {"PATH": "/usr/bin:/bin", **{name: str(value) for name, value in settings.items()}}
        return check(*as_user(user, EDGE), self.program / "bin/velum", *arguments, env=environment)

    # -- certificates and keys, as `deploy.sh secrets init` lays them out ---------------------------------------------------
    def _certificates(self):
        self.tls = self.folder / "tls"
        self.tls.mkdir()
        check("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
              "-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
              "-keyout", self.tls / "ca.key", "-out", self.tls / "ca.pem")

    def certificate(self, folder, certificate, key, names, owner):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        request, extensions = self.tls / "request.pem", self.tls / "extensions"
        alternatives = ",".join(f"IP:{name}" if name[0].isdigit() else f"DNS:{name}" for name in names)
        extensions.write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n")
        check("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={names[0]}",
              "-keyout", folder / key, "-out", request)
        check("openssl", "x509", "-req", "-in", request, "-CA", self.tls / "ca.pem", "-CAkey", self.tls / "ca.key",
              "-set_serial", str(secrets.randbits(100)), "-days", "2", "-extfile", extensions, "-out", folder / certificate)
        (folder / key).chmod(0o600)
        self.give(owner, folder)

    def give(self, owner, folder):
        if IS_ROOT:
            check("chown", "-R", f"{owner}:{owner}", folder)

    def _keys(self):
        app, keyholder = self.home / "secrets/app", self.home / "secrets/keyholder"
        check(self.program / "bin/velum", "keys", "generate", "--out", app)
        (keyholder / "fhe").mkdir()
        shutil.move(app / "fhe/secret.key", keyholder / "fhe/secret.key")
        for key in ("public.key", "evaluation.key"):
            shutil.copy(app / "fhe" / key, keyholder / "fhe" / key)
        for folder in (app, keyholder):
            shutil.copy(self.tls / "ca.pem", folder / "ca.pem")
        self.certificate(app / "tls", "certificate.pem", "key.pem", [INNER_NAME], VELUM)
        self.certificate(app / "keyholder_client", "certificate.pem", "key.pem", ["edge.internal"], VELUM)
        self.certificate(keyholder / "tls", "certificate.pem", "key.pem", ["localhost"], KEYHOLDER)
        self.give(VELUM, app)
        self.give(KEYHOLDER, keyholder)
        app.chmod(0o700)
        self.give(VELUM, self.home / "secrets/migrate")

    def secret(self, name, text):
        file = self.home / "secrets" / name
        file.write_text(text + "\n")
        file.chmod(0o600)
        self.give(VELUM, file)

    # -- servers -----------------------------------------------------------------------------------------------------------
    def _postgres(self):
        binaries = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        folder, port = self.folder / "postgres", self.ports["postgres"]
        folder.mkdir()
        owner = check("id", "-u", "postgres").strip() if IS_ROOT else os.getuid()
        self.certificate(folder, "server.crt", "server.key", ["localhost"], owner)
        become = as_user(owner)
        check(*become, binaries / "initdb", "--pgdata", folder / "data", "--username", "root", "--auth-local", "trust",
              "--auth-host", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync", cwd=folder)
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "max_connections": 200, "fsync": "off",
            "ssl": "on", "ssl_cert_file": folder / "server.crt", "ssl_key_file": folder / "server.key", "port": port,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.servers["postgres"] = Server(
            "PostgreSQL", [*become, binaries / "postgres", "-D", folder / "data", *options], folder / "log", port, cwd=folder
        )
        # It listens before it lets anybody in.
        ready = ["pg_isready", "--quiet", "--host", str(folder), "--port", str(port)]
        wait_for("PostgreSQL, ready", lambda: subprocess.run(ready, check=False).returncode == 0)
        for name in ("database", "keystore", "ledger"):
            # The owner of the schema migrates; the program's own role is bound by row-level security.
            passwords = {role: secrets.token_hex(16) for role in ("owner", "app")}
            self.sql(folder, "postgres", *(f"CREATE ROLE {name}_{role} LOGIN PASSWORD '{password}'"
                                           for role, password in passwords.items()))
            self.sql(folder, "postgres", f"CREATE DATABASE {name} OWNER {name}_owner")
            grants = f"ALTER DEFAULT PRIVILEGES FOR ROLE {name}_owner IN SCHEMA public GRANT"
            self.sql(folder, name, f"GRANT CREATE ON SCHEMA public TO {name}_owner", f"{grants} ALL ON TABLES TO {name}_app",
                     f"{grants} ALL ON SEQUENCES TO {name}_app")
            address = f"localhost:{port}/{name}?sslmode=verify-full&sslrootcert={self.tls}/ca.pem"
            self.secret(f"app/{name}_url", f"postgres://{name}_app:{passwords['app']}@{address}")
            self.secret(f"migrate/{name}_url", f"postgres://{name}_owner:{passwords['owner']}@{address}")

    def sql(self, folder, database, *commands):
        words = [word for command in commands for word in ("--command", command)]
        return check("psql", "--quiet", "--tuples-only", "--host", folder, "--port", self.ports["postgres"], "--username", "root",
                     "--dbname", database, *words)

    def _redis(self):
        folder, password = self.folder / "redis", secrets.token_hex(16)
        self.certificate(folder, "server.crt", "server.key", ["localhost"], os.getuid())
        digest = hashlib.sha256(password.encode()).hexdigest()
        commands = "+ping +get +set +del +zadd +zscore +zmscore +zremrangebyscore +time +evalsha +eval +script|load +select"
        (folder / "users.acl").write_text(f"user default off\nuser velum on #{digest} ~velum:* {commands}\n")
        self.servers["redis"] = Server("Redis", [
            "redis-server", "--port", "0", "--bind", "127.0.0.1", "--tls-port", self.ports["redis"], "--dir", folder,
            "--tls-cert-file", folder / "server.crt", "--tls-key-file", folder / "server.key",
            "--tls-ca-cert-file", self.tls / "ca.pem", "--tls-auth-clients", "no", "--aclfile", folder / "users.acl",
        ], folder / "log", self.ports["redis"])
        self.secret("app/redis_url", f"rediss://velum:{password}@localhost:{self.ports['redis']}")

    def _keyholder(self):
        held, data = self.home / "secrets/keyholder", self.home / "data/keyholder"
        self.give(KEYHOLDER, data)
        self.keyholder_settings = {
            "VELUM_MODE": "production", "VELUM_DATA_DIR": data, "VELUM_FHE_DIR": held / "fhe",
            "VELUM_KEYHOLDER_LISTEN": f"127.0.0.1:{self.ports['keyholder']}",
            "VELUM_KEYHOLDER_CERTIFICATE_FILE": held / "tls/certificate.pem", "VELUM_KEYHOLDER_KEY_FILE": held / "tls/key.pem",
            "VELUM_KEYHOLDER_EDGE_CA_FILE": held / "ca.pem", "VELUM_KEYHOLDER_JOURNAL_URL": f"sqlite:{data}/journal.db",
            "VELUM_KEYHOLDER_BUDGET_PER_TENANT": 10**7, "VELUM_KEYHOLDER_BUDGET_PER_DAY": 10**7,
        }
        self.velum("migrate", "--database", "journal", user=KEYHOLDER, **self.keyholder_settings)
        self.start_keyholder()

    def start_keyholder(self):
        environment = {name: str(value) for name, value in self.keyholder_settings.items()}
        self.servers["keyholder"] = Server(
            "the keyholder", [*as_user(KEYHOLDER), self.program / "bin/velum", "keyholder"], self.folder / "keyholder.log",
            self.ports["keyholder"], env=environment, cwd=self.home / "data/keyholder",
        )

    def _nginx(self):
        """The nginx of production, on ports that are free, as its own user."""
        held, folder = self.home / "secrets/nginx", self.folder / "nginx"
        held.mkdir()
        folder.mkdir()
        self.certificate(held / "tls", "fullchain.pem", "privkey.pem", [PUBLIC_NAME], NGINX)
        shutil.copy(self.tls / "ca.pem", held / "inner_ca.pem")
        for part in (held, folder):
            self.give(NGINX, part)
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/bin", "VELUM_HOME": str(self.home), "VELUM_ISSUER": self.issuer, "NGINX_FOLDER": str(folder),
            "VELUM_REQUEST_TIMEOUT_S": "60", "NGINX_HTTP_PORT": str(self.ports["plain"]),
            "NGINX_HTTPS_PORT": str(self.ports["public"]), "NGINX_STATUS_LISTEN": f"127.0.0.1:{self.ports['status']}",
        }
        self.servers["nginx"] = Server(
            "nginx", [*as_user(NGINX, EDGE), self.scripts / "nginx/start.sh"], self.folder / "nginx.log", self.ports["public"],
            env=environment, cwd=folder,
        )

    def _configuration(self, **more):
        settings = {
            "DRIVER": "process", "BACKUP_BEFORE_DEPLOY": "no", "DISK_FREE_MIN_MB": 100, "READY_TIMEOUT_S": 120,
            **{f"{name.upper()}_LISTEN": f"127.0.0.1:{self.ports[name]}" for name in self.ports
               if name.startswith(("blue", "green", "worker"))},
            "VELUM_ISSUER": self.issuer, "VELUM_KEYHOLDER": f"https://localhost:{self.ports['keyholder']}",
            # Limits have tests of their own.
            "VELUM_RATE_CLIENT": 10**7, "VELUM_RATE_ADDRESS": 10**7, "VELUM_QUOTA_PER_DAY": 10**7, "VELUM_HTTP_WORKERS": 2,
            # A machine that is busy with others is no fault of a deploy.
            "VELUM_REQUEST_TIMEOUT_S": 60,
            **more,
        }
        (self.home / "deploy.conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    # -- deploy.sh ---------------------------------------------------------------------------------------------------------
    def command(self, *arguments):
        return [str(self.scripts / "deploy.sh"), "--home", str(self.home), *arguments]

    def deploy_sh(self, *arguments, **options):
        """Its result, whatever it is. `out` is all it said."""
        result = subprocess.run(self.command(*arguments), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                stdin=options.pop("stdin", subprocess.DEVNULL) if "input" not in options else None,
                                timeout=400, check=False, **options)
        result.out = result.stdout
        if os.environ.get("VELUM_TEST_SHOW"):
            print(f"$ deploy.sh {' '.join(arguments)}   -> {result.returncode}\n{result.out}", file=sys.stderr, flush=True)
        return result

    def succeeds(self, *arguments, **options):
        result = self.deploy_sh(*arguments, **options)
        if result.returncode:
            log = self.home / "log"
            logs = "".join(f"--- {file}\n{file.read_text(errors='replace')[-1500:]}" for file in log.glob("*.log"))
            raise AssertionError(f"deploy.sh {' '.join(arguments)} ended with {result.returncode}:\n{result.out}\n{logs}")
        return result.out

    def status(self):
        result = self.deploy_sh("status", "--json")
        return json.loads(result.out.splitlines()[-1])

    def active(self):
        return os.readlink(self.home / "run/active.sock").removesuffix(".sock")

    def pid(self, process):
        return int((self.home / f"state/{process}.pid").read_text().split()[0])

    def asks(self, path="/v1/policies/retention"):
        """The status of one request through nginx."""
        connection = Http1(Door(self.tls / "ca.pem", PUBLIC_NAME, port=self.ports["public"]))
        try:
            return connection.send("GET", path, {}, None)[0]
        finally:
            connection.close()

    def new_client(self):
        """Id and secret."""
        app = self.home / "secrets/app"
        settings = {
            f"VELUM_{name.upper()}_URL_FILE": app / f"{name}_url" for name in ("database", "keystore", "ledger")
        }
        made = json.loads(self.velum("clients", "create", "--tenant", "load", "--json", VELUM_MODE="production", VELUM_SECRETS_DIR=app,
                                     VELUM_FHE_DIR=app / "fhe", **settings))
        return made["client_id"], made["client_secret"]

    def left_over(self):
        """Processes that deploy.sh has started, whatever its files say."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.home / "releases") in (folder / "cmdline").read_text():
                    yield int(folder.name)
            except (OSError, UnicodeDecodeError):
                pass

    def close(self):
        if not self.folder.exists():
            return
        for process in self.left_over():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for server in reversed(self.servers.values()):
            server.stop(signal.SIGINT if server is self.servers.get("postgres") else signal.SIGTERM)
        if os.environ.get("VELUM_TEST_KEEP"):
            print(f"kept: {self.folder}", file=sys.stderr)
            return
        for disk in self.small_disks:
            check("umount", "--lazy", disk)
        shutil.rmtree(self.folder, ignore_errors=True)


_shared = []


def installation():
    """One for all modules of a run: making it takes longer than most tests."""
    if not _shared:
        _shared.append(Installation())
    return _shared[0]


class Load:
    """tests/deploy/load.py beside the tests. `end` returns what it counted."""

    def __init__(self, house, http1=2, http2=1):
        self.house, self.out, self.hold = house, house.folder / "load.json", house.folder / "load.hold"
        client_id, client_secret = house.new_client()
        spec = {
            "authority": str(house.tls / "ca.pem"), "name": PUBLIC_NAME, "port": house.ports["public"], "client_id": client_id,
            "client_secret": client_secret, "photo": str(ROOT / "samples/grace_hopper.jpg"), "out": str(self.out),
            "hold": str(self.hold), "http1": http1, "http2": http2,
        }
        self.out.unlink(missing_ok=True)  # of the load before
        file = house.folder / "load.spec.json"
        file.write_text(json.dumps(spec))
        file.chmod(0o600)
        self.server = Server("load", [sys.executable, "-m", "tests.deploy.load", file], house.folder / "load.log", cwd=ROOT)
        wait_for("first requests", lambda: self.counts() and self.counts()["Http1"]["verifications"] > 0)

    def counts(self):
        return json.loads(self.out.read_text()) if self.out.exists() else None

    def failures(self):
        return self.counts()["failures"]

    def pause_keyholder(self):
        """Returns when nobody is verified or erased any more."""
        self.hold.touch()
        touched = time.time()
        wait_for("no request at the keyholder", lambda: self.out.stat().st_mtime > touched + 2 and not self.counts()["at_keyholder"])

    def end(self):
        self.server.stop()
        return self.counts()
