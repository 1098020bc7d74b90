#!/bin/bash
# Bench of mail migration tools: two Dovecot 2.3 instances (source maildir,
# destination sdbox), optionally a Cyrus in a chroot as a second source,
# seeded mail, and the tools imapsync, mbsync, doveadm (dsync over imapc),
# offlineimap, imapsync-go and mailferry copy. Needs root, Debian, Go and npm's or one's own
# corpus of mail. Rows of tools that are absent are left out with a line.
# mailseed/README.md says more.
#
#   peers-migrate.sh install         packages, corpus, mailseed, tools
#   peers-migrate.sh cyrus-install   chroot with Cyrus in CYRUS_ROOT
#   peers-migrate.sh up | seed | bench [ROW...] | report | down
#   peers-migrate.sh each <ROWS      rows by hand: LABEL TOOL USERS PARALLEL MANIFEST,
#     one a line; those of tools that are absent are left out. TOOL may be a
#     yardstick: drain (read and thrown away), pipe (FETCH into MULTIAPPEND,
#     nothing checked), nochange (login and state of the source), nochange2
#     (of both sides); PARALLEL is its number of connections
#   peers-migrate.sh functional [TOOL...]   correctness: torture mailboxes,
#     delta, live and crash of each tool (verify lines go to FOUT)
#   peers-migrate.sh delta TOOL USER      second pass after changes (correctness)
#   peers-migrate.sh live TOOL USER       both sides in use between the passes
#   peers-migrate.sh crash TOOL USER      killed and resumed runs (correctness)
#   peers-migrate.sh raw | pipe [USERS]   raw transfer rates: the upper bound
#     (raw: ONLY=fetch or append; pipe: MODES, CONNS)
#   peers-migrate.sh wan-up | wan-bench [ROW...] | wan-raw | wan-pipe | wan-down
#     (DELAY, DELAY_DST one way, 20ms; 0 puts the destination next to the tool)
#   peers-migrate.sh lan-bench [ROW...] | lan-raw | lan-pipe
#     the wide-area rows on loopback, to compare with
#   peers-migrate.sh cyrus-up | cyrus-seed | cyrus-bench [ROW...] | cyrus-raw
#     | cyrus-down
#   peers-migrate.sh rows            list the rows
#   peers-migrate.sh report          medians of all runs so far as a table
#   peers-migrate.sh store DIR | -   destination mail in DIR (tmpfs), back
#   peers-migrate.sh row LABEL TOOL USERS PARALLEL MANIFEST
#     one row by hand; TOOL may be a script of your own in RUN/bin
#
# Variables: RUN run directory, CORPUS corpus directory (default that of peers/install.sh),
# LOCK lock file that guards timed runs (none: no locking), PORTBASE, REPEAT
# runs per row, LIMIT longest run, CYRUS_ROOT chroot with Cyrus IMAP (unset:
# no Cyrus), IMAPSYNC, IMAPSYNC_GO, MAILFERRY paths of these tools, OUT, FOUT results,
# EXTRA further rows (LABEL TOOL USERS PARALLEL MANIFEST, one a line), ONECALL
# 1: a row calls its tool once, with all users as arguments and PAR set.
# TOOLS: only rows and cases of these tools and yardsticks (patterns).
# SOURCE=cyrus: Cyrus is the source of rows and of the correctness cases.
# TARGET=cyrus: a second Cyrus, empty at the start of each row, is the target.
# A server of one's own as the target: TARGET host:port, TARGET_TLS its port
# with TLS, TARGET_POP host:port, TARGET_PID a PID or file with it, TARGET_WIPE
# a command that deletes the mail of the users given as arguments, TARGET_KILL
# one that kills the server and starts it again, for tools that live in it
# (crash), TARGET_HAS one that says how many of the users live there. In wan rows
# it has to run in the network namespace mig24100-tool, next to the tool.
set -u
here=$(cd "$(dirname "$0")" && pwd)
RUN=${RUN:-${TMPDIR:-/tmp}/peers-migrate}
CYRUS_ROOT=${CYRUS_ROOT:-} # unset: no Cyrus
eval "$(bash -c '. "$1/peers/lib.sh" && printf "CORPUS=%q" "$CORPUS"' - "$here")"
export CORPUS
LOCK=${LOCK:-$RUN/bench.lock}
SOURCE=${SOURCE:-dovecot}
PORTBASE=${PORTBASE:-24100}
REPEAT=${REPEAT:-1}
LIMIT=${LIMIT:-170s}
CYRUS_DIR=${CYRUS_DIR:-/tmp/migrate} # inside CYRUS_ROOT; the target's: with -target behind it
IMAPSYNC=${IMAPSYNC:-$(command -v imapsync || echo "$RUN/src/imapsync/imapsync")}
IMAPSYNC_GO=${IMAPSYNC_GO:-$(command -v imapsync-go || echo "$RUN/imapsync-go")}
MAILFERRY=${MAILFERRY:-$(command -v mailferry || echo "$RUN/mailferry")}
MS=$RUN/mailseed
PASS=seedpass MASTER=migrator MASTERPASS=masterpass
UIDN=${MAILUID:-5000}
OUT=${OUT:-$RUN/results.jsonl}
FOUT=${FOUT:-$RUN/functional.jsonl}
NS=mig$PORTBASE # network namespaces of the wide-area rows
export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin

say() { echo "peers-migrate: $*" >&2; }
die() { say "$*" && exit 1; }

# Packages that the bench itself needs, and the Perl modules of imapsync.
PKGS='dovecot-core dovecot-imapd dovecot-pop3d isync offlineimap3 iproute2 openssl perl python3 procps util-linux ca-certificates'
PERLPKGS='libdigest-hmac-perl libencode-imaputf7-perl libfile-copy-recursive-perl libfile-tail-perl libio-socket-inet6-perl
libio-socket-ssl-perl libio-tee-perl libmail-imapclient-perl libreadonly-perl libregexp-common-perl libsys-meminfo-perl
libterm-readkey-perl libunicode-string-perl'

install_all() {
	[ "$(id -u)" = 0 ] || die "install needs root"
	bash -c '. "$1/peers/lib.sh" && shift && packages "$@"' - "$here" $PKGS $PERLPKGS || die "installation failed"
	build
	install_corpus
	install_imapsync
	install_imapsync_go
	tools
}

install_corpus() { "$here/peers/install.sh" corpus || exit 1; }

# Debian has no package of imapsync (one Perl file) and of imapsync-go. Both
# are taken from clones of github imapsync/imapsync and greeddj/imapsync-go
# (work trees or bare git directories) named by IMAPSYNC_GIT and IMAPSYNC_GO_GIT.
git_of() { if [ -d "$1/.git" ]; then git -C "$1" "${@:2}"; else git --git-dir="$1" "${@:2}"; fi; }

install_imapsync() {
	[ ! -f "$IMAPSYNC" ] && [ -n "${IMAPSYNC_GIT:-}" ] || return 0
	mkdir -p "$RUN/src/imapsync" && IMAPSYNC=$RUN/src/imapsync/imapsync
	git_of "$IMAPSYNC_GIT" show HEAD:imapsync >"$IMAPSYNC" || { rm -f "$IMAPSYNC" && say "no file imapsync in $IMAPSYNC_GIT"; }
}

install_imapsync_go() {
	[ ! -x "$IMAPSYNC_GO" ] && [ -n "${IMAPSYNC_GO_GIT:-}" ] || return 0
	mkdir -p "$RUN/src/imapsync-go" && IMAPSYNC_GO=$RUN/imapsync-go
	git_of "$IMAPSYNC_GO_GIT" rev-parse --short HEAD >"$IMAPSYNC_GO.version"
	git_of "$IMAPSYNC_GO_GIT" archive HEAD | tar -x -C "$RUN/src/imapsync-go" &&
		(cd "$RUN/src/imapsync-go" && go build -o "$IMAPSYNC_GO" ./cmd/imapsync-go) || say "cannot build imapsync-go from $IMAPSYNC_GO_GIT"
}

# wanted TOOL: is it among TOOLS (patterns)?
wanted() {
	local p
	[ -n "${TOOLS:-}" ] || return 0
	set -f
	for p in $TOOLS; do case $1 in $p) set +f && return 0 ;; esac; done
	set +f
	return 1
}

# have TOOL: is it here? Says so once when it is not.
have() {
	local t=$1 ok=1
	wanted "$t" || return 1
	case $t in
	imapsync | imapsync-fast) [ -f "$IMAPSYNC" ] && perl -c "$IMAPSYNC" >/dev/null 2>&1 || ok= ;;
	imapsync-go) [ -x "$IMAPSYNC_GO" ] || ok= ;;
	doveadm-*) command -v doveadm >/dev/null || ok= ;;
	mbsync | offlineimap) command -v "$t" >/dev/null || ok= ;;
	mailferry-copy) [ -x "$MAILFERRY" ] || ok= ;;
	*) [ -x "$RUN/bin/$t" ] || ok= ;;
	esac
	[ -z "$ok" ] || return 0
	[[ " ${missed:-} " == *" $t "* ]] || say "no $t here: its rows are left out (mailseed/README.md says how to get it)"
	missed="${missed:-} $t"
	return 1
}

tools() { # versions of what is here
	local t
	dovecot --version | sed 's/^/dovecot /'
	! have mbsync || mbsync --version 2>&1 | head -1
	! have offlineimap || offlineimap --version 2>&1 | grep -m1 -oE '[0-9]+\.[0-9.]+' | sed 's/^/offlineimap /'
	! have imapsync || echo "imapsync $(perl "$IMAPSYNC" --version 2>/dev/null | tail -1)"
	! have imapsync-go || echo "imapsync-go commit $(cat "$IMAPSYNC_GO.version" 2>/dev/null || echo unknown)"
	[ ! -d "${CYRUS_ROOT:-/nowhere}" ] || chroot "$CYRUS_ROOT" dpkg-query -W -f 'cyrus ${Version}\n' cyrus-common
	echo "corpus $(find "$CORPUS" -name '*.json' | wc -l) messages"
}

# A root of its own: Cyrus and Dovecot cannot be installed side by side.
cyrus_install() {
	[ -n "$CYRUS_ROOT" ] || die "set CYRUS_ROOT"
	CYRUS_ROOT=$CYRUS_ROOT "$here/peers/install.sh" cyrus
}

port() { # port src|dst|cyr|cyt imap|imaps|pop
	local b=$PORTBASE
	case $1 in dst) b=$((b + 100)) ;; cyr) b=$((b + 200)) ;; cyt) b=$((b + 300)) ;; esac
	case $2 in imap) echo $((b + 43)) ;; imaps) echo $((b + 93)) ;; pop) echo $((b + 10)) ;; esac
}

src=src # the source of rows: src or cyr
if [ "$SOURCE" = cyrus ]; then
	src=cyr
	export SRC_HOST=127.0.0.1 SRC_PORT MBSYNC_SRC_PATH=INBOX. IMAPC_PREFIX=INBOX
	SRC_PORT=$(port cyr imap)
fi
src_pid() { [ $src = cyr ] && echo "$CYRUS_ROOT$CYRUS_DIR/master.pid" || echo "$RUN/${SRCW:-src}/run/master.pid"; }

to=dovecot # what the target is: dovecot, cyrus, own
[ -z "${TARGET:-}" ] || to=own
if [ "${TARGET:-}" = cyrus ]; then
	to=cyrus
	TARGET=127.0.0.1:$(port cyt imap) TARGET_POP=127.0.0.1:$(port cyt pop) TARGET_PID=$CYRUS_ROOT$CYRUS_DIR-target/master.pid TARGET_WIPE="$here/peers-migrate.sh cyrus-fresh"
	export RUN CYRUS_ROOT
fi
if [ -n "${TARGET:-}" ]; then
	export DST_HOST=${TARGET%:*} DST_PORT=${TARGET##*:} ${TARGET_TLS:+DST_TLS=$TARGET_TLS}
fi

build() {
	mkdir -p "$RUN"
	[ -x "$MS" ] && [ -z "$(find "$here/mailseed" -name '*.go' -newer "$MS")" ] ||
		(cd "$here/mailseed" && go build -o "$MS" .) || die "cannot build mailseed"
}

tls() {
	[ -s "$RUN/tls/cert.pem" ] && return
	mkdir -p "$RUN/tls"
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=localhost \
		-addext 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:10.99.1.2,IP:10.99.2.2' \
		-keyout "$RUN/tls/key.pem" -out "$RUN/tls/cert.pem" 2>/dev/null
}

# dovecot_conf NAME STORE LISTEN FORMAT SEP: one instance; STORE is src or dst
dovecot_conf() {
	local name=$1 store=$2 listen=$3 format=$4 sep=$5 d=$RUN/$1
	mkdir -p "$d/run" "$d/state" "$RUN/$store/mail"
	chown "$UIDN:$UIDN" "$RUN/$store/mail"
	echo "$MASTER:{PLAIN}$MASTERPASS" >"$d/masters"
	chmod 644 "$d/masters"
	local loc
	case $format in
	maildir) loc='maildir:~/Maildir' ;;
	*) loc="$format:~/$format" ;;
	esac
	cat >"$d/dovecot.conf" <<-C
		base_dir = $d/run
		state_dir = $d/state
		instance_name = mig-$name
		log_path = $d/log
		listen = $listen
		protocols = imap pop3
		ssl = yes
		ssl_cert = <$RUN/tls/cert.pem
		ssl_key = <$RUN/tls/key.pem
		ssl_dh =
		disable_plaintext_auth = no
		auth_mechanisms = plain login
		auth_master_user_separator = *
		auth_cache_size = 10M
		mail_uid = $UIDN
		mail_gid = $UIDN
		first_valid_uid = 100
		mail_home = $RUN/$store/mail/%u
		mail_location = $loc
		mail_max_userip_connections = 500
		mail_plugins = ${PLUGINS:-}
		mail_fsync = $([ "$store" = src ] && echo never || echo "${FSYNC:-optimized}")
		namespace inbox {
		  inbox = yes
		  separator = $sep
		  mailbox Sent { 
		    special_use = \Sent
		  }
		  mailbox Drafts {
		    special_use = \Drafts
		  }
		  mailbox Trash {
		    special_use = \Trash
		  }
		  mailbox Junk {
		    special_use = \Junk
		  }
		  mailbox Archive {
		    special_use = \Archive
		  }
		}
		passdb {
		  driver = passwd-file
		  args = $d/masters
		  master = yes
		}
		passdb {
		  driver = static
		  args = password=$PASS
		}
		userdb {
		  driver = static
		  args = allow_all_users=yes
		}
		service imap-login {
		  service_count = 0
		  process_min_avail = 1
		  inet_listener imap {
		    port = $(port "$store" imap)
		  }
		  inet_listener imaps {
		    port = $(port "$store" imaps)
		  }
		}
		service pop3-login {
		  service_count = 0
		  inet_listener pop3 {
		    port = $(port "$store" pop)
		  }
		  inet_listener pop3s {
		    port = 0
		  }
		}
		service imap {
		  process_limit = 500
		}
		service stats {
		  client_limit = 10000
		}
	C
	sed -i 's/mailbox \(.*\) { $/mailbox \1 {/' "$d/dovecot.conf"
}

start_dovecot() { # NAME [command prefix...]
	local name=$1
	shift
	"$@" dovecot -c "$RUN/$name/dovecot.conf" || { echo "cannot start $name" >&2 && return 1; }
}

running() { [ -s "$RUN/$1/run/master.pid" ] && kill -0 "$(cat "$RUN/$1/run/master.pid")" 2>/dev/null; }

stop_dovecot() { [ -s "$RUN/$1/run/master.pid" ] && doveadm -c "$RUN/$1/dovecot.conf" stop 2>/dev/null; }

# cyrus_up cyr|cyt: the source (old separator, INBOX. before all names), or the
# target, which is as Cyrus comes, but keeps 8-bit octets in headers
cyrus_up() {
	[ -n "$CYRUS_ROOT" ] || return 0
	local which=${1:-cyr} in unix=no munge=yes
	in=$(cyrus_dir "$which")
	[ "$which" = cyr ] || unix=yes munge=no
	local d=$CYRUS_ROOT$in
	[ ! -s "$d/master.pid" ] || ! kill -0 "$(cat "$d/master.pid")" 2>/dev/null || return 0
	mkdir -p "$d"/{conf,spool,proc,lock,sock,sieve}
	cat >"$d/imapd.conf" <<-C
		configdirectory: $in/conf
		defaultpartition: default
		partition-default: $in/spool
		proc_path: $in/proc
		mboxname_lockpath: $in/lock
		sievedir: $in/sieve
		altnamespace: $unix
		unixhierarchysep: $unix
		munge8bit: $munge
		delete_mode: immediate
		expunge_mode: immediate
		admins: cyrus
		proxyservers: cyrus
		allowplaintext: yes
		sasl_pwcheck_method: auxprop
		sasl_auxprop_plugin: sasldb
		sasl_sasldb_path: $in/sasldb2
		sasl_mech_list: PLAIN LOGIN
		autocreate_quota: 0
		specialusealways: 1
		popminpoll: 0
		poptimeout: 10
		lmtpsocket: $in/sock/lmtp
		idlesocket: $in/sock/idle
		notifysocket: $in/sock/notify
		syslog_prefix: mig
		maxlogins_per_user: 0
		maxlogins_per_host: 0
		umask: 077
	C
	cat >"$d/cyrus.conf" <<-C
		START {
		  recover cmd="/usr/sbin/cyrus ctl_cyrusdb -r -C $in/imapd.conf"
		}
		SERVICES {
		  imap cmd="imapd -U 100 -C $in/imapd.conf" listen="127.0.0.1:$(port "$which" imap)" prefork=0 maxchild=100
		  pop3 cmd="pop3d -U 100 -C $in/imapd.conf" listen="127.0.0.1:$(port "$which" pop)" prefork=0 maxchild=50
		}
		EVENTS {
		  checkpoint cmd="/usr/sbin/cyrus ctl_cyrusdb -c -C $in/imapd.conf" period=30
		}
	C
	local u users
	users=$(users_of "cyrus,c001..c004,cbig1,tc01,tc02,cd01..cd03,t01,t02,d01..d03,s001..s004,big5")
	[ "$(cat "$d/users" 2>/dev/null)" = "$users" ] || for u in $users; do
		echo "$PASS" | chroot "$CYRUS_ROOT" saslpasswd2 -p -c -f "$in/sasldb2" -u "$(uname -n)" "$u"
	done
	echo "$users" >"$d/users"
	chroot "$CYRUS_ROOT" chown -R cyrus:mail "$in"
	chroot "$CYRUS_ROOT" /usr/lib/cyrus/bin/master -C "$in/imapd.conf" -M "$in/cyrus.conf" -p "$in/master.pid" -d -L "$in/master.log" 9>&-
	waitport "$(port "$which" imap)"
}
cyrus_dir() { case $1 in cyr) echo "$CYRUS_DIR" ;; cyt) echo "$CYRUS_DIR-target" ;; esac; }
waitport() { # PORT
	local i
	for i in $(seq 100); do
		(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
		sleep 0.1
	done
	die "nothing listens on port $1"
}

cyrus_down() {
	local w f
	[ -n "$CYRUS_ROOT" ] || return 0
	for w in ${1:-cyr cyt}; do
		f=$CYRUS_ROOT$(cyrus_dir "$w")/master.pid
		[ -s "$f" ] && stop_pid QUIT "$(cat "$f")"
		rm -f "$f"
	done
}
stop_pid() { # SIGNAL PID: and wait for its end, 10 s at most
	local i
	kill "-$1" "$2" 2>/dev/null || return 0
	for i in $(seq 100); do
		kill -0 "$2" 2>/dev/null || return 0
		sleep 0.1
	done
}
# cyrus_fresh: the target without any mail
cyrus_fresh() {
	cyrus_down cyt
	rm -rf "$CYRUS_ROOT$(cyrus_dir cyt)"/{conf,spool,proc,lock,sock,sieve}
	cyrus_up cyt
}

# One wrapper per tool: NAME USER, the endpoints in the environment.
wrappers() {
	mkdir -p "$RUN/bin" "$RUN/tmp" "$RUN/log"
	cat >"$RUN/bin/env" <<-C
		RUN=$RUN PASS=$PASS IMAPSYNC=$IMAPSYNC IMAPSYNC_GO=$IMAPSYNC_GO
		SRC_HOST=\${SRC_HOST:-127.0.0.1} SRC_PORT=\${SRC_PORT:-$(port src imap)} SRC_TLS=\${SRC_TLS:-$(port src imaps)}
		DST_HOST=\${DST_HOST:-127.0.0.1} DST_PORT=\${DST_PORT:-$(port dst imap)} DST_TLS=\${DST_TLS:-$(port dst imaps)}
		DST_CONF=\${DST_CONF:-$RUN/dst/dovecot.conf}
		u=\$1 w=$RUN/tmp/\${0##*/}.\$1
		[ -d \$w ] || mkdir -p \$w # no more processes than the tool's own
	C
	cat >"$RUN/bin/imapsync" <<-'C'
		#!/bin/bash
		. "${0%/*}/env"
		exec perl "$IMAPSYNC" --host1 $SRC_HOST --port1 $SRC_PORT --user1 $u --password1 $PASS \
		  --host2 $DST_HOST --port2 $DST_PORT --user2 $u --password2 $PASS \
		  --nossl1 --notls1 --nossl2 --notls2 --nolog --noreleasecheck --nomodulesversion \
		  --tmpdir $w --pidfile $w/pid ${IMAPSYNC_OPTS:-} >$w/log 2>&1
	C
	cat >"$RUN/bin/imapsync-fast" <<-'C'
		#!/bin/bash
		. "${0%/*}/env"
		exec perl "$IMAPSYNC" --host1 $SRC_HOST --port1 $SRC_PORT --user1 $u --password1 $PASS \
		  --host2 $DST_HOST --port2 $DST_PORT --user2 $u --password2 $PASS \
		  --nossl1 --notls1 --nossl2 --notls2 --nolog --noreleasecheck --nomodulesversion \
		  --nofoldersizes --nofoldersizesatend --useuid --usecache --subscribe --subscribed_off --addheader \
		  --tmpdir $w --pidfile $w/pid ${IMAPSYNC_OPTS:-} >$w/log 2>&1
	C
	sed -i 's/ --subscribe --subscribed_off//' "$RUN/bin/imapsync-fast"
	cat >"$RUN/bin/mbsync" <<-'C'
		#!/bin/bash
		. "${0%/*}/env"
		cat >$w/rc <<-X
			IMAPAccount src
			Host $SRC_HOST
			Port $SRC_PORT
			User $u
			Pass $PASS
			SSLType None
			AuthMechs LOGIN
			Timeout 120

			IMAPAccount dst
			Host $DST_HOST
			Port $DST_PORT
			User $u
			Pass $PASS
			SSLType None
			AuthMechs LOGIN
			Timeout 120

			IMAPStore src
			Account src
			${MBSYNC_SRC_PATH:+Path $MBSYNC_SRC_PATH}

			IMAPStore dst
			Account dst

			Channel c
			Far :src:
			Near :dst:
			Patterns ${MBSYNC_PATTERNS:-*}
			Create Near
			Remove Near
			Expunge Near
			Sync Pull
			CopyArrivalDate yes
			SyncState $w/
		X
		exec mbsync -c $w/rc -a >$w/log 2>&1
	C
	for v in backup sync; do
		cat >"$RUN/bin/doveadm-$v" <<-C
			#!/bin/bash
			. "\${0%/*}/env"
			exec doveadm -c \$DST_CONF -o imapc_host=\$SRC_HOST -o imapc_port=\$SRC_PORT -o imapc_user=\$u -o imapc_password=\$PASS \\
			  -o "imapc_features=\${IMAPC_FEATURES:-rfc822.size fetch-headers}" -o mail_prefetch_count=\${PREFETCH:-20} \\
			  \${IMAPC_PREFIX:+-o imapc_list_prefix=\$IMAPC_PREFIX} \\
			  $([ $v = backup ] && echo 'backup -R' || echo 'sync -1 -R') -u \$u imapc: >\$w/log 2>&1
		C
	done
	cat >"$RUN/bin/offlineimap" <<-'C'
		#!/bin/bash
		. "${0%/*}/env"
		cat >$w/rc <<-X
			[general]
			metadata = $w/meta
			accounts = a
			ui = quiet
			maxsyncaccounts = 1
			[Account a]
			localrepository = l
			remoterepository = r
			[Repository l]
			type = IMAP
			remotehost = $DST_HOST
			remoteport = $DST_PORT
			remoteuser = $u
			remotepass = $PASS
			ssl = no
			starttls = no
			maxconnections = ${OFFLINEIMAP_CONNS:-4}
			[Repository r]
			type = IMAP
			remotehost = $SRC_HOST
			remoteport = $SRC_PORT
			remoteuser = $u
			remotepass = $PASS
			ssl = no
			starttls = no
			readonly = True
			maxconnections = ${OFFLINEIMAP_CONNS:-4}
		X
		exec offlineimap -c $w/rc -o >$w/log 2>&1
	C
	cat >"$RUN/bin/imapsync-go" <<-'C'
		#!/bin/bash
		. "${0%/*}/env"
		h1=$SRC_HOST h2=$DST_HOST
		[ $h1 = 127.0.0.1 ] && h1=localhost
		[ $h2 = 127.0.0.1 ] && h2=localhost
		cat >$w/rc.yaml <<-X
			src:
			  label: src
			  server: $h1:$SRC_TLS
			  user: $u
			  pass: $PASS
			dst:
			  label: dst
			  server: $h2:$DST_TLS
			  user: $u
			  pass: $PASS
		X
		SSL_CERT_FILE=$RUN/tls/cert.pem CI=1 exec "$IMAPSYNC_GO" -c $w/rc.yaml sync -y -q -w ${WORKERS:-4} >$w/log 2>&1
	C
	cat >"$RUN/bin/mailferry-copy" <<-C
		#!/bin/bash
		. "\${0%/*}/env"
		{ echo user1,password1,user2,password2 && printf "%s\\n" "\$@" | sed "s/.*/&,\$PASS,&,\$PASS/"; } >\$w/users.csv
		exec $MAILFERRY copy --host1 \$SRC_HOST --port1 \$SRC_PORT --host2 \$DST_HOST --port2 \$DST_PORT \\
		  --users \$w/users.csv --parallel \${PAR:-1} \\
		  --nossl1 --notls1 --nossl2 --notls2 --state \$w/state --verbose \${COPY_OPTS:-} >\$w/log 2>&1
	C
	chmod +x "$RUN"/bin/*
}

up() {
	command -v dovecot >/dev/null || die "no dovecot: run '$0 install' first"
	build
	tls
	dovecot_conf src src 127.0.0.1 maildir .
	dovecot_conf dst dst 127.0.0.1 sdbox /
	wrappers
	running src || start_dovecot src || return
	running dst || start_dovecot dst || return
	cyrus_up cyr && cyrus_up cyt
}

down() {
	wan_down
	stop_dovecot src
	stop_dovecot dst
	cyrus_down
	true
}

src_ep() { echo -addr "127.0.0.1:$(port $src imap)" -pop "127.0.0.1:$(port $src pop)" -pass "$PASS"; }
dst_ep() {
	if [ -n "${TARGET:-}" ]; then
		echo -addr "$TARGET" ${TARGET_POP:+-pop "$TARGET_POP"} -pass "$PASS"
	else
		echo -addr "127.0.0.1:$(port dst imap)" -pop "127.0.0.1:$(port dst pop)" -pass "$PASS"
	fi
}
dst_ms() { ${TARGET:+${NSEXEC:-}} "$MS" "$@"; } # a target of one's own lives where the tool does
dst_pid() { echo "${TARGET_PID:-$RUN/${DSTW:-dst}/run/master.pid}"; }
dov_ep() { echo -addr "127.0.0.1:$(port src imap)" -pop "127.0.0.1:$(port src pop)" -pass "$PASS"; }
cyr_ep() { echo -addr "127.0.0.1:$(port cyr imap)" -pop "127.0.0.1:$(port cyr pop)" -pass "$PASS"; }

# load MANIFEST flags: once; the manifest says that it was done
load() {
	local m=$RUN/man/$1.json
	shift
	[ ! -s "$m" ] || { say "$(basename "$m" .json): seeded already" && return; }
	"$MS" load -corpus "$CORPUS" -manifest "$m" "$@" || die "seeding failed"
}

seed() {
	[ -n "$(find "$CORPUS" -name '*.json' 2>/dev/null | head -1)" ] || die "no corpus in $CORPUS: run '$0 install', or set CORPUS"
	mkdir -p "$RUN/man"
	load std $(dov_ep) -users s001..s020 -messages 1000
	load big $(dov_ep) -users big1 -messages 20000 -big 15
	load big5 $(dov_ep) -users big5 -messages 5000 -big 4
	load wan $(dov_ep) -users w01..w08 -messages 400 -big 1 -big-max 3000 -medium .03
	load wanbig $(dov_ep) -users wbig1 -messages 2000 -big 1 -big-max 3000 -medium .03
	load torture $(dov_ep) -users t01 -profile torture -decoys 0
	load oddmail $(dov_ep) -users t02 -profile oddmail -decoys 0
	[ -z "$CYRUS_ROOT" ] || cyrus_seed
}

cyrus_seed() {
	mkdir -p "$RUN/man"
	load cyrus $(cyr_ep) -users c001..c004 -messages 500
	load cyrus-big $(cyr_ep) -users cbig1 -messages 5000 -big 4
	load cyrus-torture $(cyr_ep) -users tc01 -profile torture -decoys 0
	load cyrus-oddmail $(cyr_ep) -users tc02 -profile oddmail -decoys 0
}

# reseed USER: a mailbox of 300 at the source as it was before anybody changed
# it, with the manifest $USER: for cases that change the source
reseed() {
	local u=$1
	case $src in
	src) rm -rf "$RUN/src/mail/$u" ;;
	cyr) python3 -c '
import imaplib, sys
c = imaplib.IMAP4("127.0.0.1", int(sys.argv[1]))
c.login("cyrus", sys.argv[2])
c.setacl("user." + sys.argv[3], "cyrus", "lrswipkxtecda")
c.delete("user." + sys.argv[3])' "$(port cyr imap)" "$PASS" "$u" || die "cannot empty $u" ;;
	esac
	rm -f "$RUN/man/$u.json"
	mkdir -p "$RUN/man"
	load "$u" $(src_ep) -users "$u" -messages 300 -big 0 -medium .02 >/dev/null
}

users_of() { # expand a user list, one a line
	local IFS=, p
	for p in $1; do
		case $p in
		*..*)
			local a=${p%%..*} b=${p##*..}
			local pre=${a%%[0-9]*} n=${a#"${a%%[0-9]*}"}
			seq -f "$pre%0${#n}g" "$((10#$n))" "$((10#${b#"$pre"}))"
			;;
		*) echo "$p" ;;
		esac
	done
}

wipe() { # users
	local u
	for u in $(users_of "$1"); do rm -rf "$RUN/dst/mail/$u" "$RUN"/tmp/*."$u"; done
	[ -z "${TARGET:-}" ] || ${TARGET_WIPE:?set TARGET_WIPE} $(users_of "$1")
}

# LOCK=none: the caller holds the lock for several rows
locked() { if [ "$LOCK" = none ]; then "$@"; else flock "$LOCK" "$@"; fi; }

# store DIR: keep the destination's mail in DIR (a tmpfs, say); store -: undo
store() {
	if [ "$1" = - ]; then
		[ -L "$RUN/dst/mail" ] && rm -f "$RUN/dst/mail" && mv "$RUN/dst/mail.disk" "$RUN/dst/mail"
	elif [ ! -L "$RUN/dst/mail" ]; then
		mkdir -p "$1" && chown "$UIDN:$UIDN" "$1"
		mv "$RUN/dst/mail" "$RUN/dst/mail.disk" && ln -s "$1" "$RUN/dst/mail"
	fi
}

# warm USERS: read the source's mail once, so that no row pays for a cold page
# cache (which can cost a raw fetch three quarters of its rate)
warm() {
	"$MS" fetch -addr "127.0.0.1:$(port $src imap)" -pass "$PASS" -users "$1" -conns 2 >/dev/null 2>&1
}

# row LABEL TOOL USERS PARALLEL MANIFEST: wipe, first run, second run, verify
row() {
	local label=${ROWTAG:-}$1 tool=$2 users=$3 par=$4 man=$5 k
	for k in $(seq "$REPEAT"); do
		wipe "$users"
		warm "$users"
		users_of "$users" >"$RUN/tmp/$label.users"
		local pass m="$RUN/tmp/$label.meter" c
		local sv
		sv="src=$(src_pid),dst=$(dst_pid)"
		local call="xargs -a $RUN/tmp/$label.users -P $par -n 1 $RUN/bin/$tool"
		[ -z "${ONECALL:-}" ] && [ "$tool" != mailferry-copy ] || call="env PAR=$par $RUN/bin/$tool $(tr '\n' ' ' <"$RUN/tmp/$label.users")"
		for pass in first again; do
			rm -f "$m"
			[ "$pass" = first ] && sync -f "$RUN"
			locked ${NSEXEC:-} "$MS" meter -label "$label" -servers "$sv" -limit "$LIMIT" -manifest "$m" -- $call
			c=$(dst_ms count $(dst_ep) -users "$users" 2>/dev/null || echo '{}')
			python3 - "$m" "$c" "$pass" "$tool" "$users" "$par" <<-'P' | tee -a "$OUT"
				import json,sys,time
				m=json.loads(open(sys.argv[1]).readline()); c=json.loads(sys.argv[2])
				m.update(c); m["at"]=time.strftime("%Y-%m-%dT%H:%M:%SZ",time.gmtime()); m["pass"]=sys.argv[3]; m["tool"]=sys.argv[4]; m["users"]=sys.argv[5]; m["par"]=int(sys.argv[6]); m["load"]=float(open("/proc/loadavg").read().split()[0])
				if c and m["wall_s"]:
				    m["msg_s"]=round(c["messages"]/m["wall_s"],1); m["mb_s"]=round(c["octets"]/m["wall_s"]/1e6,2)
				print(json.dumps(m))
			P
			[ "${ONCE:-}" ] && break
		done
	done
	[ "$man" = - ] || verdict "$label" "$tool" "$RUN/man/$man.json" -users "$users"
}

# verdict LABEL TOOL MANIFEST [flags]: compare the destination; the full
# answer with examples goes to RUN/verify, the counts to FOUT
verdict() {
	local label=$1 tool=$2 man=$3 f=$RUN/verify/$1.$SOURCE-$to.json
	shift 3
	mkdir -p "$RUN/verify"
	local has=
	[ -z "${TARGET_HAS:-}" ] || has=$($TARGET_HAS "$@")
	local from=
	[ "$to" = own ] || from="-from 127.0.0.1:$(port $src imap)" # our store has to take all
	dst_ms verify $(dst_ep) $from -samples 6 -manifest "$man" "$@" >"$f" || { say "$label: nothing to compare" && return; }
	python3 - "$f" "$label" "$tool" "$SOURCE" "$to" "$has" "${hits:-}" <<-'P' | tee -a "$FOUT"
		import json,sys
		v=json.load(open(sys.argv[1])); v.pop("samples",None); v.pop("server",None)
		r={"label":sys.argv[2],"tool":sys.argv[3],"source":sys.argv[4],"target":sys.argv[5],"verify":v}
		if sys.argv[6]: r["has"]=int(sys.argv[6])
		if sys.argv[7]: r["kills"]=int(sys.argv[7])
		print(json.dumps(r))
	P
}

ROWS='
imapsync-1 imapsync s001..s003 1 std
imapsync-2 imapsync s001..s004 2 std
imapsync-4 imapsync s001..s004 4 std
imapsync-8 imapsync s001..s008 8 std
imapsync-fast-1 imapsync-fast s001..s002 1 std
mbsync-1 mbsync s001..s020 1 std
mbsync-2 mbsync s001..s020 2 std
mbsync-4 mbsync s001..s020 4 std
mbsync-8 mbsync s001..s020 8 std
doveadm-backup-1 doveadm-backup s001..s020 1 std
doveadm-backup-2 doveadm-backup s001..s020 2 std
doveadm-backup-4 doveadm-backup s001..s020 4 std
doveadm-backup-8 doveadm-backup s001..s020 8 std
doveadm-sync-1 doveadm-sync s001..s020 1 std
offlineimap-1 offlineimap s001..s002 1 std
offlineimap-4 offlineimap s001..s004 4 std
imapsync-go-1 imapsync-go s001..s010 1 std
imapsync-go-2 imapsync-go s001..s010 2 std
imapsync-go-4 imapsync-go s001..s020 4 std
imapsync-go-8 imapsync-go s001..s020 8 std
imapsync-big imapsync big5 1 big5
mbsync-big mbsync big1 1 big
doveadm-backup-big doveadm-backup big1 1 big
offlineimap-big offlineimap big5 1 big5
imapsync-go-big imapsync-go big1 1 big
imapsync-torture imapsync t01 1 torture
imapsync-fast-torture imapsync-fast t01 1 torture
mbsync-torture mbsync t01 1 torture
doveadm-backup-torture doveadm-backup t01 1 torture
offlineimap-torture offlineimap t01 1 torture
imapsync-go-torture imapsync-go t01 1 torture
imapsync-odd imapsync t02 1 oddmail
imapsync-fast-odd imapsync-fast t02 1 oddmail
mbsync-odd mbsync t02 1 oddmail
doveadm-backup-odd doveadm-backup t02 1 oddmail
offlineimap-odd offlineimap t02 1 oddmail
imapsync-go-odd imapsync-go t02 1 oddmail
mailferry-copy-1 mailferry-copy s001..s020 1 std
mailferry-copy-2 mailferry-copy s001..s020 2 std
mailferry-copy-4 mailferry-copy s001..s020 4 std
mailferry-copy-8 mailferry-copy s001..s020 8 std
mailferry-copy-big mailferry-copy big1 1 big
mailferry-copy-torture mailferry-copy t01 1 torture
mailferry-copy-odd mailferry-copy t02 1 oddmail
'
WANROWS='
imapsync-1 imapsync w01 1 -
imapsync-4 imapsync w01..w04 4 -
imapsync-8 imapsync w01..w08 8 -
mbsync-1 mbsync w01..w02 1 -
mbsync-4 mbsync w01..w08 4 -
doveadm-backup-1 doveadm-backup w01..w02 1 -
doveadm-backup-4 doveadm-backup w01..w08 4 -
offlineimap-1 offlineimap w01 1 -
imapsync-go-1 imapsync-go w01..w02 1 -
imapsync-go-4 imapsync-go w01..w08 4 -
mailferry-copy-1 mailferry-copy w01..w02 1 -
mailferry-copy-4 mailferry-copy w01..w08 4 -
'

rows() { echo "$ROWS" | awk 'NF'; }

# each PREFIX [ROW...] <ROWS: run the rows, or those that are named
each() {
	local pre=$1 l t u p m n=0 left=0
	shift
	while read -r l t u p m; do
		[ -n "$l" ] || continue
		[ $# -eq 0 ] || [[ " $* " == *" $l "* ]] || continue
		n=$((n + 1))
		[ "$t" != doveadm-backup ] && [ "$t" != doveadm-sync ] || [ -z "${TARGET:-}" ] || { left=$((left + 1)) && continue; } # writes Dovecot's store only
		wanted "$t" || { left=$((left + 1)) && continue; }
		case $t in drain | pipe | nochange | nochange2) yardstick "$pre$l" "$t" "$u" "$p" </dev/null && continue ;; esac
		have "$t" || { left=$((left + 1)) && continue; }
		row "$pre$l" "$t" "$u" "$p" "$m" </dev/null
	done < <(cat && echo "${EXTRA:-}")
	[ $n -gt 0 ] || say "no such row: $*"
	[ $left -eq 0 ] || say "$left rows left out"
}

bench() { each "" "$@" <<<"$ROWS"; } # [ROW...]

# delta TOOL USER: migrate, change the source as users would, migrate again
# (twice), compare with the changed source. Functional, not timed.
delta() {
	local tool=$1 u=$2 k
	reseed "$u"
	wipe "$u"
	"$RUN/bin/$tool" "$u"
	"$MS" mutate $(src_ep) -corpus "$CORPUS" -users "$u"
	"$MS" snapshot $(src_ep) -users "$u" -manifest "$RUN/man/delta-$u.json"
	for k in 1 2; do
		"$RUN/bin/$tool" "$u"
		echo "$tool pass $k rc=$?"
		verdict "$tool.delta-$k" "$tool" "$RUN/man/delta-$u.json" -users "$u"
	done
}

# live TOOL USER: after the first pass mail arrives and flags change on both
# sides, then the second pass. Says what survives. Functional, not timed.
# The target of a move takes nothing before the user is there: what is given to
# it reaches the source, so that all ten messages have to be on both sides.
live() {
	local tool=$1 u=$2 has=
	reseed "$u"
	wipe "$u"
	"$RUN/bin/$tool" "$u"
	dst_ms inject $(dst_ep) -users "$u" -label dst -messages 5
	"$MS" inject $(src_ep) -users "$u" -label "src$RANDOM" -messages 5
	"$RUN/bin/$tool" "$u"
	echo "$tool second pass rc=$?"
	[ -z "${TARGET_HAS:-}" ] || has=$($TARGET_HAS -users "$u")
	"$MS" snapshot $(src_ep) -users "$u" -manifest "$RUN/tmp/live.src"
	dst_ms snapshot $(dst_ep) -users "$u" -manifest "$RUN/tmp/live.dst"
	python3 - "$RUN/tmp/live.src" "$RUN/tmp/live.dst" "$tool" "$SOURCE" "$to" "$has" <<-'P' | tee -a "$FOUT"
		import json,sys
		def inbox(f):
		    return [m for x in json.load(open(f))["users"][0]["folders"] if x["raw"]=="INBOX" for m in x["msgs"]]
		s,d=inbox(sys.argv[1]),inbox(sys.argv[2])
		k=lambda l,p:[m for m in l if m["key"].startswith("inject."+p)]
		have={}
		for m in d: have[m["sha256"]]=have.get(m["sha256"],0)+1
		lost=0
		for m in s:
		    have[m["sha256"]]=have.get(m["sha256"],0)-1
		    lost+=have[m["sha256"]]<0
		r={"label":sys.argv[3]+".live","tool":sys.argv[3],"source":sys.argv[4],"target":sys.argv[5],"live":{"inbox_src":len(s),"inbox_dst":len(d),"of_src_lost":lost,"src_new_in_src":len(k(s,"src")),"src_new_in_dst":len(k(d,"src")),"dst_new_in_dst":len(k(d,"dst")),"dst_new_in_src":len(k(s,"dst")),
		  "first3_dst":[m["flags"] for m in d[:3]],"uids_same":len({(m["key"],m["uid"]) for m in s}&{(m["key"],m["uid"]) for m in d})}}
		if sys.argv[6]: r["has"]=int(sys.argv[6])
		print(json.dumps(r))
	P
}

# crash TOOL USER: kill the tool five times on its way (the endpoints
# sit behind relays with a small delay, CRASH_DELAY, so that it is slow enough to be hit),
# then let it finish, compare. Functional, not timed.
crash() {
	local KILLAT=${KILLAT:-} tool=$1 u=$2 k p s d t hits=0
	reseed "$u"
	"$MS" relay -delay "${CRASH_DELAY:-3ms}" -listen "127.0.0.1:$((PORTBASE + 401))" -target "127.0.0.1:$(port $src imap)" >/dev/null &
	s=$!
	"$MS" relay -delay "${CRASH_DELAY:-3ms}" -listen "127.0.0.1:$((PORTBASE + 402))" -target "${TARGET:-127.0.0.1:$(port dst imap)}" >/dev/null &
	d=$!
	"$MS" relay -delay "${CRASH_DELAY:-3ms}" -listen "127.0.0.1:$((PORTBASE + 403))" -target "127.0.0.1:$(port $src imaps)" >/dev/null &
	s="$s $!"
	"$MS" relay -delay "${CRASH_DELAY:-3ms}" -listen "127.0.0.1:$((PORTBASE + 404))" -target "${DST_HOST:-127.0.0.1}:${DST_TLS:-$(port dst imaps)}" >/dev/null &
	d="$d $!"
	sleep .3
	local was=${DST_PORT:-} wast=${DST_TLS:-} wass=${SRC_PORT:-}
	export SRC_PORT=$((PORTBASE + 401)) DST_PORT=$((PORTBASE + 402)) SRC_TLS=$((PORTBASE + 403)) DST_TLS=$((PORTBASE + 404))
	# KILLAT seconds; else shares of the time that a whole run takes
	if [ -z "${KILLAT:-}" ]; then
		wipe "$u"
		t=$(date +%s%N)
		"$RUN/bin/$tool" "$u"
		t=$(($(date +%s%N) - t))
		KILLAT=$(for k in 40 70 55 85 60; do printf '%d.%03d ' $((t * k / 100 / 1000000000)) $((t * k / 100 / 1000000 % 1000)); done)
	fi
	wipe "$u"
	for t in $KILLAT; do
		"$RUN/bin/$tool" "$u" &
		p=$!
		sleep "$t"
		if [ -n "${TARGET_KILL:-}" ]; then
			[ "$($TARGET_HAS -users "$u")" = 1 ] || hits=$((hits + 1))
			$TARGET_KILL
		else
			kill -0 $p 2>/dev/null && hits=$((hits + 1))
		fi
		kill -9 $p 2>/dev/null && echo "killed after $t s: $(dst_ms count $(dst_ep) -users "$u")"
		wait $p 2>/dev/null
	done
	"$RUN/bin/$tool" "$u"
	echo "$tool last run rc=$?"
	kill $s $d
	wait $s $d 2>/dev/null
	unset SRC_PORT DST_PORT SRC_TLS DST_TLS
	[ -z "$was" ] || export DST_PORT=$was ${wast:+DST_TLS=$wast}
	[ -z "$wass" ] || export SRC_PORT=$wass
	hits=$hits verdict "$tool.crash" "$tool" "$RUN/man/$u.json" -users "$u"
}

# functional [TOOL...]: all correctness cases, or those that CASES names
functional() {
	local OUT=$FOUT t p=d q=t m=
	[ $src = src ] || p=cd q=tc m=cyrus-
	[ $# -gt 0 ] || set -- imapsync imapsync-fast imapsync-go mbsync doveadm-backup offlineimap mailferry-copy
	for t in "$@"; do
		[ -z "${TARGET:-}" ] || [ "${t#doveadm}" = "$t" ] || continue # writes Dovecot's store only
		have "$t" || continue
		for c in ${CASES:-torture odd crash delta live}; do
			case $c in
			torture) row "$t.torture" "$t" "${q}01" 1 "${m}torture" ;;
			odd) row "$t.odd" "$t" "${q}02" 1 "${m}oddmail" ;;
			crash) crash "$t" "${p}01" ;;
			delta) # the same as the source is what is asked for: as mirrors, those that can
				COPY_OPTS='--delete2 --delete2folders --mass-delete' IMAPSYNC_OPTS='--delete2 --delete2folders' delta "$t" "${p}02"
				;;
			live) live "$t" "${p}03" ;;
			esac
		done
	done
}

# raw_row LABEL mailseed-arguments: one raw transfer, metered
raw_row() {
	local label=${ROWTAG:-}$1 m="$RUN/tmp/raw.$1" r=$RUN/tmp/raw.$1.rate
	shift
	rm -f "$m"
	locked ${NSEXEC:-} "$MS" meter -label "$label" -manifest "$m" -limit "$LIMIT" \
		-servers "src=$(src_pid),dst=$(dst_pid)" -- "$MS" "$@" >"$r"
	python3 - "$m" "$r" <<-'P' | tee -a "$OUT"
		import json,sys,time
		m=json.loads(open(sys.argv[1]).readline()); m["at"]=time.strftime("%Y-%m-%dT%H:%M:%SZ",time.gmtime())
		m["raw"]=json.loads(open(sys.argv[2]).readline()); m["load"]=float(open("/proc/loadavg").read().split()[0]); print(json.dumps(m))
	P
}

# yardstick LABEL KIND USERS CONNS: see each
yardstick() {
	local from="-addr ${SRC_HOST:-127.0.0.1}:$(port $src imap) -pass $PASS -users $3 -conns $4"
	local into="-to ${DST_HOST:-127.0.0.1}:${DST_PORT:-$(port dst imap)} -to-pass $PASS"
	case $2 in
	drain) warm "$3" && raw_row "$1" fetch $from ;;
	pipe) wipe "$3" && warm "$3" && raw_row "$1" pipe $from $into -mode multi ;;
	nochange) raw_row "$1" nochange $from ;;
	nochange2) raw_row "$1" nochange $from $into ;;
	esac
}

# raw_bench [USERS [CONNS...]]: what the servers give and take at most
raw_bench() {
	local n=${1:-s001..s020} c mode s="-addr ${SRC_HOST:-127.0.0.1}:$(port $src imap) -pass $PASS" d="-addr ${DST_HOST:-127.0.0.1}:${DST_PORT:-$(port dst imap)} -pass $PASS"
	[ "${ONLY:-fetch}" != fetch ] || warm "$n"
	for c in 1 2 4; do [ "${ONLY:-fetch}" != fetch ] || raw_row "raw-fetch-$c" fetch $s -users "$n" -conns $c; done
	[ "${ONLY:-append}" = append ] || return 0
	for mode in sync literal+ pipeline multi; do
		for c in 1 4; do
			wipe r01..r04
			raw_row "raw-append-$mode-$c" append $d -corpus "$CORPUS" -users r01..r0$c -conns $c -mode $mode -messages "${RAWN:-1000}"
		done
	done
	wipe r01..r04
}

pipe_bench() {
	local n=${1:-s001..s020} c mode
	local a="-addr ${SRC_HOST:-127.0.0.1}:$(port $src imap) -pass $PASS -to ${DST_HOST:-127.0.0.1}:${DST_PORT:-$(port dst imap)} -to-pass $PASS"
	[ -z "${TLS:-}" ] || # implicit TLS on both sides
		a="-tls -addr ${SRC_HOST:-127.0.0.1}:$(port src imaps) -pass $PASS -to-tls -to ${DST_HOST:-127.0.0.1}:${DST_TLS:-$(port dst imaps)} -to-pass $PASS"
	warm "$n"
	for mode in ${MODES:-multi pipeline literal+ sync}; do
		for c in ${CONNS:-1 2 4}; do
			wipe "$n"
			raw_row "pipe-$mode-$c" pipe $a -users "$n" -conns $c -mode $mode
		done
	done
	for c in ${CONNS:-1 2 4}; do raw_row "nochange-$c" nochange $a -users "$n" -conns $c; done
}

# ---- wide-area latency: namespaces $NS-src, $NS-tool, $NS-dst ----
# src -- DELAY each way -- tool -- DELAY_DST each way -- dst
wan_up() {
	local d=${DELAY:-20ms} dd=${DELAY_DST:-20ms} n
	for n in $NS-src $NS-tool $NS-dst; do
		ip netns add $n
		ip -n $n link set lo up
		# some kernels allow only their default here
		[ -z "${TCPCC:-}" ] || ip netns exec $n sysctl -q -w "net.ipv4.tcp_congestion_control=$TCPCC"
	done
	nohup "$MS" wan -name migs -a $NS-tool,10.99.1.1/30 -b $NS-src,10.99.1.2/30 -delay "$d" -mbit "${MBIT:-0}" >"$RUN/wan-src.log" 2>&1 &
	echo $! >"$RUN/wan-src.pid"
	if [ "$dd" = 0 ]; then
		ip link add migd0 netns $NS-tool type veth peer name migd1 netns $NS-dst
		ip -n $NS-tool addr add 10.99.2.1/30 dev migd0
		ip -n $NS-dst addr add 10.99.2.2/30 dev migd1
		ip -n $NS-tool link set migd0 up
		ip -n $NS-dst link set migd1 up
	else
		nohup "$MS" wan -name migd -a $NS-tool,10.99.2.1/30 -b $NS-dst,10.99.2.2/30 -delay "$dd" -mbit "${MBIT:-0}" >"$RUN/wan-dst.log" 2>&1 &
		echo $! >"$RUN/wan-dst.pid"
	fi
	sleep 1
	dovecot_conf srcw src 10.99.1.2 maildir .
	dovecot_conf dstw dst 10.99.2.2 sdbox /
	start_dovecot srcw ip netns exec $NS-src
	start_dovecot dstw ip netns exec $NS-dst
	ip netns exec $NS-tool python3 - 10.99.1.2 "$(port src imap)" 10.99.2.2 "$(port dst imap)" <<-'P'
		import socket,sys,time
		for h,p in ((sys.argv[1],sys.argv[2]),(sys.argv[3],sys.argv[4])):
		    t=time.time(); s=socket.create_connection((h,int(p))); print("connect %s: %.1f ms"%(h,(time.time()-t)*1e3)); s.close()
	P
}

wan_down() {
	local n f
	stop_dovecot srcw
	stop_dovecot dstw
	for f in wan-src wan-dst; do
		[ -s "$RUN/$f.pid" ] && kill "$(cat "$RUN/$f.pid")" 2>/dev/null
		rm -f "$RUN/$f.pid"
	done
	for n in $NS-src $NS-tool $NS-dst; do ip netns del $n 2>/dev/null; done
	true
}

wan_env() {
	export SRC_HOST=10.99.1.2 DST_CONF=$RUN/dstw/dovecot.conf
	[ -n "${TARGET:-}" ] || export DST_HOST=10.99.2.2
	NSEXEC="ip netns exec $NS-tool" SRCW=srcw DSTW=dstw
}

wan_bench() {
	wan_env
	each "wan${WANTAG:-}-" "$@" <<<"$WANROWS"
}

# The same with Cyrus as the source (SOURCE=cyrus).
cyrus_bench() {
	each cyrus- "$@" <<-'R'
		imapsync imapsync c001..c002 1 cyrus
		mbsync mbsync c001..c004 1 cyrus
		doveadm-backup doveadm-backup c001..c004 1 cyrus
		offlineimap offlineimap c001 1 cyrus
		imapsync-torture imapsync tc01 1 cyrus-torture
		mbsync-torture mbsync tc01 1 cyrus-torture
		doveadm-backup-torture doveadm-backup tc01 1 cyrus-torture
		imapsync-odd imapsync tc02 1 cyrus-oddmail
		mbsync-odd mbsync tc02 1 cyrus-oddmail
		doveadm-backup-odd doveadm-backup tc02 1 cyrus-oddmail
		mailferry-copy mailferry-copy c001..c004 1 cyrus
		mailferry-copy-torture mailferry-copy tc01 1 cyrus-torture
		mailferry-copy-odd mailferry-copy tc02 1 cyrus-oddmail
	R
}

report() { # medians of all rows in OUT as a table
	python3 - "$OUT" <<-'P'
		import json,sys,statistics as st
		g={}
		for l in open(sys.argv[1]):
		    try: r=json.loads(l)
		    except ValueError: continue
		    g.setdefault((r["label"],r.get("pass","raw")),[]).append(r)
		print("| row | pass | runs | wall s | msg/s | MB/s | tool CPU s | source CPU s | dest CPU s | peak RSS MB |\n|---|---|---|---|---|---|---|---|---|---|")
		def med(rs,f): return st.median([f(r) for r in rs])
		for (l,p),rs in g.items():
		    raw="raw" in rs[0]
		    wall=med(rs,lambda r:r["raw"]["seconds"] if raw else r["wall_s"])
		    ms=med(rs,lambda r:r["raw"]["messages_per_s"] if raw else r.get("msg_s",0))
		    mb=med(rs,lambda r:r["raw"]["mb_per_s"] if raw else r.get("mb_s",0))
		    s=[r.get("server_cpu_s",{}) for r in rs]
		    print("| %s | %s | %d | %.2f | %.0f | %.1f | %.1f | %.1f | %.1f | %.0f |"%(l,p,len(rs),wall,ms,mb,
		        med(rs,lambda r:r["user_s"]+r["sys_s"]),st.median([x.get("src",0) for x in s]),st.median([x.get("dst",0) for x in s]),med(rs,lambda r:r["rss_peak_mb"])))
	P
}

cmd=${1:-help}
[ $# -eq 0 ] || shift
case $cmd in
install) install_all ;;
cyrus-install) cyrus_install ;;
up | down | seed | bench | rows | build | report | tools) $cmd "$@" ;;
functional | delta | crash | live) $cmd "$@" ;;
raw) raw_bench "$@" ;;
pipe) pipe_bench "$@" ;;
cyrus-up) cyrus_up cyr && cyrus_up cyt ;;
cyrus-down) cyrus_down ;;
cyrus-fresh) cyrus_fresh ;;
cyrus-seed) cyrus_seed ;;
each) ${WAN:+wan_env} && each "" ;;
cyrus-bench) SOURCE=cyrus exec "$0" cyrus-rows "$@" ;;
cyrus-rows) cyrus_bench "$@" ;;
cyrus-raw) SOURCE=cyrus exec "$0" cyrus-raw-rows ;;
cyrus-raw-rows)
	warm c001..c004
	raw_row cyrus-fetch-1 fetch $(cyr_ep) -users c001..c004 -conns 1
	raw_row cyrus-fetch-4 fetch $(cyr_ep) -users c001..c004 -conns 4
	for c in 1 4; do
		wipe c001..c004
		raw_row cyrus-pipe-multi-$c pipe $(cyr_ep) -to "127.0.0.1:$(port dst imap)" -to-pass "$PASS" -users c001..c004 -conns $c
	done
	;;
wan-up) wan_up ;;
wan-down) wan_down ;;
wan-bench) wan_bench "$@" ;;
wan-raw) wan_env && ROWTAG=${ROWTAG:-wan-} RAWN=${RAWN:-300} raw_bench "${1:-w01..w08}" ;;
lan-bench) each lan- "$@" <<<"$WANROWS" ;;
lan-raw) ROWTAG=lan- RAWN=${RAWN:-300} raw_bench "${1:-w01..w08}" ;;
lan-pipe) ROWTAG=lan- pipe_bench "${1:-w01..w08}" ;;
wan-pipe) wan_env && ROWTAG=wan- pipe_bench "${1:-w01..w08}" ;;
wipe) wipe "$@" ;;
store) store "$@" ;;
row) row "$@" ;;
ms) exec "$MS" "$@" ;;
*) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' ;;
esac
