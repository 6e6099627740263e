#!/bin/sh
# Installs OpenSandbox: curl -fsSL URL/install.sh | sh
# As root into /opt/opensandbox, for every user; otherwise into ~/.local/share/opensandbox/program, for this one.
set -eu

# A release fills these in.
url=
version=
archive=
sha256=

# The shell reads the script from the network: nothing runs before all of it has arrived.
main() {
  [ -n "$url" ] || fail "this is the template of the installer; a release has the installer itself"
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "needs Linux on x86_64; this is $(uname -s) on $(uname -m)"
  for program in tar gzip sha256sum mktemp; do
    command -v "$program" >/dev/null || fail "needs the program $program"
  done

  if [ "$(id -u)" = 0 ]; then
    programs=/opt/opensandbox
    bin=/usr/local/bin
  else
    programs=${XDG_DATA_HOME:-$HOME/.local/share}/opensandbox/program
    bin=$HOME/.local/bin
  fi
  target=$programs/$version
  link=$bin/osb
  if [ -e "$link" ] && [ ! -L "$link" ]; then fail "$link is another program; move it away first"; fi

  mkdir -p "$programs" "$bin"
  work=$(mktemp -d "$programs/.unfinished.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' HUP INT TERM
  say "fetching $url/$archive"
  fetch "$url/$archive" "$work/$archive" || fail "cannot fetch $url/$archive"
  found=$(sha256sum "$work/$archive" | cut -d ' ' -f 1)
  [ "$found" = "$sha256" ] ||
    fail "$url/$archive is not the archive of this installer: its SHA-256 is $found, and $sha256 is expected"
  mkdir "$work/content"
  tar -xzf "$work/$archive" -C "$work/content" --strip-components=1 --no-same-owner
  chmod 755 "$work/content"
  # A running server keeps the files of its own version.
  if [ -e "$target" ]; then
    say "version $version is installed already"
  else
    mv "$work/content" "$target"
  fi
  ln -sfn "$target/opensandbox" "$link.new"
  mv -Tf "$link.new" "$link"

  say "installed $("$link" --version) in $target"
  case :$PATH: in
    *:"$bin":*) ;;
    *) say "$bin is not in your PATH" ;;
  esac
  if [ "$(id -u)" = 0 ]; then
    say "to serve from the boot on: osb host setup"
  else
    say "to start: osb up"
  fi
}

fetch() {
  if command -v curl >/dev/null; then
    curl --fail --silent --show-error --location --retry 3 --output "$2" "$1"
  elif command -v wget >/dev/null; then
    wget --quiet --tries=3 --output-document="$2" "$1"
  else
    fail "needs curl or wget"
  fi
}

say() {
  echo "opensandbox: $*" >&2
}

fail() {
  say "$*"
  exit 1
}

main
