#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Rules about hosts that have names: these are looked up once, when the task is started, and it finds the same addresses.
#
# machines: bochs
# shellcheck source=tests/guest/common
. "${0%/*}/common"
unset UVCTL_PROFILE

cat >looks.py <<'END'
import socket, sys

def attempt(what):
    try:
        return what()
    except OSError as error:
        return type(error).__name__

port = int(sys.argv[1])
def addresses(name):
    return sorted({info[4][0] for info in socket.getaddrinfo(name, port)})
for name in "service.test", "other.test", "localhost":
    print(attempt(lambda: addresses(name)))
for host in "service.test", "127.0.0.9":
    print(attempt(lambda: socket.create_connection((host, port), 9).recv(9)))
print(attempt(lambda: open("/etc/hosts", "a")))
END
cat >serves.py <<'END'
import socket
server = socket.create_server(("0.0.0.0", 0))
print(server.getsockname()[1], flush=True)
while True:
    server.accept()[0].send(b"served")
END
printf '127.0.0.1 localhost\n127.0.0.7 service.test\n127.0.0.8 service.test\n127.0.0.9 other.test\n' >names
printf 'hosts: files dns\n' >switch
python3 serves.py >port &
server=$!
for _ in $(seq 100); do [ -s port ] && break; sleep 0.1; done
port=$(cat port)

# with_names COMMAND...: runs it where these names are known; its lines become one.
with_names() {
	unshare -m bash -c 'mount --bind names /etc/hosts && mount --bind switch /etc/nsswitch.conf && exec "$@"' bash "$@" \
		2>err </dev/null | paste -sd' '
	sed 's/^/# /' err
}
looks=(python3 looks.py "$port")
net=(--net "tcp:service.test:$port")

is "natively names are found, and reached" \
	"['127.0.0.7', '127.0.0.8'] ['127.0.0.9'] ['127.0.0.1'] b'served' b'served' OSError" \
	"$(with_names bash -c 'mount -o remount,bind,ro /etc/hosts; exec "$@"' bash "${looks[@]}")"
is "a task finds the names of its rules, and no others" \
	"['127.0.0.7', '127.0.0.8'] gaierror ['127.0.0.1', '::1'] b'served' PermissionError OSError" \
	"$(with_names uvctl run --require --profile python --ro . "${net[@]}" -- "${looks[@]}")"
is "also where it reads all that the host has" \
	"['127.0.0.7', '127.0.0.8'] gaierror ['127.0.0.1', '::1'] b'served' PermissionError OSError" \
	"$(with_names uvctl run --require --profile host "${net[@]}" -- "${looks[@]}")"
sed 's/\.7/.17/' names >later
is "whatever they are by then" "127.0.0.1 ::1 127.0.0.7 127.0.0.8" "$(with_names bash -c '
	uvctl run "$@" -- dash -c "sleep 2; exec cat /etc/hosts" & sleep 1; cat later >names; wait' bash \
	--ro /usr/bin "${net[@]}" | tr '\t' ' ' | sed -E 's/([0-9.:]+) (localhost( ip6-localhost ip6-loopback)?|service.test)/\1/g')"
is "unless the file is hidden" "" "$(with_names uvctl run --hide /etc/hosts "${net[@]}" -- cat /etc/hosts | grep -v '^#')"
is "a task without such rules has none" "" "$(with_names uvctl run -- cat /etc/hosts | grep -v '^#')"
kill $server
uvctl run --net tcp:nobody.test:1 -- true 2>err
is "a name that nobody knows is an error" 125 $?
check "which says so" grep -q 'nobody.test' err

finish
