#!/bin/sh
# Checks the release in a directory: the sums; the archives; the Debian packages,
# which are installed into a system of their own below /tmp, looked at and removed;
# the unit of systemd. Nothing outside of that directory is changed.
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
[ -z "$(command -v rpm)" ] && echo "rpm is not here: only looked at how the files begin"
echo "==> The release is in order"
