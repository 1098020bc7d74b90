# Shared by the scripts of this folder; sourced, not run.
# shellcheck shell=bash

# Everything that is fetched once and kept lives below PEERS_CACHE.
if [ -z "${PEERS_CACHE:-}" ]; then
	if [ -n "${XDG_CACHE_HOME:-}" ]; then
		PEERS_CACHE=$XDG_CACHE_HOME/mailferry
	else
		PEERS_CACHE=/var/cache/mailferry
	fi
fi
CYRUS_ROOT=${CYRUS_ROOT:-$PEERS_CACHE/cyrus}
COURIER_ROOT=${COURIER_ROOT:-$PEERS_CACHE/courier}
CORPUS=${CORPUS:-$PEERS_CACHE/corpus}
export PEERS_CACHE CYRUS_ROOT COURIER_ROOT CORPUS
export DEBIAN_FRONTEND=noninteractive
export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin

say() { echo "peers: $*" >&2; }
die() {
	say "$*"
	exit 1
}

# retry N COMMAND...: up to N times, with growing pauses.
retry() {
	local n=$1 k
	shift
	for ((k = 1; k <= n; k++)); do
		"$@" && return 0
		[ "$k" = "$n" ] || sleep $((k * 3))
	done
	return 1
}

# one_at_a_time: wait for other runs of these scripts; the lock is held to the end.
one_at_a_time() {
	mkdir -p "$PEERS_CACHE" || die "cannot write $PEERS_CACHE (set PEERS_CACHE)"
	exec 8>"$PEERS_CACHE/lock"
	flock 8
}

# missing PACKAGE...: those that are not installed.
missing() {
	local p
	for p in "$@"; do
		dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || echo "$p"
	done
}

apt_get() { nice apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" </dev/null >&2 8>&-; }

# no_starts ROOT: packages installed below ROOT start nothing until starts_again.
# A policy-rc.d that is there already belongs to the machine and stays.
no_starts() {
	policy=
	[ -e "$1/usr/sbin/policy-rc.d" ] && return 0
	printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d" && chmod 755 "$1/usr/sbin/policy-rc.d" || die "cannot write $1/usr/sbin/policy-rc.d"
	policy=$1/usr/sbin/policy-rc.d
}
starts_again() {
	[ -z "$policy" ] || rm -f "$policy"
	policy=
}

# stay_off UNIT...: services that came with a package do not start at boot either.
stay_off() {
	local u
	command -v systemctl >/dev/null || return 0
	for u in "$@"; do systemctl --quiet disable "$u" >/dev/null 2>&1 || true; done
}

# lists: package lists, when the machine has none.
lists() {
	[ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' 2>/dev/null | head -1)" ] || retry 5 apt_get update || die "apt-get update failed"
}

# packages PACKAGE...: install what is missing; nothing starts.
packages() {
	local miss k=0
	mapfile -t miss < <(missing "$@")
	[ ${#miss[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || die "needs root to install: ${miss[*]}"
	say "installing: ${miss[*]}"
	lists
	no_starts ""
	trap starts_again EXIT
	# Stale lists name files that are gone: fetch them and try again.
	apt_get install -y --no-install-recommends "${miss[@]}" ||
		{ retry 5 apt_get update && retry 3 apt_get install -y --no-install-recommends "${miss[@]}"; } || k=1
	starts_again
	trap - EXIT
	[ $k = 0 ] || die "apt-get failed"
	for k in "${miss[@]}"; do
		case $k in
		slapd) stay_off slapd ;;
		samba) stay_off samba-ad-dc smbd nmbd ;;
		dovecot-core) stay_off dovecot.socket dovecot ;;
		nginx | perdition) stay_off "$k" ;;
		esac
	done
}

# Below: a server in a Debian root of its own, because its packages and
# Dovecot's exclude each other. Nothing stays mounted there, nothing is started.

# inside ROOT COMMAND...: run in that root.
inside() {
	local root=$1
	shift
	chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@" </dev/null >&2
}

# base ROOT: a minimal Debian of the machine's own release; a half made one is made anew.
base() {
	[ ! -e "$1/.base" ] || return 0
	# shellcheck disable=SC1091
	. /etc/os-release
	rm -rf --one-file-system "${1:?}"
	mkdir -p "$1"
	local mirror
	mirror=$(sed -n 's,^\(URIs:\|deb\) *\(\[[^]]*\] *\)\{0,1\}\(https\{0,1\}://[^ ]*/debian\)/\{0,1\}\( .*\)\{0,1\}$,\3,p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)
	nice debootstrap --variant=minbase "$VERSION_CODENAME" "$1" "${mirror:-http://deb.debian.org/debian}" </dev/null >&2 || return 1
	touch "$1/.base"
}

unmount() { umount "$1/proc" 2>/dev/null || true; }

# packages_inside ROOT PACKAGE...: with nothing started; /proc is there only meanwhile.
packages_inside() {
	local root=$1 k=0
	shift
	cp /etc/resolv.conf /etc/hosts "$root/etc/" 2>/dev/null
	cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null
	no_starts "$root"
	# shellcheck disable=SC2064
	trap "unmount '$root'; starts_again" EXIT
	mountpoint -q "$root/proc" || mount -t proc proc "$root/proc" || say "no /proc inside; trying without"
	retry 5 inside "$root" apt-get update && retry 3 inside "$root" nice apt-get install -y --no-install-recommends "$@" || k=1
	inside "$root" apt-get clean
	unmount "$root"
	starts_again
	trap - EXIT
	return $k
}

# root_with NAME ROOT PROGRAM PACKAGE...: that root with these packages, unless
# it is there; PROGRAM is one of theirs.
root_with() {
	local name=$1 root=$2 program=$3
	shift 3
	[ ! -e "$root/.ready" ] || return 0
	[ "$(id -u)" = 0 ] || die "needs root to build $root"
	packages debootstrap
	say "building $name in $root"
	retry 3 base "$root" || die "debootstrap failed"
	packages_inside "$root" "$@" || die "cannot install $name"
	[ -x "$root/$program" ] || die "no $program in $root"
	touch "$root/.ready"
}
