"""`deploy.sh secrets init` and `check`: what is made, and that everything weak is found. The keys are made by the real program.

Environment: VELUM_TEST_BINARY, a velum; without it target/release/velum.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("VELUM_TEST_BINARY", ROOT / "target/release/velum"))
IS_ROOT = os.geteuid() == 0
OWNERS = {"ca": 0, "app": 10001, "migrate": 10001, "smoke": 10001, "keyholder": 10002, "postgres": 10003, "keystore": 10003, "ledger": 10003,
          "redis": 10004, "nginx": 10005, "monitoring": 10006, "logging": 10007, "elasticsearch": 1000, "kibana": 1000, "backup": 0}
folder = None


def setUpModule():
    global folder
    if not BINARY.exists():
        raise unittest.SkipTest(f"skipped: there is no {BINARY}; cargo build --release, or say VELUM_TEST_BINARY")
    folder = Path(tempfile.mkdtemp(prefix="velum-secrets-"))
    unittest.addModuleCleanup(shutil.rmtree, folder)
    folder.chmod(0o755)
    made = Home(folder / "made")
    made.configure()
    made.out = made.succeeds("secrets", "init", "one")


class Home:
    def __init__(self, path):
        self.path, self.secrets = path, path / "secrets"

    def configure(self, driver="process"):
        (self.path / "releases/one/bin").mkdir(parents=True)
        (self.path / "releases/one/bin/velum").symlink_to(BINARY)
        (self.path / "deploy.conf").write_text(f"DRIVER={driver}\nVELUM_ISSUER=https://velum.test\n")

    def deploy_sh(self, *words):
        result = subprocess.run([ROOT / "deploy.sh", "--home", self.path, *words], text=True, stdin=subprocess.DEVNULL, check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240)
        result.out = result.stdout
        return result

    def succeeds(self, *words):
        result = self.deploy_sh(*words)
        if result.returncode:
            raise AssertionError(f"deploy.sh {' '.join(words)} ended with {result.returncode}:\n{result.out}")
        return result.out

    def files(self):
        return {str(file.relative_to(self.secrets)): hashlib.sha256(file.read_bytes()).hexdigest() for file in self.secrets.rglob("*") if file.is_file()}

    def write(self, name, text):
        """In place of what is there, with its owner and mode."""
        (self.secrets / name).write_text(text)

    def openssl(self, *words):
        result = subprocess.run(["openssl", *map(str, words)], text=True, capture_output=True, cwd=self.secrets, check=False)
        if result.returncode:
            raise AssertionError(f"openssl {words}: {result.stderr}")
        return result.stdout

    def issue(self, authority, name, certificate, key, days=397):
        """Another certificate in place of one, from a key of its own."""
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", key,
                     "-out", folder / "request")
        self.openssl("x509", "-req", "-in", folder / "request", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-set_serial", "7",
                     "-days", days, "-out", certificate)


def home():
    """A copy of the installation that was made at the beginning."""
    path = Path(tempfile.mkdtemp(dir=folder))
    path.chmod(0o755)
    subprocess.run(["cp", "-a", f"{folder}/made/.", path], check=True)
    # Addresses of databases name files by their path.
    copy = Home(path)
    for file in [*copy.secrets.glob("*/*_url"), copy.secrets / "kibana/kibana.yml"]:
        file.write_text(file.read_text().replace(f"{folder}/made", str(path)))
    return copy


class Made(unittest.TestCase):
    def setUp(self):
        self.home = Home(folder / "made")

    def test_owners_and_modes(self):
        for path in self.home.secrets.rglob("*"):
            found = path.stat()
            self.assertEqual(stat.S_IMODE(found.st_mode), 0o700 if path.is_dir() else 0o600, path)
            part = path.relative_to(self.home.secrets).parts
            owner = 10003 if part[0] == "backup" and part[1:2] in [("main",), ("keystore",), ("ledger",)] else OWNERS[part[0]]
            self.assertEqual((found.st_uid, found.st_gid), (owner, owner) if IS_ROOT else (os.getuid(), os.getgid()), path)
        # Each service finds its own folder, and none can list the others.
        self.assertEqual(stat.S_IMODE(self.home.secrets.stat().st_mode), 0o711)

    def test_each_file_is_described(self):
        """secrets/README.md has a line for each, in words of this file: `<moment>` and `<id>` stand for what differs."""
        described = {name for line in (ROOT / "secrets/README.md").read_text().splitlines() if line.startswith("| `")
                     for cell in [line.split("|")[1]] for name in expand(cell)}
        for name in self.home.files():
            general = re.sub(r"\d{8}T\d{6}Z", "<moment>", re.sub(r"kek/.*\.key", "kek/<id>.key", name))
            self.assertIn(general, described)

    def test_keys_are_real(self):
        for kind in ("jwt", "evidence"):
            key = next((self.home.secrets / "app" / kind).iterdir())
            self.assertIn("Private-Key: (3072 bit", self.home.openssl("rsa", "-in", key, "-noout", "-text"))
            self.assertTrue(key.read_text().startswith("-----BEGIN PRIVATE KEY-----"))
        self.assertFalse((self.home.secrets / "app/fhe/secret.key").exists())
        self.assertTrue((self.home.secrets / "keyholder/fhe/secret.key").exists())
        self.assertFalse((self.home.secrets / "keyholder/fhe/evaluation.key").exists())
        self.assertEqual((self.home.secrets / "app/fhe/public.key").read_bytes(), (self.home.secrets / "keyholder/fhe/public.key").read_bytes())

    def test_certificates_are_for_one_purpose(self):
        servers = {"app/tls/certificate.pem": "velum.internal", "keyholder/tls/certificate.pem": "keyholder", "redis/server.crt": "redis",
                   "postgres/server.crt": "postgres", "keystore/server.crt": "keystore", "ledger/server.crt": "ledger",
                   "elasticsearch/server.crt": "elasticsearch"}
        clients = {"app/postgres_client/certificate.pem": ("inner", "velum"), "migrate/postgres_client/certificate.pem": ("inner", "velum_owner"),
                   "monitoring/postgres_client.pem": ("inner", "velum_metrics"), "app/keyholder_client/certificate.pem": ("edges", "edge")}
        verify = lambda authority, purpose, name, *more: self.home.openssl(  # noqa: E731
            "verify", "-no-CApath", "-CAfile", f"ca/{authority}.pem", "-purpose", purpose, *more, name)
        for file, name in servers.items():
            verify("inner", "sslserver", file, "-verify_hostname", name)
            with self.assertRaises(AssertionError, msg=file):
                verify("inner", "sslclient", file)
        for file, (authority, name) in clients.items():
            verify(authority, "sslclient", file)
            self.assertIn(f"CN = {name}\n", self.home.openssl("x509", "-in", file, "-noout", "-subject") + "\n")
            for other, purpose in ((authority, "sslserver"), ({"inner": "edges", "edges": "inner"}[authority], "sslclient")):
                with self.assertRaises(AssertionError, msg=file):
                    verify(other, purpose, file)

    def test_the_program_takes_them(self):
        app, keyholder = self.home.secrets / "app", self.home.secrets / "keyholder"
        common = {"PATH": "/usr/bin:/bin", "VELUM_MODE": "production", "VELUM_ISSUER": "https://velum.test", "VELUM_DATA_DIR": "/nonexistent",
                  "VELUM_SECRETS_DIR": app, "VELUM_FHE_DIR": app / "fhe", "VELUM_DATABASE_URL_FILE": app / "database_url",
                  "VELUM_KEYSTORE_URL_FILE": app / "keystore_url", "VELUM_LEDGER_URL_FILE": app / "ledger_url", "VELUM_REDIS_URL_FILE": app / "redis_url",
                  "VELUM_REDIS_CA_FILE": app / "ca.pem", "VELUM_TLS_CERTIFICATE_FILE": app / "tls/certificate.pem",
                  "VELUM_TLS_KEY_FILE": app / "tls/key.pem", "VELUM_KEYHOLDER": "https://keyholder:8444", "VELUM_KEYHOLDER_CA_FILE": app / "ca.pem",
                  "VELUM_KEYHOLDER_CLIENT_CERTIFICATE_FILE": app / "keyholder_client/certificate.pem",
                  "VELUM_KEYHOLDER_CLIENT_KEY_FILE": app / "keyholder_client/key.pem"}
        become = ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups"] if IS_ROOT else []
        asked = lambda settings: subprocess.run([*become, BINARY, "config", "check"], env={name: str(value) for name, value in settings.items()},  # noqa: E731
                                                text=True, capture_output=True, check=False, cwd="/")
        answer = asked(common)
        # Models and library are a release's; of the secrets it has nothing to say.
        complaints = [line for line in answer.stderr.splitlines() if line.startswith("  VELUM_")]
        self.assertEqual([line for line in complaints if not line.startswith(("  VELUM_MODELS_DIR", "  VELUM_ONNXRUNTIME"))], [], answer.stderr)
        # And it does look: the keyholder's keys are not for an edge.
        wrong = asked(common | {"VELUM_SECRETS_DIR": keyholder, "VELUM_REDIS_CA_FILE": "/nonexistent"})
        self.assertIn("VELUM_REDIS_CA_FILE", wrong.stderr)

    def test_nothing_secret_was_said(self):
        for name in self.home.files():
            if name.endswith((".password", ".pass", "_url")):
                self.assertNotIn((self.home.secrets / name).read_text().strip(), self.home.out if hasattr(self.home, "out") else "")


class Again(unittest.TestCase):
    def test_nothing_is_made_twice(self):
        copy = home()
        before = copy.files()
        copy.succeeds("secrets", "init", "one")
        self.assertEqual(copy.files(), before)

    def test_what_is_missing_is_made_and_nothing_else(self):
        copy = home()
        before = copy.files()
        for name in ("redis/users.acl", "app/tls/key.pem", "ledger/velum_metrics.password", "backup/main.pass", "app/ledger_url"):
            (copy.secrets / name).unlink()
        self.assertIn("5 problems", copy.deploy_sh("secrets", "check").out)
        copy.succeeds("secrets", "init", "one")
        changed = {name for name, value in copy.files().items() if before.get(name) != value}
        # The hashes follow from the password, the address from the password: they are the same again.
        self.assertEqual(changed, {"app/tls/key.pem", "app/tls/certificate.pem", "ledger/velum_metrics.password",
                                   "monitoring/ledger.password", "backup/main.pass"})

    def test_a_lost_evaluation_key_is_made_anew(self):
        copy = home()
        before = copy.files()
        (copy.secrets / "app/fhe/evaluation.key").unlink()
        copy.succeeds("secrets", "init", "one")
        self.assertEqual({name for name, value in copy.files().items() if before.get(name) != value}, {"app/fhe/evaluation.key"})

    def test_certificates_are_renewed_in_time(self):
        copy = home()
        copy.issue("ca/inner", "redis", "redis/server.crt", "redis/server.key", days=59)
        copy.issue("ca/inner", "ledger", "ledger/server.crt", "ledger/server.key", days=61)
        before = copy.files()
        out = copy.succeeds("secrets", "init", "one")
        self.assertIn("made redis/server.crt", out)
        changed = {name for name, value in copy.files().items() if before.get(name) != value}
        self.assertEqual(changed, {"redis/server.crt", "redis/server.key"})

    def test_without_the_authority_nothing_is_signed(self):
        copy = home()
        (copy.secrets / "ca/edges.key").unlink()
        copy.succeeds("secrets", "init", "one")
        (copy.secrets / "app/keyholder_client/key.pem").unlink()
        result = copy.deploy_sh("secrets", "init", "one")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("run this where the authority lies", result.out)

    def test_an_edge_without_the_keyholders_keys(self):
        """The keyholder's folder was brought to its own host."""
        copy = home()
        shutil.rmtree(copy.secrets / "keyholder")
        before = copy.files()
        copy.succeeds("secrets", "init", "one")
        self.assertEqual(copy.files(), before)

    def test_a_dry_run_makes_nothing(self):
        fresh = Home(Path(tempfile.mkdtemp(dir=folder)))
        fresh.configure()
        fresh.succeeds("--dry-run", "secrets", "init", "one")
        self.assertFalse(fresh.secrets.exists())

    def test_words_that_it_does_not_know(self):
        copy = home()
        for words in (["secrets"], ["secrets", "make"], ["secrets", "init"], ["secrets", "check", "all"]):
            result = copy.deploy_sh(*words)
            self.assertEqual(result.returncode, 1, words)
            self.assertIn("deploy.sh help secrets", result.out)

    def test_a_release_that_is_not_there(self):
        fresh = Home(Path(tempfile.mkdtemp(dir=folder)))
        fresh.configure()
        result = fresh.deploy_sh("secrets", "init", "two")
        self.assertEqual(result.returncode, 1)
        self.assertIn("the jwt key was not made", result.out)


class KeyholderElsewhere(unittest.TestCase):
    """Its certificate carries the name that VELUM_KEYHOLDER says, wherever it lies."""

    def setUp(self):
        self.copy = home()
        self.folder = self.copy.path / "for-the-keyholder"

    def says(self, address):
        with open(self.copy.path / "deploy.conf", "a", encoding="utf-8") as file:
            file.write(f"VELUM_KEYHOLDER={address}\n")

    def verify(self, certificate, *name):
        self.copy.openssl("verify", "-no-CApath", "-CAfile", "ca/inner.pem", "-purpose", "sslserver", *name, certificate)

    def test_a_certificate_for_another_name_is_found_and_made_anew(self):
        self.says("https://keyholder.example:8444")
        before = self.copy.files()
        self.assertIn("keyholder/tls/certificate.pem: is for another name than keyholder.example", self.copy.deploy_sh("secrets", "check").out)
        self.copy.succeeds("secrets", "init", "one")
        self.verify("keyholder/tls/certificate.pem", "-verify_hostname", "keyholder.example")
        changed = {name for name, value in self.copy.files().items() if before[name] != value}
        self.assertEqual(changed, {"keyholder/tls/certificate.pem", "keyholder/tls/key.pem"})

    def test_a_host_of_its_own_is_given_what_it_needs(self):
        refused = self.copy.deploy_sh("secrets", "keyholder", self.folder)
        self.assertIn("VELUM_KEYHOLDER does not say where", refused.out)
        self.says("https://192.0.2.7:8444")
        shutil.rmtree(self.copy.secrets / "keyholder")  # it has its keys there
        self.copy.succeeds("secrets", "keyholder", self.folder)
        self.assertEqual({str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file()},
                         {"tls/certificate.pem", "tls/key.pem", "edge_ca.pem"})
        self.verify(self.folder / "tls/certificate.pem", "-verify_ip", "192.0.2.7")
        self.assertEqual((self.folder / "edge_ca.pem").read_bytes(), (self.copy.secrets / "ca/edges.pem").read_bytes())
        self.assertEqual(stat.S_IMODE((self.folder / "tls/key.pem").stat().st_mode), 0o600)
        self.assertIn("is there already", self.copy.deploy_sh("secrets", "keyholder", self.folder).out)
        # Nothing of it stays, and nothing is missing for that.
        self.assertIn("sound", self.copy.succeeds("secrets", "check"))

    def test_its_keys_are_made_where_it_lies(self):
        own = Home(Path(tempfile.mkdtemp(dir=folder)))
        own.configure()
        said = own.deploy_sh("keyholder", "one").out
        # Without a certificate it goes no further; what to do where stands in what it says.
        self.assertIn("secrets/keyholder/tls/certificate.pem is missing", said)
        self.assertIn("deploy.sh secrets keyholder FOLDER", said)
        keys = own.secrets / "keyholder/fhe"
        self.assertEqual({file.name for file in keys.iterdir()}, {"secret.key", "public.key", "evaluation.key"})
        before = own.files()
        own.deploy_sh("keyholder", "one")
        self.assertEqual(own.files(), before, "keys were made anew")
        # The edge takes them, and makes none.
        edge = Home(Path(tempfile.mkdtemp(dir=folder)))
        edge.configure()
        (edge.secrets / "app/fhe").mkdir(parents=True)
        for name in ("public.key", "evaluation.key"):
            shutil.copy(keys / name, edge.secrets / "app/fhe")
        self.assertIn("sound", edge.succeeds("secrets", "init", "one"))
        self.assertFalse((edge.secrets / "keyholder").exists())
        self.assertEqual((edge.secrets / "app/fhe/public.key").read_bytes(), (keys / "public.key").read_bytes())
        self.assertIn("this host is an edge", edge.deploy_sh("keyholder", "one").out)


class Check(unittest.TestCase):
    """Each fault alone; what it says names the file and the fault."""

    def finds(self, copy, file, words):
        result = copy.deploy_sh("secrets", "check")
        self.assertEqual(result.returncode, 1, f"{file}: nothing was found\n{result.out}")
        lines = [line for line in result.out.splitlines() if line.strip().startswith(f"{file}:")]
        self.assertTrue(any(words in line for line in lines), f"{file}: {words}\n{result.out}")
        self.assertIn("deploy.sh: next: ", result.out)

    def test_sound(self):
        self.assertIn("sound", home().succeeds("secrets", "check"))

    def test_files(self):
        faults = {"app/database_url": "is missing", "keyholder/fhe/secret.key": "is missing", "app/jwt": "holds no key", "redis/users.acl": "is missing"}
        for name, words in faults.items():
            with self.subTest(name):
                copy = home()
                if (copy.secrets / name).is_dir():
                    shutil.rmtree(copy.secrets / name)
                else:
                    (copy.secrets / name).unlink()
                self.finds(copy, name, words)
        copy = home()
        copy.write("app/redis_url", "")
        self.finds(copy, "app/redis_url", "is empty")
        shutil.copy(copy.secrets / "keyholder/fhe/secret.key", copy.secrets / "app/fhe/secret.key")
        self.finds(copy, "app/fhe/secret.key", "belongs to the keyholder alone")
        (copy.secrets / "app/MADE_FOR_DEVELOPMENT").write_text("")
        self.finds(copy, "app/MADE_FOR_DEVELOPMENT", "for development")

    def test_rights(self):
        copy = home()
        for name, mode in (("app/kek", 0o750), ("postgres/server.key", 0o640), ("ca/inner.key", 0o604), ("backup/main.pass", 0o644)):
            (copy.secrets / name).chmod(mode)
            self.finds(copy, name, f"can be read by others (mode {mode:o}): chmod go= {copy.secrets / name}")
        if IS_ROOT:
            os.chown(copy.secrets / "redis/server.key", 10001, 10001)
            self.finds(copy, "redis/server.key", "belongs to user 10001: chown 10004:10004")

    def test_keys(self):
        copy = home()
        jwt = f"app/jwt/{next((copy.secrets / 'app/jwt').iterdir()).name}"
        kek = f"app/kek/{next((copy.secrets / 'app/kek').iterdir()).name}"
        copy.write(jwt, os.urandom(32).hex() + "\n")
        self.finds(copy, jwt, "is no RSA private key in PEM")
        copy.write(jwt, (ROOT / "tests/fixtures/keys/test_only_rsa_2048_one.pem").read_text())
        self.finds(copy, jwt, "has 2048 bits")
        for text in ("changeme", "00" * 32, "ab" * 32, b"correct horse battery staple 123".hex(), "c2hvcnQ=", os.urandom(16).hex()):
            with self.subTest(text):
                copy.write(kek, text + "\n")
                self.finds(copy, kek, "is not 32 random bytes")

    def test_passwords(self):
        copy = home()
        for text in ("changeme", "passwordpasswordpasswordpassword", "velum-postgres-secret-admin-2026", "a" * 64, "0123" * 10):
            with self.subTest(text):
                copy.write("keystore/velum.password", text + "\n")
                self.finds(copy, "keystore/velum.password", "can be guessed")
                copy.write("app/keystore_url", f"postgres://velum:{text}@keystore/keystore?sslmode=verify-full\n")
                self.finds(copy, "app/keystore_url", "can be guessed")
        copy.write("backup/ledger.pass", "CHANGE_ME_PLACEHOLDER_EXAMPLE\n")
        self.finds(copy, "backup/ledger.pass", "can be guessed")

    def test_addresses(self):
        copy = home()
        for name, old, new in (("app/database_url", "verify-full", "require"), ("app/redis_url", "rediss://", "redis://"),
                               ("migrate/ledger_url", "verify-full", "disable")):
            copy.write(name, (copy.secrets / name).read_text().replace(old, new))
            self.finds(copy, name, "does not check who answers")

    def test_certificates(self):
        copy = home()
        copy.issue("ca/inner", "redis", "redis/server.crt", "redis/server.key", days=29)
        self.finds(copy, "redis/server.crt", "expires within 30 days")
        copy.issue("ca/inner", "redis", "redis/server.crt", "redis/server.key", days=0)
        self.finds(copy, "redis/server.crt", "has expired")
        copy.issue("ca/edges", "postgres", "postgres/server.crt", "postgres/server.key")
        self.finds(copy, "postgres/server.crt", "is not of the authority ca/inner.pem")
        shutil.copy(copy.secrets / "ledger/server.key", copy.secrets / "keystore/server.key")
        self.finds(copy, "keystore/server.crt", "does not belong to keystore/server.key")

    def test_certificates_of_exporters(self):
        copy = home()
        copy.issue("ca/inner", "velum_metrics", "monitoring/postgres_client.pem", "monitoring/postgres_client.key", days=29)
        self.finds(copy, "monitoring/postgres_client.pem", "expires within 30 days")

    def test_authorities(self):
        copy = home()
        for name, days, words in (("inner", 179, "expires within 180 days, and all that it has issued"), ("edges", 0, "has expired")):
            with self.subTest(name):
                copy.openssl("req", "-new", "-key", f"ca/{name}.key", "-subj", f"/CN=Velum {name} authority", "-out", folder / "request")
                copy.openssl("x509", "-req", "-in", folder / "request", "-signkey", f"ca/{name}.key", "-days", days, "-out", f"ca/{name}.pem")
                self.finds(copy, f"ca/{name}.pem", words)
        # Its mend is one.
        for name in ("inner", "edges"):
            for kind in ("pem", "key"):
                (copy.secrets / f"ca/{name}.{kind}").unlink()
        self.assertIn("sound", copy.succeeds("secrets", "init", "one"))

    def test_one_secret_for_each_purpose(self):
        copy = home()
        shutil.copy(copy.secrets / "app/client_secret_pepper.key", copy.secrets / "app/blind_index.key")
        self.finds(copy, "app/client_secret_pepper.key", "is the same as app/blind_index.key")
        shutil.copy(copy.secrets / "postgres/velum.password", copy.secrets / "keystore/velum.password")
        self.finds(copy, "postgres/velum.password", "is the same as keystore/velum.password")

    def test_every_problem_is_named_at_once(self):
        copy = home()
        (copy.secrets / "redis/users.acl").unlink()
        (copy.secrets / "app/kek").chmod(0o755)
        copy.write("backup/main.pass", "secret\n")
        self.assertIn("3 problems with the secrets", copy.deploy_sh("secrets", "check").out)


def expand(cell):
    """Names of a cell: `a/{b,c}.key` stands for two."""
    for name in re.findall(r"`([^`]+)`", cell):
        found = [name]
        while any("{" in text for text in found):
            found = [re.sub(r"\{[^{}]*\}", lambda _, each=each: each, text, count=1)
                     for text in found for each in (re.search(r"\{([^{}]*)\}", text).group(1).split(",") if "{" in text else [""])]
        yield from found


if __name__ == "__main__":
    unittest.main()
