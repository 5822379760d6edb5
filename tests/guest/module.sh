#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Loading and unloading the module, with KVM and without. That rmmod is refused while anything is open
# is tested by the program `unload`.
#
# machines: bochs bochs2/long
number=0 failed=0
module=/lib/modules/uvisor.ko
smoke=/usr/lib/uvisor/tests/smoke

# result NAME STATUS [WHAT WAS SEEN]
result() {
	number=$((number + 1))
	if [ "$2" -eq 0 ]; then
		printf 'ok %d - %s\n' "$number" "$1"
	else
		failed=$((failed + 1))
		printf 'not ok %d - %s\n# %s\n' "$number" "$1" "${3-}"
	fi
}
# same NAME SEEN WANTED [WHAT WAS SEEN]
same() {
	local status=0
	[ "$2" = "$3" ] || status=1
	result "$1" $status "${4:-$2}"
}
skip() { number=$((number + 1)); printf 'ok %d - %s # SKIP %s\n' "$number" "$1" "$2"; }
complaints() { dmesg --level emerg,alert,crit,err,warn 2>/dev/null | wc -l; }
# Waits until rmmod works; release of a file can lag behind the close by a moment.
unload() {
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		rmmod uvisor 2>/tmp/rmmod && return 0
		sleep 0.1
	done
	return 1
}

printf 'TAP version 13\n'
start=$(complaints)

unload
result "rmmod works when all is closed" $? "$(cat /tmp/rmmod)"
left=$(ls -d /dev/uvisor /sys/module/uvisor 2>/dev/null)
same "nothing of it is left" "$left" ""

seen=''
for round in $(seq 20); do
	insmod "$module" || { seen="insmod, round $round"; break; }
	[ $((round % 5)) -ne 0 ] || $smoke >/tmp/smoke || { seen="a guest, round $round: $(cat /tmp/smoke)"; break; }
	unload || { seen="rmmod, round $round: $(cat /tmp/rmmod)"; break; }
done
same "20 times loaded and unloaded, and guests run" "$seen" ""

if modprobe kvm-intel 2>/tmp/kvm; then
	insmod "$module" && $smoke >/tmp/smoke
	result "guests run with KVM loaded first" $? "$(cat /tmp/smoke)"
	rmmod kvm_intel && $smoke >/tmp/smoke
	result "KVM is unloaded under the module, and guests run" $? "$(cat /tmp/smoke)"
	modprobe kvm-intel && $smoke >/tmp/smoke
	result "KVM is loaded under the module, and guests run" $? "$(cat /tmp/smoke)"
	unload
	result "rmmod with KVM loaded" $? "$(cat /tmp/rmmod)"
	rmmod kvm_intel && modprobe kvm-intel && rmmod kvm_intel
	result "KVM finds VMX as it needs it afterwards" $? "$(dmesg | tail -n 3)"
else
	for name in "guests run with KVM loaded first" "KVM unloaded" "KVM loaded" "rmmod" "KVM afterwards"; do
		skip "$name" "$(head -n 1 /tmp/kvm)"
	done
fi

insmod "$module"
result "loaded once more, for the tests that follow" $? "$(dmesg | tail -n 1)"
# That a module from outside the kernel's tree was loaded is said once, at the first one.
end=$(complaints)
same "the kernel did not complain" "$end" "$start" "$(dmesg --level emerg,alert,crit,err,warn | tail -n $((end - start)))"

printf '1..%d\n' "$number"
[ "$failed" -eq 0 ]
