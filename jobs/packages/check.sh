#!/bin/sh
# Checks the release in a directory: the sums; the archives; the packages, which are
# installed into systems of their own below /tmp, looked at and removed; the unit of
# systemd; the plugin for the other processor. Nothing outside of that directory is
# changed.
set -eu
cd "$1"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
fail() {
	echo "check.sh: $*" >&2
	exit 1
}
arch=$(dpkg --print-architecture)

echo "==> Sums"
sha256sum --quiet -c SHA256SUMS

echo "==> Archives"
for program in governor nomad-device-gpu; do
	mkdir "$root/$program"
	tar -xzf "$program"_*_linux_"$arch".tar.gz -C "$root/$program"
	"$root/$program/$program" version
done

echo "==> Debian packages"
system=$root/system
mkdir -p "$system/var/lib/dpkg/updates" "$system/var/lib/dpkg/info" "$system/etc"
: >"$system/var/lib/dpkg/status"
dpkg_() { dpkg --root="$system" --log=/dev/null --force-depends --force-script-chrootless --force-not-root "$@" >"$root/log" 2>&1 || { cat "$root/log"; fail "dpkg $*"; }; }
dpkg_ -i governor_*_linux_"$arch".deb nomad-device-gpu_*_linux_"$arch".deb
for file in usr/bin/governor usr/lib/systemd/system/governor.service etc/governor/agent.hcl usr/share/governor/acl/governor-agent.nomad.hcl opt/nomad/plugins/nomad-device-gpu; do
	[ -f "$system/$file" ] || fail "the packages have no /$file"
done
[ "$(stat -c %a "$system/etc/governor/governor.env")" = 600 ] || fail "governor.env can be read by others"
[ "$(readlink "$system/usr/bin/nomad-device-gpu")" = /opt/nomad/plugins/nomad-device-gpu ] || fail "the plugin is not in PATH"
grep -q '^governor:' "$system/etc/passwd" || fail "the service has no user"
"$system/usr/bin/governor" version
sed "s|/usr/bin/governor|$system/usr/bin/governor|; /^User=/d; /^Group=/d" "$system/usr/lib/systemd/system/governor.service" >"$root/governor.service"
systemd-analyze verify "$root/governor.service"
echo changed >>"$system/etc/governor/agent.hcl"
dpkg_ -r governor nomad-device-gpu
[ ! -e "$system/usr/bin/governor" ] || fail "removing leaves the program"
[ ! -e "$system/opt/nomad/plugins/nomad-device-gpu" ] || fail "removing leaves the plugin"
grep -q changed "$system/etc/governor/agent.hcl" || fail "removing takes the configuration"
dpkg_ -P governor
[ ! -e "$system/etc/governor/agent.hcl" ] || fail "purging leaves the configuration"

echo "==> RPM packages"
for file in ./*.rpm; do
	if command -v rpm >/dev/null; then
		rpm -qp --nosignature --requires --list "$file"
	else
		[ "$(od -An -tx1 -N4 "$file" | tr -d ' ')" = edabeedb ] || fail "$file is no package of RPM"
	fi
done
if command -v rpm >/dev/null && [ "$(id -u)" = 0 ]; then
	# The scripts are those of the Debian packages, which have run above; here they would
	# need a shell inside of the system.
	system=$root/rpm
	mkdir -p "$system"
	rpm_() { rpm --root "$system" "$@" >"$root/log" 2>&1 || { cat "$root/log"; fail "rpm $*"; }; }
	rpm_ --initdb
	rpm_ -i --nodeps --nosignature --noscripts "$PWD"/governor_*_linux_"$arch".rpm "$PWD"/nomad-device-gpu_*_linux_"$arch".rpm
	[ -x "$system/opt/nomad/plugins/nomad-device-gpu" ] || fail "the packages have no plugin"
	"$system/usr/bin/governor" version
	echo changed >>"$system/etc/governor/agent.hcl"
	rpm_ -e --noscripts governor nomad-device-gpu
	[ ! -e "$system/usr/bin/governor" ] || fail "removing leaves the program"
	grep -q changed "$system/etc/governor/agent.hcl.rpmsave" || fail "removing takes the configuration"
else
	echo "rpm is not here, or not for root: the packages were not installed"
fi

echo "==> The plugin for the other processor"
for other in amd64 arm64; do
	case $other in amd64) machine=x86_64 ;; *) machine=aarch64 ;; esac
	archive=$(ls nomad-device-gpu_*_linux_"$other".tar.gz 2>/dev/null || true)
	if [ "$other" = "$arch" ]; then
		continue
	elif [ -z "$archive" ]; then
		echo "there is none for $other: no C compiler for it"
	elif command -v "qemu-$machine-static" >/dev/null; then
		mkdir "$root/$other"
		tar -xzf "$archive" -C "$root/$other"
		"qemu-$machine-static" -L "/usr/$machine-linux-gnu" "$root/$other/nomad-device-gpu" version
	else
		echo "qemu-$machine-static is not here: the one for $other was not run"
	fi
done
echo "==> The release is in order"
