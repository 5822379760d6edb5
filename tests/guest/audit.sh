#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The audit: each kind of event is told once with what became of it and why; what a hostile task tries against it changes
# nothing that was told; and whatever ends what, the file has whole lines.
#
# machines: bochs
# shellcheck source=tests/guest/common
. "${0%/*}/common"
unset UVCTL_PROFILE
chmod 755 "$work"
mkdir out
# Where no profile has anything.
secret=/srv/secret
mkdir -p $secret && echo hidden >$secret/file

# has NAME CONDITION: whether one of the events is so.
has() {
	jq -es "any(.[]; $2)" events >/dev/null
	local result=$?
	[ $result = 0 ] || jq -c 'select(.event != "open" and .event != "memory")' events | tail -n 20 | sed 's/^/# /'
	report $result "$1"
}

# whole NAME: whether all lines are events, of one stream.
whole() {
	jq -es 'length > 0 and all(.[]; .seq >= 0 and .pid > 0 and .event != null) and ([.[].seq] | . == (sort | unique)) and ([.[].time] | . == sort)' events >jq.out 2>&1
	local result=$?
	[ $result = 0 ] || { cat jq.out; tail -n 3 events; } | sed 's/^/# /'
	report $result "$1"
}

# A program without libraries: hardly more than its instructions.
program() { # NAME HEX
	# shellcheck disable=SC2016 # it is perl's
	perl -e '$c = pack("H*", $ARGV[0]); $n = 0x78 + length $c; print pack("a4C5x7SSLQQQLSSSSSS", "\x7fELF", 2, 1, 1, 0, 0, 2,
		62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0), pack("LLQQQQQQ", 1, 5, 0, 0x400000, 0x400000, $n, $n, 4096), $c' "$2" >"$1"
	chmod 755 "$1"
}
program halts f4
program writes c604250000000001
program jumps 31c0ffe0

# What it does, and is refused. perl makes the system calls that no shell makes.
cat >calls.pl <<'END'
use Socket;
socket(my $s, AF_INET, SOCK_STREAM, 0);
for my $to ("192.0.2.1", "192.0.2.2") { connect($s, pack_sockaddr_in(443, inet_aton($to))) or print "$to: $!\n" }
bind($s, pack_sockaddr_in(8080, INADDR_ANY)) or print "bind: $!\n";
syscall(165, 0, 0, 0, 0, 0);
syscall(9, 0, 8192, 7, 0x22, -1, 0);
symlink("/etc/shadow", "out/link");
open(my $f, "<", "out/link") or print "link: $!\n";
rename("out/b", "out/c") or print "rename: $!\n";
unlink("/etc/hostname") or print "unlink: $!\n";
my @f; for (1 .. 40) { open(my $g, "<", "/etc/hostname") or last; push @f, $g }
END
# shellcheck disable=SC2016 # it is for the task
uvctl run --profile shell --ro calls.pl --ro /etc/hostname --ro halts --ro writes --ro jumps --rw out --net tcp:192.0.2.1:443 --fds 24 --audit events -- bash -c '
	read -r name </etc/hostname; echo "$name" >out/b; /bin/cat /srv/secret/file; ls /root/none
	./halts; ./writes; ./jumps; perl calls.pl; exit 3' >task.out 2>&1
is 'the status is that of the program' 3 $?
sed 's/^/# /' task.out
whole 'the events are a stream'
first=$(jq -s '.[0].pid' events)
has 'start' ".seq == 0 and .event == \"start\" and .program == \"bash\" and .profile == \"shell\" and .pid == $first"
has 'exec' '.event == "exec" and .path == "/usr/bin/cat" and .arguments == ["/bin/cat", "/srv/secret/file"] and .verdict == "allowed" and (.rule | test("shell.toml:[0-9]+"))'
has 'fork, and the process that was made says what it does' '.event == "fork" and .verdict == "allowed" and .child > 0'
has 'open, for reading' '.event == "open" and .path == "/etc/hostname" and .access == "read" and .verdict == "allowed"'
has 'open, for writing, with the option that allows it' ".event == \"open\" and .path == \"$work/out/b\" and .access == \"write\" and .rule == \"--rw\""
has 'open, refused by no rule' ".event == \"open\" and .path == \"$secret/file\" and .verdict == \"refused\" and .errno == \"ENOENT\" and .rule == \"no rule\" and .wall != null"
has 'change' ".event == \"change\" and .call == \"rename\" and .path == \"$work/out/c\" and .verdict == \"allowed\""
has 'change, refused' '.event == "change" and .call == "unlink" and .path == "/etc/hostname" and .verdict == "refused" and .errno == "EROFS" and .wall == "personality"'
has 'connect, with the option that allows it' '.event == "connect" and .address == "192.0.2.1:443" and .protocol == "tcp" and .rule == "--net"'
has 'connect, refused' '.event == "connect" and .address == "192.0.2.2:443" and .verdict == "refused" and .rule == "no rule" and .wall == "personality"'
has 'listen, refused' '.event == "listen" and .address == "0.0.0.0:8080" and .verdict == "refused"'
has 'a system call that it does not have' '.event == "syscall" and .name == "mount" and .errno == "EPERM"'
has 'memory that is executed, a file' '.event == "memory" and .kind == "file" and (.path | test("libc.so")) and .verdict == "allowed"'
has 'memory that could be written and executed, refused' '.event == "memory" and .kind == "written" and .size == 8192 and .verdict == "refused" and .wall == "ept"'
has 'a privileged instruction' '.event == "privileged" and .exception == "#GP" and .rip == 4194424 and .wall == "processor"'
has 'an access that there is nothing for' '.event == "violation" and .access == "write" and .address == 0 and .wall == "ept"'
has 'a jump to nowhere' '.event == "violation" and .access == "execute" and .address == 0'
has 'a limit' '.event == "limit" and .limit == "fds" and .wall == "limit"'
has 'an end by a signal' '.event == "exit" and .signal == 11'
has 'an end' ".event == \"exit\" and .status == 3 and .pid == $first"
is 'which is the last event' "$first" "$(jq -s '.[-1] | select(.event == "exit") | .pid' events)"

# Limits.
uvctl run --profile shell --time 200ms --audit events -- sleep 9 >out.txt 2>&1
is 'its time is up' 137 $?
has 'which is told' '.event == "limit" and .limit == "time"'
has 'as is what it came to' '.event == "exit" and .signal == 9'
uvctl run --profile shell --memory 8M --audit events -- perl -e '$x = "x" x (64 << 20)' >out.txt 2>&1
has 'so is memory' '.event == "limit" and .limit == "memory"'
uvctl run --profile shell --exits 200 --audit events -- bash -c 'while :; do :; done </nothing; while :; do ls; done' >out.txt 2>&1
has 'so are exits' '.event == "limit" and .limit == "exits"'
# shellcheck disable=SC2016 # it is for the task
uvctl run --profile shell --pids 3 --audit events -- bash -c 'sleep 9 & sleep 9 & sleep 9 & kill $(jobs -p)' >out.txt 2>&1
has 'so are processes' '.event == "limit" and .limit == "pids"'

# A task that is against it.
cat >attack.pl <<'END'
opendir(my $d, "/proc/self/fd"); my @l = map { readlink("/proc/self/fd/$_") // "" } readdir $d;
print "sockets: ", scalar(grep { /socket/ } @l), "\n";
my ($got, $none, $text) = (0, "x" x 64, "{}");
for my $fd (3 .. 1400) {
	$got++ if syscall(45, $fd, $none, 64, 0x40, 0, 0) >= 0;
	syscall(48, $fd, 2); syscall(33, $fd, 9); syscall(1, $fd, $text, 2); syscall(3, $fd);
}
syscall(436, 3, 0xffffffff, 0);
print "got: $got\n";
open(my $f, "<", "/etc/hostname");
END
uvctl run --profile shell --ro attack.pl --ro /etc/hostname --audit events -- perl attack.pl >task.out 2>&1
is 'a task finds nothing by which it is told what it does' 'sockets: 0
got: 0' "$(cat task.out)"
whole 'what it tried is no harm'
has 'and it is told what it does afterwards' '.event == "open" and .path == "/etc/hostname"'

# shellcheck disable=SC2016 # it is for the task
uvctl run --profile shell --rw out --audit events -- bash -c '
	for i in 1 2 3 4 5; do (:) & done; (kill -9 $BASHPID); wait; exec sh -c "kill -9 \$\$"' >out.txt 2>&1
whole 'processes come and go'
is 'each end is told once' "$(jq -s '[.[] | select(.event == "fork") | .child] | length + 1' events)" \
	"$(jq -s '[.[] | select(.event == "exit") | .pid] | unique | length' events)"
has 'also of one that is killed' '.event == "exit" and .signal == 9'

# A flood, with a recorder that is stopped.
# shellcheck disable=SC2016 # it is for the task
uvctl run --profile shell --rw out --audit events -- bash -c '
	: >out/ready; while [ -e out/ready ]; do :; done
	for ((i = 0; i < 900; i++)); do : >"out/$((i % 7))"; done; : >out/done' >out.txt 2>&1 &
until [ -e out/ready ]; do sleep 0.1; done
recorder=$(pgrep -x uvctl-audit)
kill -STOP "$recorder"
rm out/ready
until [ -e out/done ]; do sleep 0.1; done
kill -CONT "$recorder"
wait $!
is 'a flood does not stop when nobody writes it down' 0 $?
whole 'what was written down is whole'
has 'and it is said how much is missing' '.event == "lost" and .count > 0'
is 'none is missing but those' "$(jq -s '.[-1].seq + 1' events)" \
	"$(jq -s '([.[] | select(.event == "lost") | .count] | add) + length' events)"
check 'people are told as well' grep -q 'lacks [0-9]* events' out.txt

# shellcheck disable=SC2016 # it is for the task
uvctl run --profile shell --rw out --audit events -- bash -c 'for ((i = 0; i < 600; i++)); do : >"out/$((i % 7))"; done' >out.txt 2>&1
is 'with a recorder that runs, none is missing of a flood' "$(jq -s '.[-1].seq + 1' events) 600" \
	"$(jq -s 'length' events) $(jq -s '[.[] | select(.access == "write") | .times // 1] | add' events)"

# Killed.
# shellcheck disable=SC2016 # it is for the task
uvctl run --profile shell --rw out --audit events -- bash -c ': >out/go; while :; do : </etc/hostname; : </etc/passwd; done' >out.txt 2>&1 &
until [ -e out/go ] && [ "$(wc -l <events)" -gt 20 ]; do sleep 0.1; done
kill -KILL $!
wait $! 2>/dev/null
while pgrep -x uvctl-audit >/dev/null; do sleep 0.1; done
whole 'uvctl is killed: there are whole lines'
is 'of which the last says so' '"exit" 9' "$(jq -sr '.[-1] | "\"\(.event)\" \(.signal)"' events)"

# Places.
refused() { # NAME TEXT FILE
	uvctl run --profile shell --rw out --audit "$3" -- true >out.txt 2>&1
	is "$1" 125 $?
	check 'which is said' grep -q "$2" out.txt
}
echo before >out/log
refused 'a file that the task may change' 'may change this file' out/log
is 'it is left as it was' before "$(cat out/log)"
refused 'a file that cannot be' 'No such file' none/file
mkfifo pipe
refused 'a pipe that nobody reads' 'nobody reads' pipe
# Its reader may come a little later: a shell does not say when what it started in the background is there.
(sleep 0.3; exec timeout 60 cat pipe) >events &
uvctl run --profile shell --audit pipe -- true
is 'a pipe that is read a little later' 0 $?
wait $!
whole 'its events'
uvctl run --profile shell --audit /dev/stdout -- true >events
whole 'standard output'
uvctl run --profile shell --audit /dev/full -- sh -c 'exit 4' >out.txt 2>&1
is 'a full disk: the task goes on' 4 $?
check 'and that is said' grep -q 'lacks [0-9]* events' out.txt
mkdir small && mount -t tmpfs -o size=8k none small
uvctl run --profile shell --audit small/events -- ls /usr/bin >out.txt 2>&1
cp small/events events
umount small
whole 'a disk that becomes full has whole lines'
uvctl run --profile shell --audit events --audit-limit 8K -- bash -c 'for i in 1 2 3 4 5; do /bin/true; done' >out.txt 2>&1
check "the file has its limit ($(stat -c %s events))" test "$(stat -c %s events)" -le 8192
whole 'and whole lines'
has 'and says what is missing' '.event == "lost"'

# With what else parts uvctl into several processes.
mkdir over
XDG_STATE_HOME="$work/state" uvctl run --profile shell --overlay over --commit --yes --audit events -- sh -c 'echo new >over/file; exit 0' >out.txt 2>&1
is 'with --commit' '0 new' "$? $(cat over/file)"
sed 's/^/# /' out.txt
whole 'it is written down, too'
uvctl run --tty --profile shell --audit events -- sh -c 'exit 7' >out.txt 2>&1 </dev/null
is 'with --tty' 7 $?
has 'so is that' '.event == "exit" and .status == 7'
uvctl template create audited -- sort >out.txt 2>&1
printf 'b\na\n' | uvctl run --from audited --audit events >sorted
is 'from a template' 'a b 0' "$(tr '\n' ' ' <sorted)$?"
has 'so is what goes on with one' '.event == "start" and .program == "audited"'
has 'to its end' '.event == "exit" and .status == 0'
uvctl template rm audited

let_user_in
mkdir -m 777 user
as_user uvctl run --profile shell --rw user --audit /tmp/user.events -- bash -c 'echo x >user/file; cat /srv/secret/file; exit 5' >out.txt 2>&1
is 'an unprivileged user has it as well' 5 $?
cp /tmp/user.events events && rm /tmp/user.events
whole 'its events are a stream'
has 'of what it did' ".event == \"open\" and .path == \"$work/user/file\" and .rule == \"--rw\""
has 'and was refused' ".event == \"open\" and .path == \"$secret/file\" and .rule == \"no rule\""
has 'and of its end' '.event == "exit" and .status == 5'

# A task that runs: it waits for a file, and then does something.
# shellcheck disable=SC2016 # it is for the task
waiting='until [ -e user/go ]; do sleep 0.05; done; cat /srv/secret/file; exit 6'
begin() { # AS
	rm -f user/go
	"$1" uvctl run --profile shell --rw user -- bash -c "$waiting" >out.txt 2>&1 &
	task=$!
	until read -r id pid < <(uvctl ps --json | jq -r '.[0] | values | "\(.id) \(.pid)"'); do sleep 0.1; done
}
attached() { until grep -qs uvisor-audit "/proc/$(pgrep -x uvctl)/maps"; do sleep 0.1; done; }
traced() { # AS OPTION...: traces it until it ends
	local as=$1
	shift
	"$as" uvctl trace "$id" "$@" >events 2>trace.err &
	local tracer=$!
	attached
	sleep 0.2
	touch user/go
	wait $tracer
}
for as in as_root as_user; do
	begin $as
	traced $as --json
	is "$as: a task that runs is traced until it ends" 0 $?
	sed 's/^/# /' trace.err
	whole "$as: what is printed is a stream"
	has "$as: of what it was refused" '.event == "open" and .path == "/srv/secret/file" and .rule == "no rule"'
	has "$as: and of its end" ".event == \"exit\" and .status == 6 and .pid == $pid"
	wait $task
	is "$as: it comes to the same" 6 $?
done
begin as_root
as_user uvctl trace "$id" >out.txt 2>&1
is "another user's task is not traced" 125 $?
check 'and not seen' grep -q "no micro-VM $id that this user may see" out.txt
uvctl trace "$id" >events &
tracer=$!
attached
uvctl trace "$id" >out.txt 2>&1
is 'nor is it by two' 125 $?
check 'which is said' grep -q 'somebody else traces it already' out.txt
kill $tracer
wait $tracer
traced as_root
check 'who is ended makes room for another' grep -q 'access=read path=/srv/secret/file: refused, ENOENT, no rule' events
wait $task
is 'and the task goes on' 6 $?
rm -f user/go
uvctl run --profile shell --rw user --audit events -- bash -c "$waiting" >out.txt 2>&1 &
until id=$(uvctl ps --json | jq -e '.[0].id'); do sleep 0.1; done
sleep 0.2
uvctl trace "$id" >out.txt 2>&1
is 'one that is audited is not traced' 125 $?
check 'which is said, too' grep -q 'its events are written to a file (--audit)' out.txt
touch user/go
wait
check 'an event has a schema' test "$(uvctl trace --schema | jq -r '.title')" = Event

rm -r "$secret"
finish
