# Cleans up after a harness that died without doing so itself: killed, timed
# out, or crashed. It waits on a pipe whose other end only the harness holds;
# a line means "all is stopped", the end of file means "the harness is gone".
# $1 is the cluster's directory. Only processes that carry the cluster's marker
# in their environment (Docker's containers have it from their image), or whose
# root is below its directory, are ended. The logs stay: whoever finds the
# harness dead wants to know why.
dir=$1
if read -r _; then exit 0; fi
for attempt in 1 2 3 4 5; do
	found=
	for proc in /proc/[0-9]*; do
		pid=${proc#/proc/}
		[ "$pid" = "$$" ] && continue
		if grep -qzxF "GOVERNOR_E2E_RUN=$dir" "$proc/environ" 2>/dev/null; then
			kill -9 "$pid" 2>/dev/null && found=1
			continue
		fi
		case $(readlink "$proc/root" 2>/dev/null) in
		"$dir"/*) kill -9 "$pid" 2>/dev/null && found=1 ;;
		esac
	done
	[ -z "$found" ] && break
	sleep 0.2
done
awk -v dir="$dir/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do
	umount -l "$mount"
done
find /sys/fs/cgroup -depth -type d -path "*/${dir##*/}-*.slice*" -exec rmdir {} + 2>/dev/null
find "$dir" -mindepth 1 -maxdepth 1 ! -name logs -exec rm -rf {} +
