# Sourced by beside.sh: what belongs to migration. Each part has a results file
# of its own in $RUN/migrate, made anew when the part runs again.
# shellcheck shell=bash

MIGRATE_PARTS="moves copy cyrus distance read correct correct-cyrus"
MIGRATE_RUNS=${MIGRATE_RUNS:-1}

# begin PART: servers and seeds are there, results go to the part's files
begin() {
	export MAILFERRY=$BIN CYRUS_ROOT
	CYRUS_ROOT=$(bash -c '. "$1/peers/lib.sh" && echo "$CYRUS_ROOT"' - "$here")
	migrate up && migrate seed || exit 1
	export OUT=$RUN/migrate/results-$1.jsonl FOUT=$RUN/migrate/judged-$1.jsonl
	: >"$OUT" && : >"$FOUT"
}
finish() {
	stop migrate
	migrate down
}

# node SOURCE [PREFIX...]: a node beside the peers, whose users are at SOURCE: old (Dovecot), cyr (Cyrus), slow and
# cyrslow (the same behind the relays of the case "crash"), far (40 ms away)
node() {
	local source=$1 type=dovecot host=127.0.0.1 lines=8 imap=24143 pop=24110 login="{mode: master, user: migrator, password: masterpass}"
	shift
	case $source in
	cyr*) type=cyrus imap=24343 pop=24310 login="{mode: authzid, user: cyrus, password: seedpass}" ;;
	far) host=10.99.1.2 lines=24 ;; # the peers open as many as they are told
	esac
	case $source in *slow) imap=24501 ;; esac
	config migrate "proxy, store, migrate" 127.0.0.1:22243 "" "" 127.0.0.1:22210 <<-C
		directories:
		  - {name: users, type: file, path: users, passwords: bind}
		stores:
		  - {name: home, type: local}
		  - name: old
		    type: $type
		    address: $host
		    ports: {imap: $imap, pop3: $pop}
		    tls: none
		    connections: $lines
		    login: $login
		move_groups: [{name: farm, stores: [old, home]}]
	C
	seq -f 's%03g' 1 20 | cat - <(printf '%s\n' big1 w0{1..8} wbig1 t01 t02 d01 d02 d03 c00{1..4} cbig1 tc01 tc02 cd01 cd02 cd03) |
		sed 's/$/:{PLAIN}seedpass:old/' >"$RUN/mailferry-migrate/users"
	echo "$*" >"$RUN/mailferry-migrate/prefix"
	local d=$RUN/migrate/bin
	# a move; a copy only, so that a second pass has nothing to do; a copy first, then a move; a move that is watched
	# when it was begun before a kill
	local to='--to home --parallel "${PAR:-1}"'
	node_tool mailferry "\"\$@\" $to" && node_tool mailferry-again "\"\$@\" $to --copy-only"
	node_tool mailferry-steps "\"\$@\" $to \$([ -e \$w/copied ] || { touch \$w/copied && echo --copy-only; })"
	node_tool mailferry-resumed "\$([ -e \$w/begun ] && echo watch || { touch \$w/begun && echo \$u --to home; })"
	node_kill=
	case $source in *slow) node_kill="env RUN=$RUN BIN=$BIN $here/beside.sh crash" ;; esac
}
node_tool() { # NAME ARGUMENTS
	cat >"$RUN/migrate/bin/$1" <<-C
		#!/bin/bash
		. "\${0%/*}/env"
		exec $BIN migrate $2 --config $RUN/mailferry-migrate/mailferry.yaml >\$w/log 2>&1
	C
	chmod +x "$RUN/migrate/bin/$1"
}
# on_node COMMAND...: with the node as the target
on_node() {
	TARGET=127.0.0.1:22243 TARGET_POP=127.0.0.1:22210 TARGET_PID=$RUN/mailferry-migrate/pid \
		TARGET_WIPE="env RUN=$RUN BIN=$BIN $here/beside.sh fresh" TARGET_HAS="env RUN=$RUN BIN=$BIN $here/beside.sh has" \
		TARGET_KILL=$node_kill ONECALL=1 "$@"
}
node_start() {
	# shellcheck disable=SC2046
	start migrate 22243 $(cat "$RUN/mailferry-migrate/prefix")
}
# migrate_fresh: the target as it was before the first move
migrate_fresh() {
	stop migrate
	rm -rf "$RUN/mailferry-migrate/data"
	node_start
}
# migrate_crash: kill -9, and a new start
migrate_crash() {
	local pid i
	pid=$(cat "$RUN/mailferry-migrate/pid")
	kill -9 "$pid"
	for i in $(seq 100); do [ -e "/proc/$pid/exe" ] || break; sleep 0.05; done
	node_start
}
# migrate_has -users USERS: how many of them have moved
migrate_has() {
	"$BIN" placements --json --config "$RUN/mailferry-migrate/mailferry.yaml" | python3 -c '
import json, re, sys
m = re.fullmatch(r"(\D+)(\d+)\.\.\D+(\d+)", sys.argv[1])
users = {m[1] + str(i).zfill(len(m[2])) for i in range(int(m[2]), int(m[3]) + 1)} if m else {sys.argv[1]}
print(sum(p["user"] in users and p["store"] == "home" for p in json.load(sys.stdin)))' "$2"
}

# rows: LABEL TOOL USERS PARALLEL MANIFEST from stdin; a label is TOOL.CASE
rows() { migrate each; }

# moves: from Dovecot into our own store, beside tools that copy into Dovecot, and beside what the source gives at most
part_moves() {
	local k
	begin moves
	node old
	for k in $(seq "$MIGRATE_RUNS"); do
		rows <<-'R'
			drain.big drain big1 1 -
			drain.many-1 drain s001..s020 1 -
			drain.many-4 drain s001..s020 4 -
			drain.many-8 drain s001..s020 8 -
			nochange.big nochange big1 1 -
			nochange.many-1 nochange s001..s020 1 -
			nochange.many-4 nochange s001..s020 4 -
			nochange.many-8 nochange s001..s020 8 -
			doveadm-backup.big doveadm-backup big1 1 big
			mbsync.big mbsync big1 1 big
			doveadm-backup.many-1 doveadm-backup s001..s020 1 std
			mbsync.many-1 mbsync s001..s020 1 std
			doveadm-backup.many-4 doveadm-backup s001..s020 4 std
			mbsync.many-4 mbsync s001..s020 4 std
			imapsync.many-4 imapsync s001..s004 4 std
			imapsync-go.many-4 imapsync-go s001..s008 4 std
			doveadm-backup.many-8 doveadm-backup s001..s020 8 std
			mbsync.many-8 mbsync s001..s020 8 std
		R
		ONCE=1 LIMIT=30s rows <<-'R' # cut off: a rate is what arrived by then
			imapsync-go.big imapsync-go big1 1 -
			offlineimap.many-4 offlineimap s001..s004 4 -
		R
		ONCE=1 on_node rows <<-'R'
			mailferry.big mailferry big1 1 big
			mailferry.many-1 mailferry s001..s020 1 std
			mailferry.many-4 mailferry s001..s020 4 std
			mailferry.many-8 mailferry s001..s020 8 std
		R
		peak many-8
		on_node rows <<-'R'
			mailferry-again.big mailferry-again big1 1 -
			mailferry-again.many-1 mailferry-again s001..s020 1 -
			mailferry-again.many-4 mailferry-again s001..s020 4 -
			mailferry-again.many-8 mailferry-again s001..s020 8 -
		R
	done
	where_time_goes
	finish
}
# peak LABEL: the most memory that the node had since its start
peak() {
	awk -v l="$1" '/VmHWM/ {printf "{\"label\":\"%s\",\"peak_mib\":%.1f}\n", l, $2/1024}' "/proc/$(cat "$RUN/mailferry-migrate/pid")/status" >"$RUN/migrate/peak.jsonl"
}
# where_time_goes: the node's CPU profile while it moves 20 mailboxes, 8 at a time
where_time_goes() {
	local f=$RUN/migrate/where
	migrate_fresh
	curl -sf "http://$PPROF/debug/pprof/profile?seconds=6" -o "$f.pb.gz" &
	# shellcheck disable=SC2046
	PAR=8 "$RUN/migrate/bin/mailferry" $(seq -f 's%03g' 1 20)
	wait $! && go tool pprof -traces "$BIN" "$f.pb.gz" >"$f.traces" 2>/dev/null || say "no profile of where the time goes"
}

# copy: from Dovecot into a foreign Dovecot, and the bare pipe
part_copy() {
	local k
	begin copy
	for k in $(seq "$MIGRATE_RUNS"); do
		rows <<-'R'
			pipe.big pipe big1 1 -
			mailferry-copy.big mailferry-copy big1 1 big
			pipe.many-1 pipe s001..s020 1 -
			mailferry-copy.many-1 mailferry-copy s001..s020 1 std
			pipe.many-4 pipe s001..s020 4 -
			mailferry-copy.many-4 mailferry-copy s001..s020 4 std
			pipe.many-8 pipe s001..s020 8 -
			mailferry-copy.many-8 mailferry-copy s001..s020 8 std
			nochange2.big nochange2 big1 1 -
			nochange2.many-1 nochange2 s001..s020 1 -
			nochange2.many-4 nochange2 s001..s020 4 -
			nochange2.many-8 nochange2 s001..s020 8 -
		R
	done
	finish
}

# cyrus: Cyrus as the source of everything, and as a target
part_cyrus() {
	local k
	begin cyrus
	node cyr
	for k in $(seq "$MIGRATE_RUNS"); do
		SOURCE=cyrus rows <<-'R'
			drain.cyrus-big drain cbig1 1 -
			drain.cyrus-many drain c001..c004 4 -
			nochange.cyrus-many nochange c001..c004 4 -
			nochange2.cyrus-many nochange2 c001..c004 4 -
			doveadm-backup.cyrus-big doveadm-backup cbig1 1 cyrus-big
			mbsync.cyrus-big mbsync cbig1 1 cyrus-big
			pipe.cyrus-big pipe cbig1 1 -
			mailferry-copy.cyrus-big mailferry-copy cbig1 1 cyrus-big
			doveadm-backup.cyrus-many doveadm-backup c001..c004 4 cyrus
			mbsync.cyrus-many mbsync c001..c004 4 cyrus
			pipe.cyrus-many pipe c001..c004 4 -
			mailferry-copy.cyrus-many mailferry-copy c001..c004 4 cyrus
		R
		SOURCE=cyrus ONCE=1 LIMIT=30s rows <<-'R' # cut off: a rate is what arrived by then
			imapsync.cyrus-many imapsync c001..c004 4 -
			offlineimap.cyrus-many offlineimap c001 4 -
		R
		SOURCE=cyrus ONCE=1 on_node rows <<-'R'
			mailferry.cyrus-big mailferry cbig1 1 cyrus-big
			mailferry.cyrus-many mailferry c001..c004 4 cyrus
		R
		SOURCE=cyrus on_node rows <<-'R'
			mailferry-again.cyrus-many mailferry-again c001..c004 4 -
		R
		TARGET=cyrus ONCE=1 rows <<-'R'
			mbsync.to-cyrus mbsync s001..s004 4 std
			imapsync.to-cyrus imapsync s001..s002 4 std
			pipe.to-cyrus pipe s001..s004 4 -
			mailferry-copy.to-cyrus mailferry-copy s001..s004 4 std
		R
		SOURCE=cyrus TARGET=cyrus ONCE=1 rows <<-'R'
			mbsync.cyrus-to-cyrus mbsync c001..c004 4 cyrus
			mailferry-copy.cyrus-to-cyrus mailferry-copy c001..c004 4 cyrus
		R
	done
	finish
}

# distance: the source 40 ms away (round trip), and the target of copies, too; our own store, like the store that
# doveadm backup writes, is where the tool is. The near rows are what the far ones are compared with.
part_distance() {
	local k
	begin distance
	for k in $(seq "$MIGRATE_RUNS"); do
		node old
		ONCE=1 on_node rows <<-'R'
			mailferry.near-big mailferry wbig1 1 wanbig
			mailferry.near-many mailferry w01..w08 8 wan
			mailferry.near-20 mailferry s001..s020 8 std
		R
		stop migrate
		ONCE=1 rows <<-'R'
			mailferry-copy.near-big mailferry-copy wbig1 1 wanbig
			mailferry-copy.near-many mailferry-copy w01..w08 8 wan
		R
		node far ip netns exec mig24100-tool
		migrate wan-up || exit 1
		WAN=1 rows <<-'R'
			drain.far-20000 drain big1 1 -
			drain.far-big drain wbig1 1 -
			drain.far-many drain w01..w08 8 -
			drain.far-20 drain s001..s020 20 -
			nochange.far-many nochange w01..w08 8 -
			nochange.far-20 nochange s001..s020 20 -
			nochange2.far-many nochange2 w01..w08 8 -
			doveadm-backup.far-big doveadm-backup wbig1 1 wanbig
			mbsync.far-big mbsync wbig1 1 wanbig
			pipe.far-big pipe wbig1 1 -
			mailferry-copy.far-big mailferry-copy wbig1 1 wanbig
			doveadm-backup.far-many doveadm-backup w01..w08 8 wan
			mbsync.far-many mbsync w01..w08 8 wan
			imapsync-go.far-many imapsync-go w01..w08 8 wan
			pipe.far-many pipe w01..w08 8 -
			mailferry-copy.far-many mailferry-copy w01..w08 8 wan
		R
		WAN=1 ONCE=1 LIMIT=30s rows <<-'R' # cut off: a rate is what arrived by then
			imapsync.far-many imapsync w01..w08 8 -
			offlineimap.far-many offlineimap w01..w02 8 -
		R
		WAN=1 ONCE=1 on_node rows <<-'R'
			mailferry.far-20000 mailferry big1 1 big
			mailferry.far-big mailferry wbig1 1 wanbig
			mailferry.far-many mailferry w01..w08 8 wan
			mailferry.far-20 mailferry s001..s020 20 std
		R
		WAN=1 on_node rows <<-'R'
			mailferry-again.far-many mailferry-again w01..w08 8 -
			mailferry-again.far-20 mailferry-again s001..s020 20 -
		R
		stop migrate
		migrate wan-down
	done
	finish
}

# read: the engine without a protocol in front of our store, beside the bare drain; at no distance and at 40 ms
part_read() {
	local d=$RUN/migrate-read
	mkdir -p "$d"
	(cd "$here/.." && go test -c -o "$d/migrate.test" ./migrate) || die "cannot build the benchmark"
	(cd "$here/../migrate" && BENCH_MESSAGES=${READ:-10000} flock -o "$LOCK" "$d/migrate.test" -test.run '^$' -test.bench 'Copy|Distance|FarUsers' -test.benchtime 2x -test.count 1) |
		tee "$d/results.txt"
}

# correct: what is lost, doubled, renamed or changed: odd messages and names, changes between two passes, both sides
# in use, kills. correct: from Dovecot; correct-cyrus: from Cyrus
part_correct() { correct dovecot correct imapsync-go offlineimap; }
part_correct-cyrus() { correct cyrus correct-cyrus; }
correct() { # SOURCE PART [PEER...]
	begin "$2"
	export SOURCE=$1
	local n=old slow=slow
	[ "$1" != cyrus ] || n=cyr slow=cyrslow
	migrate functional mailferry-copy doveadm-backup mbsync imapsync "${@:3}"
	TARGET=cyrus migrate functional mailferry-copy
	node $n
	ONCE=1 CASES='torture odd' on_node migrate functional mailferry
	CASES='delta live' on_node migrate functional mailferry-steps
	node $slow
	CRASH_DELAY=60ms CASES=crash on_node migrate functional mailferry-resumed # its node takes a second to start
	unset SOURCE
	finish
}
