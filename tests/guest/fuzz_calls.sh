#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Random system calls: whatever a program does to itself, its broker does not break, nor does the host.
#
#   fuzz_calls.sh [SECONDS SEED]   for so many seconds of the machine, from a seed
#
# machines: bochs bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
task=$tests/robust_task

# Says of each thread of a broker what it does, once a run should have ended by itself.
tell_late() { # SECONDS
	local thread
	sleep "$1"
	for thread in /proc/[0-9]*/task/[0-9]*; do
		[ "$(<"$thread/comm")" = cat ] && continue
		case $(readlink "${thread%/task/*}/exe") in */uvctl) ;; *) continue ;; esac
		echo "${thread#/proc/}: $(<"$thread/comm") $(cut -d ' ' -f 3-8 "$thread/stat") call $(<"$thread/syscall")"
		grep -E '^(PPid|Threads|Sig|Shd)' "$thread/status" | paste -sd ' '
		sed 's/^/  /' "$thread/stack"
	done
} 2>/dev/null

# fuzz MILLISECONDS SEED
fuzz() {
	local before left watcher
	mkdir -p scratch
	before=$(dmesg | wc -l)
	tell_late $(($1 / 1000 + 60)) >late &
	watcher=$!
	(cd scratch && timeout -s KILL $(($1 / 1000 + 120)) uvctl run --rw . --memory 256M --pids 60 -- \
		"$task" fuzz "$1" "$2") >out 2>err </dev/null
	report $? "seed $2: it comes to its end ($(tail -n 1 out))"
	kill "$watcher" 2>/dev/null
	head -n 200 late | sed 's/^/# late: /'
	sed 's/^/# /' err | tail -n 20
	grep -qE 'panicked|assertion|an error of uvisor' err
	report $((! $?)) "seed $2: no broker says that something is wrong"
	dmesg | tail -n "+$((before + 1))" >kernel
	grep -E 'segfault|general protection|traps:|BUG|WARNING|Oops' kernel | sed 's/^/# /'
	grep -qE 'segfault|general protection|traps:|BUG|WARNING|Oops' kernel
	report $((! $?)) "seed $2: no broker broke, nor did the kernel"
	for _ in $(seq 100); do
		left=$(uvctl info --json | jq -c '[.vms, .memory]')
		[ "$left" = '[0,0]' ] && break
		sleep 0.1
	done
	check "seed $2: nothing is left (micro-VMs and bytes: $left)" test "$left" = '[0,0]'
	rm -rf scratch
}

if [ $# -gt 0 ]; then
	fuzz "${1}000" "$2"
elif [ "${UVISOR_LONG:-0}" = 1 ]; then
	for seed in 1 2 3 4 5 6; do fuzz 100000 $seed; done
else
	fuzz 2000 1
	fuzz 2000 2
fi

finish
