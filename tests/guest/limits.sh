#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tasks that take all that they can get: processes, threads, memory, descriptors, signals. Each meets its limit;
# another task does not notice, and nothing is left.
#
# machines: bochs
# shellcheck source=tests/guest/common
. "${0%/*}/common"
task=$tests/robust_task

# What another task does meanwhile, and says.
# shellcheck disable=SC2016 # it is for the task
bystander='for i in 1 2 3 4 5 6 7 8; do /bin/echo $i; sleep 0.1; done'
expected=$(seq 8)

# attack NAME COMMAND...: runs a task, whose output goes to out, beside another one, and looks what is left.
attack() {
	local name=$1 other
	shift
	uvctl run -- bash -c "$bystander" >other.out 2>&1 </dev/null &
	other=$!
	timeout 120 "$@" >out 2>err </dev/null
	status=$?
	wait $other
	report $? "$name: another task ends well meanwhile"
	check "$name: it has done what it had to" test "$(cat other.out)" = "$expected"
	left=none
	for _ in $(seq 100); do
		left=$(uvctl info --json | jq -c '[.vms, .memory]')
		[ "$left" = '[0,0]' ] && break
		sleep 0.1
	done
	check "$name: nothing is left (micro-VMs and bytes: $left)" test "$left" = '[0,0]'
	uvctl ps >ps.out 2>&1
	check "$name: and nothing is listed" test "$(wc -l <ps.out)" -le 1
}

# printed NAME TEXT: whether the output was this.
printed() {
	[ "$(cat out)" = "$2" ]
	local result=$?
	[ $result = 0 ] || sed 's/^/# /' out err | head -n 20
	report $result "$1"
}

attack 'a fork bomb' uvctl run --pids 40 -- "$task" forks
printed 'there are as many processes as there may be' '39 children, then EAGAIN
one ended: signal 9
another one: exit 0'
attack 'a fork bomb of a shell' uvctl run --pids 30 -- bash -c '
bomb() { bomb | bomb & }
bomb
for ((i = 0; i < 100000; i++)); do :; done
exit 7'
check "the shell that began it goes on (status $status)" test $status = 7
grep -q 'Resource temporarily unavailable' err
report $? 'the others cannot'
attack 'a fork bomb that is left alone' bash -c 'uvctl run --pids 30 -- bash -c "bomb() { bomb | bomb & }; bomb; kill -STOP \$\$" &
	uvctl=$!; for i in $(seq 30); do n=$(uvctl info --json | jq .vms); [ "$n" -gt "${most:-0}" ] && most=$n; sleep 0.1; done
	echo "$((most >= 25 && most <= 45)) $most"; kill -KILL $uvctl'
# Besides them there are those of the other task, and what is made for a process that then finds no place.
grep -q '^1 ' out
report $? "the host sees no more of them than there may be ($(cat out))"
attack 'a thread bomb' uvctl run --pids 40 -- "$task" threads
printed 'there are as many threads as there may be' '39 threads, then Some("EAGAIN")'
attack 'memory, by forks' uvctl run --memory 40M -- "$task" memory 4 16 fork
printed 'children have as much as all may have together' 'has it
has it
signal 9
signal 9'
attack 'memory, by other programs' uvctl run --memory 40M -- "$task" memory 4 16 exec
printed 'so have other programs' 'has it
has it
signal 9
signal 9'
attack 'memory files' uvctl run --memory 32M -- "$task" memory-file 400
check "memory files count as well (status $status, $(cat out))" test "$status$(cat out)" = 137
uvctl run --memory 64M -- true
ls -d /sys/fs/cgroup/uvisor-* >cgroups 2>/dev/null
report $((! $?)) "no cgroup is left behind the next task ($(tr '\n' ' ' <cgroups))"
# How much all processes of a task use together, however many take their turns.
attack 'time of CPUs, by processes' uvctl run --cpu 1s -- bash -c 'while :; do (for ((i = 0; i < 2000; i++)); do :; done); done'
check "they are ended when it is used up (status $status)" test "$status" = 137
check 'which is said' grep -q 'used up the time of CPUs that it had, 1s (--cpu)' err
uvctl run --require --memory 64M --pids 10 -- sleep 4 &
sleep 2
cat /sys/fs/cgroup/uvisor-*/{memory.max,memory.swap.max,pids.max} >cgroups 2>&1
wait
check "the kernel limits them as well ($(paste -sd' ' cgroups))" test "$(paste -sd' ' cgroups)" = "$(((64 + 128) << 20)) 0 26"
without() { unshare -m bash -c 'umount /sys/fs/cgroup && exec "$@"' bash "$@" 2>err; }
without uvctl run --memory 64M --pids 10 -- true
check 'without cgroups they hold as far as they do without' test $? = 0
without uvctl run --require --memory 64M -- true
check 'but not where they are required' test $? = 125
check 'with the reason' grep -q 'limits cannot be had' err
without uvctl run --require --pids 10 -- true
check 'nor that of processes' test $? = 125
without uvctl doctor | grep -q '^warn  cgroup'
report $? 'doctor says so'
(ulimit -Sn 256; attack 'descriptors' uvctl run -- "$task" descriptors; echo "$number $failed" >counts)
read -r number failed <counts
printed 'there are as many descriptors as there may be' "$(ulimit -Sn 256; "$task" descriptors </dev/null)"
attack 'signals' uvctl run -- "$task" signals
printed 'as many signals wait as may' "$("$task" signals </dev/null)"

finish
