# Turns the unpacked Debian in "$1" into a guest: adds the user, sets names, configures apt. mmdebstrap runs this script
# at the end of an image's build, as root or in a user namespace.
set -eu
root=$1

# Commands run as this user. The workspace disk is mounted at /home/sandbox and again at /workspace.
chroot "$root" useradd --uid 1000 --user-group --home-dir /home/sandbox --no-create-home --shell /bin/bash sandbox
install -d -o 1000 -g 1000 "$root/home/sandbox" "$root/workspace"
echo 'sandbox ALL=(ALL:ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/sandbox"
chmod 0440 "$root/etc/sudoers.d/sandbox"
# The user can become root without a password, so it may also write to root's home.
chgrp 1000 "$root/root"
chmod 0770 "$root/root"

echo sandbox >"$root/etc/hostname"
cat >"$root/etc/hosts" <<'END'
127.0.0.1 localhost
127.0.1.1 sandbox
::1 localhost ip6-localhost ip6-loopback
END
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
# The guest agent writes an id of its own for each sandbox.
: >"$root/etc/machine-id"

# Packages do not start their services, since no program supervises services here.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"
echo 'debconf debconf/frontend select Noninteractive' | chroot "$root" debconf-set-selections

# The build keeps apt's package lists, so that a sandbox can install packages without "apt-get update".
cat >"$root/etc/apt/sources.list" <<'END'
deb http://deb.debian.org/debian trixie main
deb http://deb.debian.org/debian trixie-updates main
deb http://deb.debian.org/debian-security trixie-security main
END
cat >"$root/etc/apt/apt.conf.d/90sandbox" <<'END'
Acquire::Languages "none";
APT::Update::Error-Mode "any";
END
# apt and apt-get call sudo themselves when the user runs them.
for command in apt apt-get; do
	cat >"$root/usr/local/bin/$command" <<-END
		#!/bin/sh
		[ "\$(id -u)" = 0 ] && exec /usr/bin/$command "\$@"
		exec sudo /usr/bin/$command "\$@"
	END
	chmod 0755 "$root/usr/local/bin/$command"
done

# pip may install into the system's Python: the machine belongs to one sandbox.
printf '[global]\nbreak-system-packages = true\nroot-user-action = ignore\n' >"$root/etc/pip.conf"

if [ -e "$root/usr/sbin/locale-gen" ]; then
	echo 'en_US.UTF-8 UTF-8' >"$root/etc/locale.gen"
	chroot "$root" locale-gen
fi
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
