#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Templates of real programs: what goes on from them does what the program does, and has what it must have of
# its own; what cannot be a template is refused; nothing stays behind.
#
# machines: bochs bochs2/long nested/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
unset XDG_RUNTIME_DIR

# is NAME EXPECTED GOT
# has NAME PATTERN TEXT
has() {
	if tr '\n' ' ' <<<"$3" | grep -qe "$2"; then
		report 0 "$1"
	else
		report 1 "$1"
		printf 'no %s in: %s\n' "$2" "$3" | head -n 20 | sed 's/^/# /'
	fi
}

# create ARG...: makes a template, which must work, or says why it did not.
create() {
	local text
	if ! text=$(uvctl template create "$@" 2>&1); then
		report 1 "template create $1"
		sed 's/^/# /' <<<"$text"
	fi
}

# refused NAME PATTERN ARG...: makes no template, with 125 and this message.
refused() {
	local name=$1 pattern=$2 text status
	shift 2
	text=$(uvctl template create "$@" 2>&1 </dev/null)
	status=$?
	has "$name" "$pattern.*125 \$" "$text $status"
}

field() { awk -v key="$2" '$1 == key { print $NF }' <<<"$1"; }

# What standard input, output and status are.
create sorter -- /usr/bin/sort
is 'a filter sorts' $'a\nb' "$(printf 'b\na\n' | uvctl run --from sorter)"
is 'and again, another input' $'x\ny\nz' "$(printf 'y\nz\nx\n' | uvctl run --from sorter)"
seq 1 20000 | sort -R >numbers
is 'as much as natively' "$(sort numbers | sha256sum)" "$(uvctl run --from sorter <numbers | sha256sum)"
is 'from a file, in the middle of a pipeline' "$(sort <numbers | tail -n 1)" \
	"$(uvctl run --from sorter <numbers | tail -n 1)"
uvctl run --from sorter </dev/null >out
is 'the status of success' "0 0" "$? $(stat -c %s out)"
create status -- /bin/bash -c 'read -r n; echo "to stderr" >&2; exit "$n"'
is 'the status of the program' 7 "$(echo 7 | uvctl run --from status 2>err; echo $?)"
is 'its standard error' 'to stderr' "$(cat err)"
create signal -- /usr/bin/python3 -S -c 'import os, sys
os.kill(os.getpid(), int(sys.stdin.read()))
print("alive")'
# Its own number is that of before the point.
is 'a signal' 143 "$(echo 15 | uvctl run --from signal >/dev/null 2>&1; echo $?)"
uvctl run --from sorter <numbers 2>/dev/null | head -n 1 >/dev/null
is 'a closed pipe' '141 0' "${PIPESTATUS[*]}"
uvctl run --from sorter < <(sleep 60) &
pid=$!
sleep 0.5
kill -TERM $pid
wait $pid
is 'a signal from outside' 143 $?
pkill -x sleep
is 'a poll for standard input is a point' 'got x' "$(
	create poller -- /usr/bin/python3 -S -c 'import select, sys
select.select([0], [], [])
print("got", sys.stdin.read().strip())' >&2
	echo x | uvctl run --from poller)"

# Interpreters with modules.
# shellcheck disable=SC2016
create perl -- /usr/bin/perl -MPOSIX -e 'eval join "", <STDIN>; die $@ if $@'
is 'perl reads its program' '8 3' "$(echo 'print POSIX::floor(8.5), " ", 1 + 2, "\n"' | uvctl run --from perl)"
create python -- /usr/bin/python3 -S -c 'import json, re, sys; exec(sys.stdin.read())'
is 'python reads its program' '[1, 2]' "$(echo 'print(json.dumps([1, 2]))' | uvctl run --from python)"

# Checkpoints and their arguments.
create greeter --until checkpoint -- /bin/bash -c '
	word=hello
	while read -r name; do echo "$word $name"; done </dev/uvisor-checkpoint'
is 'arguments at a checkpoint' $'hello a\nhello b c' "$(uvctl run --from greeter -- a 'b c')"
is 'no arguments' '' "$(uvctl run --from greeter)"
is 'a checkpoint that is written to' 'behind' "$(
	create writer --until checkpoint -- /bin/bash -c ': >/dev/uvisor-checkpoint; echo behind' >&2
	uvctl run --from writer)"
is 'a checkpoint outside of a template' 'empty' \
	"$(uvctl run -- /bin/bash -c 'read -r x </dev/uvisor-checkpoint || echo empty$x')"
is 'the arguments cannot be changed' 1 "$(uvctl run --from python >/dev/null 2>&1 <<-'PROGRAM'; echo $?
	import os
	os.write(os.open("/dev/uvisor-checkpoint", os.O_RDONLY), b"x")
PROGRAM
)"
has 'arguments for a program that reads standard input' 'started already.*125 $' \
	"$(uvctl run --from sorter -- -r 2>&1 </dev/null; echo $?)"

# A time.
spin='s=${EPOCHREALTIME/./}; echo started
while [ $((${EPOCHREALTIME/./} - s)) -lt 1500000 ]; do :; done
echo over'
is 'a program that computes is stopped' started "$(uvctl template create spinner --until 200ms -- /bin/bash -c "$spin")"
is 'and goes on' over "$(uvctl run --from spinner)"
create blocked --until 300ms -- /usr/bin/python3 -S -c 'import signal, time
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
time.sleep(2)
print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])) > 50)'
is 'a program that sleeps with all signals blocked is stopped' True "$(uvctl run --from blocked)"

# What a run has of its own.
create task --until checkpoint -- "$tests/template_task"
one=$(uvctl run --from task) two=$(uvctl run --from task)
is 'both have what was before the point' "$(field "$one" before)" "$(field "$two" before)"
for kind in at_random getrandom urandom; do
	a=$(field "$one" "$kind") b=$(field "$two" "$kind")
	different=1
	if [ ${#a} = 32 ] && [ "$a" != "$b" ] && [ "$a" != "$(field "$one" before)" ]; then different=0; fi
	report $different "two runs have different bytes: $kind ($a, $b)"
done
is 'what was drawn before the point is the same, as documented' "$(field "$one" hash)" "$(field "$two" hash)"
is 'the address space is not shared' '1 1' "$(
	create counter -- /bin/bash -c 'n=0; read -r x; n=$((n + 1)); echo $n' >&2
	echo "$(echo | uvctl run --from counter) $(echo | uvctl run --from counter)")"
has 'a limit of its own' 'reached its memory limit.*137 $' "$(
	echo 'x = bytearray(64 << 20)' | uvctl run --memory 8M --from python 2>&1; echo $?)"

# Open files, directory, umask, limits, signals.
seq 1 1000 >lines
create reader -- /usr/bin/python3 -S -c 'import os, sys
f = os.open("lines", os.O_RDONLY)
d = os.open(".", os.O_RDONLY)
n = os.open("/dev/null", os.O_WRONLY)
first = os.read(f, 6)
sys.stdin.read()
print(first, os.read(f, 6), "lines" in os.listdir(d), os.write(n, b"x"), os.getcwd(), os.get_inheritable(f))'
want="b'1\\n2\\n3\\n' b'4\\n5\\n6\\n' True 1 $work False"
is 'open files are where they were' "$want" "$(cd / && uvctl run --from reader </dev/null)"
is 'for each run anew' "$want" "$(cd / && uvctl run --from reader </dev/null)"
mv lines moved
is 'also when they have moved' "${want/ True/ False}" "$(cd / && uvctl run --from reader </dev/null)"
create state -- /bin/bash -c 'ulimit -Sn 100; umask 27; exec /usr/bin/python3 -S -c "$1"' bash 'import os, signal, sys
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.dup2(1, 9)
sys.stdin.read()
os.write(9, b"nine ")
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR2)
highest = 0
try:
    while True: highest = os.open("/", os.O_RDONLY)
except OSError: pass
print(oct(os.umask(0)), signal.getsignal(signal.SIGUSR1).name,
    [s.name for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])], signal.sigpending() != set(), highest)'
is 'umask, signals, limits, duplicates' "nine 0o27 SIG_IGN ['SIGUSR2'] True 99" \
	"$(umask 77; uvctl run --from state </dev/null)"
is 'closed standard output' 'closed' "$(
	create closed -- /usr/bin/python3 -S -c 'import os, sys
os.close(1)
sys.stdin.read()
try:
    os.write(1, b"open")
except OSError:
    os.write(2, b"closed")' >&2
	uvctl run --from closed 2>&1 </dev/null)"
is 'no descriptor of the holder is in reach' '[0, 1, 2]' "$(echo '
import os
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
print([fd for fd in range(1100) if is_open(fd)])' | uvctl run --from python)"

is 'a holder has nothing open but its own and the template' '/dev /memfd /run anon socket' "$(
	readlink /proc/"$(uvctl template inspect state --json | jq .pid)"/fd/* |
		sed -E "s,^$work\$,cwd,; s,^(/[a-z]+|[a-z]+).*,\1," | grep -v cwd | sort -u | xargs)"

# What is refused.
refused 'a pipe of its own' 'a pipe open as descriptor 3' bad -- /usr/bin/python3 -S -c 'import os, sys
os.pipe()
sys.stdin.read()'
refused 'a program that ends before' 'status 3 before it read standard input' bad -- /bin/bash -c 'exit 3'
refused 'a program that ends before its checkpoint' 'before it opened /dev/uvisor-checkpoint' bad \
	--until checkpoint -- /bin/cat
refused 'a name that is taken' 'already' sorter -- /usr/bin/sort
refused 'a name with a slash' 'is no name' ../x -- /usr/bin/sort
is 'no such program' 127 "$(uvctl template create bad -- /nonexistent 2>/dev/null; echo $?)"
has 'no such template' 'no template nosuch.*125 $' "$(uvctl run --from nosuch 2>&1; echo $?)"
has 'no such template to remove' 'no template nosuch.*125 $' "$(uvctl template rm nosuch 2>&1; echo $?)"

# verify: equal, and the negative controls.
is 'a reset clone is the template' 0 "$(printf 'b\na\n' | uvctl verify sorter >verify.out 2>&1; echo $?)"
sed 's/^/# /' verify.out
is 'after a big input' 0 "$(uvctl verify sorter <numbers >verify.out 2>&1; echo $?)"
is 'stopped on its way' 0 "$(uvctl verify sorter --calls 3 <numbers >verify.out 2>&1; echo $?)"
is 'python' '0 true' "$(echo 'x = [json.dumps(n) for n in range(1000)]' |
	uvctl verify python --json >verify.out 2>&1; echo "$? $(jq .equal verify.out)")"
has 'that compares something' '^[1-9][0-9]\{3,\} 23 [1-9]' "$(jq -r '"\(.compared.pages_with_content * 10) \(.compared.registers | length) \(.compared.extended_state_bytes)"' verify.out)"
is 'with arguments, for a time' 0 "$(uvctl verify greeter --time 5s -- x >verify.out 2>&1; echo $?)"
for what in memory register vector; do
	is "a change of $what is found" 1 "$(uvctl verify sorter --change $what </dev/null >verify.out 2>&1; echo $?)"
	grep DIFFERENT verify.out | head -n 2 | sed 's/^/# /'
	grep -q DIFFERENT verify.out
	report $? "and named: $what"
done
is 'the template is as it was' $'a\nb' "$(printf 'b\na\n' | uvctl run --from sorter)"
has 'a program that executes another has nothing to reset' 'executed another program.*125 $' "$(
	create executer -- /bin/bash -c 'read -r x; exec /bin/true' >&2
	uvctl verify executer </dev/null 2>&1; echo $?)"

# Lists.
is 'list' "$(uvctl template list --json | jq -r '.[].name' | sort)" \
	"$(uvctl template list | awk 'NR > 1 { print $1 }')"
is 'inspect' '["/usr/bin/sort"] stdin 3' \
	"$(uvctl template inspect sorter --json | jq -r '"\(.command) \(.point) \(.files | length)"')"
has 'inspect, for people' 'standard input of the run' "$(uvctl template inspect sorter)"
uvctl template list | grep -q $'\x1b'
is 'no colours where there is no terminal' 1 $?

# Who may be taken over by what is in a template is confined; and a run does no more than its own rules say.
holder=$(uvctl template inspect state --json | jq .pid)
is 'a holder has no capabilities, and a filter of system calls' \
	'CapPrm: 0000000000000000 CapEff: 0000000000000000 NoNewPrivs: 1 Seccomp: 2' \
	"$(awk '/^(CapPrm|CapEff|NoNewPrivs|Seccomp):/ { print $1, $2 }' /proc/"$holder"/status | xargs)"
has 'no run may execute what it wrote whose profile does not let it' 'memory.jit.*125 $' \
	"$(uvctl run --profile default --from sorter </dev/null 2>&1; echo $?)"
create plain --profile default -- /usr/bin/sort
is 'one of a template that may not can be run' a "$(echo a | uvctl run --profile default --from plain)"
has 'nor know the time precisely' 'clock.precise.*125 $' \
	"$(uvctl run --profile filter --from plain </dev/null 2>&1; echo $?)"
seq 1 9 >given
create given --profile default --ro given -- /bin/bash -c 'exec 7<given 8</dev/null; read -r x; read -r y <&7; echo "$y"'
is 'a file that it is given as well' 1 "$(echo | uvctl run --profile default --ro given --from given)"
has 'a file that it is not given is refused' "$work/given open, as descriptor 7.*--ro $work/given.*125 \$" \
	"$(uvctl run --profile default --from given </dev/null 2>&1; echo $?)"
has 'also if it is hidden' "$work/given open.*125 \$" \
	"$(uvctl run --profile default --ro . --hide given --from given </dev/null 2>&1; echo $?)"
uvctl template rm plain given

# ps and stats: the template, its holder, and a run that goes on from it.
uvctl run --from sorter < <(sleep 60) &
run=$!
holder=$(uvctl template inspect sorter --json | jq .pid)
for _ in $(seq 50); do uvctl ps --json >ps.out; jq -e ".[] | select(.pid == $run)" ps.out >template.out && break; sleep 0.1; done
is 'ps knows a run' 'root live 1 true' \
	"$(jq -r '"\(.user) \(.state) \(.vcpus) \(.private_bytes > 0 and .shared_bytes > 0)"' template.out)"
is 'and its template by its holder' "template $(jq .parent template.out)" \
	"$(jq -r ".[] | select(.pid == $holder) | \"\(.state) \(.id)\"" ps.out)"
has 'ps, for people' "$holder root *template .* uvctl template hold sorter" "$(uvctl ps)"
is 'stats of one' "$run" "$(uvctl stats "$(jq .id template.out)" --json | jq .pid)"
is 'stats of all' "$(jq length ps.out)" "$(uvctl stats --json | jq .micro_vms)"
has 'stats of none' 'no micro-VM 999999.*125 $' "$(uvctl stats 999999 2>&1; echo $?)"
kill $run
pkill -x sleep

# Who may connect.
is 'the directory is the user'"'"'s alone' '700 0' "$(stat -c '%a %u' /run/uvisor/0)"
is 'another user does not reach it' 'no' "$(setpriv --reuid 65534 --clear-groups \
	/usr/bin/python3 -S -c 'import socket
try:
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect("/run/uvisor/0/sorter"); print("yes")
except OSError: print("no")')"
chmod 755 /run/uvisor/0
has 'a directory that others may use is not used' 'mode 755' "$(uvctl template list 2>&1)"
chmod 711 /run/uvisor/0 && chmod 777 /run/uvisor/0/sorter
is 'nor does the holder answer another user' "b''" "$(setpriv --reuid 65534 --clear-groups \
	/usr/bin/python3 -S -c 'import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("/run/uvisor/0/sorter")
try:
    s.send(b"G"); print(s.recv(100))
except OSError: print(b"")')"
chmod 700 /run/uvisor/0
# Rubbish, and silence.
/usr/bin/python3 -S -c 'import socket
for text in [b"", b"x", b"G" * 1025, b"T"]:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect("/run/uvisor/0/sorter")
    if text: s.send(text)
    s.close()'
is 'rubbish does not disturb the holder' $'a' "$(echo a | uvctl run --from sorter)"

# Two at once.
for i in 1 2 3; do
	uvctl template create same -- /usr/bin/sort 2>"same$i" &
	pids[i]=$!
done
won=0
for i in 1 2 3; do if wait "${pids[i]}"; then won=$((won + 1)); fi; done
is 'of three that take a name one gets it' '1 2' "$won $(cat same? | grep -c already)"
is 'and it works' a "$(echo a | uvctl run --from same)"

# The ends: removal, a holder that is killed, runs that outlive it.
holder=$(uvctl template inspect same --json | jq .pid)
{ sleep 1; echo b; } | uvctl run --from same >late &
late=$!
sleep 0.3
kill -9 "$holder"
wait $late
is 'a run outlives its template' b "$(cat late)"
has 'a dead template says so' 'has ended.*125 $' "$(uvctl run --from same 2>&1 </dev/null; echo $?)"
create same -- /usr/bin/sort
is 'and its name can be taken again' c "$(echo c | uvctl run --from same)"
kill -9 "$(uvctl template inspect same --json | jq .pid)"
is 'or removed' 0 "$(uvctl template rm same; echo $?)"
create same -- /usr/bin/sort
kill -9 "$(uvctl template inspect same --json | jq .pid)"
uvctl template list >list.out 2>list.err
has 'list clears the dead away' 'same is gone' "$(cat list.err)"
is 'for good' '' "$(uvctl template list 2>&1 | grep -w same)"
create lost -- /usr/bin/sort
holder=$(uvctl template inspect lost --json | jq .pid)
rm /run/uvisor/0/lost
for _ in $(seq 150); do kill -0 "$holder" 2>/dev/null || break; sleep 0.1; done
kill -0 "$holder" 2>/dev/null
is 'a holder that nobody can find any more ends' 1 $?

mapfile -t names < <(uvctl template list --json | jq -r '.[].name')
uvctl template rm "${names[@]}"
is 'all are removed' '[]' "$(uvctl template list --json)"
for _ in $(seq 50); do [ "$(uvctl info --json | jq .vms)" = 0 ] && break; sleep 0.1; done
is 'and nothing stays behind' '0 0' "$(uvctl info --json | jq -r '"\(.vms) \(.memory)"')"
is 'no process either' '' "$(pgrep -af 'uvctl')"

finish
