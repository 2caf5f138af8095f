#!/usr/bin/env bash
# Packs what bench/gpu.sh and training/gpu.sh need for a machine that reaches no registry and has no Node: Node itself, the
# compiled project, what it imports, rankmill-small and -nano, Redis with its libraries, CPU scores to compare with, and, where
# its wheel is given, the CUDA provider with the kernels of one architecture. In parts, for transfers that are limited in size.
#
#   bench/gpu-pack.sh FOLDER [MiB a part, 40] [onnxruntime_gpu-….whl] [architecture, 90]
#
# There, in the checkout's root:  cat FOLDER/part-* | xz -dc | tar x   and  PATH=$PWD/.cache/gpu/bin:$PATH bench/gpu.sh
# The wheel is that of the version in package-lock.json: pip download --no-deps onnxruntime-gpu==VERSION.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "$1") part=${2:-40} wheel=${3:-} architecture=${4:-90}
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$target" "$stage/.cache/gpu/bin" "$stage/.cache/gpu/lib"
rm -f "$target"/part-*

npm run --silent build
cp --parents -r bench/*.sh bench/*.py bench/*.mjs package.json models/rankmill-small models/rankmill-nano training/export.py training/quantize.py test/fixtures/models/causal/generate.py "$stage/"
(cd dist && find . -name '*.js' -not -path './test/*') | while read -r file; do echo "dist/$file"; done >"$stage/files"
npm ls --omit=dev --all --parseable 2>/dev/null | grep -oE 'node_modules/.*' | grep -vE '/(onnxruntime-web|@xenova|@img|sharp|@aws-sdk|@smithy|swagger-ui-dist|@bull-board)(/|$)' >"$stage/packages" || true
# Each package without those below it, which have lines of their own.
while read -r package; do
  find "$package" -path "$package/node_modules" -prune -o -type f -print
done <"$stage/packages" | grep -vE '\.(map|d\.ts|d\.cts|d\.mts|md|markdown)$|/fixtures?/|onnxruntime-node/bin/.*/(darwin|win32)/|linux/arm64/|/linux/x64/.*providers' >>"$stage/files"
sort -u "$stage/files" | tar c --files-from=- | tar x -C "$stage"
rm "$stage/files" "$stage/packages"

cp -L "$(command -v node)" "$stage/.cache/gpu/bin/node"
if redis=$(command -v redis-server); then
  cp -L "$redis" "$stage/.cache/gpu/lib/redis-server"
  ldd "$redis" | grep -oE '/\S+\.so\S*' | grep -vE '/(ld-linux|libc|libm|libpthread|libdl|librt)[-.]' | xargs -I{} cp -L {} "$stage/.cache/gpu/lib/"
  # Its own libraries are for it alone: other programs there have newer ones.
  printf '#!/bin/sh\nhere=$(dirname "$(dirname "$(readlink -f "$0")")")\nLD_LIBRARY_PATH=$here/lib exec "$here/lib/redis-server" "$@"\n' >"$stage/.cache/gpu/bin/redis-server"
  chmod +x "$stage/.cache/gpu/bin/redis-server"
fi
if [[ -n $wheel ]]; then
  into=$stage/node_modules/onnxruntime-node/bin/napi-v6/linux/x64
  unzip -q -o -j "$wheel" '*/libonnxruntime_providers_cuda.so' '*/libonnxruntime_providers_shared.so' -d "$into"
  python3 bench/gpu-slim.py "$into/libonnxruntime_providers_cuda.so" "$architecture" "$into/slim.so"
  mv "$into/slim.so" "$into/libonnxruntime_providers_cuda.so"
fi
node dist/bench/gpu.js texts "$stage/.cache/gpu/texts.json" 1024
node dist/bench/gpu.js reference "$stage/.cache/gpu/reference.json" rankmill-small rankmill-nano
(cd "$stage" && tar c .) | xz -T0 -"${XZ_LEVEL:-6}" | split -b "${part}M" -d - "$target/part-"
ls -l "$target" | awk 'NR > 1 { print $5, $9 }'
