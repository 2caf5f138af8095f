#!/usr/bin/env bash
# Builds stand-ins for the base images that deploy/Dockerfile and docker-compose.yml name, from Debian's packages, for
# machines that reach no registry of images: redis:7, prom/prometheus and node:20-bookworm-slim. Needs root, debootstrap,
# Docker, and Node 20 with npm, which becomes the image's. An image that is there already is left alone.
set -euo pipefail

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
mkdir "$work/packages"

# root NAME PACKAGES: a minimal Debian 12 with these packages
root() {
  debootstrap --variant=minbase --cache-dir="$work/packages" --include="$2" bookworm "$work/$1" >"$work/$1.log" 2>&1 || {
    tail -n 20 "$work/$1.log" >&2
    return 1
  }
  rm -rf "$work/$1"/var/cache/apt/archives/*.deb "$work/$1"/var/lib/apt/lists/*
}

# import ROOT IMAGE CHANGE…: an image from such a root, with these instructions of a Dockerfile
import() {
  local folder=$1 image=$2 changes=()
  shift 2
  for change in "$@"; do changes+=(--change "$change"); done
  tar --create --numeric-owner --directory "$work/$folder" . | docker import "${changes[@]}" - "$image" >/dev/null
  rm -rf "${work:?}/$folder"
  echo "$image: $(docker image inspect --format '{{.Size}}' "$image") bytes"
}

missing() {
  ! docker image inspect "$1" >/dev/null 2>&1
}

if missing redis:7; then
  root redis redis-server
  import redis redis:7 'WORKDIR /data' 'VOLUME /data' 'EXPOSE 6379' 'CMD ["redis-server", "--protected-mode", "no"]'
fi

if missing prom/prometheus; then
  root prometheus prometheus
  import prometheus prom/prometheus 'WORKDIR /prometheus' 'VOLUME /prometheus' 'EXPOSE 9090' 'ENTRYPOINT ["/usr/bin/prometheus"]' \
    'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
fi

if missing node:20-bookworm-slim; then
  [[ $(node --version) == v20.* ]] || { echo "Node 20 is needed for the stand-in of node:20-bookworm-slim" >&2; exit 1; }
  root node ca-certificates,libstdc++6
  install "$(readlink -f "$(command -v node)")" "$work/node/usr/local/bin/node"
  npm=$(cd "$(dirname "$(readlink -f "$(command -v npm)")")/.." && pwd)
  mkdir -p "$work/node/usr/local/lib/node_modules"
  cp -r "$npm" "$work/node/usr/local/lib/node_modules/npm"
  for name in npm npx; do ln -s "../lib/node_modules/npm/bin/$name-cli.js" "$work/node/usr/local/bin/$name"; done
  # What this machine trusts, so that a build reaches what the machine reaches.
  cp -L /etc/ssl/certs/ca-certificates.crt "$work/node/etc/ssl/certs/ca-certificates.crt"
  chroot "$work/node" useradd --uid 1000 --create-home node
  import node node:20-bookworm-slim 'ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt' 'CMD ["node"]'
fi
