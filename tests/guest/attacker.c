// SPDX-License-Identifier: GPL-2.0
/*
 * Tries what a program should not get away with where it is confined, and prints of each attempt whether it worked, or
 * with which error it did not. Natively, as root, all must work.
 *
 *   attacker listen             listens on the loopback, prints its port, and waits to be killed
 *   attacker PID PORT DIR       attacks the process PID, and port PORT; DIR has `secret`, and a program `other`
 *
 * A program that it has become goes on with the attempt behind.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int victim, port;
static char *directory;
static char path[512];

static const char *in_directory(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

/* Whether there is anything to read in a file. */
static int read_of(const char *file)
{
	/* A message of the kernel's is read as a whole. */
	static char bytes[8192];
	int fd = open(file, O_RDONLY | O_NONBLOCK), got;

	if (fd < 0)
		return -1;
	got = read(fd, bytes, sizeof(bytes));
	close(fd);
	return got;
}

static int secret(void) { return read_of(in_directory("secret")); }
static int shadow(void) { return read_of("/etc/shadow"); }
static int users(void) { return read_of("/etc/passwd"); }
static int kernel_log(void) { return read_of("/dev/kmsg"); }

static int environment_of_victim(void)
{
	char name[64];

	snprintf(name, sizeof(name), "/proc/%d/environ", victim);
	return read_of(name);
}

static int variable(void)
{
	if (!getenv("UVISOR_SECRET"))
		errno = ENOENT;
	return getenv("UVISOR_SECRET") ? 0 : -1;
}

static int write_to(const char *file)
{
	int fd = open(file, O_WRONLY | O_CREAT, 0644);

	return fd < 0 ? -1 : close(fd) | unlink(file);
}

static int make_file(void) { return write_to(in_directory("made")); }
static int temporary(void) { return write_to("/tmp/uvisor-made"); }

static int reach(void)
{
	struct sockaddr_in to = { AF_INET, htons(port), { htonl(INADDR_LOOPBACK) }, "" };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return fd < 0 ? -1 : connect(fd, (void *)&to, sizeof(to));
}

static int process(void)
{
	int child = fork();

	if (child == 0)
		_exit(0);
	return child < 0 ? -1 : waitpid(child, NULL, 0);
}

static int signal_victim(void) { return kill(victim, SIGCONT); }

static int trace(void)
{
	if (ptrace(PTRACE_ATTACH, victim, 0, 0))
		return -1;
	waitpid(victim, NULL, __WALL);
	return ptrace(PTRACE_DETACH, victim, 0, 0);
}

static int memory_of_victim(void)
{
	/* It is the same program at the same place. */
	char buffer[4];
	struct iovec to = { buffer, 4 }, from = { in_directory, 4 };

	return process_vm_readv(victim, &to, 1, &from, 1, 0);
}

static int writable_code(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}

static int made_code(void)
{
	unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*code = 0xc3;
	if (mprotect(code, 4096, PROT_READ | PROT_EXEC))
		return -1;
	((void (*)(void))code)();
	return 0;
}

static int set_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return clock_settime(CLOCK_REALTIME, &now);
}

static int namespace(void) { return unshare(CLONE_NEWNS); }
static int mount_it(void) { return mount("none", in_directory("."), "tmpfs", 0, "") ? -1 : umount(path); }
static int device(void) { return mknod(in_directory("device"), S_IFCHR | 0600, makedev(1, 1)) ? -1 : unlink(path); }

/* What takes the place of this program by an attempt. */
static const char *becomes;

static int other_program(void)
{
	becomes = in_directory("other");
	return 0;
}

static int written_program(void)
{
	static char bytes[1 << 17];
	int from = open("/proc/self/exe", O_RDONLY), to = open("/tmp/uvisor-written", O_WRONLY | O_CREAT | O_TRUNC, 0755);
	int got = read(from, bytes, sizeof(bytes));

	if (from < 0 || to < 0 || got <= 0 || write(to, bytes, got) != got)
		return -1;
	close(to);
	becomes = "/tmp/uvisor-written";
	return 0;
}

static const struct {
	const char *name;
	int (*attempt)(void);
} attempts[] = {
	{ "secret", secret },
	{ "shadow", shadow },
	{ "users", users },
	{ "variable", variable },
	{ "make-file", make_file },
	{ "temporary", temporary },
	{ "reach", reach },
	{ "fork", process },
	{ "signal", signal_victim },
	{ "trace", trace },
	{ "memory", memory_of_victim },
	{ "environ", environment_of_victim },
	{ "writable-code", writable_code },
	{ "made-code", made_code },
	{ "other-program", other_program },
	{ "written-program", written_program },
	{ "kernel-log", kernel_log },
	{ "set-clock", set_clock },
	{ "namespace", namespace },
	{ "mount", mount_it },
	{ "device", device },
};

static int wait_there(void)
{
	struct sockaddr_in at = { AF_INET, 0, { htonl(INADDR_LOOPBACK) }, "" };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(fd, (void *)&at, len) || listen(fd, 9) || getsockname(fd, (void *)&at, &len))
		return 1;
	printf("%d\n", ntohs(at.sin_port));
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	int count = sizeof(attempts) / sizeof(*attempts);
	int i = argc > 4 ? atoi(argv[4]) : 0;

	if (argc == 2)
		return wait_there();
	victim = atoi(argv[1]);
	port = atoi(argv[2]);
	directory = argv[3];
	/* It was an attempt to be here. */
	if (argc > 4)
		printf("%s works\n", attempts[i++].name);
	for (; i < count; i++) {
		int result = attempts[i].attempt();

		if (result >= 0 && becomes) {
			char next[16];

			snprintf(next, sizeof(next), "%d", i);
			fflush(stdout);
			execl(becomes, becomes, argv[1], argv[2], argv[3], next, NULL);
			result = -1;
		}
		becomes = NULL;
		printf("%s %s\n", attempts[i].name, result < 0 ? strerrorname_np(errno) : "works");
	}
	return 0;
}
