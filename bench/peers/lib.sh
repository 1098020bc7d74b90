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
CORPUS=${CORPUS:-$PEERS_CACHE/corpus}
export PEERS_CACHE CYRUS_ROOT CORPUS
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
