#!/bin/bash
# mailferry beside its peers, in one run: the rows of docs/benchmarks.md.
#
#   beside.sh [PART...]   install proxy store migrate engine table (default: all, in this order; README.md says how long
#                         each takes). migrate is: moves copy cyrus distance read correct correct-cyrus
#   beside.sh profile     CPU profiles of mailferry under the loads of the parts
#   beside.sh docs        the table of migration, into docs/benchmarks.md
#   beside.sh down        stop everything that a part has started
#
# A part starts what it measures and stops it again. Needs root, Debian and Go.
#
#   BIN      the mailferry under test   (default: built from this tree)
#   RUN      run directory              (default ${TMPDIR:-/tmp}/bench-mailferry)
#   LOCK     file locked in timed runs  (default $RUN/lock)
#   RUNS     rounds of store and engine; in each, peers and mailferry take turns (default 3)
#   MIGRATE_RUNS   rounds of the parts of migrate (default 1)
#   TOOLS    only rows of migrate by these tools and yardsticks (patterns, say 'mailferry*')
#   PROXY_RUNS, PROXY_DUR   rounds and measured time of the proxy part (default 1, 1500ms; logins with 50
#            clients are measured three times in a round)
#   BIG      messages of the big mailbox of the store part   (default 10000)
#   WEIGHT   on a machine with other work: CPU weight of what is measured, in a
#            cgroup of its own (cgroup v1 or v2; 1024 is what others have; default: no cgroup)
#   PROXY_PEERS, STORE_PEERS   what stands beside mailferry there
#   IMAPSYNC_GIT, IMAPSYNC_GO_GIT   clones of imapsync and imapsync-go, which no package has (mailseed/README.md)
set -u
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
RUN=${RUN:-${TMPDIR:-/tmp}/bench-mailferry}
LOCK=${LOCK:-$RUN/lock}
RUNS=${RUNS:-3}
BIG=${BIG:-10000}
WEIGHT=${WEIGHT:-}
PROXY_RUNS=${PROXY_RUNS:-1}
PROXY_PEERS=${PROXY_PEERS:-relay perdition nginx nginx-fix dovecot dovecot-cache}
STORE_PEERS=${STORE_PEERS:-dovecot-maildir dovecot-mdbox}
BIN=${BIN:-$RUN/mailferry}
CLIENTS=${CLIENTS:-1 50 200} # of the login rows
TCONNS=${TCONNS:-1 8 50}     # of the relay rows
LCONNS='1 16'                # of the LMTP rows
export RUN BIN

say() { echo "beside: $*" >&2; }
die() {
	say "$*"
	exit 1
}

# Each script of the peers gets a run directory of its own.
proxy() { RETRIES=${RETRIES:-0} DUR=${PROXY_DUR:-1500ms} WARM=${WARM:-300ms} RUN=$RUN/proxy LOCK=$LOCK "$here/peers-proxy.sh" "$@"; }
store() { MAXOTHER=${MAXOTHER:-${WEIGHT:+1000}} RUN=$RUN/store LOCK=$LOCK BIG=$BIG "$here/peers-store.sh" "$@"; }
migrate() { RUN=$RUN/migrate LOCK=$LOCK "$here/peers-migrate.sh" "$@"; }

build() {
	mkdir -p "$RUN" && chmod 755 "$RUN"
	[ "$BIN" != "$RUN/mailferry" ] || (cd "$here/.." && go build -o "$BIN" ./cmd/mailferry) || die "cannot build mailferry"
}

# weigh: this shell, and all that it starts, gets its share of the CPUs.
weigh() {
	[ -n "$WEIGHT" ] || return 0
	local d
	for d in /sys/fs/cgroup/cpu /sys/fs/cgroup; do
		[ -e "$d/cpu.shares" ] || [ -e "$d/cgroup.controllers" ] || continue
		mkdir -p "$d/mailferry-bench" || continue
		[ ! -e "$d/mailferry-bench/cpu.shares" ] || echo "$WEIGHT" >"$d/mailferry-bench/cpu.shares"
		[ ! -e "$d/mailferry-bench/cpu.weight" ] || echo $((WEIGHT > 102400 ? 10000 : WEIGHT * 100 / 1024)) >"$d/mailferry-bench/cpu.weight"
		echo $$ >"$d/mailferry-bench/cgroup.procs" && return 0
	done
	say "no CPU cgroup to be had: going on without"
}

waitport() { # host:port [command prefix...]
	local i
	for i in $(seq 100); do
		"${@:2}" bash -c 'exec 3<>"/dev/tcp/${0%:*}/${0#*:}"' "$1" 2>/dev/null && return 0
		sleep 0.1
	done
	die "nothing listens on $1"
}

# ---- mailferry: one configuration and data directory per part ----

PPROF=127.0.0.1:21060

# config PART ROLES IMAP IMAPS LMTP [POP3 MANAGESIEVE]: the head of a configuration; the rest is read from stdin
config() {
	local d=$RUN/mailferry-$1
	mkdir -p "$d"
	{
		cat <<-C
			node: bench
			data: $d/data
			roles: [$2]
			log: {level: warn}
			listen:
			  imap: [$3]
			  imaps: [$4]
			  lmtp: [$5]
			  submission: []
			  submissions: []
			  pop3: [${6:-}]
			  managesieve: [${7:-}]
			  pop3s: []
			  admin: []
		C
		cat
	} >"$d/mailferry.yaml"
	"$BIN" config check --config "$d/mailferry.yaml" >/dev/null || die "$d/mailferry.yaml is no configuration for this mailferry"
}

# start PART PORT [command prefix...]
start() {
	local d=$RUN/mailferry-$1 port=$2 pprof=$PPROF
	case $1 in proxy-*) pprof= ;; esac
	shift 2
	(exec setsid "$@" "$BIN" serve --config "$d/mailferry.yaml" --pprof "$pprof" </dev/null >"$d/log" 2>&1 9>&-) &
	echo $! >"$d/pid"
	waitport "127.0.0.1:$port" "$@"
}

stop() { # PART
	local d=$RUN/mailferry-$1 pid i
	pid=$(cat "$d/pid" 2>/dev/null) || return 0
	if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$d/mailferry.yaml"; then
		kill "$pid"
		for i in $(seq 250); do [ -e "/proc/$pid/exe" ] && kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
	fi
	rm -f "$d/pid"
}

# ---- proxy: everything that peers-proxy.sh measures, through us as one more peer ----

# Three of us. "proxy" knows routes from its cache; "proxy-search" asks LDAP for each login, as Perdition does;
# "proxy-bind" also lets LDAP check each password.
proxy_start() { # NAME PORTBASE PASSWORDS CACHE
	local at=127.0.0.1
	config "$1" proxy $at:$2 $at:$(($2 + 1)) "" $at:$(($2 + 2)) $at:$(($2 + 3)) <<-C
		cache: {for: $4}
		tls:
		  certificates: [{cert: $RUN/proxy/tls/cert.pem, key: $RUN/proxy/tls/key.pem}]
		directories:
		  - name: people
		    type: ldap
		    servers: ["ldap://127.0.0.1:15389"]
		    base: ou=people,dc=example,dc=test
		    filter: (mail={user})
		    attributes: {user: mail, store: mailHost}
		    passwords: $3
		stores:
		  - {name: dovecot, type: dovecot, address: 127.0.0.1, ports: {imap: 15143, pop3: 15110, managesieve: 15190}, tls: none}
		  - {name: fake, type: generic, address: 127.0.0.2, ports: {imap: 15143, pop3: 15110, managesieve: 15190}, tls: none}
	C
	stop "$1"
	start "$1" "$2" taskset -c "${PROXY_CPUS:-0}"
}
proxy_up() {
	proxy up || exit 1
	proxy_start proxy 21143 pass 10m
	export EXTRA_NAME=mailferry EXTRA_PIDS=@$RUN/mailferry-proxy/pid EXTRA_RESTART="env RUN=$RUN BIN=$BIN $here/beside.sh again"
	export EXTRA_IMAP=127.0.0.1:21143 EXTRA_IMAPS=127.0.0.1:21144 EXTRA_POP3=127.0.0.1:21145 EXTRA_SIEVE=127.0.0.1:21146
}
proxy_down() {
	stop proxy
	stop proxy-search
	stop proxy-bind
	proxy down
}

# asking: logins that ask LDAP each time; Perdition, which does so by design, beside them.
proxy_asking() {
	local kind port=21153
	for kind in search:pass bind:bind; do
		proxy_start proxy-${kind%:*} $port ${kind#*:} 1ns
		EXTRA_NAME=mailferry-${kind%:*} EXTRA_PIDS=@$RUN/mailferry-proxy-${kind%:*}/pid EXTRA_IMAP=127.0.0.1:$port EXTRA_IMAPS=127.0.0.1:$((port + 1)) \
			EXTRA_POP3='' EXTRA_SIEVE='' RUNS=3 PEERS=mailferry-${kind%:*} LOGIN_CASES="imap-login imap-tls-full" CONCS=50 proxy bench logins
		stop proxy-${kind%:*}
		port=$((port + 10))
	done
}

part_proxy() {
	local k peers="$PROXY_PEERS mailferry"
	proxy_up
	for k in $(seq "$PROXY_RUNS"); do
		RUNS=1 PEERS=$peers CONCS=$CLIENTS OTHER_CONCS=50 LOGIN_CASES="$(login_cases)" proxy bench logins
		RUNS=2 PEERS=$peers CONCS=50 LOGIN_CASES="$(login_cases)" proxy bench logins
		proxy_asking
		RUNS=1 PEERS="$(only perdition nginx dovecot) mailferry" CONCS='50 200' proxy bench real
		RUNS=1 PEERS="$(only relay perdition nginx dovecot) mailferry" proxy bench idle
		RUNS=1 PEERS="fake $(only relay perdition nginx dovecot) mailferry" TCONCS=$TCONNS proxy bench throughput append
		RUNS=1 PEERS="$(only relay perdition nginx dovecot) mailferry" proxy bench latency
	done
	proxy_down
}
login_cases() { echo "${LOGIN_CASES:-imap-login imap-plain-ir imap-tls-full imap-tls-resume imap-tls12-resume pop3-userpass sieve-plain}"; }
# only PEER...: those of them that are to be measured
only() { local p; for p in "$@"; do case " $PROXY_PEERS " in *" $p "*) echo -n "$p " ;; esac; done; }

# ---- store: LMTP, SELECT and FETCH, through mailferry's own front ----

store_up() {
	local u
	mkdir -p "$RUN/store"
	config store "proxy, store" 127.0.0.1:22143 "" 127.0.0.1:22424 </dev/null
	stop store
	start store 22143
	for u in $(seq -f 'u%03g' 1 100) $(seq -f 'p%03g' 1 8); do
		"$BIN" user show "$u" --config "$RUN/mailferry-store/mailferry.yaml" >/dev/null 2>&1 ||
			echo test | "$BIN" user add "$u" --alias "$u@bench.test" --password-stdin --config "$RUN/mailferry-store/mailferry.yaml" >/dev/null || die "cannot add $u"
	done
	export PEER_IMAP=127.0.0.1:22143 PEER_LMTP=127.0.0.1:22424 PEER_FLAGS="-domain bench.test" PEER_PID=@$RUN/mailferry-store/pid PEER_STORE=$RUN/mailferry-store/data/mail
}
store_down() {
	stop store
	store down
}

part_store() {
	local k p=${STORE_PEERS}
	store_up
	# shellcheck disable=SC2086
	for k in $(seq "$RUNS"); do
		[ "$k" != 1 ] || RUNS=1 store bench $p custom-mailferry -- fill
		[ "$k" != 1 ] || RUNS=1 ONLY='first' store bench $p custom-mailferry -- list
		RUNS=1 SECS=${SECS:-5} CONNS=$LCONNS ONLY='1 rcpt' store bench $p custom-mailferry -- deliver
		RUNS=1 ONLY='same|fresh' store bench $p custom-mailferry -- select
		RUNS=1 SECS=${SECS:-5} ONLY='warm' store bench $p custom-mailferry -- list
		RUNS=1 SECS=${SECS:-5} ONLY='warm|one FETCH' store bench $p custom-mailferry -- fetch
	done
	store_down
}

# ---- migrate: moves into our own store, copies into others ----

. "$here/beside-migrate.sh"

# ---- engine: our store without a protocol, one voter and three ----

part_engine() {
	mkdir -p "$RUN/engine"
	(cd "$here/.." && go test -c -o "$RUN/engine/deliver.test" ./bench) || die "cannot build the benchmark"
	(cd "$here" && BENCH_DIR=$RUN/engine flock -o "$LOCK" "$RUN/engine/deliver.test" -test.run '^$' -test.bench Deliver -test.benchtime "${SECS:-3}s" -test.count "$RUNS" -test.cpuprofile "$RUN/engine/cpu.prof") |
		tee -a "$RUN/engine/results.txt"
}

# ---- profiles: the loads again, for themselves ----

# profiled NAME SECONDS COMMAND...: the top of mailferry's CPU profile while COMMAND runs
profiled() {
	local name=$1 s=$2 f=$RUN/profiles/$1
	shift 2
	mkdir -p "$RUN/profiles"
	flock -o "$LOCK" "$@" >"$f.out" 2>&1 &
	sleep 1
	curl -sf "http://$PPROF/debug/pprof/profile?seconds=$s" -o "$f.pb.gz" || say "no profile of $name"
	wait $!
	echo "== $name"
	go tool pprof -top -nodecount 25 "$f.pb.gz" 2>/dev/null
	echo "-- cumulative"
	go tool pprof -top -cum -nodecount 45 "$f.pb.gz" 2>/dev/null | tail -n +5
}

part_profile() {
	local ml=$RUN/proxy/mailload s=${SECS:-5}
	proxy_up
	local load="taskset -c ${LOAD_CPUS:-1} $ml" u='fake%04d@example.test' f=fake0001@example.test
	profiled login-plain "$s" $load logins -addr $EXTRA_IMAP -user "$u" -users 500 -c 64 -d $((s + 2))s
	profiled login-tls "$s" $load logins -addr $EXTRA_IMAPS -tls tls -user "$u" -users 500 -c 64 -d $((s + 2))s
	profiled relay-plain "$s" $load throughput -addr $EXTRA_IMAP -user $f -mailbox INBOX -c 8 -d $((s + 2))s
	profiled relay-tls "$s" $load throughput -addr $EXTRA_IMAPS -tls tls -user $f -mailbox INBOX -c 8 -d $((s + 2))s
	proxy_down
	store_up
	store gen custom-mailferry append -up-to -n "$BIG" -box Big10k -create -multi 50 >/dev/null
	profiled lmtp-1 "$s" "$0" gen deliver -c 1 -t $((s + 2))s
	profiled lmtp-16 "$s" "$0" gen deliver -c 16 -t $((s + 2))s
	profiled select "$s" "$0" gen select -box Big10k -n 2000
	profiled list "$s" "$0" gen fetch -mode list -box Big10k -reps 40
	profiled bodies "$s" "$0" gen fetch -mode body -box Big10k -t $((s + 2))s
	store_down
	begin profile
	node old
	migrate_fresh
	profiled migrate 15 env PAR=4 "$RUN/migrate/bin/mailferry" $(seq -f 's%03g' 1 20)
	finish
	[ ! -s "$RUN/engine/cpu.prof" ] || go tool pprof -top -nodecount 25 "$RUN/engine/cpu.prof" 2>/dev/null
}

part_table() { PYTHONDONTWRITEBYTECODE=1 python3 "$here/beside.py" "$RUN"; }
# docs: what was measured of migration, into docs/benchmarks.md
part_docs() { python3 "$here/beside_migrate.py" "$RUN/" "$here/../docs/benchmarks.md"; }

part_install() {
	"$here/peers/install.sh" slapd dovecot perdition clients nginx corpus versions || exit 1
	store install && migrate install || exit 1
}

part_down() {
	local p
	for p in proxy store; do "${p}_down"; done
	finish
}

case ${1:-} in
fresh | crash | has) "migrate_$1" "${@:2}" && exit ;; # called by peers-migrate.sh
again) stop proxy && start proxy 21143 taskset -c "${PROXY_CPUS:-0}" && exit ;; # called by peers-proxy.sh
gen) shift && store gen custom-mailferry "$@" && exit ;; # by profile
-h | help | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' && exit ;;
esac
[ $# -gt 0 ] || set -- install proxy store migrate engine table
build
export LOCK
# shellcheck disable=SC2046,SC2086
set -- $(for part in "$@"; do [ "$part" = migrate ] && printf '%s\n' $MIGRATE_PARTS || echo "$part"; done | awk '!seen[$0]++')
for part in "$@"; do
	declare -F "part_$part" >/dev/null || die "unknown part $part"
done
[ "$*" = down ] || [ "$*" = table ] || [ "$*" = docs ] || weigh
for part in "$@"; do "part_$part" || exit; done
