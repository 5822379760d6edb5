#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Learning profiles: what a program used is enough to run it again, what it did not use is not in it, and learning
# changes nothing on the host.
#
# shellcheck source=tests/guest/common
. "${0%/*}/common"
unset UVCTL_PROFILE
chmod 755 "$work"
mkdir data secret
printf 'b\na\nc\n' >data/words
echo secret >secret/file

# learnt NAME PROGRAM...: learns, and runs the program again with nothing but what was learnt.
learnt() {
	local name=$1 native status
	shift
	rm -rf profile.toml
	"$@" >native.out 2>native.err </dev/null
	native=$?
	uvctl learn -o profile.toml -- "$@" >guest.out 2>learn.err </dev/null
	status=$?
	compare $native $status out
	report $? "$name: while it is learnt from"
	uvctl run --profile ./profile.toml -- "$@" >guest.out 2>guest.err </dev/null
	status=$?
	compare $native $status out err
	local result=$?
	[ $result = 0 ] || sed 's/^/# /' profile.toml
	report $result "$name: with what was learnt"
}

learnt 'a filter' sort data/words
check 'it makes no processes' grep -q '^fork = false' profile.toml
check 'it reaches nobody' grep -q '^reach = "none"' profile.toml
is 'its profile gives no other file' '' "$(grep -e secret -e '"/"' -e '/etc/passwd' profile.toml)"
uvctl run --profile ./profile.toml -- sort secret/file >out 2>&1
check 'so there is none' grep -q 'No such file' out

# shellcheck disable=SC2016
learnt 'a shell with children' bash -c 'for i in 1 2; do cat data/words | tr a-z A-Z; done; ls data >/dev/null; echo "$?"'
check 'it makes processes' grep -q '^fork = true' profile.toml
check 'a directory that is listed is in it as a whole' grep -q "\"$work/data\"" profile.toml

learnt 'python' /usr/bin/python3 -S -c 'import os, re; print(re.sub("a", "x", open("data/words").read()), os.access("secret/none", 4))'
learnt 'perl' perl -e 'open(F, "<", "data/words"); print reverse <F>'

# What it changes, it changes in an overlay, now and then.
before=$(find data secret | sort)
uvctl learn -o changes.toml -- bash -c 'echo new >data/new; rm data/words; mkdir data/more; echo x >/tmp/learn.$$' >out 2>&1
is 'learning changes nothing' "0 $before" "$? $(find data secret | sort)"
is 'nor in /tmp' '' "$(find /tmp -maxdepth 1 -name 'learn.*')"
check 'what it changed is an overlay' grep -q "^overlay = \[\"$work/data\"\]" changes.toml
check 'and what is temporary is in memory' grep -q '^tmpfs = \["/tmp"\]' changes.toml

uvctl learn -o changes.toml -- true >out 2>&1
is 'a file that is there is not replaced' 125 $?
check 'and that is said' grep -q 'is there already; --force replaces it' out
uvctl learn -f -o changes.toml -- true >out 2>&1
is 'but with --force' 0 $?
uvctl learn -- nothing-of-that-name >out 2>&1
is 'what is not there is not learnt from' "127 no" "$? $([ -e nothing-of-that-name.toml ] && echo yes || echo no)"
uvctl learn -- sh -c 'exit 7' >out 2>&1
is 'the status is that of the program, and the file has its name' "7 yes" "$? $([ -e sh.toml ] && echo yes)"

let_user_in
mkdir -m 777 shared
cd shared || exit 1
as_user uvctl learn -o user.toml -- sort "$work/data/words" >out 2>&1
is 'an unprivileged user learns' 0 $?
as_user uvctl run --profile ./user.toml -- sort "$work/data/words" >again 2>&1
is 'and runs with that' "$(sort ../data/words)" "$(cat again)"
cd ..

finish
