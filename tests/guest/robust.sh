#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Programs that mean no good: bad pointers in every argument of every call, which must come to the same natively and
# in a micro-VM; and what calls use while another thread changes it.
#
# machines: bochs bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
task=$tests/robust_task

# --- Bad pointers in every argument of every call that is served

# What is different, as "CALL PLACE KIND", patterns of a shell, with the reason.
cat >differences <<'LIST'
vmsplice*                  refused: it would need pages of the guest's to be pinned
pidfd_send_signal*         refused with information of the program's own making
rt_*queueinfo * Last       all of the structure is copied, not the part that matters
m*lock* None               nothing is locked, so nothing has to come into memory for it
m*lock* End                a range that wraps is one that is not mapped
futex* ReadOnly            a read-only page of its own serves as well as any other
*v*1.16 Top                the address space ends below, which is found before the first vector is filled
mremap(fixed) 4 Null       the first page is nobody's, not even root's
bind good                  a port below 1024 takes a capability, also in a network of its own, and a broker has none
bind 1 ReadOnly            likewise
read(nothing)* Top         the address space ends below
read(nothing)* Behind      likewise
futex(own*) * Top          likewise
futex(own*) * Behind       likewise
LIST
mkdir walk
for run in native guest; do
	rm -rf walk/*
	# What programs do natively is told of, too.
	echo "robust.sh: $run" >/dev/kmsg
	(cd walk && if [ $run = native ]; then "$task" walk; else uvctl run --rw . -- "$task" walk; fi) >$run.out 2>$run.err
	echo $? >$run.status
done
report "$(cat native.status)" "the walk gets to its end natively ($(tail -n 1 native.out))"
report "$(cat guest.status)" "the walk gets to its end in a micro-VM ($(tail -n 1 guest.out guest.err | tr '\n' ' '))"
check 'it meets what is bad' test "$(grep -c EFAULT native.out)" -gt 2000
# Each line that is not the same must be listed, and each that is listed must be there.
sort native.out >native.sorted
sort guest.out >guest.sorted
comm -13 native.sorted guest.sorted >only
unlisted=0
while read -r line; do
	known=0
	what=${line%: *}
	while IFS= read -r entry; do
		pattern=${entry%%   *}
		# shellcheck disable=SC2053
		if [[ $what == $pattern ]]; then known=1; echo "$pattern" >>used; break; fi
	done <differences
	if [ $known = 0 ]; then
		unlisted=$((unlisted + 1))
		echo "# native: $(grep -F -- "$what: " native.out | head -n 1); micro-VM: $line"
	fi
done <only
report $((unlisted > 0)) "bad pointers come to the same ($(wc -l <only) of $(wc -l <native.out) are known to differ)"
sed 's/   .*//' differences | grep -vxFf used >stale
report $(($(wc -l <stale) > 0)) "no difference is listed that is none ($(tr '\n' ';' <stale))"

# --- A process belongs to its task

got=$(timeout -s KILL 60 uvctl run -- "$task" apart 2>&1)
is 'a process does not leave its task by a table of descriptors of its own' \
	$'alone: exit 0\nbeside another thread: EINVAL\nkilled: signal 9' "$got"

# --- Signal frames that are none

"$task" frames >native.out 2>&1
timeout -s KILL 60 uvctl run -- "$task" frames >guest.out 2>guest.err
is 'who goes back by what is no frame faults, as natively' "$(cat native.out)" "$(cat guest.out)"
check 'what can be caught is' test "$(grep -c '^caught' guest.out)" = 4

# --- What calls use while another thread changes it

mkdir races races/in races/no
echo inside >races/in/file
echo outside >races/no/file
touch -d '2020-01-01' races/no/file races/no
(cd races && stat -c '%n %s %Y %Z %a %h' no no/file >../before)
/usr/bin/python3 -c '
from socket import *
from select import select
s = socket(AF_UNIX, SOCK_STREAM); s.bind("races/s"); s.listen()
d = socket(AF_UNIX, SOCK_DGRAM); d.bind("\0uvisor-race")
print("ready", flush=True)
select([s, d], [], []); print("reached", flush=True)' >listener.out &
listener=$!
time=100
if [ "${UVISOR_LONG:-0}" = 1 ]; then time=3000; fi
(cd races && timeout 170 uvctl run --rw in -- "$task" races $time) >races.out 2>&1
report $? "nothing that is forbidden happens while memory changes ($(tail -n 1 races.out))"
sed 's/^/# /' races.out
(cd races && stat -c '%n %s %Y %Z %a %h' no no/file >../after)
cmp before after && [ "$(cat races/no/file)" = outside ] && [ "$(ls races/no)" = file ]
report $? 'what is outside is as it was'
grep -qx reached listener.out
report $((! $?)) 'nobody was reached'
kill $listener
dmesg | sed '1,/robust.sh: guest/d' | grep -E 'segfault|general protection|traps:' | tee broken | sed 's/^/# /'
check 'no broker broke' test ! -s broken

finish
