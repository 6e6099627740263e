# Makes the unpacked Debian in "$1" a guest: the user, the names, how apt behaves. Run by mmdebstrap at the end of an
# image's build, as root or as what looks like root.
set -eu
root=$1

# The user that commands run as. /home/sandbox is the workspace disk, and /workspace another name for it.
chroot "$root" useradd --uid 1000 --user-group --home-dir /home/sandbox --no-create-home --shell /bin/bash sandbox
install -d -o 1000 -g 1000 "$root/home/sandbox" "$root/workspace"
echo 'sandbox ALL=(ALL:ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/sandbox"
chmod 0440 "$root/etc/sudoers.d/sandbox"
# Whoever may become root without a password may as well write to its home.
chgrp 1000 "$root/root"
chmod 0770 "$root/root"

echo sandbox >"$root/etc/hostname"
cat >"$root/etc/hosts" <<'END'
127.0.0.1 localhost
127.0.1.1 sandbox
::1 localhost ip6-localhost ip6-loopback
END
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
# Every machine gets its own when it starts.
: >"$root/etc/machine-id"

# A package that brings a service does not start it: nothing here supervises services.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"
echo 'debconf debconf/frontend select Noninteractive' | chroot "$root" debconf-set-selections

# The lists fetched while building stay, so that packages can be installed at once.
cat >"$root/etc/apt/sources.list" <<'END'
deb http://deb.debian.org/debian trixie main
deb http://deb.debian.org/debian trixie-updates main
deb http://deb.debian.org/debian-security trixie-security main
END
cat >"$root/etc/apt/apt.conf.d/90sandbox" <<'END'
Acquire::Languages "none";
APT::Update::Error-Mode "any";
END
# The commands that change the system work for the user without sudo in front, too.
for command in apt apt-get; do
	cat >"$root/usr/local/bin/$command" <<-END
		#!/bin/sh
		[ "\$(id -u)" = 0 ] && exec /usr/bin/$command "\$@"
		exec sudo /usr/bin/$command "\$@"
	END
	chmod 0755 "$root/usr/local/bin/$command"
done

# The whole machine is the environment to install into; there is no system to protect from pip.
printf '[global]\nbreak-system-packages = true\nroot-user-action = ignore\n' >"$root/etc/pip.conf"

if [ -e "$root/usr/sbin/locale-gen" ]; then
	echo 'en_US.UTF-8 UTF-8' >"$root/etc/locale.gen"
	chroot "$root" locale-gen
fi
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
