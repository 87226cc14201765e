"""nginx before the real program: what it lets through, what it answers by itself, and what its logs keep."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

from .front import INNER_NAME, NAME, NGINX, ROOT, Answer, Authority, Front, as_user, check, free_port, wait_for
from .support import BUSY, busyness

FRONT = None
SAMPLE = None  # a problem as Velum says it
PHOTO = ROOT / "samples/grace_hopper.jpg"
OWN_HEADERS = {
    "strict-transport-security", "x-content-type-options", "x-frame-options", "cross-origin-resource-policy",
    "content-security-policy", "referrer-policy", "cache-control", "x-request-id",
}


def setUpModule():
    global FRONT, SAMPLE  # pylint: disable=global-statement
    FRONT = Front()
    FRONT.velum("blue")
    FRONT.velum("green")
    FRONT.switch("blue")
    FRONT.nginx(NGINX_RATE=9999)  # rates have tests of their own
    SAMPLE = FRONT.ask("/v1/me").json()


def tearDownModule():
    FRONT.close()


def raw(text, tls=True, port=None, wait=3):
    """The first line and the body of what comes back for bytes that no client would send."""
    plain = socket.create_connection(("127.0.0.1", port or FRONT.ports["https" if tls else "http"]), wait)
    with FRONT.context().wrap_socket(plain, server_hostname=NAME) if tls else plain as door:
        door.sendall(text)
        got = b""
        try:
            while part := door.recv(65536):
                got += part
        except TimeoutError:
            pass
    head, _, body = got.partition(b"\r\n\r\n")
    return head.decode(), body.decode()


def free_ports():
    ports = {name: free_port() for name in ("http", "https", "status")}
    return ports, {"NGINX_HTTP_PORT": ports["http"], "NGINX_HTTPS_PORT": ports["https"], "NGINX_STATUS_LISTEN": f"127.0.0.1:{ports['status']}"}


class Api:
    """A client of the API, through nginx."""

    def __init__(self):
        client = json.loads((FRONT.home / "data/dev_client.json").read_text())
        self.credential = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()
        answer = FRONT.ask("/oauth/token", "POST", b"grant_type=client_credentials", self.form())
        self.token = answer.json()["access_token"]

    def form(self):
        return {"Authorization": f"Basic {self.credential}", "Content-Type": "application/x-www-form-urlencoded"}

    def bearer(self, **more):
        return {"Authorization": f"Bearer {self.token}", **more}

    def post(self, path, **body):
        answer = FRONT.ask(path, "POST", json.dumps(body).encode(), self.bearer(**{"Content-Type": "application/json"}))
        assert answer.status == 201, answer.text
        return answer.json()["id"]

    def person(self, reference):
        subject = self.post("/v1/subjects", external_ref=reference)
        self.post(f"/v1/subjects/{subject}/consents", purpose="face_verification", notice_version="test-1")
        return subject


class Configuration(unittest.TestCase):
    def test_every_form_is_good(self):
        forms = {
            "plain": {}, "other rates": {"NGINX_RATE": 5, "NGINX_CONNECTIONS": 2, "VELUM_REQUEST_TIMEOUT_S": 300},
            "balancers": {"NGINX_BALANCERS": "10.0.0.0/8,192.0.2.1,2001:db8::/32"},
            "balancers with the PROXY protocol": {"NGINX_BALANCERS": "10.0.0.0/8", "NGINX_BALANCERS_SPEAK": "proxy-protocol"},
            "everywhere": {"NGINX_STATUS_LISTEN": "0.0.0.0:8090"}, "IPv6": {"NGINX_STATUS_LISTEN": "[::1]:8090"},
        }
        for form, settings in forms.items():
            with self.subTest(form):
                result = FRONT.start_sh("check", name="check", **settings)
                self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_no_certificate_yet_is_no_hindrance(self):
        # The first one is issued over this very nginx.
        tls = FRONT.tls.rename(FRONT.tls.with_name("tls.away"))
        try:
            self.assertEqual(FRONT.start_sh("check", name="check").returncode, 0)
        finally:
            tls.rename(FRONT.tls)

    def test_a_wrong_setting_is_named(self):
        for setting, value in {
            "VELUM_ISSUER": "http://velum.example", "NGINX_HTTP_PORT": "80; evil", "NGINX_RATE": "0", "NGINX_STATUS_LISTEN": "8090",
            "NGINX_BALANCERS": "10.0.0.0/8; include /etc/passwd", "NGINX_BALANCERS_SPEAK": "guess", "VELUM_REQUEST_TIMEOUT_S": "long",
        }.items():
            with self.subTest(setting):
                result = FRONT.start_sh("check", name="check", **{setting: value})
                self.assertEqual(result.returncode, 1)
                self.assertIn(setting, result.stderr)
        self.assertIn("names an address", FRONT.start_sh("check", name="check", VELUM_ISSUER="https://192.0.2.1").stderr)
        self.assertIn("no plain absolute path", FRONT.start_sh("check", name="check", VELUM_HOME="/srv/a b").stderr)

    def test_a_reload_that_is_not_good_leaves_what_runs(self):
        before = (FRONT.home / "nginx/conf/limits.conf").read_text()
        result = FRONT.start_sh("reload", NGINX_BALANCERS="1.2.3.4.5")
        self.assertEqual(result.returncode, 1)
        self.assertIn("what runs was left as it is", result.stderr)
        self.assertEqual((FRONT.home / "nginx/conf/limits.conf").read_text(), before)
        self.assertEqual(FRONT.ask().status, 200)

    def test_root_is_refused(self):
        if not as_user(NGINX):
            self.skipTest("needs root")
        result = subprocess.run([ROOT / "nginx/start.sh"], capture_output=True, text=True, check=False,
                                env={"PATH": "/usr/bin:/bin", **{name: str(value) for name, value in FRONT.settings("check").items()}})
        self.assertEqual((result.returncode, "not as root" in result.stderr), (1, True))

    def test_gixy_finds_nothing(self):
        if not (gixy := shutil.which("gixy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")):
            self.skipTest("no gixy here (PyPI: gixy-ng)")
        found = json.loads(check(gixy, "--format", "json", FRONT.home / "nginx/conf/nginx.conf") or "[]")
        self.assertEqual(found, [])

    def test_limits_stand_a_little_outside_those_of_the_program(self):
        limits = (ROOT / "nginx/limits.conf").read_text()

        def ours(pattern):
            return int(re.search(pattern, limits).group(1))

        def theirs(file, name):
            text = re.search(rf"const {name}: \S+ = (?:Duration::from_secs\()?([0-9_* ]+)", (ROOT / file).read_text()).group(1)
            product = 1
            for factor in text.split("*"):
                product *= int(factor.strip())
            return product

        photo = theirs("crates/domain/src/face.rs", "BYTES_MAX") + theirs("src/http/upload.rs", "MULTIPART_OVERHEAD_BYTES_MAX")
        self.assertLess(photo, ours(r"client_max_body_size (\d+)m") * 2**20)
        self.assertLess(theirs("src/http/upload.rs", "RECEIVE_TIMEOUT"), ours(r"client_body_timeout (\d+)s"))
        self.assertLessEqual(theirs("src/http/middleware.rs", "URI_BYTES_MAX"), ours(r"large_client_header_buffers \d+ (\d+)k") * 1024)
        headers = re.search(r"large_client_header_buffers (\d+) (\d+)k", limits)
        self.assertLess(theirs("src/http/middleware.rs", "HEADER_BYTES_MAX"), int(headers[1]) * int(headers[2]) * 1024)

    def test_the_log_knows_every_route(self):
        table = (ROOT / "src/http/mod.rs").read_text()
        paths = re.findall(r'^    "(/[^"]*)"', table[table.index("routes! {"):], re.M)
        self.assertGreater(len(paths), 50)
        rules = re.findall(r'^    "~(\^.*)" \$known;', (ROOT / "nginx/logs.conf").read_text(), re.M)
        for path in [*paths, "/console/requests", "/docs/index.html"]:
            path = re.sub(r"\{\w+\}", "SECRET", path)
            shown = [match["known"] for rule in rules if (match := re.search(rule.replace("?<", "?P<"), path))]
            self.assertTrue(shown, f"{path} would be logged as other")
            self.assertNotIn("SECRET", shown[0])


class Tls(unittest.TestCase):
    def talk(self, *options, name=NAME):
        named = ["-servername", name] if name else ["-noservername"]
        result = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{FRONT.ports['https']}", *named, *options],
                                input="", capture_output=True, text=True, errors="replace", check=False, timeout=20)
        return result.stdout + result.stderr

    def test_versions(self):
        for version, good in {"tls1": False, "tls1_1": False, "tls1_2": True, "tls1_3": True}.items():
            said = self.talk(f"-{version}", "-cipher", "ALL:@SECLEVEL=0")
            self.assertEqual("Verification" in said and "Cipher is (NONE)" not in said, good, (version, said))

    def test_old_ciphers_are_refused(self):
        for cipher, good in {"ECDHE-ECDSA-AES128-GCM-SHA256": True, "ECDHE-ECDSA-CHACHA20-POLY1305": True,
                             "ECDHE-ECDSA-AES128-SHA256": False, "ECDHE-ECDSA-AES256-SHA": False}.items():
            said = self.talk("-tls1_2", "-cipher", cipher)
            self.assertEqual(f"Cipher is {cipher}" in said, good, cipher)

    def test_both_protocols_and_no_tickets(self):
        self.assertIn("ALPN protocol: h2", self.talk("-alpn", "h2,http/1.1"))
        self.assertIn("ALPN protocol: http/1.1", self.talk("-alpn", "http/1.1"))
        self.assertNotIn("TLS session ticket:", self.talk("-tls1_2"))
        self.assertIn("Secure Renegotiation IS supported", self.talk("-tls1_2"))
        self.assertEqual(FRONT.curl("/.well-known/jwks.json")[::2], (200, "2"))
        self.assertEqual(FRONT.curl("/.well-known/jwks.json", "--http1.1")[::2], (200, "1.1"))

    def test_another_name_gets_no_certificate(self):
        for said in (self.talk(name="other.example"), self.talk(name=None)):
            self.assertIn("unrecognized name", said)
            self.assertNotIn("BEGIN CERTIFICATE", said)

    def test_testssl_finds_nothing_above_low(self):
        if not (testssl := shutil.which("testssl")):
            self.skipTest("no testssl here (Debian: testssl.sh)")
        report = FRONT.home / "testssl.json"
        for _ in range(3):
            report.unlink(missing_ok=True)
            # Its status counts what it could not look at as well.
            try:
                said = subprocess.run(
                    [testssl, "--quiet", "--color", "0", "--jsonfile", report, "--add-ca", FRONT.outer.certificate, "--protocols",
                     "--server-defaults", "--server-preference", "--headers", "--vulnerable", f"{NAME}:{FRONT.ports['https']}"],
                    capture_output=True, text=True, timeout=600, check=False).stdout
            except subprocess.TimeoutExpired as late:
                said, findings = f"{late}: {late.stdout}", []
                continue
            findings = json.loads(report.read_text())
            # On a busy machine it gives up waiting, and has looked at nothing then.
            if not any("connect problem" in each["finding"] or "stalled" in each["finding"] for each in findings):
                break
        self.assertIn("scanTime", [each["id"] for each in findings], said)
        self.assertGreater(len(findings), 50)
        # Said of a certificate made for this test, which names neither a list nor a responder of revocations; and what the
        # program cannot look at with Debian's OpenSSL, or finds where there is no page.
        known = {"cert_revocation", "engine_problem", "secure_renego", "HTTP_status_code"}
        bad = [each for each in findings if each["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "WARN") and each["id"] not in known]
        self.assertEqual([(each["id"], each["severity"], each["finding"]) for each in bad], [])


class Ways(unittest.TestCase):
    """Which requests get where."""

    def test_plain_http_leads_to_https(self):
        connection = FRONT.connection(tls=False)
        self.addCleanup(connection.close)
        connection.request("GET", "/docs?a=b")
        answer = Answer(connection.getresponse())
        self.assertEqual((answer.status, answer.headers["Location"]), (308, f"{FRONT.issuer()}/docs?a=b"))
        self.assertNotIn("Strict-Transport-Security", answer.headers)

    def test_what_was_sent_in_the_clear_is_refused(self):
        connection = FRONT.connection(tls=False)
        self.addCleanup(connection.close)
        connection.request("POST", "/v1/subjects", b"{}")
        answer = Answer(connection.getresponse())
        self.assertEqual((answer.status, answer.json()["code"]), (403, "https_required"))

    def test_proofs_for_the_certificate_authority(self):
        folder = FRONT.home / "acme/webroot/.well-known/acme-challenge"
        (folder / "tok-EN_1").write_text("proof")
        head, body = raw(b"GET /.well-known/acme-challenge/tok-EN_1 HTTP/1.0\r\nHost: localhost\r\n\r\n", tls=False)
        self.assertIn(" 200 ", head)
        self.assertEqual(body, "proof")
        for path, status in {"none": 404, "": 308, "../../../secrets/nginx/inner_ca.pem": 400}.items():
            head, body = raw(f"GET /.well-known/acme-challenge/{path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode(), tls=False)
            self.assertNotIn("CERTIFICATE", body)
            self.assertIn(f" {status} ", head.splitlines()[0])

    def test_what_is_for_the_inside_stays_there(self):
        for path in ("/metrics", "/livez", "/readyz", "/startupz", "/health", "/nginx_status", "//livez", "/%6Civez", "/x/../readyz", "/.problem",
                     "/.problem_of_oauth"):
            answer = raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            self.assertIn(" 404 ", answer[0].splitlines()[0], path)
        status = FRONT.ports["status"]
        self.assertIn("Active connections", raw(b"GET /nginx_status HTTP/1.0\r\n\r\n", tls=False, port=status)[1])
        self.assertEqual("alive\n", raw(b"GET /livez HTTP/1.0\r\n\r\n", tls=False, port=status)[1])
        self.assertIn(" 404 ", raw(b"GET /v1/me HTTP/1.0\r\n\r\n", tls=False, port=status)[0])

    def test_another_host_is_refused(self):
        for tls in (True, False):
            head, body = raw(b"GET / HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n", tls)
            self.assertIn(" 421 ", head)
            self.assertEqual(json.loads(body)["code"], "unknown_host")

    def test_a_person_is_enrolled_and_verified_and_no_photo_is_left(self):
        api = Api()
        subject = api.person("through nginx")
        kind = {"Content-Type": "application/octet-stream"}
        answer = FRONT.ask(f"/v1/subjects/{subject}/enrolments", "POST", PHOTO.read_bytes(), api.bearer(**kind))
        self.assertEqual(answer.status, 201, answer.text)
        status, text, protocol = FRONT.curl(
            f"/v1/subjects/{subject}/verifications", "--data-binary", f"@{PHOTO}", "--header", "Content-Type: application/octet-stream",
            "--header", f"Authorization: Bearer {api.token}")
        self.assertEqual((status, protocol, json.loads(text)["decision"]), (201, "2", "match"))
        left = [file for file in (FRONT.home / "nginx/temporary").rglob("*") if file.is_file()]
        self.assertEqual(left, [])
        # nginx removes such a file with its request, but not without a word about it.
        self.assertNotIn("temporary file", FRONT.processes["nginx"].err.read_text())


    def test_whoever_is_refused_while_sending_may_ask_again_on_the_same_connection(self):
        api = Api()
        subject, body = api.post("/v1/subjects", external_ref="refused while sending"), bytes(2_000_000)
        connection = FRONT.connection()
        self.addCleanup(connection.close)
        connection.putrequest("POST", f"/v1/subjects/{subject}/verifications")
        for name, value in api.bearer(**{"Content-Type": "image/jpeg", "Content-Length": str(len(body))}).items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body[:1_000_000])
        time.sleep(0.1)
        connection.send(body[1_000_000:])
        self.assertEqual(Answer(connection.getresponse()).status, 403)
        connection.request("GET", "/v1/models", headers=api.bearer())
        self.assertEqual(Answer(connection.getresponse()).status, 200)


class Answers(unittest.TestCase):
    """What nginx says by itself has the form of what the program says."""

    def check_problem(self, answer, status, code, retry_after=None):
        self.assertEqual(answer.status, status, answer.text)
        problem, sample = answer.json(), SAMPLE
        self.assertEqual(list(problem), list(sample))
        self.assertEqual({name: type(value) for name, value in problem.items()}, {name: type(value) for name, value in sample.items()})
        self.assertEqual((problem["status"], problem["code"]), (status, code))
        self.assertEqual(problem["type"], f"urn:velum:problem:{code}")
        self.assertEqual(problem["title"], code.replace("_", " ").capitalize())
        self.assertEqual(problem["retryable"], retry_after is not None)
        self.assertEqual(answer.headers.get("Retry-After"), retry_after)
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        self.assertRegex(problem["request_id"], "^req_[0-9a-f]{32}$")
        self.assertEqual(answer.headers["X-Request-Id"], problem["request_id"])
        self.check_headers(answer)
        return problem

    def check_headers(self, answer, https=True):
        for name in OWN_HEADERS:
            due = 0 if name == "strict-transport-security" and not https else 1
            self.assertEqual(len(answer.headers.get_all(name, [])), due, (name, answer.status))

    def test_no_header_twice_and_none_missing(self):
        own, theirs = FRONT.ask("/livez"), FRONT.ask("/v1/me")
        for answer in (own, theirs, FRONT.ask(), FRONT.ask("/docs/"), FRONT.ask("/console/sign-in")):
            self.check_headers(answer)
        for name in OWN_HEADERS - {"x-request-id"}:
            self.assertEqual(own.headers[name], theirs.headers[name], name)
        self.assertNotRegex(own.headers["Server"], "[0-9]")

    def test_errors_of_the_request(self):
        self.assertEqual(self.check_problem(FRONT.ask("/metrics?a=b"), 404, "not_found")["instance"], "/metrics")
        self.check_problem(FRONT.ask("/", "TRACE"), 405, "method_not_allowed")
        self.check_problem(FRONT.ask("/" + 9000 * "a"), 414, "uri_too_long")
        self.check_problem(FRONT.ask("/", headers={"A": 9000 * "a"}), 431, "header_too_large")
        self.check_problem(FRONT.ask("/", headers={f"A{number}": 7000 * "a" for number in range(6)}), 431, "header_too_large")
        self.check_problem(FRONT.ask("/", "POST", headers={"Content-Length": "12000000"}), 413, "body_too_large")
        answer = FRONT.ask("/oauth/token", "POST", headers={"Content-Length": "12000000"})
        self.assertEqual((answer.status, answer.json()["error"]), (413, "invalid_request"))
        self.check_problem(FRONT.ask("/", "POST", headers={"Transfer-Encoding": "other"}), 501, "bad_request")
        for text, status in {b"\x16\x03 nonsense\r\n\r\n": 400, b'GET /a"b HTTP/1.1\r\n\r\n': 400, b"GET / HTTP/7.0\r\n\r\n": 505,
                             b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": 400}.items():
            head, body = raw(text)
            self.assertIn(f" {status} ", head.splitlines()[0])
            self.assertEqual(json.loads(body)["code"], "bad_request")

    def test_the_same_over_http_2(self):
        self.assertEqual(json.loads(FRONT.curl("/livez")[1])["code"], "not_found")
        # 6,000 bytes that Huffman's code does not shorten, three times. (Above 32 KB nginx ends a connection of HTTP/2 without a word.)
        many = [word for number in range(3) for word in ("--header", f"A{number}: {6000 * '~'}")]
        status, text, protocol = FRONT.curl("/", *many)
        self.assertEqual((status, protocol, json.loads(text)["code"]), (431, "2", "header_too_large"))
        status, text, protocol = FRONT.curl("/" + 9000 * "a")
        self.assertEqual((status, protocol, json.loads(text)["code"]), (414, "2", "uri_too_long"))
        status, text, protocol = FRONT.curl("/", "--request", "POST", "--header", "Content-Length: 12000000", "--data", "x")
        self.assertEqual((status, protocol, json.loads(text)["code"]), (413, "2", "body_too_large"))

    def test_plain_http_on_the_port_of_https(self):
        head, body = raw(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n", tls=False, port=FRONT.ports["https"])
        self.assertIn(" 403 ", head)
        self.assertEqual(json.loads(body)["code"], "https_required")

    def test_the_program_answers_where_it_can(self):
        api = Api()
        subject = api.person("large photo")
        answer = FRONT.ask(f"/v1/subjects/{subject}/enrolments", "POST", bytes(10_500_000),
                           api.bearer(**{"Content-Type": "application/octet-stream"}))
        self.assertEqual((answer.status, answer.json()["code"]), (413, "image_too_large"))
        # Headers of more than 16 KB in pieces of less than 8.
        answer = FRONT.ask("/v1/me", headers={f"A{number}": 6000 * "a" for number in range(3)})
        self.assertEqual((answer.status, answer.headers["X-Request-Id"][:4]), (431, "req_"))

    def test_too_many_requests(self):
        ports, settings = free_ports()
        FRONT.nginx("few", **settings, NGINX_RATE=1, NGINX_CONNECTIONS=2)
        try:
            answers = [FRONT.ask(port=ports["https"]) for _ in range(8)]
            self.assertEqual([answer.status for answer in answers[:3]], [200] * 3)
            refused = [answer for answer in answers if answer.status == 429]
            self.assertTrue(refused)
            self.check_problem(refused[0], 429, "rate_limited", "1")
            # Another address is another caller.
            self.assertEqual(FRONT.ask(port=ports["https"], source="127.0.0.9").status, 200)
            self.check_connections(ports)
            self.assertIn(429, [line["status"] for line in FRONT.log("few")])
        finally:
            FRONT.processes["few"].stop()

    def check_connections(self, ports):
        """Two requests at work are as many as may be; the third one is told so."""
        api = Api()
        waiting = []
        for _ in range(2):
            connection = FRONT.connection("127.0.0.5", ports["https"])
            connection.putrequest("POST", "/oauth/token")
            for name, value in {**api.form(), "Content-Length": "29"}.items():
                connection.putheader(name, value)
            connection.endheaders(b"grant_type=")
            waiting.append(connection)
        time.sleep(0.5)
        self.check_problem(FRONT.ask(port=ports["https"], source="127.0.0.5"), 429, "rate_limited", "1")
        self.assertEqual(FRONT.ask(port=ports["https"], source="127.0.0.6").status, 200)
        for connection in waiting:
            connection.close()


class Away(unittest.TestCase):
    """What callers see when Velum is not there. Velum's place is taken by something that fails as told."""

    check_problem = Answers.check_problem
    check_headers = Answers.check_headers

    def tearDown(self):
        FRONT.switch("blue")

    def stand_in(self, answer):
        """Speaks TLS on the active socket, reads one request, and does what `answer` says. Returns what it has read."""
        path, heads = FRONT.home / "run/stand-in.sock", []
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(FRONT.home / "inner/certificate.pem", FRONT.home / "inner/key.pem")

        def serve():
            while True:
                try:
                    plain, _ = listener.accept()
                    with context.wrap_socket(plain, server_side=True) as door:
                        head = b""
                        while b"\r\n\r\n" not in head:
                            head += door.recv(65536)
                        heads.append(head)
                        answer(door)
                except OSError:
                    if listener.fileno() < 0:
                        return

        threading.Thread(target=serve, daemon=True).start()
        self.addCleanup(listener.close)
        FRONT.switch("stand-in")
        return heads

    def test_nobody_listens(self):
        for target in ("nobody", "old"):
            if target == "old":  # a socket file that a killed process left
                with socket.socket(socket.AF_UNIX) as left:
                    left.bind(str(FRONT.home / "run/old.sock"))
            FRONT.switch(target)
            self.check_problem(FRONT.ask("/v1/me", "POST", b"{}"), 502, "service_unreachable", "2")
            status, text, protocol = FRONT.curl("/v1/me")
            self.assertEqual((status, protocol, json.loads(text)["code"]), (502, "2", "service_unreachable"))
            # Where a library for OAuth asks, it gets what it can read.
            answer = FRONT.ask("/oauth/token", "POST", b"grant_type=client_credentials")
            self.assertEqual((answer.status, answer.headers["Content-Type"], answer.json()["error"], answer.headers["Retry-After"]),
                             (502, "application/json", "temporarily_unavailable", "2"))
            self.check_headers(answer)
        # Back at once, and nothing is remembered against it.
        FRONT.switch("blue")
        self.assertEqual(FRONT.ask().status, 200)

    def test_whoever_has_no_certificate_of_ours_hears_nothing(self):
        stranger = Authority(FRONT.home / f"stranger-{time.time()}")
        stranger.sign(FRONT.home / "stranger.pem", FRONT.home / "stranger.key", INNER_NAME)
        heads, real = [], ssl.SSLContext.load_cert_chain
        try:
            ssl.SSLContext.load_cert_chain = lambda self, *_: real(self, FRONT.home / "stranger.pem", FRONT.home / "stranger.key")
            heads = self.stand_in(lambda door: door.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
        finally:
            ssl.SSLContext.load_cert_chain = real
        self.check_problem(FRONT.ask("/v1/me"), 502, "service_unreachable", "2")
        self.assertEqual(heads, [])
        wait_for("the reason in the log", lambda: "certificate verify" in FRONT.processes["nginx"].err.read_text(), 5)

    def test_one_that_ends_before_its_answer_is_not_asked_again(self):
        heads = self.stand_in(lambda door: None)
        for send in (lambda: FRONT.ask("/v1/subjects", "POST", b"{}"), lambda: FRONT.ask("/v1/me")):
            heads.clear()
            problem = self.check_problem(send(), 502, "answer_missing", "2")
            self.assertIn("Idempotency-Key", problem["detail"])
            self.assertEqual(len(heads), 1)

    def test_one_that_is_stopped_is_given_up(self):
        ports, settings = free_ports()
        FRONT.nginx("hasty", **settings, VELUM_REQUEST_TIMEOUT_S=1)
        self.addCleanup(FRONT.processes["hasty"].stop)
        heads = self.stand_in(lambda door: time.sleep(20))
        begun = time.monotonic()
        self.check_problem(FRONT.ask("/v1/me", "POST", b"{}", port=ports["https"]), 504, "answer_missing", "2")
        self.assertLess(time.monotonic() - begun, 15)
        self.assertEqual(len(heads), 1)

    def test_a_process_that_dies_and_comes_back(self):
        blue = FRONT.processes["blue"]
        blue.stop(signal.SIGKILL)
        self.check_problem(FRONT.ask(), 502, "service_unreachable", "2")
        FRONT.velum("blue")
        self.assertEqual(FRONT.ask().status, 200)

    def test_what_goes_in_is_what_was_sent(self):
        heads = self.stand_in(lambda door: door.sendall(b"HTTP/1.1 204 No Content\r\n\r\n"))
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        answer = FRONT.ask("/v1/a%2Fb//c?x=%20y", headers={
            "X-Forwarded-For": "198.51.100.1", "traceparent": trace, "Host": f"LOCALHOST:{FRONT.ports['https']}", "Upgrade": "websocket"})
        lines = heads[0].decode().lower().split("\r\n")
        self.assertEqual(lines[0], "get /v1/a%2fb//c?x=%20y http/1.1")
        self.assertIn(f"host: localhost:{FRONT.ports['https']}", lines)
        self.assertEqual([line for line in lines if line.startswith("x-forwarded-for")], ["x-forwarded-for: 127.0.0.1"])
        self.assertIn(f"traceparent: {trace}", lines)
        self.assertFalse([line for line in lines if line.startswith("upgrade")])
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.headers.get_all("Strict-Transport-Security"), ["max-age=63072000"])


class Addresses(unittest.TestCase):
    """Whose request it is: the program's keyed hash tells, without an address."""

    def hashed(self, answer):
        for line in FRONT.processes["blue"].said().splitlines():
            if answer.headers["X-Request-Id"] in line and '"request"' in line:
                entry = json.loads(line)
                return entry.get("address") or entry["span"]["address"]
        raise AssertionError("the program has no line about the request")

    def test_a_forged_header_does_not_count(self):
        plain = self.hashed(FRONT.ask(source="127.0.0.1"))
        for forged in ("203.0.113.9", "127.0.0.2", "203.0.113.9, 127.0.0.1", "unknown", ""):
            self.assertEqual(self.hashed(FRONT.ask(headers={"X-Forwarded-For": forged, "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"})), plain)
        self.assertNotEqual(self.hashed(FRONT.ask(source="127.0.0.2")), plain)

    def test_behind_balancers(self):
        ports, settings = free_ports()
        FRONT.nginx("balanced", **settings, NGINX_BALANCERS="127.0.0.1,10.0.0.0/8")
        self.addCleanup(FRONT.processes["balanced"].stop)

        def seen(forwarded, source="127.0.0.1"):
            return self.hashed(FRONT.ask(headers={"X-Forwarded-For": forwarded}, source=source, port=ports["https"]))

        first = seen("203.0.113.7")
        self.assertEqual(seen("198.51.100.1, 203.0.113.7"), first)
        self.assertEqual(seen("203.0.113.7, 10.1.2.3"), first)
        self.assertNotEqual(seen("203.0.114.7"), first)
        # Whoever is no balancer is himself.
        self.assertEqual(seen("203.0.113.7", "127.0.0.2"), self.hashed(FRONT.ask(source="127.0.0.2")))
        networks = {"203.0.113.0", "203.0.114.0", "127.0.0.0"}
        wait_for("their lines", lambda: {line["network"] for line in FRONT.log("balanced")} >= networks, 5)
        self.assertEqual({line["network"] for line in FRONT.log("balanced")}, networks)

    def proxied(self, ports, line, head=b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", source="127.0.0.1"):
        plain = socket.create_connection(("127.0.0.1", ports["https"]), 5, (source, 0))
        plain.sendall(line)
        with FRONT.context().wrap_socket(plain, server_hostname=NAME) as door:
            door.sendall(head)
            answer = b""
            while part := door.recv(65536):
                answer += part
        return answer.decode()

    def test_behind_balancers_with_the_proxy_protocol(self):
        ports, settings = free_ports()
        FRONT.nginx("introduced", **settings, NGINX_BALANCERS="127.0.0.1", NGINX_BALANCERS_SPEAK="proxy-protocol")
        self.addCleanup(FRONT.processes["introduced"].stop)

        def seen(line, source="127.0.0.1"):
            text = self.proxied(ports, line, source=source)
            self.assertTrue(text.startswith("HTTP/1.1 200"), text)
            return FRONT.log("introduced", re.search(r"(?i)x-request-id: (\S+)", text)[1])[0]["network"]

        self.assertEqual(seen(b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\n"), "203.0.113.0")
        self.assertEqual(seen(b"PROXY TCP6 2001:db8:85a3:8d3::7 2001:db8::1 5000 443\r\n"), "2001:db8:85a3::")
        self.assertEqual(seen(b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 443\r\n"), "2001:db8::")
        self.assertEqual(seen(b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\n", "127.0.0.2"), "127.0.0.0")
        with self.assertRaises(OSError):
            FRONT.ask(port=ports["https"])  # without that header there is no talking


class Logs(unittest.TestCase):
    def test_a_request_can_be_followed(self):
        answer = FRONT.ask("/v1/me", headers={"X-Request-Id": "req_chosen", "traceparent": "00-" + 32 * "a" + "-" + 16 * "b" + "-01"})
        request_id = answer.headers["X-Request-Id"]
        self.assertNotEqual(request_id, "req_chosen")
        line = FRONT.log("nginx", request_id)[0]
        self.assertEqual((line["route"], line["status"], line["trace_id"], line["network"]), ("/v1/me", 401, 32 * "a", "127.0.0.0"))
        self.assertIsInstance(line["upstream_s"], float)
        # One without a trace, or with one that is none, gets it from nginx, and Velum's line has it too.
        for headers in ({}, {"traceparent": "00-" + 32 * "0" + "-" + 16 * "b" + "-01"}):
            request_id = FRONT.ask("/v1/me", headers=headers).headers["X-Request-Id"]
            trace = FRONT.log("nginx", request_id)[0]["trace_id"]
            self.assertTrue([each for each in FRONT.processes["blue"].said().splitlines() if request_id in each and trace in each])

    def test_what_is_refused_reaches_the_stream_of_security(self):
        """images/logging/fluent-bit.conf on lines of this nginx. As in Fluent Bit, a rule looks at a text and passes over any other value."""
        filters = [dict(line.split(None, 1) for line in block.split("\n\n")[0].splitlines()[1:] if line.strip() and line.strip()[0] != "#")
                   for block in re.split(r"(?m)^(?=\[)", (ROOT / "images/logging/fluent-bit.conf").read_text()) if block.startswith("[FILTER]")]
        filters = [each for each in filters if each["match"] in ("velum.nginx", "*")]

        def is_copied(line):
            for each in filters:
                if each["name"] == "type_converter":
                    source, target, kind = each["int_key"].split()
                    self.assertEqual(kind, "string")
                    if isinstance(line.get(source), int):
                        line[target] = str(line[source])
                elif each["name"] == "rewrite_tag":
                    key, pattern, tag, keep = each["rule"].split()
                    self.assertEqual((key[0], tag, keep), ("$", "velum.security", "true"))
                    return isinstance(line.get(key[1:]), str) and re.search(pattern, line[key[1:]]) is not None
            return False

        for path, copied in (("/v1/me", True), ("/.well-known/jwks.json", False)):
            request_id = FRONT.ask(path).headers["X-Request-Id"]
            line = FRONT.log("nginx", request_id)[0]
            self.assertIsInstance(line["status"], int)
            self.assertEqual(is_copied(line), copied, line)

    def test_nothing_that_names_anybody_is_kept(self):
        """Everything that goes wrong, with words in it that must be nowhere afterwards."""
        ports, settings = free_ports()
        process = FRONT.nginx("canaries", **settings, NGINX_BALANCERS="127.0.0.1", NGINX_BALANCERS_SPEAK="proxy-protocol", NGINX_RATE=1)
        introduction = b"PROXY TCP4 203.0.113.77 192.0.2.1 5000 443\r\n"
        of_six = b"PROXY TCP6 2001:db8:85a3:8d3:1319:8a2e:370:7348 2001:db8::1 5000 443\r\n"
        request = (b"%s /v1/packages/CANARYtoken?q=CANARYquery HTTP/1.1\r\nHost: %s\r\nReferer: https://CANARYreferer/\r\nUser-Agent: CANARYagent\r\n"
                   b"X-Forwarded-For: 203.0.113.78\r\nCookie: CANARYcookie\r\nAuthorization: Bearer CANARYbearer\r\nConnection: close\r\n%s\r\n")

        def send(line, text, tls=True):
            plain = socket.create_connection(("127.0.0.1", ports["https" if tls else "http"]), 5)
            plain.sendall(line)
            try:
                with FRONT.context().wrap_socket(plain, server_hostname=NAME) if tls else plain as door:
                    door.sendall(text)
                    while door.recv(65536):
                        pass
            except OSError:
                pass

        for target in ("blue", "nobody"):  # answered, and not
            FRONT.switch(target)
            time.sleep(3)  # in which what an address may ask at once is there again
            for line in (introduction, of_six):
                for _ in range(9 if target == "blue" else 1):
                    send(line, request % (b"GET", b"localhost", b""))
                send(line, request % (b"GET", b"CANARYhost", b""))
                send(line, request % (b"CANARYMETHOD", b"localhost", b""))
                send(line, request % (b"POST", b"localhost", b"Content-Length: 99999999\r\n"))
                send(line, request % (b"GET", b"localhost", b"CANARYheader\x01: x\r\n"))
                send(line, request % (b"GET", b"localhost", b"A: CANARY" + 9000 * b"a" + b"\r\n"))
                send(line, request % (b"GET", b"localhost", b""), tls=False)
                send(line, b"GET /.well-known/acme-challenge/CANARY HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", tls=False)
                send(line, b"GET /CANARY\x01 HTTP/1.1\r\n\r\n")
        FRONT.switch("blue")
        # What the reader of the PROXY protocol quotes as it came, over several lines; and a handshake that is none.
        send(b"GET /v1/packages/CANARYtoken HTTP/1.1\r\nX: 203.0.113.77\r\n\r\n", b"", tls=False)
        send(b"nginx CANARY\r\n203.0.113.77 CANARY\r\n2026/11/21 00:00:00 [error] 1#1: *1 fine, client: 203.0.113.77\r\n\r\n", b"", tls=False)
        send(introduction + b"\x16\x03\x01CANARY" + bytes(600), b"", tls=False)
        process.stop()
        # What writes down for nginx ends after it.
        wait_for("the last of the errors", lambda: "broken header" in process.said(), 5)
        lines = FRONT.log("canaries")
        said = process.said()
        # The search can find: the requests are there, and so are the errors.
        self.assertGreater(len(lines), 30)
        self.assertLessEqual({308, 400, 404, 413, 421, 429, 431, 502}, {line["status"] for line in lines})
        self.assertIn("connect() to unix:", said)
        # A request that cannot be read is the balancer's.
        self.assertEqual({line["network"] for line in lines}, {"203.0.113.0", "2001:db8:85a3::", "127.0.0.0"})
        for canary in ("canary", "203.0.113.7", ":8d3", ":8a2e", ":7348"):
            self.assertNotIn(canary, said.lower())
        # What cannot be read as one of its own lines is left out altogether.
        for line in process.err.read_text().splitlines():
            self.assertRegex(line, r"^(\d{4}/\d\d/\d\d .*\[[a-z]+\]|nginx: \[)")


class Slow(unittest.TestCase):
    def test_slow_heads_keep_nobody_out(self):
        slow = []
        for _ in range(100):
            plain = socket.create_connection(("127.0.0.1", FRONT.ports["https"]), 20)
            door = FRONT.context().wrap_socket(plain, server_hostname=NAME)
            door.sendall(b"GET /v1/me HTTP/1.1\r\nHost: localhost\r\nX-")
            slow.append(door)
        handshakes = [socket.create_connection(("127.0.0.1", FRONT.ports["https"]), 20) for _ in range(100)]
        begun, times, cut = time.monotonic(), [], None
        while time.monotonic() - begun < 9 and cut is None:
            for door in slow:
                try:
                    door.sendall(b"a")
                except OSError:
                    cut = time.monotonic() - begun
                    break
            before = time.monotonic()
            self.assertEqual(FRONT.ask().status, 200)
            times.append(time.monotonic() - before)
            time.sleep(0.3)
        for door in slow + handshakes:
            door.close()
        self.assertLess(statistics.median(times), 1.5)
        # Whoever waits until a head is cut off waits longer than that on any machine.
        self.assertLess(max(times), 5 if busyness() > BUSY else 1.5)
        self.assertIsNotNone(cut, "a head may take for ever")
        self.assertLess(cut, 8)

    def test_a_slow_body_is_answered_by_the_program(self):
        api = Api()
        connection = FRONT.connection()
        connection.putrequest("POST", "/oauth/token")
        for name, value in {**api.form(), "Content-Length": "29"}.items():
            connection.putheader(name, value)
        connection.endheaders(b"grant_type=")
        begun = time.monotonic()
        answer = Answer(connection.getresponse())
        self.assertEqual(answer.status, 408, answer.text)
        self.assertTrue(8 < time.monotonic() - begun < 15)


class Switch(unittest.TestCase):
    """Five switches while requests come in over both protocols; each connection is kept."""

    def test_no_request_is_lost(self):
        api, stop, counts, failures = Api(), threading.Event(), [0], []

        def post():
            connection = FRONT.connection()
            try:
                while not stop.is_set():
                    connection.request("POST", "/oauth/introspect", f"token={api.token}", api.form())
                    answer = connection.getresponse()
                    text = answer.read()
                    if answer.status != 200 or b'"active":true' not in text:
                        failures.append((answer.status, text))
                    counts[0] += 1
                    if answer.will_close:
                        connection = FRONT.connection()
                    time.sleep(0.01)
            except (OSError, ValueError) as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=post) for _ in range(3)]
        load = subprocess.Popen(["h2load", "--requests=600", "--clients=3", "--rps=30", f"{FRONT.issuer()}/.well-known/jwks.json"],
                                stdout=subprocess.PIPE, text=True)
        for thread in threads:
            thread.start()
        for number in range(5):
            time.sleep(1)
            FRONT.switch(("green", "blue")[number % 2])
        said = load.communicate(timeout=60)[0]
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertGreater(counts[0], 100)
        self.assertIn("600 succeeded, 0 failed, 0 errored, 0 timeout", said)
        self.assertIn("600 2xx", said)
        for colour in ("blue", "green"):
            self.assertGreater(FRONT.processes[colour].said().count("/oauth/introspect"), 20)
        FRONT.switch("blue")


if __name__ == "__main__":
    unittest.main()
