"""nginx as nginx/start.sh runs it, before one or two processes of the program itself (embedded, SQLite), in a temporary folder.

Environment: VELUM_TEST_BINARY, VELUM_TEST_RUNTIME (folder), VELUM_TEST_MODELS (folder); scripts/deploy-test.sh sets them.
"""

import atexit
import glob
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

from .support import EDGE, INNER_NAME, IS_ROOT, NGINX, ROOT, VELUM, check, free_port, listens, wait_for

NAME = "localhost"


def as_user(user):
    """The words before a command of nginx or Velum. Who is not root is everybody."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={EDGE}"] if IS_ROOT else []


def give(owner, *paths):
    if IS_ROOT:
        for path in paths:
            check("chown", "-R", f"{owner}:{owner}", path)


class Authority:
    """A private certificate authority."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.key, self.certificate = self.folder / "ca.key", self.folder / "ca.pem"
        check("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "100", "-subj",
              "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", self.key, "-out", self.certificate)

    def sign(self, certificate, key, name, days=90, kind=("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), more=""):
        """A certificate with its key. `more` are further lines of its extensions."""
        request, extensions = self.folder / "request.pem", self.folder / "extensions"
        extensions.write_text(f"subjectAltName=DNS:{name}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n{more}")
        check("openssl", "req", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        check("openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-days", days,
              "-set_serial", str(int.from_bytes(os.urandom(8), "big")), "-extfile", extensions, "-out", certificate)
        Path(key).chmod(0o600)


class Process:
    """A process of the test's own, its output in files, ended with it."""

    def __init__(self, command, log, environment):
        self.out, self.err = Path(f"{log}.out"), Path(f"{log}.err")
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                env={"PATH": os.environ["PATH"] + ":/usr/sbin", **{name: str(value) for name, value in environment.items()}},
            )

    def said(self):
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def wait_until(self, what, condition):
        def holds():
            if self.process.poll() is not None:
                raise AssertionError(f"{what}: the process ended: {self.said()[-2000:]}")
            return condition()

        wait_for(what, holds)

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Front:
    """Everything in one folder, which is VELUM_HOME. Velum's processes share their data, as the two colours do."""

    def __init__(self, name=NAME):
        self.name = name
        self.home = Path(tempfile.mkdtemp(prefix="velum-front-"))
        atexit.register(self.close)
        self.home.chmod(0o755)
        self.tls = self.home / "secrets/nginx/tls"
        for part in ("run", "secrets/nginx/tls", "acme/webroot/.well-known/acme-challenge", "data", "logs", "inner"):
            (self.home / part).mkdir(parents=True)
        if IS_ROOT:
            os.chown(self.home / "run", VELUM, EDGE)
        (self.home / "run").chmod(0o2770)
        self.inner = Authority(self.home / "inner/ca")
        self.inner.sign(self.home / "inner/certificate.pem", self.home / "inner/key.pem", INNER_NAME)
        shutil.copy(self.inner.certificate, self.home / "secrets/nginx/inner_ca.pem")
        self.outer = Authority(self.home / "outer")
        self.outer.sign(self.tls / "fullchain.pem", self.tls / "privkey.pem", name)
        give(VELUM, self.home / "inner", self.home / "data")
        give(NGINX, self.home / "secrets")
        self.processes = {}
        self.ports = {name: free_port() for name in ("http", "https", "status", "blue", "green")}

    # -- the program -------------------------------------------------------------------------------------------------------
    def velum(self, colour, **more):
        models = os.environ.get("VELUM_TEST_MODELS", ROOT / "models")
        runtime = os.environ.get("VELUM_TEST_RUNTIME", ROOT / "runtime")
        environment = {
            "VELUM_DATA_DIR": self.home / "data", "VELUM_LISTEN": f"127.0.0.1:{self.ports[colour]}",
            "VELUM_LISTEN_SOCKET": self.home / f"run/{colour}.sock", "VELUM_TRUSTED_PROXIES": "127.0.0.1",
            "VELUM_TLS_CERTIFICATE_FILE": self.home / "inner/certificate.pem", "VELUM_TLS_KEY_FILE": self.home / "inner/key.pem",
            "VELUM_MODELS_DIR": models, "VELUM_ONNXRUNTIME": sorted(glob.glob(f"{runtime}/libonnxruntime.so.*"))[-1],
            "VELUM_LOG_FORMAT": "json", "VELUM_HTTP_WORKERS": 2, "VELUM_ISSUER": self.issuer(),
            # Limits of its own have tests of their own.
            "VELUM_RATE_CLIENT": 10**6, "VELUM_RATE_ADDRESS": 10**6, "VELUM_STOP_TIMEOUT_S": 10, **more,
        }
        binary = os.environ.get("VELUM_TEST_BINARY", ROOT / "target/release/velum")
        process = Process([*as_user(VELUM), binary, "serve"], self.home / f"logs/{colour}", environment)
        self.processes[colour] = process
        process.wait_until(f"velum, {colour}", lambda: self.ready(colour))
        return process

    def ready(self, colour):
        with socket.socket(socket.AF_UNIX) as plain:
            try:
                plain.connect(str(self.home / f"run/{colour}.sock"))
                context = ssl.create_default_context(cafile=self.inner.certificate)
                with context.wrap_socket(plain, server_hostname=INNER_NAME) as door:
                    door.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    return door.recv(12) == b"HTTP/1.1 200"
            except OSError:
                return False

    def switch(self, target):
        """What a deploy does: one rename."""
        link = self.home / "run/.next"
        link.symlink_to(f"{target}.sock")
        os.rename(link, self.home / "run/active.sock")

    # -- nginx -------------------------------------------------------------------------------------------------------------
    def issuer(self):
        return f"https://{self.name}:{self.ports['https']}"

    def settings(self, name="nginx", **more):
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        give(NGINX, folder)
        return {
            "VELUM_HOME": self.home, "VELUM_ISSUER": self.issuer(), "NGINX_FOLDER": folder, "NGINX_HTTP_PORT": self.ports["http"],
            "NGINX_HTTPS_PORT": self.ports["https"], "NGINX_STATUS_LISTEN": f"127.0.0.1:{self.ports['status']}", **more,
        }

    def nginx(self, name="nginx", **more):
        settings = self.settings(name, **more)
        process = Process([*as_user(NGINX), ROOT / "nginx/start.sh"], self.home / f"logs/{name}", settings)
        self.processes[name] = process
        ports = (settings["NGINX_HTTP_PORT"], settings["NGINX_HTTPS_PORT"], settings["NGINX_STATUS_LISTEN"].rsplit(":", 1)[1])
        # `nginx -t` listens for a moment too, but leaves the file of the process's number empty.
        pid = Path(settings["NGINX_FOLDER"]) / "nginx.pid"
        process.wait_until(name, lambda: pid.exists() and pid.read_text() and all(listens(int(port)) for port in ports))
        return process

    def start_sh(self, *arguments, **more):
        """Its result, whatever it is."""
        settings = {name: str(value) for name, value in self.settings(**more).items()}
        return subprocess.run([*as_user(NGINX), str(ROOT / "nginx/start.sh"), *arguments], capture_output=True, text=True, timeout=60,
                              check=False, env={"PATH": os.environ["PATH"] + ":/usr/sbin", **settings})

    def ask(self, path="/.well-known/jwks.json", method="GET", body=None, headers=None, source="127.0.0.1", port=None, **more):
        """One request over HTTP/1.1 and TLS, on a connection of its own."""
        connection = self.connection(source, port, **more)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def connection(self, source="127.0.0.1", port=None, tls=True, timeout=30):
        plain = socket.create_connection(("127.0.0.1", port or self.ports["https" if tls else "http"]), timeout, (source, 0))
        connection = http.client.HTTPConnection(self.name, port or self.ports["https" if tls else "http"])
        connection.auto_open = 0
        connection.sock = self.context().wrap_socket(plain, server_hostname=self.name) if tls else plain
        return connection

    def context(self):
        return ssl.create_default_context(cafile=self.outer.certificate)

    def curl(self, path, *options):
        """Status and text, over HTTP/2 unless told otherwise."""
        out = check("curl", "--silent", "--show-error", "--cacert", self.outer.certificate, "--write-out", "\n%{http_code} %{http_version}",
                    *options, f"{self.issuer()}{path}")
        text, _, last = out.rpartition("\n")
        return int(last.split()[0]), text, last.split()[1]

    def log(self, name="nginx", request_id=None):
        """The lines of the access log, or those about one request, which is written down after its answer."""
        def lines():
            found = [json.loads(line) for line in self.processes[name].out.read_text().splitlines()]
            return [line for line in found if request_id in (None, line["request_id"])]

        if request_id:
            wait_for("the line in the log", lines, 5)
        return lines()

    def close(self):
        for process in reversed(self.processes.values()):
            process.stop()
        if not os.environ.get("VELUM_TEST_KEEP"):
            shutil.rmtree(self.home, ignore_errors=True)


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.text = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.text)
