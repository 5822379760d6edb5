#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Python's own tests, natively and in a micro-VM: the verdict of each of them must be the same, but for those in
# python/differences, which has the reason for each. Given are the modules to run, as in python/modules.
#
# machines: slow/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
# shellcheck source=tests/guest/costs
. "$tests/costs"
shopt -s nullglob

if [ $# = 0 ]; then
	mapfile -t modules < <(grep -v '^#' "$tests/python/modules")
	set -- "${modules[@]}"
fi
# Native runs come first and leave compiled modules behind, which a task could not write.
unset PYTHONDONTWRITEBYTECODE
mkdir start

# run MODULE PREFIX...: its tests, without those of UDP-Lite, which Linux has no more: they fail, and sometimes bring the
# rest down with them. How long they may take, in seconds of the machine's clock, is for both the same.
run() {
	local module=$1
	shift
	(cd here && TMPDIR=$work/here timeout -k 5 "${UVISOR_MODULE_LIMIT:-300}" "$@" \
		python3 -m test --junit-xml "$work/here/verdicts.xml" -i '*UDPLITE*' -o "${options[@]}" "$module" </dev/null >out 2>&1)
}

for line; do
	read -ra options <<<"$line"
	module=${options[0]}
	unset 'options[0]'
	rm -rf here native.xml guest.xml
	cp -a start here
	from=${EPOCHREALTIME/./}
	run "$module"
	native=$?
	middle=${EPOCHREALTIME/./}
	mv here/verdicts.xml native.xml 2>/dev/null
	mv here/out native.out
	rm -rf here
	cp -a start here
	last=${EPOCHREALTIME/./}
	run "$module" uvctl run --stats --json --rw "$work/here" --
	status=$?
	to=${EPOCHREALTIME/./}
	mv here/verdicts.xml guest.xml 2>/dev/null
	take_statistics here/out
	cost "$((middle - from))" "$((to - last))" "$module"
	if [ -s native.xml ] && [ -s guest.xml ]; then
		python3 "$tests/python/verdicts.py" "$module" native.xml guest.xml "$tests/python/differences"
		result=$?
	else
		echo "# no verdicts: status $native natively, $status in the micro-VM"
		tail -n 3 native.out | sed 's/^/# native: /'
		tail -n 15 here/out | sed 's/^/# micro-VM: /'
		result=1
	fi
	report $result "$module"
done
rm -rf here
costs
finish
