#!/bin/sh
# Installs an archive of OpenSandbox on this host and sets the host up. Runs as root; can be repeated.
# usage: setup-azure-host.sh ARCHIVE [OPTIONS OF osb host setup]
set -eu

if [ $# -lt 1 ] || [ "$(id -u)" != 0 ]; then
  echo "usage, as root: $0 ARCHIVE [OPTIONS OF osb host setup]" >&2
  exit 2
fi
archive=$1
shift

# Every version has a directory of its own, so that no file of a running server is replaced.
version=$(gzip -dc "$archive" | sha256sum | cut -c1-12)
releases=/opt/opensandbox
target=$releases/$version
if [ ! -e "$target/.complete" ]; then
  rm -rf "$target"
  mkdir -p "$target"
  tar -xzf "$archive" -C "$target"
  touch "$target/.complete"
fi

"$target/opensandbox" host setup "$@"

# The version before this one stays, to return to: run this script with its archive.
# Other directories there are no releases, such as the images of a fleet's host.
touch "$target/.complete"
find "$releases" -mindepth 2 -maxdepth 2 -name .complete -printf '%T@ %h\n' | sort -rn | tail -n +3 | cut -d' ' -f2- |
  while IFS= read -r old; do rm -rf "$old"; done
