"""Release habits: dated reasons, a changelog with the version in it, and a bill of materials that says what the lock file says."""

import datetime
import json
import re
import tomllib
import unittest

from .support import ROOT, check


class Release(unittest.TestCase):
    def test_what_is_passed_over_has_a_day_and_is_looked_at_again(self):
        deny = tomllib.loads((ROOT / "deny.toml").read_text())
        for ignored in deny["advisories"]["ignore"]:
            with self.subTest(ignored["id"]):
                day = re.match(r"(\d{4}-\d{2}-\d{2}): \S.{20}", ignored["reason"])
                self.assertTrue(day, "a reason begins with its day")
                age = datetime.date.today() - datetime.date.fromisoformat(day[1])
                self.assertLess(age.days, 90, "look at it again, and write the new day")

    def test_all_packages_have_one_version_and_the_changelog_is_open(self):
        manifests = [tomllib.loads(file.read_text()) for file in (ROOT / "Cargo.toml", *ROOT.glob("crates/*/Cargo.toml"))]
        for manifest in manifests:
            self.assertEqual(manifest["package"]["version"], {"workspace": True}, manifest["package"]["name"])
        version = manifests[0]["workspace"]["package"]["version"]
        changelog = (ROOT / "CHANGELOG.md").read_text()
        self.assertRegex(changelog, r"(?m)^## \[(Unreleased|%s)\]" % re.escape(version))

    def test_bill_of_materials(self):
        printed = check(ROOT / "scripts/sbom.py")
        self.assertEqual(printed, check(ROOT / "scripts/sbom.py"), "the same bytes")
        bom = json.loads(printed)
        components = {component["bom-ref"]: component for component in bom["components"]}
        self.assertEqual(len(components), len(bom["components"]))
        lock = {f"pkg:cargo/{entry['name']}@{entry['version']}": entry.get("checksum") for entry in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
        for reference, component in components.items():
            with self.subTest(reference):
                self.assertTrue(component["licenses"])
                if reference.startswith("pkg:cargo/"):
                    self.assertIn(reference, lock)
                    if lock[reference]:
                        self.assertEqual(component["hashes"], [{"alg": "SHA-256", "content": lock[reference]}])
                else:
                    self.assertRegex(component["hashes"][0]["content"], "^[0-9a-f]{64}$")
        names = {component["name"] for component in bom["components"]}
        manifest = (ROOT / "models/manifest.toml").read_text()
        self.assertLessEqual({"tfhe", "actix-web", "rustls", "onnxruntime", *re.findall(r'file = "(.+\.onnx)"', manifest)}, names)
        # What is only for tests does not ship.
        only_for_tests = set(tomllib.loads((ROOT / "Cargo.toml").read_text()).get("dev-dependencies", {}))
        direct = set(tomllib.loads((ROOT / "Cargo.toml").read_text())["dependencies"])
        shipped_by_root = next(entry for entry in bom["dependencies"] if entry["ref"] == bom["metadata"]["component"]["bom-ref"])["dependsOn"]
        for name in only_for_tests - direct:
            self.assertFalse([reference for reference in shipped_by_root if reference.startswith(f"pkg:cargo/{name}@")], name)
        references = {bom["metadata"]["component"]["bom-ref"], *components}
        for entry in bom["dependencies"]:
            self.assertLessEqual({entry["ref"], *entry["dependsOn"]}, references)


if __name__ == "__main__":
    unittest.main()
