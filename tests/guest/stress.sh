#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# stress-ng's stressors in a micro-VM, ten seconds each, two instances, with its own verification; natively first, for
# what they do in the same time.
#
# machines: slow/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
# shellcheck source=tests/guest/costs
. "$tests/costs"

seconds=${UVISOR_STRESS_SECONDS:-10}
if [ $# = 0 ]; then set -- cpu vm fork pipe futex signal epoll; fi

# stress PREFIX...: the stressor `$stressor`; prints the operations that it did.
stress() {
	"$@" stress-ng --"$stressor" 2 --vm-bytes 32M --epoll-domain ipv4 --timeout "$seconds" --verify --metrics-brief --no-rand-seed \
		--temp-path "$work/here" --yaml "$work/here/metrics" >out 2>&1 </dev/null
}
operations() { sed -n 's/.*bogo-ops: *//p' here/metrics 2>/dev/null | head -n 1; }

for stressor; do
	mkdir here
	from=${EPOCHREALTIME/./}
	stress
	native=$? native_operations=$(operations)
	middle=${EPOCHREALTIME/./}
	rm -rf here
	mkdir here
	last=${EPOCHREALTIME/./}
	stress uvctl run --stats --json --rw "$work/here" --
	status=$?
	to=${EPOCHREALTIME/./}
	guest_operations=$(operations)
	take_statistics out
	cost "$((middle - from))" "$((to - last))" \
		"$stressor: ${native_operations:-no} operations natively, ${guest_operations:-none} in the micro-VM"
	rm -rf here
	[ "$status" = "$native" ] && [ "${guest_operations:-0}" -gt 0 ] && ! grep -aq 'fail:' out
	result=$?
	if [ $result != 0 ]; then
		echo "# status: native $native, micro-VM $status"
		tail -n 20 out | sed 's/^/# /'
	fi
	report $result "$stressor for $seconds s"
done
costs
finish
