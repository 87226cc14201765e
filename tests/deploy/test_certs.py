"""The public certificate: self-made, from an ACME authority (pebble, by webroot, with certbot), renewed and changed under load."""

import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from .front import IS_ROOT, NGINX, ROOT, Answer, Authority, Front, Process, check, free_port, give, wait_for

FRONT = None
NAME = "velum.test"


def setUpModule():
    global FRONT  # pylint: disable=global-statement
    FRONT = Front(NAME)
    FRONT.velum("blue")
    FRONT.switch("blue")
    FRONT.acme = Path(tempfile.mkdtemp(prefix="velum-acme-"))
    FRONT.acme_port = free_port()
    settings = {
        "DRIVER": "process", "VELUM_ISSUER": FRONT.issuer(), "ACME_SERVER": f"https://localhost:{FRONT.acme_port}/dir",
        "ACME_FOLDER": FRONT.acme / "certbot", "NGINX_FOLDER": FRONT.home / "nginx", "NGINX_HTTP_PORT": FRONT.ports["http"],
        "NGINX_HTTPS_PORT": FRONT.ports["https"], "NGINX_STATUS_LISTEN": f"127.0.0.1:{FRONT.ports['status']}",
    }
    (FRONT.home / "deploy.conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    FRONT.nginx()


def tearDownModule():
    FRONT.close()
    shutil.rmtree(FRONT.acme, ignore_errors=True)


def certs(*arguments, **environment):
    """deploy.sh certs: its status, and all it said."""
    result = subprocess.run([ROOT / "deploy.sh", "--home", FRONT.home, "certs", *arguments], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=300, check=False, env={**os.environ, **environment})
    return result.returncode, result.stdout


def shown():
    """Fingerprint of the certificate that nginx shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", FRONT.ports["https"]), 10) as plain, context.wrap_socket(plain, server_hostname=NAME) as door:
        return ssl.DER_cert_to_PEM_cert(door.getpeercert(binary_form=True))


def installed():
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(re.search(
        "-----BEGIN.*?END CERTIFICATE-----\n", (FRONT.tls / "fullchain.pem").read_text(), re.S)[0]))


class Case(unittest.TestCase):
    def succeeds(self, *arguments, **environment):
        status, said = certs(*arguments, **environment)
        self.assertEqual(status, 0, said)
        return said

    def fails(self, sentence, *arguments):
        status, said = certs(*arguments)
        self.assertEqual((status, sentence in said), (1, True), said)
        self.assertIn("next: ", said)
        return said

    def pair(self, name=NAME, days=90, more="", authority=None):
        """A folder with a certificate of the test's own authority."""
        folder = Path(tempfile.mkdtemp(prefix="velum-pair-"))
        self.addCleanup(shutil.rmtree, folder)
        (authority or FRONT.outer).sign(folder / "fullchain.pem", folder / "privkey.pem", name, days, more=more)
        return folder


class SelfMade(Case):
    def setUp(self):
        for path in FRONT.tls.parent.glob("tls*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def test_it_is_made_shown_and_told_from_a_real_one(self):
        self.fails("fullchain.pem", "status")
        self.succeeds("self-made")
        self.assertEqual(shown(), installed())
        text = self.succeeds("status")
        self.assertIn("itself: for trying out alone", text)
        self.assertRegex(text, "(89|90) days left")  # the same second counts
        owner = NGINX if IS_ROOT else os.getuid()
        for file in ("privkey.pem", "fullchain.pem"):
            status = (FRONT.tls / file).stat()
            self.assertEqual((status.st_mode & 0o777, status.st_uid), (0o600, owner))
        self.assertEqual(FRONT.tls.stat().st_mode & 0o777, 0o700)
        check("curl", "--silent", "--fail", "--cacert", FRONT.tls / "fullchain.pem", "--resolve", f"{NAME}:{FRONT.ports['https']}:127.0.0.1",
              f"{FRONT.issuer()}/.well-known/jwks.json")
        # Again: another one. But never in place of a real one.
        first = shown()
        self.succeeds("self-made")
        self.assertNotEqual(shown(), first)
        self.succeeds("install", self.pair())
        self.fails("a certificate of an authority already", "self-made")

    def test_a_folder_that_is_there_is_no_hindrance(self):
        FRONT.tls.mkdir()  # as `secrets init` makes it
        self.succeeds("self-made")
        self.assertEqual(shown(), installed())

    def test_a_dry_run_changes_nothing(self):
        status, said = certs("self-made", "--dry-run")
        self.assertEqual((status, "would run" in said), (0, True), said)
        self.assertFalse(FRONT.tls.exists())


class Install(Case):
    def test_what_is_wrong_is_not_taken(self):
        self.succeeds("install", self.pair())
        before = os.readlink(FRONT.tls)
        other, good = self.pair(), self.pair()
        shutil.copy(other / "privkey.pem", good / "privkey.pem")
        self.fails("is not the key of the certificate", "install", good)
        self.fails("is not for velum.test", "install", self.pair("other.test"))
        self.fails("there is no", "install", "/nowhere")
        self.fails("names no folder", "install")
        broken = self.pair()
        (broken / "fullchain.pem").write_text("nonsense")
        self.fails("is no certificate", "install", broken)
        expired = self.pair(days=-1)
        self.fails("has expired", "install", expired)
        self.fails("does not know", "instal")
        self.assertEqual(os.readlink(FRONT.tls), before)

    def test_two_are_kept(self):
        for _ in range(4):
            self.succeeds("install", self.pair())
        folders = sorted(path.name for path in FRONT.tls.parent.glob("tls.*"))
        self.assertEqual(len(folders), 2)
        self.assertEqual(os.readlink(FRONT.tls), folders[-1])

    def test_status_says_what_is_wrong(self):
        self.succeeds("install", self.pair(days=9))
        self.assertRegex(self.fails("ends in", "status"), "ends in [89] days")
        self.succeeds("status", "--days", "5")
        shutil.copytree(self.pair(days=-1), FRONT.tls.resolve(), dirs_exist_ok=True)
        give(NGINX, FRONT.tls.resolve())
        self.fails("has expired", "status", "--days", "0")
        self.succeeds("install", self.pair(days=10))
        self.fails("wants a number", "status", "--days", "soon")
        key = FRONT.tls / "privkey.pem"
        key.chmod(0o640)
        self.fails("can be read by others (mode 640)", "status", "--days", "5")
        key.chmod(0o600)
        if IS_ROOT:
            os.chown(key, 0, 0)
            self.fails("belongs to user 0", "status", "--days", "5")


class Change(Case):
    """A certificate changes while requests and handshakes come in, and nginx is told nothing.

    nginx reads certificate and key one after the other. A handshake in that millisecond fails, before anything was sent; what is
    counted here is that there is at most one for each change, and that no request on a connection is lost.
    """

    def test_nothing_is_lost_and_the_next_handshake_shows_the_new_one(self):
        self.succeeds("install", self.pair())
        stop, counts, failures, between = threading.Event(), {"requests": 0, "handshakes": 0}, [], []

        client = json.loads((FRONT.home / "data/dev_client.json").read_text())
        credential = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()
        headers = {"Authorization": f"Basic {credential}", "Content-Type": "application/x-www-form-urlencoded"}

        def keep_alive():
            connection = FRONT.connection()
            try:
                while not stop.is_set():
                    connection.request("POST", "/oauth/token", b"grant_type=client_credentials", headers)
                    answer = Answer(connection.getresponse())
                    if answer.status != 200:
                        failures.append(answer.status)
                    counts["requests"] += 1
                    time.sleep(0.01)
            except OSError as error:
                failures.append(repr(error))
            connection.close()

        def handshakes():
            while not stop.is_set():
                try:
                    shown()
                    counts["handshakes"] += 1
                except OSError as error:
                    (between if "internal error" in str(error) else failures).append(repr(error))

        threads = [threading.Thread(target=target) for target in (keep_alive, keep_alive, handshakes, handshakes)]
        for thread in threads:
            thread.start()
        pairs = [self.pair() for _ in range(5)]
        for pair in pairs:
            self.succeeds("install", pair)
            self.assertEqual(shown(), installed())
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertLessEqual(len(between), len(pairs))
        self.assertGreater(counts["requests"], 50)
        self.assertGreater(counts["handshakes"], 50)


class Stapling(Case):
    """A certificate that names a responder of OCSP: its answer is stapled, and a change needs a reload."""

    def responder(self, authority, port):
        index = authority.folder / "index.txt"
        index.touch()
        return Process(["openssl", "ocsp", "-port", port, "-index", index, "-CA", authority.certificate, "-rsigner", authority.certificate,
                        "-rkey", authority.key, "-nmin", "5"], FRONT.home / "logs/ocsp", {})

    def stapled(self):
        said = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{FRONT.ports['https']}", "-servername", NAME, "-status"],
                              input="", capture_output=True, text=True, errors="replace", check=False, timeout=20).stdout
        return "OCSP Response Status: successful" in said

    def test_the_answer_is_stapled(self):
        port = free_port()
        authority = Authority(FRONT.home / "with-responder")
        names = f"authorityInfoAccess=OCSP;URI:http://127.0.0.1:{port}/\n"
        pair = self.pair(more=names, authority=authority)
        # The list of what was issued, in which the responder looks.
        serial = check("openssl", "x509", "-noout", "-serial", "-in", pair / "fullchain.pem").strip().split("=")[1]
        (authority.folder / "index.txt").write_text(f"V\t491231235959Z\t\t{serial}\tunknown\t/CN={NAME}\n")
        with open(pair / "fullchain.pem", "a", encoding="utf-8") as chain:
            chain.write(authority.certificate.read_text())
        responder = self.responder(authority, port)
        self.addCleanup(responder.stop)
        responder.wait_until("the responder", lambda: "ACCEPT" in responder.said())
        said = self.succeeds("install", pair)
        self.assertIn("reload of nginx", said)
        wait_for("the new certificate", lambda: shown() == installed())
        wait_for("a stapled answer", self.stapled)
        self.assertIn("stapled", self.succeeds("status"))
        # And back to one that names none.
        self.assertIn("reload of nginx", self.succeeds("install", self.pair()))
        wait_for("the new certificate", lambda: shown() == installed())
        # For a moment the workers of before answer as well.
        wait_for("no stapled answer", lambda: not self.stapled())
        self.assertNotIn("reload", self.succeeds("install", self.pair()))


class Acme(Case):
    """The real client against a real authority."""

    @classmethod
    def setUpClass(cls):
        for program in ("certbot", "pebble", "pebble-challtestsrv"):
            if not shutil.which(program):
                raise unittest.SkipTest(f"no {program} here (Debian: certbot, pebble)")
        names, management, api = free_port(), free_port(), free_port()
        FRONT.outer.sign(FRONT.acme / "api.pem", FRONT.acme / "api.key", "localhost")
        (FRONT.acme / "pebble.json").write_text(json.dumps({"pebble": {
            "listenAddress": f"127.0.0.1:{FRONT.acme_port}", "managementListenAddress": f"127.0.0.1:{management}",
            "certificate": str(FRONT.acme / "api.pem"), "privateKey": str(FRONT.acme / "api.key"),
            "httpPort": FRONT.ports["http"], "tlsPort": FRONT.ports["https"], "ocspResponderURL": "",
        }}))
        cls.names = Process(["pebble-challtestsrv", "-dns01", f"127.0.0.1:{names}", "-http01", "", "-https01", "", "-tlsalpn01", "",
                             "-defaultIPv6", "", "-defaultIPv4", "127.0.0.1", "-management", f"127.0.0.1:{api}"],
                            FRONT.home / "logs/names", {})
        cls.pebble = Process(["pebble", "-config", FRONT.acme / "pebble.json", "-dnsserver", f"127.0.0.1:{names}"], FRONT.home / "logs/pebble",
                             # A proof is asked for each time.
                             {"PEBBLE_VA_NOSLEEP": 1, "PEBBLE_WFE_NONCEREJECT": 0, "PEBBLE_AUTHZREUSE": 0})
        cls.addClassCleanup(cls.names.stop)
        cls.addClassCleanup(cls.pebble.stop)
        cls.pebble.wait_until("pebble", lambda: "ACME directory available" in cls.pebble.said())
        # What certbot trusts, for it does not trust the test.
        cls.trust = {"REQUESTS_CA_BUNDLE": str(FRONT.outer.certificate)}

    def test_issued_renewed_by_certbot_alone_and_refused(self):
        self.fails("certbot knows no certificate", "renew")
        before = shown()
        self.succeeds("issue", **self.trust)
        issued = shown()
        self.assertNotEqual(issued, before)
        self.assertEqual(issued, installed())
        self.assertIn("Pebble", self.succeeds("status"))
        # Again: certbot has a good one, and nothing changes.
        self.succeeds("issue", **self.trust)
        self.succeeds("renew", **self.trust)
        self.assertEqual(shown(), issued)
        self.succeeds("renew", "--now", **self.trust)
        renewed = shown()
        self.assertNotEqual(renewed, issued)
        # As Debian's timer calls it: certbot remembers the rest.
        check("certbot", "renew", "--quiet", "--force-renewal", "--no-random-sleep-on-renew", "--config-dir", FRONT.acme / "certbot",
              "--work-dir", FRONT.acme / "certbot/work", "--logs-dir", FRONT.acme / "certbot/logs", env={**os.environ, **self.trust})
        self.assertNotIn(shown(), (issued, renewed))
        self.assertEqual(shown(), installed())
        # A proof that the authority cannot fetch.
        last, webroot = shown(), FRONT.home / "acme/webroot"
        webroot.chmod(0o700)
        webroot_closed = IS_ROOT  # for root alone can nginx be somebody else
        try:
            status, said = certs("renew", "--now", **self.trust)
            self.assertEqual(status, 1 if webroot_closed else 0, said)
        finally:
            webroot.chmod(0o755)
        self.assertEqual(shown() == last, webroot_closed)


if __name__ == "__main__":
    unittest.main()
