#!/usr/bin/env python3
"""Prints what a release is made of, as CycloneDX 1.5 (JSON): crates that end up in the binary, models, ONNX Runtime.

usage: scripts/sbom.py [--target TRIPLE] >velum-VERSION.cdx.json

Reads Cargo.lock by `cargo metadata`, models/manifest.toml and scripts/fetch-runtime.sh; builds nothing. Of the same commit it
prints the same bytes. What an image adds are Debian's packages: `dpkg-query --show` in it lists them.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def metadata(target):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def shipped(resolve):
    """Ids that the program is made of, itself included: what is only for tests or for building is left out."""
    nodes = {node["id"]: node for node in resolve["nodes"]}
    edges, waiting = {}, [resolve["root"]]
    while waiting:
        package = waiting.pop()
        if package in edges:
            continue
        normal = [dep["pkg"] for dep in nodes[package]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        edges[package] = sorted(normal)
        waiting += normal
    return edges


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def licences(expression):
    # Old crates write MIT/Apache-2.0.
    return [{"expression": expression.replace("/", " OR ")}] if expression else []


def crate(package, checksums):
    purl = reference(package)
    component = {"type": "library", "bom-ref": purl, "name": package["name"], "version": package["version"], "purl": purl}
    component["licenses"] = licences(package["license"])
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return component


def models():
    def found(table):
        if "sha256" in table and "file" in table:
            yield table
        for value in table.values():
            for entry in value if isinstance(value, list) else [value]:
                if isinstance(entry, dict):
                    yield from found(entry)

    manifest = tomllib.loads((ROOT / "models/manifest.toml").read_text(encoding="utf-8"))
    for model in {model["file"]: model for model in found(manifest)}.values():
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"model:{model['file']}",
            "name": model["file"],
            "version": str(model.get("version", "")),
            "description": f"from {model['package']}" if "package" in model else "",
            "hashes": [{"alg": "SHA-256", "content": model["sha256"]}],
            "licenses": [{"license": {"name": model["licence"]}}],
        }


def runtime(target):
    script = (ROOT / "scripts/fetch-runtime.sh").read_text(encoding="utf-8")
    version = re.search(r"(?m)^version=(\S+)$", script)[1]
    digest = re.search(rf'"Linux {target.split("-")[0]}"\) library_sha256=([0-9a-f]{{64}})', script)[1]
    purl = f"pkg:pypi/onnxruntime@{version}"
    return {
        "type": "library", "bom-ref": purl, "name": "onnxruntime", "version": version, "purl": purl,
        "description": "libonnxruntime.so of that wheel", "hashes": [{"alg": "SHA-256", "content": digest}], "licenses": licences("MIT"),
    }


def document(target):
    found = metadata(target)
    packages = {package["id"]: package for package in found["packages"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}
    edges = shipped(found["resolve"])
    root = packages[found["resolve"]["root"]]
    crates = [crate(packages[package], checksums) for package in edges if package != root["id"]]
    beside = [*models(), runtime(target)]
    components = sorted(crates + beside, key=lambda component: component["bom-ref"])
    depends = [
        {"ref": reference(packages[package]), "dependsOn": sorted({reference(packages[dep]) for dep in deps})} for package, deps in edges.items()
    ]
    for entry in depends:
        if entry["ref"] == reference(root):
            entry["dependsOn"] += [component["bom-ref"] for component in beside]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**crate(root, {}), "type": "application"}},
        "components": components,
        "dependencies": sorted(depends, key=lambda entry: entry["ref"]),
    }
    # Not by chance: the same content has the same number.
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))}"
    return bom


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--target", default="x86_64-unknown-linux-gnu", help="default: %(default)s")
    json.dump(document(arguments.parse_args().target), sys.stdout, indent=1, sort_keys=True)
    print()
